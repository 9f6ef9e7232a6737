"""The commands of docs/command-line.md run, one after another, on small budgets."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fastrl.cli import COMMANDS, main

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
BLOCK = re.compile(r"^```(console|bash|py)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDS = {"play": "pygame", "tune": "optuna", "export": "onnx", "rlhf": "transformers"}
NOT_RUN = {"bench"}  # its own test has a shorter one


def commands(kind, text):
    """The words of each command of a block, and the file that its output goes to."""
    for line in text.splitlines():
        if kind == "console" and not line.startswith("$ "):
            continue
        command, _, file = line.removeprefix("$ ").partition(">")
        yield shlex.split(command, comments=True)[1:], file.strip(" >")


def shortened(words):
    """The same command on a small budget."""
    words = list(words)
    for flag, small in (("--total-timesteps", lambda n: max(600, n // 50_000)), ("--trials", lambda n: 2)):
        if flag in words:
            at = words.index(flag) + 1
            words[at] = str(small(int(words[at])))
    if words[0] == "train" and "--total-timesteps" not in words and "--resume" not in words:
        words += ["--total-timesteps", "600"]
    if words[0] == "rlhf":
        words += ["--responses", "64"]
    return words + (["--eval-episodes", "2"] if words[0] in ("train", "tune") else [])


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = set()
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "py":
            onnxruntime = pytest.importorskip("onnxruntime")
            import numpy as np

            namespace = {"onnxruntime": onnxruntime, "np": np}
            exec(text, namespace)
            assert namespace["action"].shape == (1,)
            continue
        for words, file in commands(kind, text):
            seen.add(words[0])
            if words[0] in NOT_RUN:
                continue
            if words[0] in NEEDS:
                pytest.importorskip(NEEDS[words[0]])
            if "--ray" in words:
                pytest.importorskip("ray")
            capsys.readouterr()
            assert main(shortened(words)) == 0, f"{words}: {capsys.readouterr().err}"
            if file and not file.startswith("~"):
                Path(file).write_text(capsys.readouterr().out)
    assert seen == set(COMMANDS)
