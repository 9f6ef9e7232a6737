"""The commands presets, bench, completion and eval --json, and what all commands have in common."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import fastrl
from fastrl import config
from fastrl.cli import COMMANDS, main
from fastrl.commands import bench, completion
from fastrl.commands.presets import as_config
from fastrl.help import ALGORITHMS, HELP
from fastrl.presets import PRESETS
from tests.commands import printed, refused, saved_agent, without

ROOT = Path(fastrl.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# -- what all have in common -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_help_and_has_its_own(command, capsys):
    assert f"  fastrl {command} " in HELP
    out = printed(capsys, f"{command} --help")
    assert f"usage: fastrl {command}" in out
    assert all(len(line) <= 100 for line in out.splitlines())


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_that_want_them(no_color):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environment = {**ENVIRONMENT, "TERM": "xterm-256color", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "fastrl", "eval", "--help"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += (part := os.read(ours, 4096))
            except OSError:
                break
            if not part:
                break
    os.close(ours)
    assert process.returncode == 0 and b"usage" in text
    assert (b"\x1b[" in text) == (not no_color)


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m fastrl completion fish | head -1; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT)
    assert run.stdout.splitlines()[0].startswith("function") and run.stderr == ""
    assert run.stdout.splitlines()[1] in ("0", "141")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(capsys):
    Path("locked").mkdir(mode=0o500)
    saved_agent("model.fastrl")
    assert "cannot write to locked: Permission denied" in refused(capsys, "play model.fastrl --out locked/film.gif")


def test_an_output_in_a_place_that_is_no_directory(capsys):
    saved_agent("model.fastrl")
    Path("folder.gif").mkdir()
    assert "folder.gif is a directory" in refused(capsys, "play model.fastrl --out folder.gif")
    assert "cannot write to model.fastrl" in refused(capsys, "play model.fastrl --out model.fastrl/film.gif")


# -- eval --json -----------------------------------------------------------------------------------------------


def test_eval_prints_json(capsys):
    model = saved_agent("model.fastrl")
    found = json.loads(printed(capsys, "eval model.fastrl --json --episodes 4 --seed 3"))
    returns, _ = fastrl.evaluate_policy(model, "CartPole-v1", 4, return_episode_rewards=True, seed=3)
    assert found == {
        "algorithm": "PPO", "env": "CartPole-v1", "timesteps": model.num_timesteps, "seed": 3, "episodes": 4,
        "mean": np.mean(returns), "std": np.std(returns), "returns": returns,
    }  # fmt: skip


# -- presets ---------------------------------------------------------------------------------------------------


def test_the_table_has_every_preset(capsys):
    lines = printed(capsys, "presets").splitlines()
    assert [tuple(line.split()[:2]) for line in lines[1:]] == list(PRESETS)
    assert printed(capsys, "presets dqn").splitlines()[1:] == [
        line for line in printed(capsys, "presets dqn").splitlines() if line.startswith("dqn")
    ]


@pytest.mark.parametrize(("algorithm", "env_id"), PRESETS)
def test_a_preset_is_a_configuration(algorithm, env_id, capsys):
    Path("mine.toml").write_text(printed(capsys, f"presets {algorithm} {env_id.lower()}"))
    found = config.read(Path("mine.toml"))
    assert (found.algorithm, found.environment) == (algorithm, env_id)
    assert found.run == {"total_timesteps": PRESETS[algorithm, env_id]["total_timesteps"]}
    assert found.hyperparameters == as_config(algorithm, env_id).hyperparameters
    if env_id in ("CartPole-v1", "Acrobot-v1"):
        run = "--total-timesteps 64 --no-progress --eval-episodes 0"
        for out, what in (("a", "--config mine.toml"), ("b", f"{algorithm} {env_id}")):
            assert main(f"train {what} {run} --out {out}".split()) == 0
        a, b = (config.read(Path(f"{out}/config.toml")).hyperparameters for out in "ab")
        assert a == b


def test_mistaken_presets(capsys):
    assert "did you mean ppo?" in refused(capsys, "presets pppo")
    assert "did you mean CartPole-v1?" in refused(capsys, "presets ppo CartPol")
    assert "no options" in refused(capsys, "presets --ppo")
    assert "no preset for dqn on Pendulum-v1" in refused(capsys, "presets dqn Pendulum-v1")


# -- bench -----------------------------------------------------------------------------------------------------


def test_bench_measures_and_prints_the_summary(capsys, monkeypatch):
    pytest.importorskip("pytest_benchmark")
    assert bench.checkout() == ROOT
    run, commands = subprocess.run, []

    def quickly(command, **options):
        commands.append(command)
        return run(command, **{**options, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL})

    monkeypatch.setattr(subprocess, "run", quickly)
    out = printed(capsys, "bench vtrace --out results.json")
    assert "## The most important ratios" in out and "v-trace" in out.lower()
    assert "quick and (vtrace)" in commands[0]
    assert json.loads(Path("results.json").read_text())["benchmarks"]
    assert "results.json exists" in refused(capsys, "bench vtrace --out results.json")


def test_bench_says_where_it_is_to_be_had_and_what_there_is(capsys, monkeypatch):
    pytest.importorskip("pytest_benchmark")
    err = refused(capsys, "bench gea")
    assert "'gea'" in err and "did you mean gae?" in err
    without(monkeypatch, "pytest_benchmark")
    assert 'pip install "fastrl[bench]"' in refused(capsys, "bench")
    monkeypatch.setattr(bench, "checkout", lambda: None)
    assert "no part of the installed package" in refused(capsys, "bench")


# -- completion ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """What bash offers after the words of a command line, the last of which is unfinished."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    script = tmp_path_factory.mktemp("completion") / "fastrl.bash"
    script.write_text(completion.script("bash"))

    def offers(*words):
        code = '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _fastrl; printf "%s\\n" "${COMPREPLY[@]}"'
        run = subprocess.run(["bash", "-c", code, str(script), "fastrl", *words], capture_output=True, text=True)
        assert run.returncode == 0 and run.stderr == "", run.stderr
        return [word for word in run.stdout.splitlines() if word]

    offers.script = script
    return offers


