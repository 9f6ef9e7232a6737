"""The harness keeps time and marks, runs what is missing and no more, reads what it wrote: by pretended trainings."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from benches.__main__ import main as benches
from benches.learning import command, libraries, results, run
from benches.learning import settings as names
from benches.learning.command import Job, missing, plan, time_left, work
from benches.learning.libraries import PACKAGE, options_of, smallest, unable
from benches.learning.settings import AGENTS, COMPILED, COURSE, SB3, SETTINGS, TORCH, Setting

pytestmark = pytest.mark.usefixtures("few_threads")  # what is measured sets them, and leaves them so
EACH = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


# -- one run: marks and clocks ---------------------------------------------------------------------------------


class Pretended:
    """Trains `iteration` steps a second, on the wall; half as long on the processor; what it scores is `of` its steps.

    An evaluation takes 1,000 seconds.
    """

    def __init__(self, monkeypatch, iteration, of=lambda steps: steps / 10):
        self.iteration, self.of = iteration, of
        self.num_timesteps, self.now, self.asked = 0, 5.0, []
        monkeypatch.setattr(run, "evaluate", self.evaluate)
        monkeypatch.setattr(run, "time", SimpleNamespace(perf_counter=lambda: self.now,
                                                         process_time=lambda: self.now / 2))  # fmt: skip

    def evaluate(self, model, env, seed, episodes, options):
        assert model is self
        self.now += 1000
        self.asked.append((env, seed, episodes, options))
        return float(self.of(self.num_timesteps))

    def train(self, seed, steps, watch):
        going_on = True
        while self.num_timesteps < steps and going_on:
            self.now += 1
            self.num_timesteps += self.iteration
            going_on = watch is None or watch(self)
        return self


def pretended(marks=4, **more):
    return Setting("x", "PPO", "CartPole-v1", "published", 100, {}, marks=marks, episodes=7, promised=8.0, **more)


def test_the_clocks_stand_still_while_the_model_is_evaluated(monkeypatch):
    model = Pretended(monkeypatch, 10)
    line = run.run(pretended(), model.train, 100, 0)
    assert line == {
        "steps": [30, 50, 80, 100], "scores": [3, 5, 8, 10], "wall": [3, 5, 8, 10], "processor": [1.5, 2.5, 4, 5],
        "final": 10,
    }  # fmt: skip
    assert model.asked == [("CartPole-v1", 10_000, 7, {})] * 4 + [("CartPole-v1", run.FINAL_SEED, 100, {})]


def test_an_iteration_that_passes_several_marks_gives_them_one_evaluation(monkeypatch):
    model = Pretended(monkeypatch, 60)
    line = run.run(pretended(), model.train, 100, 0)
    assert line["steps"] == [60, 60, 120, 120] and line["scores"] == [6, 6, 12, 12] and line["wall"] == [1, 1, 2, 2]
    assert len(model.asked) == 3


def test_a_run_until_its_promise_ends_there_only_if_other_episodes_confirm_it(monkeypatch):
    """What is promised is 8; at 40 steps only the mark's episodes say so, at 60 the others too."""
    model = Pretended(monkeypatch, 20)
    model.of = lambda steps: 9 if steps >= 60 or (steps == 40 and model.asked[-1][1] != run.FINAL_SEED) else 1
    line = run.run(pretended(marks=5, until=True), model.train, 100, 0)
    assert line["steps"] == [20, 40, 60] and line["scores"] == [1, 9, 9] and line["final"] == 9
    assert line["reached"] == (3, 1.5)
    never = Pretended(monkeypatch, 20, of=lambda steps: 0)
    line = run.run(pretended(marks=5, until=True), never.train, 100, 0)
    assert "reached" not in line and line["final"] == 0 and line["steps"][-1] == 100
    late = Pretended(monkeypatch, 20, of=lambda steps: 8 * (steps == 100))
    assert run.run(pretended(marks=5, until=True), late.train, 100, 0)["reached"] == (5, 2.5)


def test_a_run_that_ends_early_is_an_error(monkeypatch):
    model = Pretended(monkeypatch, 10)
    with pytest.raises(RuntimeError, match="ended after 50 of 100 steps"):
        run.run(pretended(), lambda seed, steps, watch: model.train(seed, 50, watch), 100, 0)


def test_a_run_without_a_callback_is_a_line_with_one_mark(monkeypatch):
    model = Pretended(monkeypatch, 10)
    line = run.unwatched(pretended(), model.train, 100, 0)
    assert line == {"steps": [100], "scores": [10], "wall": [10], "processor": [5], "final": 10}


# -- the table -------------------------------------------------------------------------------------------------


@EACH
def test_settings_are_whole(setting):
    assert setting.libraries[:3] in (AGENTS, COURSE) and set(setting.libraries[3:]) <= {names.UNWATCHED}
    assert setting.normalized(names.FLOOR[setting.env]) == 0 and setting.normalized(setting.promised) == 1
    assert setting.promised > names.FLOOR[setting.env] and setting.marks <= setting.steps


