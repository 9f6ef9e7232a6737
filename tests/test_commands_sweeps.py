"""`fastrl train --seeds` and `fastrl tune --ray`: the same results wherever the runs are, whatever is killed."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastrl
from fastrl.checkpoint import read_model
from fastrl.cli import main
from fastrl.commands import study
from tests.commands import printed, refused, without

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastrl.__file__).parents[1])}
TRAIN = "train reinforce CartPole-v1 --total-timesteps 600 --eval-episodes 2"
TUNE = "tune reinforce CartPole-v1 --trials 3 --total-timesteps 400 --evaluations 2 --eval-episodes 2"
LONG = "--checkpoint-every 1000 --eval-episodes 2 --engine torch"
pytestmark = pytest.mark.cluster
HOW = pytest.mark.parametrize("how", ["", pytest.param("--ray", marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def ray():
    """Ray, connected to a cluster of this machine."""
    pytest.importorskip("ray")
    from fastrl.distributed.cluster import connected

    with connected(num_cpus=2) as ray:
        yield ray


def same_models(*directories):
    (_, first), *others = (read_model(Path(directory) / "model.fastrl") for directory in directories)
    for _, other in others:
        assert first.keys() == other.keys()
        for name, value in first.items():
            assert np.array_equal(np.asarray(value), np.asarray(other[name]), equal_nan=True), name


def summary(directory):
    with open(Path(directory) / "seeds.csv", newline="") as file:
        return {int(row["seed"]): row for row in csv.DictReader(file)}


def begin(command, **options):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen([sys.executable, "-m", "fastrl", *command.split()], env=ENVIRONMENT, **pipes, **options)


def wait_for(pattern, process, seconds=120):
    """Wait until there are files of this pattern."""
    last = time.monotonic() + seconds
    while not (found := sorted(Path().glob(pattern))):
        assert process.poll() is None and time.monotonic() < last, process.communicate()
        time.sleep(0.02)
    return found


def processes(word):
    """Those whose command line holds a word; only of a system that shows them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def none_left(word, seconds=30):
    last = time.monotonic() + seconds
    while (found := processes(word)) and time.monotonic() < last:
        time.sleep(0.1)
    return not found


# -- train --seeds ---------------------------------------------------------------------------------------------


def test_each_seed_is_what_it_would_be_alone_here_or_by_ray(capsys, ray):
    for seed in (5, 6):
        printed(capsys, f"{TRAIN} --seed {seed} --out alone{seed} --no-progress")
    out = printed(capsys, f"{TRAIN} --seed 5 --seeds 2 --jobs 2 --out here")
    printed(capsys, f"{TRAIN} --seed 5 --seeds 2 --ray --out there")
    for seed in (5, 6):
        same_models(f"alone{seed}", f"here/seed-{seed}", f"there/seed-{seed}")
        name = f"seed-{seed}"
        assert {*os.listdir(f"alone{seed}"), "log.txt", "result.json"} == set(os.listdir(Path("here") / name))
        for file in ("config.toml", "metrics.csv"):
            alone, here = (Path(place, file).read_text().splitlines() for place in (f"alone{seed}", f"here/{name}"))
            assert len(alone) == len(here)
        model = fastrl.REINFORCE.load(f"here/{name}/model.fastrl")
        mean, _ = fastrl.evaluate_policy(model, "CartPole-v1", 2, seed=10_000)
        assert float(summary("here")[seed]["mean"]) == float(summary("there")[seed]["mean"]) == mean
        assert "Evaluated: mean return" in Path("here", name, "log.txt").read_text()
        assert f"Seed {seed}: mean return {mean:.1f}" in out
    means = [float(row["mean"]) for row in summary("here").values()]
    assert f"mean over 2 seeds: {np.mean(means):.1f} ± {np.std(means, ddof=1):.1f}" in out
    assert printed(capsys, "plot here/seed-5 here/seed-6 --out both.png")


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_more_seeds_can_follow(capsys):
    printed(capsys, f"{TRAIN} --seeds 1 --out a")
    before = Path("a/seed-0/model.fastrl").stat().st_mtime_ns
    out = printed(capsys, f"{TRAIN} --seeds 2 --out a")
    assert "1 of them done" in out and "Seed 0:" not in out and "Seed 1:" in out
    assert Path("a/seed-0/model.fastrl").stat().st_mtime_ns == before and set(summary("a")) == {0, 1}
    assert "gamma is 0.99 in a/seeds.toml, not 0.5" in refused(capsys, f"{TRAIN} --seeds 2 --out a --gamma 0.5")
    assert "seed is 0 in a/seeds.toml, not 3" in refused(capsys, f"{TRAIN} --seeds 2 --out a --seed 3")
    # Killed between the model and its evaluation: that is made up for.
    reached = summary("a")[0]
    Path("a/seed-0/result.json").unlink()
    printed(capsys, f"{TRAIN} --seeds 2 --out a")
    assert summary("a")[0] == reached and Path("a/seed-0/model.fastrl").stat().st_mtime_ns == before
    assert "is complete" in Path("a/seed-0/log.txt").read_text()