def test_bash_knows_the_function(complete):
    run = subprocess.run(
        ["bash", "-c", f". {complete.script}; complete -p fastrl"], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "complete -F _fastrl fastrl"


def test_bash_completes_commands_algorithms_and_environments(complete):
    assert complete("") == [*COMMANDS, "--help", "--version"]
    assert complete("tr") == ["train"]
    for command in ("train", "tune", "presets"):
        assert complete(command, "") == list(ALGORITHMS)
    assert set(complete("train", "ppo", "")) == set(gym.registry)
    assert complete("train", "ppo", "")[:2] == ["Acrobot-v1", "CartPole-v1"]  # those with presets come first
    assert complete("presets", "ppo", "Ac") == ["Acrobot-v1"]
    assert complete("completion", "") == ["bash", "zsh", "fish"]


def test_bash_completes_every_flag_and_nothing_else(complete, capsys):
    for command in (["eval"], ["play"], ["plot"], ["bench"], ["export"], *(["train", a, "X"] for a in ALGORITHMS)):
        named = command if len(command) == 1 else [*command[:2], "CartPole-v1"]
        help_text = printed(capsys, [*named, "--help"])
        in_help = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"│ {10,}.*", "", help_text)))
        assert set(complete(*command, "--")) >= {f for f in in_help if f != "--help"} | {"--help"}, command
    assert "--clip-range" in complete("train", "ppo", "X", "--") and "--tau" not in complete("train", "ppo", "X", "--")
    assert "--tau" in complete("train", "dqn", "X", "--")
    assert complete("train", "dqn", "X", "--net") == ["--net-arch"]
    assert complete("train", "--res") == ["--resume"]
    assert complete("tune", "ppo", "X", "--tri") == ["--trials"]


def test_bash_completes_the_directory_of_a_run_that_goes_on(complete, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert complete("train", "--resume", "ru") == ["runs"]


def test_bash_completes_values_and_files(complete, tmp_path):
    assert complete("train", "ppo", "X", "--engine", "") == ["auto", "compiled", "torch"]
    assert complete("train", "ppo", "X", "--activation-fn", "Le") == ["LeakyReLU"]
    assert complete("plot", "a", "--x", "t") == ["time"]
    Path("another").touch()
    assert complete("eval", "anot") == ["another"] and complete("plot", "b") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_scripts(shell, tmp_path):
    (tmp_path / "script").write_text(completion.script(shell))
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_mistaken_shells(capsys):
    assert "did you mean fish?" in refused(capsys, "completion fich")
    assert "bash, zsh, fish" in refused(capsys, "completion")
    assert printed(capsys, "completion bash") == completion.script("bash")


def test_what_others_call_an_option_and_numbers_as_people_write_them(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean --total-timesteps?" in refused(capsys, "train ppo CartPole-v1 --steps 1000")
    assert "did you mean --learning-rate?" in refused(capsys, "train ppo CartPole-v1 --lr 1")
    assert "fastrl train ppo CartPole-v1" in refused(capsys, "train CartPole-v1")
    refusal = refused(capsys, "train ppo CartPole-v1 --learning-rate -1e-3")
    assert "learning_rate is -0.001; it must be at least 0" in refusal
    (tmp_path / "file").write_text("")
    assert "cannot use file as a directory: it is a file" in refused(capsys, "train ppo CartPole-v1 --out file")
    run = "train ppo CartPole-v1 --total-timesteps 1e3 --n-steps 8 --no-progress --eval-episodes 0 --out run"
    assert "1,000 steps" in printed(capsys, run)