@EACH
def test_all_libraries_are_given_the_same_but_the_preset(setting):
    for library in setting.libraries:
        options, n_envs, steps = options_of(setting, library)
        if library != names.PRESET:
            assert (options, n_envs, steps) == (setting.options, setting.n_envs, setting.steps)
        options["seed"] = 3  # a copy
    assert "seed" not in setting.options
    digests = {results.digest(setting, x, setting.steps) for x in setting.libraries if x != names.PRESET}
    assert len(digests) == 1 and digests != {results.digest(setting, COMPILED, setting.steps + 1)}


@EACH
def test_the_smallest_run_is_small_has_the_same_networks_and_updates_them(setting):
    small = smallest(setting)
    assert small.steps <= min(1024, setting.steps) and (small.env, small.n_envs) == (setting.env, setting.n_envs)
    changed = {name for name, x in small.options.items() if x != setting.options.get(name)}
    assert changed <= {"n_steps", "n_epochs", "learning_starts", "train_freq", "gradient_steps"}
    if setting.algorithm == "PPO":  # one rollout that has a whole batch
        rollout = small.options["n_steps"] * small.n_envs
        assert small.steps == rollout >= setting.options.get("batch_size", 64)
    if setting.algorithm == "DQN":  # an update, of rows that are there
        assert small.options["learning_starts"] >= setting.options["batch_size"]
        assert small.steps >= small.options["learning_starts"] + small.options["train_freq"]


def test_what_a_library_cannot_do_is_said(monkeypatch):
    every = [(setting, x) for setting in SETTINGS.values() for x in setting.libraries]
    monkeypatch.setattr(libraries, "require", lambda name: None)
    assert {(s.key, x) for s, x in every if unable(s, x)} == {("dqn-cartpole-ours", SB3)}
    assert "double Q-learning" in str(unable(SETTINGS["dqn-cartpole-ours"], SB3))
    monkeypatch.undo()
    monkeypatch.setattr("benches.jobs.importlib.util.find_spec", lambda name: None)
    assert unable(SETTINGS["ppo-cartpole"], SB3) == "stable_baselines3 is not installed"
    assert unable(SETTINGS["ppo-lunarlander"], COMPILED) == "Box2D is not installed"
    assert unable(SETTINGS["ppo-cartpole"], COMPILED) is None


@pytest.mark.parametrize("key", ["ppo-cartpole", "ppo-acrobot", "dqn-cartpole"])
def test_stable_baselines3_trains_where_nothing_is_rendered(key):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common import env_util

    made: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        make = env_util.make_vec_env
        patch.setattr(env_util, "make_vec_env", lambda *args, **kwargs: made.append(make(*args, **kwargs)) or made[-1])
        small = smallest(SETTINGS[key])
        libraries.stable_baselines3(small)(0, small.steps, None)
    assert [env.render_mode for env in made[0].envs] == [None] * small.n_envs


# -- many runs -------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr("benches.conditions.limit_threads", lambda threads: None)  # of this process


@pytest.fixture
def versions(monkeypatch):
    """Versions of packages, which a test may change."""
    found = {library: f"{PACKAGE.get(library, 'fastrl')} 1" for library in (*AGENTS, *COURSE, names.UNWATCHED)}
    monkeypatch.setattr(command, "version", found.__getitem__)
    monkeypatch.setattr(libraries, "require", lambda name: None)
    monkeypatch.setattr(command, "require", lambda name: None)
    return found


def answered(job: Job) -> results.Line:
    if job.seed == 2 and job.library == TORCH:
        return {"error": "it broke"}
    return {"steps": [job.steps], "scores": [1.0], "wall": [2.0], "processor": [1.0], "final": 1.0}


def test_each_seeds_runs_come_before_the_nexts(versions):
    jobs, absent = plan(("ppo-cartpole", "dqn-cartpole-ours"), (), 2, 0.5)
    found = [(job.seed, job.setting.key, job.library) for job in jobs]
    kinds = [("ppo-cartpole", x) for x in AGENTS]
    kinds += [("dqn-cartpole-ours", x) for x in (COMPILED, TORCH, names.UNWATCHED)]
    assert found == [(seed, *kind) for seed in (1, 2) for kind in kinds]
    assert {job.steps for job in jobs} == {50_000, 36_000}
    assert [(line["library"], line["seed"]) for line in absent] == [(SB3, None)]
    only, _ = plan(("ppo-cartpole",), (SB3,), 1, 1.0)
    assert [job.library for job in only] == [SB3]


