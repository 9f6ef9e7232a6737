"""`torchrun -m fastrl train`: one command over several ranks, which ends as if nobody had been killed on the way."""

from __future__ import annotations

import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastrl.checkpoint import read_model
from tests import ranks

TRAIN = ("ppo", "CartPole-v1", "--n-envs", "4", "--n-steps", "64", "--batch-size", "64", "--n-epochs", "4",
         "--normalize", "--checkpoint-every", "1024", "--eval-episodes", "2", "--no-progress", "--net-arch", "16",
         "16", "--learning-rate", "0.001")  # fmt: skip
pytestmark = pytest.mark.cluster
LONG = 96 * 1024  # steps: some seconds after those that the start takes
KILLS = int(os.environ.get("FASTRL_KILLS", "10"))


def launch(cwd, *words, restarts=0, where=("--nproc-per-node=2",), port=None, what=("-m", "fastrl", "train")):
    """torchrun in a session of its own, by default with two ranks."""
    port = port or ranks.free_port()
    command = [sys.executable, "-m", "torch.distributed.run", *where, f"--master-port={port}", "--monitor-interval=0.1",
               f"--max-restarts={restarts}", *what, *words]
    variables = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    mark = f"FASTRL_OF={secrets.token_hex(8)}"
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ranks.ROOT), **dict([mark.split("=")])},
    )  # fmt: skip
    process.mark, process.port = mark, port
    return process


def ended(process):
    """(exit code, what it said); nothing of it is left, no process and no port."""
    try:
        out, err = process.communicate(timeout=ranks.TIMEOUT)
    finally:
        process.kill()
    assert not (left := descendants(process.mark)), f"still running: {left}"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", process.port)) != 0, "the port is still bound"
    return process.returncode, out + err


def descendants(mark):
    """Processes with `mark` in their environment: each rank begins a session of its own."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in file.read_bytes():  # nothing, of a zombie
                found.append(int(file.parent.name))
        except OSError:
            continue
    return found


def children(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def learnt(directory):
    """All that the model file holds."""
    header, tensors = read_model(directory / "model.fastrl", "np")
    return header["counters"], tensors


def equal(one, other):
    return one[0] == other[0] and one[1].keys() == other[1].keys() and all(
        np.array_equal(x, other[1][name]) for name, x in one[1].items()
    )  # fmt: skip


def whole_run(folder, total):
    code, said = ended(launch(folder, *TRAIN, "--total-timesteps", str(total), "--out", "whole"))
    assert code == 0, said
    return learnt(folder / "whole")


@pytest.mark.slow
def test_one_rank_writes_and_another_run_goes_on(tmp_path):
    """Two parts are one run, bit for bit, and what is complete stays so."""
    code, said = ended(launch(tmp_path, *TRAIN, "--total-timesteps", "1024", "--out", "parts"))
    assert code == 0 and said.count("Train PPO on CartPole-v1 over 2 ranks") == said.count("Files in") == 1, said
    code, said = ended(launch(tmp_path, "--resume", "parts", "--total-timesteps", "2048", "--no-progress"))
    assert code == 0 and "on from 1,024 steps" in said, said
    assert equal(learnt(tmp_path / "parts"), whole_run(tmp_path, 2048))
    code, said = ended(launch(tmp_path, "--resume", "parts"))
    assert code == 0 and said.count("is complete") == 1, said
    code, said = ended(launch(tmp_path, "--resume", "parts", where=("--nproc-per-node=3",)))
    assert code == 1 and "n_envs is 4, over all ranks, and 3 ranks cannot share that evenly" in said, said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["dqn", "CartPole-v1"], "dqn does not train over several ranks"),
        (["ppo", "CartPole-v1", "--seeds", "3"], "--seeds and torchrun do not combine"),
    ],
)
def test_errors_end_all_ranks(words, complaint, tmp_path):
    code, said = ended(launch(tmp_path, *words))
    assert code == 1 and complaint in said, said
    assert not list(tmp_path.iterdir()), "something was written"


@pytest.mark.slow
def test_an_interrupt(tmp_path):
    """Ctrl-C reaches torchrun, which hands it on: the run ends with a model, and goes on later."""
    process = launch(tmp_path, *TRAIN, "--total-timesteps", "2000000", "--out", "run")
    wait_for(process, lambda: list(tmp_path.glob("run/checkpoints/*.fastrl")))
    process.send_signal(signal.SIGINT)  # to torchrun alone
    code, said = ended(process)
    assert code != 0 and "interrupted after" in said and (tmp_path / "run" / "model.fastrl").is_file(), said


def wait_for(process, condition):
    last = time.monotonic() + ranks.TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < last
        time.sleep(0.02)


def kill_one(process, after, rng):
    """SIGKILL to a rank, `after` seconds from when ranks are there; whether it hit one."""
    wait_for(process, lambda: len(children(process.pid)) >= 2)
    time.sleep(after)
    alive = children(process.pid)
    if not alive or process.poll() is not None:
        return False
    os.kill(rng.choice(alive), signal.SIGKILL)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_two_nodes(killed, tmp_path):
    """An agent for each, as on two machines, each with a directory of its own; one's rank is killed on the way."""
    port = ranks.free_port()
    where = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}",
             "--rdzv-id=x")  # fmt: skip
    folders = tmp_path / "first", tmp_path / "other"
    for folder in folders:
        folder.mkdir()
    agents = [launch(folder, *TRAIN, "--total-timesteps", str(LONG), "--out", "run", port=port, restarts=3, where=where)
              for folder in folders]  # fmt: skip
    wait_for(agents[0], lambda: list(tmp_path.glob("*/run/checkpoints/*.fastrl")))
    os.kill(children(agents[killed].pid)[0], signal.SIGKILL)
    said = [ended(agent) for agent in agents]
    assert [code for code, _ in said] == [0, 0] and any("on from" in words for _, words in said), said
    (made,) = (folder for folder in folders if (folder / "run").exists())
    assert equal(learnt(made / "run"), whole_run(tmp_path, LONG))


def test_the_script_of_the_page(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(re.search(r"```python\n(.*?)```", (ranks.ROOT / "docs/distributed.md").read_text(), re.DOTALL)[1])
    code, said = ended(launch(tmp_path, what=(str(script),)))
    assert code == 0 and len(re.findall(r"^\(\S+, \S+\)$", said, re.MULTILINE)) == 1, said
    assert read_model(tmp_path / "cartpole.fastrl")[0]["n_ranks"] == 2


@pytest.mark.parametrize("kills", [1, pytest.param(KILLS, marks=pytest.mark.slow)])
def test_a_killed_rank_changes_nothing(kills, tmp_path):
    """At any moment: the group starts again, goes on from the last checkpoint, and ends with the same bits."""
    seed = random.randrange(2**31)
    rng = random.Random(seed)
    started = time.monotonic()
    wanted = whole_run(tmp_path, LONG)
    takes = time.monotonic() - started
    hits = i = went_on = 0
    while hits < kills:
        i += 1
        process = launch(tmp_path, *TRAIN, "--total-timesteps", str(LONG), "--out", f"run{i}", restarts=2)
        hits += kill_one(process, rng.uniform(0.2, 0.8) * takes, rng)
        code, said = ended(process)
        assert code == 0 and equal(learnt(tmp_path / f"run{i}"), wanted), f"kill {hits}, seed {seed}: {said}"
        went_on += "on from" in said
        print(f"{hits} killed: {'went on' if 'on from' in said else 'began anew or was complete'}; same bits")
    assert went_on or kills < 3, f"seed {seed}: no run was cut off after its first checkpoint"
