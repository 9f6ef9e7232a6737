"""Statistics are right, and the page says what the results say: of made-up runs."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

pytest.importorskip("rliable")

from benches.learning import command, libraries, page, results
from benches.learning import settings as names
from benches.learning import statistics as stats
from benches.learning.command import Job, unable
from benches.learning.libraries import options_of
from benches.learning.settings import AGENTS, COMPILED, PROGRAM, SB3, SETTINGS, TORCH, UNWATCHED
from benches.learning.statistics import Estimate
from benches.learning.words import interval, number

rng = np.random.default_rng()


# -- statistics ------------------------------------------------------------------------------------------------


def test_the_iqm_is_the_mean_without_the_lowest_and_the_highest_quarter():
    assert stats.iqm(np.array([9.0, 0, 1, 100, 3, 2, -50, 4, 5, 6])).value == (1 + 2 + 3 + 4 + 5 + 6) / 6  # six of ten
    assert stats.iqm(np.array([7.0, 0, 1, 100, 3, 2, -50, 4])).value == (1 + 2 + 3 + 4) / 4
    tasks = np.arange(8.0).reshape(4, 2)  # of all scores together, not of each task's
    assert stats.iqm(tasks).value == (2 + 3 + 4 + 5) / 4
    one = stats.iqm(np.array([3.0]))
    assert one == (3, 3, 3)


@pytest.mark.parametrize("tasks", [1, 3])
def test_intervals_are_those_of_a_bootstrap_within_each_task(tasks, monkeypatch):
    monkeypatch.setattr(stats, "REPS", 4000)
    scores = rng.normal(size=(10, tasks)) + 10 * np.arange(tasks)
    found = stats.iqm(scores)
    samples = []
    for _ in range(4000):
        drawn = np.stack([rng.choice(scores[:, i], 10) for i in range(tasks)], axis=1).ravel()
        k = int(0.25 * drawn.size)
        samples.append(np.sort(drawn)[k : drawn.size - k].mean())
    low, high = np.quantile(samples, (0.025, 0.975))
    assert found.low < found.value < found.high
    assert np.allclose([found.low, found.high], [low, high], atol=0.15 * (high - low))


def test_a_curve_has_the_iqm_of_each_mark():
    scores = rng.normal(size=(10, 4)).cumsum(axis=1)
    curve = stats.iqm_curve(scores)
    for i in range(4):
        assert np.isclose(curve.value[i], stats.iqm(scores[:, i]).value)
        assert curve.low[i] <= curve.value[i] <= curve.high[i]


def test_the_probability_of_improvement_counts_ties_half():
    ours, theirs = np.array([[3.0, 0], [3, 0]]), np.array([[1.0, 5], [3, 5]])
    assert stats.improvement(ours[:, :1], theirs[:, :1]).value == 0.75
    assert stats.improvement(ours, theirs).value == 0.75 / 2  # in the other task none is better
    same = rng.normal(size=(10, 3))
    both = stats.improvement(same, same)
    assert both.value == 0.5 and both.low < 0.5 < both.high


def test_intervals_are_the_same_each_time_and_touch_no_other_stream():
    scores, others = rng.normal(size=(2, 10, 3))
    np.random.seed(3)  # noqa: NPY002
    first = stats.iqm(scores), stats.improvement(scores, others)
    drawn = np.random.random()  # noqa: NPY002
    again = stats.iqm(scores), stats.improvement(scores, others)
    np.random.seed(3)  # noqa: NPY002
    assert first == again and np.random.random() == drawn  # noqa: NPY002


def test_verdicts_are_of_intervals():
    def of(low: float, high: float) -> Estimate:
        return Estimate((low + high) / 2, low, high)

    assert stats.verdict(of(2, 3), of(0, 1)) == "ahead" and stats.verdict(of(0, 1), of(2, 3)) == "behind"
    assert stats.verdict(of(0, 1), of(1, 2)) == "overlap" == stats.verdict(of(0, 9), of(1, 2))


def test_figures_are_written_briefly():
    assert [number(x) for x in (500, -83.44, 0.7, 9.876, 1.0, 1234.5)] == [
        "500", "−83.4", "0.70", "9.88", "1.00", "1,234.5"]  # fmt: skip
    assert interval(Estimate(500, 500, 500)) == "500" and interval(Estimate(2, 1, 3)) == "2.00 (1.00 to 3.00)"


# -- the page --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stats, "REPS", 60)
    monkeypatch.setattr(libraries, "require", lambda name: None)


def line(key, library, seed, final=None, seconds=1.0, version="1", scale=1.0, **more):
    """A run whose curve rises evenly from the floor to `final`; the wall shows three times the processor's seconds."""
    setting = SETTINGS[key]
    steps = max(1, round(options_of(setting, library)[2] * scale))
    begun = {**Job(setting, library, seed, steps).line(), "version": version}
    if final is None:
        return {**begun, **more}
    part = np.arange(1, setting.marks + 1) / setting.marks
    floor = names.FLOOR[setting.env]
    return {
        **begun, "steps": (part * steps).tolist(), "scores": (floor + part * (final - floor)).tolist(),
        "processor": (part * seconds).tolist(), "wall": (3 * part * seconds).tolist(), "final": final, **more,
    }  # fmt: skip