def test_what_is_done_is_not_done_again(versions, tmp_path):
    path = tmp_path / "results.jsonl"
    jobs, _ = plan(("ppo-cartpole",), (), 2, 1.0)
    for _, line in work(jobs[:4], 1, answered):
        results.append(path, line)
    lines = results.read(path)
    assert missing(jobs, lines, retry=False) == jobs[4:]
    for job, line in work(jobs[4:], 2, answered):
        assert line["setting"] == job.setting.key and line["took"] >= 0 and "machine" in line["conditions"]
        results.append(path, line)
    lines = results.read(path)
    assert missing(jobs, lines, retry=False) == []
    assert missing(jobs, lines, retry=True) == [jobs[4]]  # which broke
    assert len(missing(plan(("ppo-cartpole",), (), 3, 1.0)[0], lines, False)) == 3  # another seed
    assert len(missing(plan(("ppo-cartpole",), (), 2, 0.5)[0], lines, False)) == 6  # other steps
    versions[SB3] = "stable-baselines3 2"
    assert [job.library for job in missing(jobs, lines, False)] == [SB3, SB3]
    again = {**jobs[4].line(), "final": 1.0}
    assert missing([jobs[4]], [*lines, again], retry=True) == []  # it did not break again


def test_time_that_is_left_is_that_of_such_runs(versions):
    jobs, _ = plan(("ppo-cartpole",), (), 2, 1.0)
    lines = [{**jobs[i].line(), "took": took} for i, took in ((0, 3.0), (3, 5.0))]
    lines.append({**jobs[1].line(), "took": 1.0, "error": "it broke"})
    assert time_left(jobs, lines, 2) == (4.0, 4)


# -- the command -----------------------------------------------------------------------------------------------


def test_the_command_resumes_and_retries(versions, tmp_path, monkeypatch, capsys):
    asked: list[tuple[str, int]] = []

    def ask(job: Job) -> results.Line:
        asked.append((job.library, job.seed))
        return answered(job)

    pages: list[int] = []
    monkeypatch.setattr(command, "ask", ask)
    monkeypatch.setattr("benches.learning.page.write", lambda lines, page, *how: pages.append(len(lines)))
    arguments = ["learning", "--results-file", str(tmp_path / "r.jsonl"), "--settings", "dqn-cartpole-ours"]
    assert benches([*arguments, "--seeds", "1"]) == 0 and len(asked) == 3 and pages == [4]  # and one that is absent
    assert benches([*arguments, "--seeds", "2"]) == 0 and len(asked) == 6 and pages[-1] == 7
    assert "seed 2: it broke" in capsys.readouterr().out
    assert benches([*arguments, "--seeds", "2"]) == 0 and len(asked) == 6 and pages[-1] == 7
    assert benches([*arguments, "--seeds", "2", "--retry"]) == 0 and asked[6:] == [(TORCH, 2)]
    assert benches([*arguments, "--seeds", "3", "--no-train"]) == 0 and len(asked) == 7


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("--settings ppo-carpole", "ppo-cartpole"), ("--libraries fastlr", COMPILED), ("--jobs 0", "must be positive"),
     ("--clock sun", "sun")],
)  # fmt: skip
def test_wrong_usage_is_refused_before_anything_is_done(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert benches(["learning", *arguments.split()]) == 2
    assert said in "".join(capsys.readouterr()) and not list(tmp_path.iterdir())


def test_the_help_names_every_library():
    said = " ".join(str(command.main.__doc__).split())
    for library in libraries.LIBRARIES:
        assert f'"{library}"' in said


def test_what_a_process_complains_of_is_recorded(monkeypatch):
    job = Job(SETTINGS["course-lake"], names.PROGRAM, 1, 100)
    monkeypatch.setattr(command.sys, "executable", "false")
    assert command.ask(job) == {"error": "it ended with code 1"}
    monkeypatch.setattr(command.sys, "executable", "echo")
    assert "it answered" in command.ask(job)["error"]


def test_true_runs_become_a_page(tmp_path):
    """Of the smallest setting, through the command line, in processes of their own."""
    pytest.importorskip("rliable")
    path, page = tmp_path / "results.jsonl", tmp_path / "learning.md"
    what = ["--settings", "course-lake", "--libraries", names.PROGRAM, names.SAME]
    arguments: list[Any] = ["learning", *what, "--seeds", 1, "--scale", 0.05, "--results-file", path, "--page", page]
    assert benches([str(x) for x in arguments]) == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["library"] for line in lines} == {names.PROGRAM, names.SAME}
    for line in lines:
        assert len({len(line[name]) for name in ("steps", "scores", "wall", "processor")}) == 1 and line["first"] > 0
        assert line["conditions"]["commit"] == command.commit(command.ROOT) and results.whole(line)
        assert line["processor"][-1] > 0 and line["wall"] == sorted(line["wall"])
        assert line["reached"] == [line["wall"][-1], line["processor"][-1]] if line["final"] == 1 else \
            line["steps"][-1] >= 1000
    text = page.read_text()
    assert "multiplied by 0.05" in text and "| the course's program |" in text and "2 runs, 1 seed of each" in text
