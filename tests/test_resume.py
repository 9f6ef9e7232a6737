"""Runs that are killed, interrupted, or short of disk, and go on: to the same weights, bit for bit."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastrl
from fastrl import checkpoints, config, metrics
from fastrl.checkpoint import read_model
from fastrl.cli import main

ALWAYS = {"time/fps", "time/time_elapsed", "time/iterations"}  # tell of the process, not of the training
RUNS = {
    "ppo": "train ppo CartPole-v1 --n-envs 2 --n-steps 8 --batch-size 8 --n-epochs 1 --total-timesteps 40000",
    "dqn": "train dqn CartPole-v1 --learning-starts 100 --buffer-size 2000 --n-steps 2 --total-timesteps 12000",
    "ppo, Gymnasium's own": "train ppo CartPole-v1 --engine torch --n-steps 32 --batch-size 32 --n-epochs 1 "
    "--total-timesteps 24000 --normalize",
    "reinforce": "train reinforce CartPole-v1 --n-episodes 2 --n-envs 1 --learning-rate 1e-5 --total-timesteps 100000",
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
        time.sleep(stream.uniform(0, 0.25))
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


# -- Ctrl-C, and going on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_says_how_to_go_on_and_goes_on_exactly(number):
    command = [*RUNS["ppo"].split(), "--no-progress", "--eval-episodes", "2"]
    process = fastrl_process(*command, "--out", "run", "--checkpoint-every", "16", "--keep-checkpoints", "1")
    while not newest("run"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert err.startswith("fastrl: interrupted after ") and err.count("\n") == 1
    assert err.endswith("to go on: fastrl train --resume run\n") and "Evaluated" in out
    assert newest("run") == fastrl.PPO.load("run/model.fastrl").num_timesteps
    assert len(list(Path("run/checkpoints").iterdir())) == 1
    assert main(["train", "--resume", "run", "--checkpoint-every", "0"]) == 0
    assert main([*command, "--out", "whole", "--checkpoint-every", "0"]) == 0
    assert_same_run("run", "whole")


def test_a_second_ctrl_c_stops_at_once():
    process = fastrl_process(*RUNS["ppo"].split(), "--eval-episodes", "100000", "--out", "run")  # for minutes
    while not Path("run/metrics.csv").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    while not Path("run/model.fastrl").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err and "interrupted after" in err and "--resume run" in err


def test_a_complete_run_says_so_and_can_be_made_longer(capsys):
    assert main(SHORT) == 0
    before = Path("run/model.fastrl").read_bytes()
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    assert "run is complete: 320 of 320 steps" in capsys.readouterr().out
    assert Path("run/model.fastrl").read_bytes() == before
    assert main(["train", "ppo", "CartPole-v1", "--resume", "run", "--total-timesteps", "480", "--no-progress"]) == 0
    assert "on from 320 steps" in capsys.readouterr().out
    assert fastrl.PPO.load("run/model.fastrl").num_timesteps == 480
    assert config.read(Path("run/config.toml")).run["total_timesteps"] == 480
    assert [row[metrics.STEPS] for row in metrics.read(Path("run/metrics.csv"))] == list(range(16, 481, 16))


def test_killed_before_the_first_checkpoint_begins_again_with_the_same_seed(capsys):
    assert main([*SHORT, "--seed", "None"]) == 0
    seed = config.read(Path("run/config.toml")).hyperparameters["seed"]
    assert isinstance(seed, int)
    Path("run").rename("whole")
    Path("run").mkdir()
    Path("run/config.toml").write_bytes(Path("whole/config.toml").read_bytes())
    assert main(["train", "--resume", "run"]) == 0
    assert_same_run("run", "whole")


def interrupted_run():
    """A run in `run` that ended between 192 and 320 steps, and the whole one in `whole`."""
    assert main([*SHORT, "--keep-checkpoints", "9"]) == 0
    shutil.copytree("run", "whole")
    Path("run/model.fastrl").unlink()
    for file in checkpoints.find(Path("run/checkpoints")):
        if checkpoints.steps_of(file) > 192:
            file.unlink()


def test_killed_after_the_last_checkpoint_only_the_rest_is_written():
    assert main(SHORT) == 0
    shutil.copytree("run", "whole")
    Path("run/model.fastrl").unlink()
    Path("run/curve.png").unlink()
    assert main(["train", "--resume", "run"]) == 0
    assert_same_run("run", "whole")
    assert Path("run/curve.png").exists()


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(cut, capsys):
    interrupted_run()
    damaged = Path("run/checkpoints/model_192_steps.fastrl")
    damaged.write_bytes(damaged.read_bytes()[:cut])
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--no-progress"]) == 0
    out, err = capsys.readouterr()
    assert "model_192_steps.fastrl" in err and err.count("\n") == 1 and "on from 128 steps" in out
    assert_same_run("run", "whole")


def test_where_no_checkpoint_can_be_read_nothing_is_begun(capsys):
    interrupted_run()
    for file in checkpoints.find(Path("run/checkpoints")):
        file.write_bytes(b"")
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 2
    assert "none of the 3 checkpoints" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("run/model.fastrl").exists()


def test_a_half_written_row_of_metrics_and_those_after_the_checkpoint_are_dropped():
    interrupted_run()
    with open("run/metrics.csv", "a") as file:
        file.write("1")  # the beginning of 192
    assert main(["train", "--resume", "run"]) == 0
    assert_same_run("run", "whole")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train --resume nowhere", ["nowhere", "holds no run"]),
        ("train --resume", ["--resume needs a path"]),
        ("train dqn --resume run", ["those of ppo, not of dqn"]),
        ("train ppo Acrobot-v1 --resume run", ["CartPole-v1", "Acrobot-v1"]),
        ("train --resume run --gamma 0.5", ["gamma is 0.98 in run, not 0.5", "--total-timesteps"]),
        ("train --resume run --net-arch 8", ["policy_kwargs"]),
        ("train --resume run --total-timesteps 100", ["320", "not for fewer"]),
        ("train --resume run --out other", ["leave out --out"]),
        ("train --resume run --config run/config.toml", ["leave out --config"]),
        ("train --resume run --force", ["leave out --force"]),
        ("train --resume run --gama 1", ["did you mean --gamma?"]),
        ("train --resume run --keep-checkpoints -1", ["keep_checkpoints is -1"]),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(command, says, capsys):
    interrupted_run()
    capsys.readouterr()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    err = refused(capsys, command.split())
    assert all(words in err for words in says), err
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_run_of_a_later_version(capsys):
    interrupted_run()
    file = Path("run/config.toml")
    file.write_text(file.read_text().replace("format = 1", "format = 99"))
    assert "format 99" in refused(capsys, ["train", "--resume", "run"])


def test_other_versions_are_a_warning(capsys):
    interrupted_run()
    file = Path("run/config.toml")
    file.write_text(file.read_text().replace(f'fastrl = "{fastrl.__version__}"', 'fastrl = "0.0.1"'))
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--no-progress"]) == 0
    assert "begun with fastrl 0.0.1" in capsys.readouterr().err


def test_a_directory_in_which_another_process_trains(capsys):
    assert main(SHORT) == 0
    capsys.readouterr()
    code = "import fcntl, sys; f = open('run/.lock', 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    before = sorted(Path("run").rglob("*"))
    for args in (["train", "--resume", "run"], [*SHORT, "--force"]):
        assert "another process is training in run" in refused(capsys, args)
    assert sorted(Path("run").rglob("*")) == before
    other.communicate(b"\n")
    assert main([*SHORT, "--force"]) == 0


# -- a disk that fills ---------------------------------------------------------------------------------------------


def small_files(size):
    """Called in a process before it starts: no file of it can grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_checkpoint_that_cannot_be_written_is_a_warning_and_the_end_an_error():
    command = [*RUNS["dqn"].split(), *QUIET, "--total-timesteps", "800", "--checkpoint-every", "200", "--out", "run"]
    process = fastrl_process(*command, preexec_fn=small_files(40_000))  # the buffer grows beyond it
    _, err = process.communicate(timeout=100)
    lines = err.splitlines()
    assert process.returncode == 1 and "Traceback" not in err
    assert lines[0].startswith("fastrl: warning: cannot write to run/checkpoints: File too large; training goes on")
    assert lines[-1] == "fastrl: cannot write to run: File too large"
    assert not list(Path("run").rglob("*.tmp"))
    assert [row[metrics.STEPS] for row in metrics.read(Path("run/metrics.csv"))][-1] == 800
    whole = checkpoints.find(Path("run/checkpoints"))
    assert {checkpoints.buffer_of(file) for file in whole} == set(Path("run/checkpoints").glob("*.npz"))
    assert main(["train", "--resume", "run"]) == 0  # with room again
    assert main([*command[:-1], "whole"]) == 0
    assert_same_run("run", "whole", ALWAYS | {"train/loss"})


def test_full_for_a_while(monkeypatch, capsys):
    assert main(SHORT) == 0
    Path("run").rename("whole")
    fsync, calls = os.fsync, iter(range(10**6))

    def full(fd):
        if 3 <= next(calls) < 5:
            raise OSError(28, os.strerror(28))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    assert main(SHORT) == 0
    assert "No space left on device; training goes on without" in capsys.readouterr().err
    assert_same_run("run", "whole")
    assert newest("run") == 320 and checkpoints.load(fastrl.PPO, checkpoints.find(Path("run/checkpoints"))[0])


def test_a_full_disk_at_the_end_is_exit_code_1(monkeypatch, capsys):
    def full(*_):
        raise OSError(28, os.strerror(28))

    learn = fastrl.PPO.learn
    monkeypatch.setattr(fastrl.PPO, "learn", lambda *args, **kwargs: (monkeypatch.setattr(os, "fsync", full),
                                                                      learn(*args, **kwargs)))  # fmt: skip
    assert main(SHORT) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "fastrl: cannot write to run: No space left on device"
    assert not list(Path("run").rglob("*.tmp")) and not Path("run/model.fastrl").exists()
