"""`fastrl plot`: which runs make one line, what its band is, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl import config
from fastrl.cli import main
from fastrl.curves import Run, interval, lines
from fastrl.flags import UsageError
from tests.commands import printed, refused

STEPS, RETURN = "time/total_timesteps", "rollout/ep_rew_mean"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(rows, seed=0, **settings):
    found = {"algorithm": "ppo", "environment": "CartPole-v1", "gamma": 0.99, **settings}
    return Run(Path(f"run-{seed}"), found, [{STEPS: float(x), RETURN: float(y)} for x, y in rows])


def write_run(path, rows, **hyperparameters):
    directory = Path(path)
    directory.mkdir(parents=True)
    config.write(directory / "config.toml", config.Config("ppo", "CartPole-v1", {}, {"seed": 0, **hyperparameters}))
    text = "\r\n".join(",".join(map(str, row)) for row in rows)
    (directory / "metrics.csv").write_text(f"{STEPS},{RETURN},time/fps\r\n{text}\r\n")


def test_runs_of_the_same_settings_make_one_line():
    straight = [run([(0, a), (100, a + 100)], seed) for seed, a in enumerate((0, 10, 50))]
    other = run([(0, 5), (10, 7)], 9, gamma=0.5)
    found = lines([straight[0], other, *straight[1:]], RETURN, False, 1)
    assert [len(line.runs) for line in found] == [3, 1]
    assert found[0].label == "PPO on CartPole-v1, gamma 0.99" and found[1].label == "PPO on CartPole-v1, gamma 0.5"
    np.testing.assert_allclose(found[0].mean, 20 + found[0].x, rtol=1e-12)
    assert (found[0].x[0], found[0].x[-1]) == (0, 100) and found[1].x[-1] == 10
    assert "3 runs, 95 %" in found[0].band and found[1].band == "1 run"
    assert lines([straight[0]], RETURN, False, 1)[0].label == "PPO on CartPole-v1"


def test_a_line_spans_what_all_of_its_runs_have():
    found = lines([run([(0, 1), (100, 1)]), run([(40, 3), (70, 3)], 1)], RETURN, False, 1)[0]
    assert (found.x[0], found.x[-1]) == (40, 70)
    np.testing.assert_array_equal([found.low[0], found.mean[0], found.high[0]], [1, 2, 3])
    assert found.band == "2 runs, lowest to highest"
    with pytest.raises(UsageError, match="no steps in common"):
        lines([run([(0, 1), (10, 1)]), run([(40, 3), (70, 3)], 1)], RETURN, False, 1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), st.integers(1, 50))
def test_the_window_is_a_running_mean_of_rows(values, window):
    found = lines([run(list(enumerate(values)))], RETURN, False, window)[0]
    at = np.arange(len(values))
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in at]
    np.testing.assert_allclose(found.mean, np.interp(found.x, at, expected), atol=1e-8)


def test_over_time_steps_are_divided_by_their_speed_or_as_told():
    rows = [{STEPS: 100.0, "time/fps": 50.0, RETURN: 1.0}, {STEPS: 200.0, "time/time_elapsed": 9.0, RETURN: 2.0}]
    found = lines([run([])._replace(rows=rows)], RETURN, True, 1)[0]
    assert (found.x[0], found.x[-1]) == (2, 9)


def test_the_interval_is_the_bootstraps():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(12, 5))
    low, high = interval(values)
    means = values[rng.integers(12, size=(20_000, 12))].mean(1)  # the plain way: draw runs, average
    expected = np.percentile(means, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([low, high], expected, atol=0.06)
    np.testing.assert_array_equal(interval(values), (low, high))
    np.testing.assert_array_equal(interval(values[:2]), (values[:2].min(0), values[:2].max(0)))


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    low, high = interval(rng.normal(size=(20, 2_000)))
    assert 0.88 < np.mean((low < 0) & (high > 0)) < 0.97


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_of_many_lines(ending, capsys):
    for i in range(9):
        write_run(f"runs/{i}", [(s, s * (i // 2 + 1), 10) for s in range(0, 100, 10)], gamma=0.9 + i // 2 / 100)
    args = ["plot", *(f"runs/{i}" for i in range(9)), "runs/0", "--out", f"new/curves.{ending}", "--title", "Nine"]
    out = printed(capsys, args)
    assert out.count("2 runs") == 4 and out.count("1 run\n") == 1
    assert "PPO on CartPole-v1, gamma 0.9: 90.0 (90.0 to 90.0), 2 runs, lowest to highest\n" in out
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert Path(f"new/curves.{ending}").read_bytes().startswith(begins[ending])
    assert "exists" in refused(capsys, args)
    assert main([*args, "--force", "--x", "time", "--window", "3"]) == 0


def test_a_run_of_fastrl_train(capsys):
    for seed in "01":
        args = "train ppo CartPole-v1 --total-timesteps 600 --n-envs 2 --eval-episodes 0 --no-progress"
        assert main([*args.split(), "--seed", seed, "--out", seed]) == 0
    assert "2 runs" in printed(capsys, "plot 0 1")
    assert Path("curves.png").stat().st_size > 10_000


def test_mistakes_are_one_line(capsys):
    write_run("good", [(1, 2, 3)])
    for name in ("gone", "empty", "damaged", "words"):
        write_run(name, [(1, 2, 3), (2, 3, 3)])
    Path("gone/metrics.csv").unlink()
    Path("empty/metrics.csv").write_text("")
    Path("damaged/metrics.csv").write_bytes(b"\x89PNG\xff\xfe\x00" * 9)
    Path("words/metrics.csv").write_text(f"{STEPS},{RETURN}\n1,much\n2,more\n")
    write_run("early", [(1, "", 3)])
    Path("other").mkdir()
    assert "needs the directories" in refused(capsys, "plot")
    assert "needs the directories" in refused(capsys, "plot --x time")
    assert "no run at nowhere" in refused(capsys, "plot good nowhere")
    for name, says in (("gone", "is missing"), ("empty", "no rows"), ("damaged", "damaged"), ("words", "damaged")):
        err = refused(capsys, f"plot good {name}")
        assert f"{name}/metrics.csv" in err and says in err, err
    assert "early/metrics.csv" in (err := refused(capsys, "plot early")) and "no episode has ended" in err
    assert "other/config.toml" in refused(capsys, "plot other")
    assert f"did you mean {RETURN}?" in refused(capsys, "plot good --y rollout/ep_rew_men")
    assert "window is 0" in refused(capsys, "plot good --window 0")
    assert "steps" in refused(capsys, "plot good --x miles")
    assert ".png or .pdf or .svg" in refused(capsys, "plot good --out curves.jpg")
    assert not list(Path().glob("curves.*"))


def test_a_row_that_a_kill_cut_short_is_left_out(capsys):
    write_run("run", [(1, 2, 3), (2, 3, 3)])
    with open("run/metrics.csv", "a") as file:
        file.write("3,1")
    assert ": 3.0, 1 run" in printed(capsys, "plot run")


def test_seconds_go_on_where_a_run_went_on():
    rows = [(100, 1, 2.0), (200, 2, 4.0), (300, 3, 0.5), (400, 4, 1.5), (500, 5, 1.0)]
    resumed = Run(Path("run"), {"algorithm": "ppo", "environment": "CartPole-v1"},
                  [{STEPS: a, RETURN: b, "time/time_elapsed": c} for a, b, c in rows])  # fmt: skip
    (line,) = lines([resumed], RETURN, True, 1)
    np.testing.assert_allclose(np.interp([2, 4, 4.5, 5.5, 6.5], line.x, line.mean), [1, 2, 3, 4, 5], atol=0.05)