def runs(key, seconds=None, seeds=5, **scores):
    """Of each library, by its last word; scores differ a little from seed to seed."""
    library = {"compiled": COMPILED, "torch": TORCH, "sb3": SB3}
    return [line(key, library[x], seed, score + 0.01 * seed, (seconds or {}).get(x, 1.0))
            for x, score in scores.items() for seed in range(1, seeds + 1)]  # fmt: skip


def written(tmp_path, lines, **how):
    path = page.write(lines, tmp_path / "learning.md", **how)
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (tmp_path / target).exists(), target
    headings = {re.sub(r"[^\w\s-]", "", x.lower()).replace(" ", "-") for x in re.findall("^## (.*)", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings
    assert all(row.count("|") <= 5 for row in text.splitlines() if row.startswith("|"))
    assert "nan" not in text.replace("finance", "") and " inf" not in text and "1 seeds" not in text
    return text


def part(text, heading):
    return re.split("^## ", text.split(f"## {heading}\n\n")[1], flags=re.M)[0]


def test_it_says_who_is_ahead_and_where_ours_is_worse(tmp_path):
    lines = runs("ppo-cartpole", dict(compiled=1, torch=6, sb3=4), compiled=490, torch=400, sb3=450)
    lines += runs("ppo-acrobot", dict(compiled=1, torch=2, sb3=4), compiled=-90, torch=-90, sb3=-90)
    text = written(tmp_path, lines)
    short = part(text, "In short")
    assert "| final score: ahead | 1 of 2 | 0 of 2 |" in short and "| final score: behind | 0 of 2 | 1 of 2 |" in short
    assert "| final score: intervals overlap | 1 of 2 | 1 of 2 |" in short
    assert "| times as fast, median setting | 4.0 (4.0 to 4.0) | 1.33 (0.67 to 2.0) |" in short
    assert "at least 5 seeds" in short and "few" not in short
    assert "**fastrl, Torch** is by final score behind in [PPO, CartPole](#ppo-cartpole-v1-published)" in short
    worse = part(text, "Where fastrl is worse").split("\n\n")
    apart = worse[worse.index("The intervals do not overlap:") + 1]
    assert re.search(r"CartPole.*, Torch \| final score \| 400 \| 450 \|", apart)
    assert "compiled" not in apart and "Acrobot" not in apart and apart.count("\n") == 3  # head, rule, score, area
    later = next(x for x in worse if "| where | until |" in x)
    assert "Torch | all steps | 6.00 | 4.00 |" in later and "compiled" not in later
    scores = part(text, "Scores")
    assert re.search(r"\| \[PPO, CartPole\]\(.*\) \| 490, ahead \| 400, behind \| 450 \|", scores)
    assert re.search(r"\| \[PPO, Acrobot\]\(.*\) \| −90 \| −90 \| −90 \|", scores)


def test_it_finds_nothing_worse_where_nothing_is(tmp_path):
    text = written(tmp_path, runs("ppo-cartpole", dict(sb3=9), compiled=500, torch=500, sb3=100))
    assert "Nowhere" in part(text, "Where fastrl is worse")
    assert "probability 1.00 by final score, more than a coin's" in text


def test_settings_together_are_of_the_settings_and_seeds_that_all_have(tmp_path):
    lines = runs("ppo-cartpole", compiled=475, torch=475, sb3=475)
    lines += runs("ppo-acrobot", seeds=3, compiled=-100, torch=-100, sb3=-100)
    lines += runs("ppo-pendulum", compiled=-1000, torch=-1000)
    text = written(tmp_path, lines)
    assert "Taken together, 3 seeds of each of the 2 settings that all have" in text
    assert re.search(r"\| fastrl, compiled \| 1.00 \| 0.53 \|", part(text, "In short"))  # (1 + … + 20) / 20 / 20
    assert "34 runs, 3 to 5 seeds of each" in text


def test_seconds_are_the_processors_or_the_walls(tmp_path):
    lines = runs("ppo-cartpole", dict(compiled=2, sb3=8), compiled=480, sb3=480)
    text = written(tmp_path, lines)
    row = r"\| \[PPO, CartPole\]\(.*\) \| {}: 4.0 \(4.0–4.0\) \| – \| {} \|"
    assert re.search(row.format("2.00", "8.00"), part(text, "How soon"))
    assert "on the wall were 3.00 times those of the processor (median of 10 runs)" in text
    assert re.search(r"\| \[PPO, CartPole\]\(.*\) \| 2.00 \| – \| 8.00 \|", text)  # promised: at the last mark
    wall = written(tmp_path, lines, clock="wall")
    assert re.search(row.format("6.00", "24.0"), part(wall, "How soon")) and "those on the wall: 3.00 times" in wall


def test_seeds_are_compared_with_the_same_seeds(tmp_path):
    lines = [line("ppo-cartpole", COMPILED, seed, 480.0, seed) for seed in (1, 2, 3)]
    lines += [line("ppo-cartpole", SB3, seed, 480.0, 10.0 * seed) for seed in (1, 2, 3, 4)]
    assert "2.00: 10 (10–10)" in written(tmp_path, lines)


def test_what_dqn_would_be_without_a_callback(tmp_path):
    lines = runs("dqn-cartpole", dict(compiled=3), compiled=480, sb3=480)
    assert "understates how fast they are.\n" in written(tmp_path, lines)
    lines += [{**line("dqn-cartpole", UNWATCHED, seed, 480.0, 2.0), "scores": [480.0], "wall": [9], "processor": [2]}
              for seed in range(1, 6)]  # fmt: skip
    text = written(tmp_path, lines)
    assert "Without a callback the same training is 1.50 times (DQN, CartPole) as fast" in text
    assert UNWATCHED not in part(text, "DQN, CartPole-v1, published")
    assert "understates" not in written(tmp_path, runs("ppo-cartpole", compiled=480, sb3=480))


def test_of_one_seed_nothing_is_concluded(tmp_path):
    text = written(tmp_path, runs("ppo-cartpole", seeds=1, compiled=480, torch=470, sb3=300))
    assert "Nothing can be compared" in text and "worse" not in text and "ahead" not in text
    assert "3 runs, 1 seed of each" in text and "1 of 1" in part(text, "PPO, CartPole-v1, published")
    few = written(tmp_path, runs("ppo-cartpole", seeds=2, compiled=480, torch=470, sb3=300))
    assert "**2 seeds are few" in few


def test_of_nothing_there_is_a_page(tmp_path):
    text = written(tmp_path, [])
    assert "no runs" in text and part(text, "What is left out or cut").strip() == "Nothing."


def test_what_is_absent_failed_or_cut_is_said(tmp_path):
    lines = runs("ppo-acrobot", compiled=-90)
    lines += [line("ppo-acrobot", TORCH, 1, error="it broke"), line("ppo-acrobot", SB3, None, absent="it is gone")]
    left = part(written(tmp_path, lines), "What is left out or cut")
    name = "PPO, Acrobot-v1, published"
    assert f"- {name}, fastrl, Torch, seed 1: failed, it broke\n" in left
    assert f"- {name}, Stable-Baselines3: absent, it is gone.\n" in left
    assert f"- {name}: 200,000 steps of 1,000,000" in left
    again = part(written(tmp_path, [*lines, line("ppo-acrobot", TORCH, 1, -90.0)]), "What is left out or cut")
    assert "it broke" not in again and "it is gone" in again


def test_runs_that_do_not_belong_together_are_not_counted(tmp_path):
    lines = [line("ppo-cartpole", COMPILED, 1, 100.0), line("ppo-cartpole", COMPILED, 2, 100.0, scale=0.5)]
    lines += [line("ppo-cartpole", COMPILED, seed, 480.0, version="2") for seed in (1, 2)]
    text = written(tmp_path, lines)
    assert "2 runs in the file are of other options, steps or versions" in text and "2 of 2" in text
    half = written(tmp_path, lines, scale=0.5)
    assert "multiplied by 0.5" in half and "0 of 1" in half and "3 runs in the file" in half


def test_options_that_differ_are_named(tmp_path):
    lines = runs("ppo-cartpole-ours", compiled=480) + runs("dqn-cartpole-ours", compiled=480)
    text = written(tmp_path, lines)
    said = part(text, "PPO, CartPole-v1, fastrl's preset")
    differ = re.search(r"Not those published: (.*)\.\n", said)[1].split(", ")
    assert set(differ) == {"learning_rate", "n_steps", "batch_size", "n_epochs", "gae_lambda", "clip_range"}
    course = part(written(tmp_path, [line("course-ppo", names.PRESET, 1, 480.0)]), "The course's programs")
    told = re.search(r"Unlike the program, the preset has (.*)\.\n", course)[1]
    assert told == "learning_rate lin_0.003, batch_size 64, gamma 0.98, gae_lambda 0.9, n_envs 8"


def test_the_course_is_told_in_seconds_to_what_is_promised(tmp_path):
    lines = []
    for library, reached in ((PROGRAM, (6.0, 8.0, 10.0)), (names.SAME, (1.0, None, 4.0)), (names.PRESET, (None,) * 3)):
        for seed, seconds in enumerate(reached, 1):
            more = {"reached": [3 * seconds, seconds]} if seconds else {}
            lines.append(line("course-dqn", library, seed, 480.0, **more))
    text = written(tmp_path, lines)
    assert "| the course's program | 8.00 (6.00 to 10.0) | 3 of 3 |  |" in text
    assert "| fastrl, the same | 2.50 (1.00 to 4.00) | 2 of 3 | 2.0 |" in text  # 8 over 4, the median of all three
    assert "| fastrl, preset | – | 0 of 3 | – |" in text
    assert "| the course's program | 24.0 (18.0 to 30.0) |" in written(tmp_path, lines, clock="wall")
    slow = [x for x in lines if x["library"] != PROGRAM] + [line("course-dqn", PROGRAM, 1, 20.0)]
    assert "the program's median seed never does" in written(tmp_path, slow)


def test_curves_are_pictures_for_a_phone(tmp_path):
    written(tmp_path, runs("ppo-pendulum", compiled=-150, torch=-160, sb3=-170))
    data = (tmp_path / "learning" / "ppo-pendulum.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", data[16:20]) == (720,)


def test_a_page_can_be_made_of_any_part_of_a_full_run(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "REPS", 3)
    jobs, absent = command.plan(tuple(SETTINGS), (), 3, 1.0)
    lines = [line(j.setting.key, j.library, j.seed, float(rng.normal(100, 50)), first=2.0, load=1.0) for j in jobs]
    every = [*absent, *lines]
    kept = [every[i] for i in np.flatnonzero(rng.random(len(every)) < 0.3)]
    text = written(tmp_path, kept)
    for key in {x["setting"] for x in kept}:
        assert SETTINGS[key].title in text
    assert all(unable(SETTINGS[x["setting"]], x["library"]) for x in absent) and set(AGENTS) > {COMPILED}


@pytest.mark.parametrize("seeds", [10, 2])
def test_the_page_names_the_command_that_trains_its_runs(tmp_path, monkeypatch, seeds):
    monkeypatch.setattr(stats, "REPS", 3)
    default = [key for key, setting in SETTINGS.items() if setting.default]

    def trained_by(keys, wanted=(), scale=1.0):
        """What the page says, and the runs and seeds that this asks for."""
        jobs, _ = command.plan(tuple(keys), wanted, seeds, scale)
        lines = [line(j.setting.key, j.library, j.seed, float(rng.normal(100, 50)), scale=scale) for j in jobs]
        page.write(lines, tmp_path / "learning.md", scale=scale)
        text = (tmp_path / "learning.md").read_text()
        assert f"--results-file {tmp_path}/learning/results.jsonl --page {tmp_path}/learning.md\n" in text
        return text.split("```bash\npython -m benches learning")[1].splitlines()[0]

    of_seeds = "" if seeds == 10 else " --seeds 2"
    if seeds == 2:
        assert trained_by(default) == of_seeds
    assert trained_by(["ppo-acrobot"], scale=0.5) == f"{of_seeds} --settings ppo-acrobot --scale 0.5"
    assert trained_by(["ppo-acrobot"], (COMPILED, SB3)) == (
        f"{of_seeds} --settings ppo-acrobot --libraries '{COMPILED}' {SB3}"
    )


def test_the_page_lies_beside_the_runs_that_make_it_again(tmp_path):
    lines = runs("ppo-cartpole", compiled=480, torch=470, sb3=300)
    text = written(tmp_path, [*lines, {**lines[0], "final": 1.0}, lines[0]])  # run again: the last one counts
    kept = results.read(tmp_path / "learning" / page.RUNS)
    assert len(kept) == len(lines) and written(tmp_path, kept) == text
