"""`fastrl rlhf --demo`: what it prints and draws, and one line for every mistake."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.commands import printed, refused, without

pytest.importorskip("transformers", reason="transformers is not installed")

from fastrl.rlhf.tasks import Ascending


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_a_demonstration(algorithm, capsys, tmp_path, monkeypatch):
    prepare = Ascending.model
    monkeypatch.setattr(Ascending, "model", lambda task, seed: prepare(task, seed, 20))
    out = printed(capsys, f"rlhf --demo --algorithm {algorithm} --responses 128 --no-progress --out picture.svg")
    assert out.index("Before: mean score 0.") < out.index(algorithm.upper()) < out.index("After: mean score")
    assert sum(line.startswith("  ") for line in out.splitlines()) == 16 and out.endswith("Drawn in picture.svg\n")
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    assert [path.name for path in tmp_path.iterdir()] == ["picture.svg"]


@pytest.mark.parametrize("args, message", [
    ("rlhf", "fastrl.rlhf.RLHFTrainer"), ("rlhf --demo --algorithm dpo", "algorithm"),
    ("rlhf --demo --responses 0", "responses is 0"), ("rlhf --demo --seed -1", "seed is -1"),
    ("rlhf --demo --rounds 3", "unknown option --rounds"), ("rlhf --demo --out picture.txt", "must end in .png"),
])  # fmt: skip
def test_mistakes(args, message, capsys):
    assert message in refused(capsys, args)


def test_nothing_is_overwritten_unasked(capsys, tmp_path):
    (tmp_path / "rlhf.png").write_text("mine")
    assert "--force" in refused(capsys, "rlhf --demo") and (tmp_path / "rlhf.png").read_text() == "mine"


def test_without_transformers_it_says_what_to_install(capsys, monkeypatch):
    without(monkeypatch, "transformers")
    assert 'pip install "fastrl[rlhf]"' in refused(capsys, "rlhf --demo")


def test_ctrl_c_draws_what_there_is(tmp_path):
    command = [sys.executable, "-u", "-m", "fastrl", "rlhf", "--demo", "--no-progress"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "rewards steps up" in line:
                break
        time.sleep(2)  # into the training
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "After: mean score" in out and (tmp_path / "rlhf.png").exists()
    assert err.startswith("fastrl: interrupted after") and err.count("\n") == 1
