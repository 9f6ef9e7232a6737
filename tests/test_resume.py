"""Runs that are killed, interrupted, or short of disk, and go on: to the same weights, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastrl import checkpoints, metrics
from fastrl.checkpoint import read_model
from fastrl.cli import main

ALWAYS = {"time/fps", "time/time_elapsed", "time/iterations"}  # tell of the process, not of the training
RUNS = {
    "ppo": "train ppo CartPole-v1 --n-envs 2 --n-steps 8 --batch-size 8 --n-epochs 1 --total-timesteps 24000",
    "dqn": "train dqn CartPole-v1 --learning-starts 100 --buffer-size 2000 --n-steps 2 --total-timesteps 12000",
    "ppo, Gymnasium's own": "train ppo CartPole-v1 --engine torch --n-steps 32 --batch-size 32 --n-epochs 1 "
    "--total-timesteps 6000 --normalize",
    "reinforce": "train reinforce CartPole-v1 --n-episodes 2 --n-envs 1 --total-timesteps 40000",
}
QUIET = ["--no-progress", "--eval-episodes", "0"]
SHORT = [*RUNS["ppo"].split(), *QUIET, "--total-timesteps", "320", "--checkpoint-every", "64", "--out", "run"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fastrl_process(*args, **kwargs):
    return subprocess.Popen([sys.executable, "-m", "fastrl", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, **kwargs)  # fmt: skip


def refused(capsys, args, code=2):
    """The one line on stderr of a command that does not succeed."""
    assert main(args) == code
    err = capsys.readouterr().err
    assert err.startswith("fastrl: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def assert_same_run(one, other, left_out=ALWAYS):
    """The final models are equal in every tensor, counter and generator; so are the metrics."""
    (header, tensors), (expected, wanted) = (read_model(Path(d) / "model.fastrl") for d in (one, other))
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, wanted[name]), name
    for name in ("counters", "random", "episodes", "env_state", "hyperparameters"):
        assert header[name] == expected[name], name
    rows, others = (
        [{k: v for k, v in row.items() if k not in left_out} for row in metrics.read(Path(d) / "metrics.csv")]
        for d in (one, other)
    )
    assert rows == others


# -- kill -9 ------------------------------------------------------------------------------------------------------


def newest(directory):
    files = checkpoints.find(Path(directory) / "checkpoints")
    return checkpoints.steps_of(files[0]) if files else 0


def kill_sometime(args, stream):
    """Start the command and kill it at a random moment; returns whether it was writing a file just then."""
    before, process = newest("run"), fastrl_process(*args)
    if stream.random() < 0.85:
        while newest("run") == before and process.poll() is None:  # it trains
            time.sleep(0.002)
        time.sleep(stream.uniform(0, 0.1))
    else:
        time.sleep(stream.uniform(0.5, 2))
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    return any(Path("run").rglob(".*.tmp"))


def killed_again_and_again(name, kills, seed):
    """Kill a run, and those that go on with it, `kills` times; returns how often a file was being written."""
    stream, command = random.Random(seed), [*RUNS[name].split(), *QUIET]
    assert main([*command, "--out", "whole", "--checkpoint-every", "0"]) == 0
    begin = [*command, "--out", "run", "--checkpoint-every", "1"]
    within, resume = 0, ["train", "--resume", "run", "--no-progress"]
    for _ in range(kills):
        within += kill_sometime(resume if Path("run/config.toml").exists() else [*begin, "--force"], stream)
    if not Path("run/config.toml").exists():
        resume = [*begin, "--force"]
    assert main([*resume, "--checkpoint-every", "2000"]) == 0
    assert_same_run("run", "whole", ALWAYS | {"train/loss"} if name == "dqn" else ALWAYS)
    assert not list(Path("run").rglob(".*.tmp"))
    assert len(list(Path("run/checkpoints").glob("*.fastrl"))) == 3
    return within


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(name, pytestconfig):
    killed_again_and_again(name, 3, time.time_ns())


@pytest.mark.slow
def test_thirty_kills(tmp_path, monkeypatch):
    within = 0
    for i, (name, kills) in enumerate({"ppo": 10, "dqn": 10, "ppo, Gymnasium's own": 5, "reinforce": 5}.items()):
        (tmp_path / str(i)).mkdir()
        monkeypatch.chdir(tmp_path / str(i))
        within += killed_again_and_again(name, kills, time.time_ns())
    print(f"\n{within} of 30 kills while a file was being written")
    assert within > 0
