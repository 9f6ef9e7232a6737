"""`fastrl tune`: where the search starts, that it goes on where it stopped, and that its result is a configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrl
from fastrl import config
from fastrl.cli import main
from fastrl.flags import constructor_arguments, hyperparameter_flags
from fastrl.help import ALGORITHMS
from fastrl.presets import PRESETS, preset
from fastrl.tuning import SPACES, drawn, first_trial
from tests.commands import printed, refused, without

optuna = pytest.importorskip("optuna")
SHORT = "--total-timesteps 400 --evaluations 2 --eval-episodes 2"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastrl.__file__).parents[1])}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def start_of(algorithm, env_id):
    row = preset(algorithm, env_id)
    row.pop("total_timesteps", None)
    return dict(vars(hyperparameter_flags(getattr(fastrl, algorithm.upper()), row)()))


def trials(url="sqlite:///tune/ppo-CartPole-v1/study.db", name="ppo-CartPole-v1"):
    return optuna.load_study(storage=url, study_name=name).trials


@pytest.mark.parametrize(("algorithm", "env_id"), [*PRESETS, *((name, None) for name in ALGORITHMS)])
def test_the_first_trial_is_what_one_starts_from(algorithm, env_id):
    start = start_of(algorithm, env_id)
    assert set(SPACES[algorithm]) <= set(start)
    trial = optuna.trial.FixedTrial(first_trial(algorithm, start))
    assert drawn(trial, algorithm, start) == start


@settings(max_examples=25)
@given(st.data())
def test_whatever_is_drawn_makes_a_model(data):
    class Trial:
        def suggest_categorical(self, name, choices):
            return data.draw(st.sampled_from(choices), name)

        def suggest_float(self, name, low, high, log):
            return data.draw(st.floats(low, high), name)

    algorithm = data.draw(st.sampled_from(list(ALGORITHMS)))
    cls, start = getattr(fastrl, algorithm.upper()), start_of(algorithm, None)
    found = drawn(Trial(), algorithm, start)
    assert found.keys() == start.keys()
    cls("MlpPolicy", "CartPole-v1", **constructor_arguments(hyperparameter_flags(cls, {})(**found), {}))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_best_is_a_configuration_that_train_takes(algorithm, capsys):
    out = printed(capsys, f"tune {algorithm} CartPole-v1 --trials 3 {SHORT} --seed 4")
    directory = Path(f"tune/{algorithm}-CartPole-v1")
    assert sorted(os.listdir(directory)) == ["best.toml", "study.db"]
    found = trials(f"sqlite:///{directory}/study.db", f"{algorithm}-CartPole-v1")
    assert len(found) == 3 and found[0].params == first_trial(algorithm, start_of(algorithm, "CartPole-v1"))
    best = max(found, key=lambda trial: (trial.value, -trial.number))
    assert f"\n{best.number:>5}  {best.value:>8.1f}  " in out
    written = config.read(directory / "best.toml")
    assert written.run == {"total_timesteps": 400} and written.hyperparameters["seed"] == 4
    args = f"train --config {directory}/best.toml --out run --no-progress --eval-episodes 0"
    assert out.splitlines()[-1] == f"Try next: fastrl train --config {directory}/best.toml"
    assert main(args.split()) == 0
    trained = config.read(Path("run/config.toml"))
    assert trained.hyperparameters.items() >= written.hyperparameters.items()


def test_a_trial_is_worth_the_mean_of_what_its_seeds_reach(capsys):
    printed(capsys, f"tune ppo CartPole-v1 --trials 1 --seeds 2 {SHORT} --seed 6")
    (trial,) = trials()
    last = []
    for seed in (6, 7):
        arguments = {**preset("ppo", "CartPole-v1"), "seed": seed}
        arguments.pop("total_timesteps")
        model = fastrl.PPO("MlpPolicy", "CartPole-v1", **arguments).learn(400)
        last.append(fastrl.evaluate_policy(model, "CartPole-v1", 2, seed=20_000)[0])
    assert trial.value == pytest.approx(sum(last) / 2)
    assert trial.intermediate_values[4] == pytest.approx(last[1])


def test_the_same_search_finds_the_same_and_goes_on(capsys):
    for place in ("a", "b"):
        printed(capsys, f"tune ppo CartPole-v1 --trials 4 {SHORT} --out {place}")
    a, b = (trials(f"sqlite:///{place}/study.db") for place in "ab")
    assert [(x.params, x.value, x.state) for x in a] == [(x.params, x.value, x.state) for x in b]
    assert "4 of them done" in printed(capsys, f"tune ppo CartPole-v1 --trials 4 {SHORT} --out a")
    assert len(trials("sqlite:///a/study.db")) == 4
    printed(capsys, f"tune ppo CartPole-v1 --trials 6 {SHORT} --out a")
    longer = trials("sqlite:///a/study.db")
    assert len(longer) == 6 and len({str(x.params) for x in longer}) == 6


def test_a_training_that_diverges_is_a_failed_trial(capsys, monkeypatch):
    learn, made = fastrl.PPO.learn, []

    def fail(self, *args, **kwargs):
        made.append(self)
        if len(made) == 2:
            raise ValueError("the training has diverged")
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(fastrl.PPO, "learn", fail)
    assert main(f"tune ppo CartPole-v1 --trials 3 {SHORT}".split()) == 0
    assert "Trial 1: failed: the training has diverged" in capsys.readouterr().err
    assert [trial.state.name for trial in trials()] == ["COMPLETE", "FAIL", "COMPLETE"]


def test_where_every_trial_fails_there_is_no_result(capsys, monkeypatch):
    def fail(self, *args, **kwargs):
        raise ValueError("the training has diverged")

    monkeypatch.setattr(fastrl.PPO, "learn", fail)
    assert main(f"tune ppo CartPole-v1 --trials 2 {SHORT}".split()) == 1
    assert "none of 2 trials came to an end" in capsys.readouterr().err
    assert not Path("tune/ppo-CartPole-v1/best.toml").exists()


def test_bad_trainings_are_given_up(capsys, monkeypatch):
    from fastrl.commands import trials as running

    models = []

    def returns(model, *_):
        if not any(model is known for known in models):
            models.append(model)
        return [10.0 if len(models) <= 6 else 1.0]

    monkeypatch.setattr(running, "returns", returns)
    assert main(f"tune ppo CartPole-v1 --trials 7 {SHORT}".split()) == 0
    assert "Trial 6: given up at 1.0" in capsys.readouterr().err
    assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 6 + ["PRUNED"]


def test_ctrl_c_keeps_what_is_done_and_the_trial_has_its_turn_again():
    args = [sys.executable, "-m", "fastrl", "tune", "reinforce", "CartPole-v1", "--trials", "1000"]
    args += ["--total-timesteps", "3000", "--eval-episodes", "1"]
    run = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert run.stderr is not None
    first = run.stderr.readline()
    assert first.startswith("Trial 0: "), first
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=100)
    assert run.returncode == 130, err
    last = err.splitlines()[-1]
    assert last.startswith("fastrl: interrupted after ") and "goes on with the same command" in last
    assert "The best of" in out and Path("tune/reinforce-CartPole-v1/best.toml").exists()
    found = trials("sqlite:///tune/reinforce-CartPole-v1/study.db", "reinforce-CartPole-v1")
    waiting = [x.system_attrs["fixed_params"] for x in found if x.state.name == "WAITING"]
    assert waiting == [x.params for x in found if "interrupted" in x.user_attrs]
    assert not any(x.state.name == "RUNNING" for x in found)


def test_several_processes(capfd):
    assert main(f"tune ppo CartPole-v1 --trials 4 --jobs 2 {SHORT}".split()) == 0
    assert len([x for x in trials() if x.state.is_finished()]) >= 4
    assert "The best of" in capfd.readouterr().out


@pytest.mark.parametrize("after", [0.0, 0.7, 1.5, 4.0])
def test_ctrl_c_ends_several_processes_without_a_traceback(after):
    args = [sys.executable, "-m", "fastrl", "tune", "ppo", "CartPole-v1", "--jobs", "3", "--trials", "1000"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = subprocess.Popen([*args, "--total-timesteps", "3000"], **pipes, env=ENVIRONMENT, start_new_session=True)
    assert run.stdout is not None and run.stdout.readline().startswith("Tune PPO")
    time.sleep(after)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    _, err = run.communicate(timeout=100)  # until the last of them has closed its stderr
    assert run.returncode == 130 and "Traceback" not in err, err


def test_a_process_that_fails_is_told_of(capfd, monkeypatch):
    from fastrl.commands import tune_local

    class Process:
        pid, exitcode = None, 1

        def __init__(self, **_):
            pass

        def start(self):
            pass

    class Context:
        pass

    Context.Process = Process
    monkeypatch.setattr(tune_local.multiprocessing, "get_context", lambda _: Context)
    assert main(f"tune ppo CartPole-v1 --trials 2 --jobs 2 {SHORT}".split()) == 0
    assert "not all processes of the search came to its end" in capfd.readouterr().err


def test_mistakes_are_one_line(capsys, monkeypatch):
    for command, *says in [
        ("tune", "needs an algorithm first", "ppo, dqn, reinforce"), ("tune --trials 3", "needs an algorithm first"),
        ("tune pppo CartPole-v1", "did you mean ppo?"), ("tune ppo", "needs an environment"),
        ("tune ppo cartpol-v1", "did you mean CartPole-v1?"), ("tune ppo CartPole-v1 --trial 3", "--trials?"),
        ("tune ppo CartPole-v1 --trials 0", "trials is 0"), ("tune ppo CartPole-v1 --jobs 0", "jobs is 0"),
        ("tune ppo CartPole-v1 --timeout -1", "timeout is -1"), ("tune ppo CartPole-v1 --seed -1", "seed is -1"),
        ("tune dqn Pendulum-v1", "Discrete"), ("tune ppo Blackjack-v1", "observation space"),
    ]:  # fmt: skip
        err = refused(capsys, command)
        assert all(words in err for words in says), err
    assert not list(Path().iterdir())
    Path("file").write_text("")
    assert "cannot use file/study" in refused(capsys, "tune ppo CartPole-v1 --out file/study")
    assert "cannot use the storage sqlite:///file/x.db" in refused(capsys, "tune ppo CartPole-v1 --storage file/x.db")
    printed(capsys, f"tune ppo CartPole-v1 --trials 1 {SHORT}")
    assert "is of total_timesteps 400, not 500" in refused(capsys, "tune ppo CartPole-v1 --total-timesteps 500")
    assert "is of algorithm ppo, not dqn" in refused(
        capsys, f"tune dqn CartPole-v1 {SHORT} --out tune/ppo-CartPole-v1 --study ppo-CartPole-v1"
    )
    without(monkeypatch, "optuna")
    assert 'pip install "fastrl[tune]"' in refused(capsys, "tune ppo CartPole-v1")