MODULE = """
import os
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv

class Failing(CartPoleEnv):
    steps = 0

    def step(self, action):
        Failing.steps += 1
        if os.path.exists("broken") and Failing.steps > 100 and "seed-1" in os.readlink("/proc/self/fd/1"):
            raise ValueError("the pole is broken")
        return super().step(action)

gym.register("Failing-v0", Failing, max_episode_steps=50)
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.slow
@HOW
def test_a_seed_that_fails_stops_no_other(capsys, request, how):
    if how:
        request.getfixturevalue("ray")
    Path("poles.py").write_text(MODULE)
    Path("broken").touch()
    command = "train reinforce poles:Failing-v0 --n-envs 1 --total-timesteps 400 --eval-episodes 2 --seeds 2 --out a"
    assert main(f"{command} {how}".split()) == 1
    out, err = capsys.readouterr()
    assert "1 of 2 seeds failed (seed 1: " in err and "the pole is broken" in err and "Traceback" not in err
    assert "Seed 0: mean return" in out and "mean over 1 seeds" in out
    assert "the pole is broken" in summary("a")[1]["error"]
    Path("broken").unlink()
    out = printed(capsys, f"{command} {how}")
    assert "1 of them done" in out and "mean over 2 seeds" in out and not summary("a")[1]["error"]


@HOW
def test_a_killed_driver_is_gone_on_from(capsys, how):
    if how:
        pytest.importorskip("ray")
    alone = f"train reinforce CartPole-v1 {LONG} --total-timesteps {60_000 if how else 12_000}"
    command = f"{alone} --seeds 2 --jobs 2 {how}"
    run = begin(f"{command} --out killed")
    wait_for("killed/seed-*/checkpoints/*.fastrl", run)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    if Path("/proc").exists():
        assert none_left(str(Path("killed").absolute()))
    assert not any(Path("killed").glob("seed-*/result.json"))
    run = begin(f"{command} --out killed")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, (out, err)
    assert any("on from" in log.read_text() for log in Path("killed").glob("seed-*/log.txt"))
    for seed in (0, 1):
        printed(capsys, f"{alone} --seed {seed} --out {seed} --no-progress")
        same_models(str(seed), f"killed/seed-{seed}")


@pytest.mark.slow
@HOW
def test_ctrl_c_leaves_no_process_and_says_how_to_go_on(how):
    if how:
        pytest.importorskip("ray")
    run = begin(f"train reinforce CartPole-v1 {LONG} --total-timesteps 2000000 --seeds 3 --jobs 2 --out a {how}")
    wait_for("a/seed-0/checkpoints/*.fastrl", run)
    wait_for("a/seed-1/checkpoints/*.fastrl", run)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    out, err = run.communicate(timeout=120)
    assert run.returncode == 130, (out, err)
    assert "interrupted with 0 of 3 seeds done; to go on: fastrl train reinforce" in err and "Traceback" not in err
    if Path("/proc").exists():
        assert none_left(str(Path("a").absolute()))
    for seed in (0, 1):  # each ended as by its own Ctrl-C
        assert Path(f"a/seed-{seed}/model.fastrl").is_file()
        assert "interrupted after" in Path(f"a/seed-{seed}/log.txt").read_text()
    assert not Path("a/seed-2").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once():
    run = begin(f"train reinforce CartPole-v1 {LONG} --total-timesteps 2000000 --seeds 1 --out a")
    wait_for("a/seed-0/checkpoints/*.fastrl", run)
    for _ in range(2):
        os.kill(run.pid, signal.SIGINT)
        time.sleep(0.2)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "to go on: fastrl train" in err, err
    assert not Path("/proc").exists() or none_left(str(Path("a").absolute()))


def test_mistakes_are_one_line(capsys, monkeypatch):
    for options, *says in [
        ("--ray", "--seeds"), ("--jobs 2", "--seeds"), ("--address auto", "--seeds"),
        ("--seeds 0", "seeds is 0"), ("--seeds 2 --jobs 0", "jobs is 0"), ("--seeds 2 --jobs -1", "jobs is -1"),
        ("--seeds 2 --address auto", "--ray"), ("--seeds 2 --force --out a", "--force"),
        ("--seeds 2 --seed None", "--seed"), ("--seed 1 --seeds two", "two"),
    ]:  # fmt: skip
        err = refused(capsys, f"{TRAIN} {options}")
        assert all(words in err for words in says), err
    assert "--ray" in refused(capsys, f"{TUNE} --address auto")
    assert not list(Path().iterdir())
    printed(capsys, f"{TRAIN} --out run --no-progress")
    assert "leave out --resume" in refused(capsys, "train --resume run --seeds 2")
    assert "it is not empty" in refused(capsys, f"{TRAIN} --seeds 2 --out run")
    Path("file").write_text("")
    assert "cannot use file as a directory" in refused(capsys, f"{TRAIN} --seeds 2 --out file")
    without(monkeypatch, "ray")
    for command in (f"{TRAIN} --seeds 2 --ray --out b", f"{TUNE} --ray --out b"):
        assert 'pip install "fastrl[ray]"' in refused(capsys, command)
        monkeypatch.setitem(sys.modules, "ray", type(sys)("ray"))
        monkeypatch.setattr(sys.modules["ray"], "__version__", "1.13.0", raising=False)
        assert "1.13.0" in refused(capsys, command)
        without(monkeypatch, "ray")
    assert not Path("b").exists()


def test_an_address_where_nobody_answers_is_named():
    pytest.importorskip("ray")
    run = begin(f"{TRAIN} --seeds 2 --ray --address 127.0.0.1:9 --out a")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 2 and "127.0.0.1:9" in err and err.count("\n") == 1, err
    assert not Path("a").exists()


# -- tune ------------------------------------------------------------------------------------------------------


def trials(directory, name="reinforce-CartPole-v1"):
    return pytest.importorskip("optuna").load_study(storage=f"sqlite:///{directory}/study.db", study_name=name).trials


def test_a_search_by_ray_finds_what_one_without_finds(capsys, ray):
    pytest.importorskip("optuna")
    here = printed(capsys, f"{TUNE} --out here --trials 7")
    there = printed(capsys, f"{TUNE} --out there --trials 7 --ray --jobs 1")
    a, b = ([(x.params, x.value, x.state, x.intermediate_values, x.user_attrs["settings"]) for x in trials(place)]
            for place in ("here", "there"))  # fmt: skip
    assert a == b and len(a) == 7
    assert here.replace("here", "there") == there
    assert Path("here/best.toml").read_text() == Path("there/best.toml").read_text()
    printed(capsys, f"{TUNE} --out there --trials 9 --ray")
    assert len(trials("there")) == 9  # exactly, with two at once


@HOW
def test_the_trials_of_a_killed_search_are_tried_again(how):
    pytest.importorskip("ray" if how else "optuna")
    command = f"tune reinforce CartPole-v1 {how} --out a --total-timesteps 60000 --eval-episodes 1"
    run = begin(f"{command} --trials 1000")
    assert run.stderr is not None and re.match("Trial .: ", line := run.stderr.readline()), line
    while not any(x.state.name == "RUNNING" and "settings" in x.user_attrs for x in trials("a")):
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    before = trials("a")
    left = [x for x in before if x.state.name == "RUNNING"]
    done = [(x.number, x.params, x.value, x.state) for x in before if x.state.is_finished()]
    assert left and done
    run = begin(f"{command} --trials {len(done) + len(left)}")
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, (out, err)
    after = trials("a")
    assert not any(x.state.name == "RUNNING" for x in after)
    assert [(x.number, x.params, x.value, x.state) for x in after if x.number in [n for n, *_ in done]] == done
    assert [x.params for x in after[len(before) :]] == [x.params for x in left]
    assert sum(x.state.is_finished() and study.INTERRUPTED not in x.user_attrs for x in after) == len(done) + len(left)


def test_the_trials_of_a_search_that_goes_on_are_left_alone(capsys):
    optuna = pytest.importorskip("optuna")
    printed(capsys, f"{TUNE} --out a --trials 1")
    other = optuna.load_study(storage="sqlite:///a/study.db", study_name="reinforce-CartPole-v1")
    running = study.ask(other)  # of this process, which lives
    elsewhere = other.ask()
    elsewhere.set_user_attr(study.OWNER, ["another-machine", "1", "1"])
    printed(capsys, f"{TUNE} --out a --trials 2")
    states = {x.number: x.state.name for x in trials("a")}
    assert states[running.number] == states[elsewhere.number] == "RUNNING" and states[3] == "COMPLETE"


@pytest.mark.slow
def test_ctrl_c_ends_a_search_by_ray():
    pytest.importorskip("ray")
    run = begin("tune reinforce CartPole-v1 --ray --jobs 2 --trials 1000 --total-timesteps 20000 --out a")
    assert run.stderr is not None and re.match("Trial .: ", line := run.stderr.readline()), line
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 130 and "goes on with the same command" in err and "Traceback" not in err, (out, err)
    found = trials("a")
    waiting = [x.system_attrs["fixed_params"] for x in found if x.state.name == "WAITING"]
    assert waiting == [x.params for x in found if study.INTERRUPTED in x.user_attrs]
    assert not any(x.state.name == "RUNNING" for x in found) and "The best of" in out


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_run_that_is_lost_with_its_process_goes_on_elsewhere(capsys):
    pytest.importorskip("ray")
    command = f"train reinforce CartPole-v1 {LONG} --total-timesteps 60000"
    run = begin(f"{command} --seeds 1 --ray --out a")
    wait_for("a/seed-0/checkpoints/*.fastrl", run)
    (child,) = processes(str(Path("a").absolute()))
    worker = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0, (out, err)
    assert "on from" in Path("a/seed-0/log.txt").read_text()
    printed(capsys, f"{command} --out alone --no-progress")
    same_models("alone", "a/seed-0")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_a_trial_that_is_lost_with_its_process_is_tried_again():
    pytest.importorskip("ray")
    command = "tune reinforce CartPole-v1 --trials 2 --total-timesteps 200000 --eval-episodes 1"
    run = begin(f"{command} --ray --jobs 1 --out a")
    assert run.stdout is not None and run.stdout.readline().startswith("Tune REINFORCE")
    last = time.monotonic() + 60
    while not (tasks := [pid for pid in processes("ray::attempt") if Path(f"/proc/{pid}/cwd").samefile(".")]):
        assert run.poll() is None and time.monotonic() < last
        time.sleep(0.02)
    os.kill(tasks[0], signal.SIGKILL)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 0 and "failed" not in err, (out, err)
    again = begin(f"{command} --out b")
    assert again.communicate(timeout=200) and again.returncode == 0
    a, b = ([(x.params, x.value, x.state, x.intermediate_values) for x in trials(place)] for place in "ab")
    assert a == b
