"""The command line: what a run leaves, what every flag does, and one line for every mistake."""

from __future__ import annotations

import csv
import inspect
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import fastrl
from fastrl import config
from fastrl.cli import main
from fastrl.flags import constructor_arguments, hyperparameter_flags, parse
from fastrl.help import ALGORITHMS
from fastrl.presets import PRESETS, preset
from fastrl.runs import make_directory
from tests.envs import Counter

SHORT = {
    "ppo": ["--total-timesteps", "600", "--n-envs", "2"],
    "dqn": ["--total-timesteps", "1200"],
    "reinforce": ["--total-timesteps", "600"],
}
QUIET = ["--no-progress", "--eval-episodes", "3"]


class Interrupting(Counter):
    """Ctrl-C or SIGTERM, once or more often in the tenth step."""

    presses, number = 1, signal.SIGINT

    def step(self, action):
        result = super().step(action)
        for _ in range(self.presses if self.total == 10 else 0):
            signal.raise_signal(self.number)
        return result


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def register(monkeypatch):
    """Names an environment of this test."""

    def add(env_id, make, **kwargs):
        spec = gym.envs.registration.EnvSpec(env_id, entry_point=lambda: make(**kwargs), disable_env_checker=True)
        monkeypatch.setitem(gym.registry, env_id, spec)

    return add


def refused(capsys, args, code=2):
    """The one line on stderr of a command that does not succeed."""
    assert main(args) == code
    err = capsys.readouterr().err
    assert err.startswith("fastrl: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def read_metrics(path):
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


# -- what a run leaves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_train_leaves_its_files_and_eval_agrees(algorithm, capsys):
    args = ["train", algorithm.upper(), "CartPole-v1", *SHORT[algorithm], *QUIET, "--seed", "3", "--gamma", "0.9"]
    assert main(args) == 0
    out = capsys.readouterr().out
    directory = Path(f"runs/{algorithm}-CartPole-v1-1")
    files = {"config.toml", "curve.png", "metrics.csv", "model.fastrl", "checkpoints", ".lock"}
    assert {path.name for path in directory.iterdir()} == files
    assert "\r" not in out and "\x1b" not in out

    found = config.read(directory / "config.toml")
    expected = {"seed": 3, "gamma": 0.9}
    assert found.hyperparameters.items() >= expected.items()
    assert (found.algorithm, found.environment) == (algorithm, "CartPole-v1")
    assert found.command == " ".join(["fastrl", *args])
    assert found.run["total_timesteps"] == int(SHORT[algorithm][1])
    assert found.versions.keys() == {"fastrl", "python", "torch", "numpy", "gymnasium", "numba"}

    model = getattr(fastrl, algorithm.upper()).load(directory / "model.fastrl")
    assert (model.seed, model.gamma) == (3, 0.9)
    rows = read_metrics(directory / "metrics.csv")
    steps = [row["time/total_timesteps"] for row in rows]
    assert steps == sorted(set(steps)) and steps[-1] == model.num_timesteps >= found.run["total_timesteps"]
    assert rows[-1]["rollout/ep_rew_mean"] > 0
    assert (directory / "curve.png").read_bytes().startswith(b"\x89PNG")

    next_command = out.splitlines()[-1].removeprefix("Try next: fastrl ").split()
    assert main([*next_command, "--episodes", "3"]) == 0
    score = [line for line in out.splitlines() if line.startswith("Evaluated")]
    assert capsys.readouterr().out.splitlines()[1:] == score
    assert main(["eval", str(directory), "--episodes", "3"]) == 0  # the directory will do
    assert capsys.readouterr().out.splitlines()[1:] == score


def test_the_same_command_learns_the_same(capsys):
    for out in ("a", "b"):
        assert main(["train", "ppo", "CartPole-v1", *SHORT["ppo"], *QUIET, "--out", out]) == 0
    one, other = (fastrl.PPO.load(f"{out}/model.fastrl").policy.state_dict() for out in ("a", "b"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_evaluation_and_before_any_episode_has_ended(register, capsys):
    register("Long-v0", Counter, length=10**6)
    assert main(["train", "reinforce", "CartPole-v1", *SHORT["reinforce"], "--eval-episodes", "0"]) == 0
    assert "Evaluated" not in capsys.readouterr().out
    args = ["--n-steps", "8", "--total-timesteps", "8", "--eval-episodes", "0", "--no-progress", "--out", "long"]
    assert main(["train", "ppo", "Long-v0", *args]) == 0
    assert Path("long/curve.png").exists()
    assert all("rollout/ep_rew_mean" not in row for row in read_metrics("long/metrics.csv"))


def test_run_directories_are_numbered_and_never_shared():
    assert make_directory(None, "ppo", "CartPole-v1") == Path("runs/ppo-CartPole-v1-1")
    Path("runs/ppo-CartPole-v1-2").touch()
    assert make_directory(None, "ppo", "CartPole-v1") == Path("runs/ppo-CartPole-v1-3")
    assert make_directory(None, "dqn", "CartPole-v1") == Path("runs/dqn-CartPole-v1-1")
    assert make_directory(None, "ppo", "my.pkg:me/Env-v0") == Path("runs/ppo-my.pkg-me-Env-v0-1")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_directory(None, "ppo", "Race-v0"), range(40)))
    assert {path.name for path in made} == {f"ppo-Race-v0-{n}" for n in range(1, 41)}


# -- flags -----------------------------------------------------------------------------------------------------


def parsed(algorithm, env_id, args=()):
    defaults = preset(algorithm, env_id)
    flags = hyperparameter_flags(getattr(fastrl, algorithm.upper()), defaults)
    return constructor_arguments(parse(flags, args, "fastrl", ""), defaults)


@pytest.mark.parametrize(("algorithm", "env_id"), [*PRESETS, *((name, None) for name in ALGORITHMS)])
def test_flags_default_to_the_preset_or_the_constructor(algorithm, env_id):
    cls, row = getattr(fastrl, algorithm.upper()), preset(algorithm, env_id)
    signature = inspect.signature(cls).parameters
    assert set(row) <= {*signature, "total_timesteps"}
    found = parsed(algorithm, env_id)
    assert found.keys() == signature.keys() - {"policy", "env", "foreign", "tensorboard_log"}
    for name in found.keys() - {"policy_kwargs"}:
        assert found[name] == row.get(name, signature[name].default), name
    row.pop("total_timesteps", None)
    env = env_id or "CartPole-v1"
    ours, theirs = cls("MlpPolicy", env, **{**found, "seed": 1}), cls("MlpPolicy", env, **{**row, "seed": 1})
    assert str(ours.policy) == str(theirs.policy)
    for one, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(one, other)


SPECIAL = {"train_freq": (3, "episode"), "learning_rate": "lin_0.25", "loss": "mse", "device": "cpu",
           "engine": "torch", "average": "parameters"}  # fmt: skip


def another(name, default):
    """A legal value that is not the default."""
    if name in SPECIAL:
        return SPECIAL[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return 7 if name == "seed" else 0.375


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_flag_reaches_the_model(algorithm):
    cls = getattr(fastrl, algorithm.upper())
    left_out = {"policy", "env", "policy_kwargs", "foreign", "tensorboard_log"}
    values = {k: another(k, p.default) for k, p in inspect.signature(cls).parameters.items() if k not in left_out}
    args = ["--net-arch", "8", "4", "--activation-fn", "ELU"]
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            args.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            args += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    found = parsed(algorithm, None, args)
    assert found.pop("policy_kwargs") == {"net_arch": [8, 4], "activation_fn": torch.nn.ELU}
    assert found == values
    model = cls("MlpPolicy", "CartPole-v1", **parsed(algorithm, None, args))
    for name, value in values.items():
        reached = getattr(model, name)
        assert reached in (value, (value, "step")), name
    assert [m.out_features for m in model.policy.modules() if isinstance(m, torch.nn.Linear)][:2] == [8, 4]


def test_none_is_a_value():
    for algorithm in ("dqn", "ppo", "reinforce"):
        assert parsed(algorithm, None, ["--max-grad-norm", "None", "--seed", "None"])["max_grad_norm"] is None
    assert parsed("ppo", None, ["--clip-range-vf", "lin_0.2"])["clip_range_vf"] == "lin_0.2"
    assert parsed("ppo", None, ["--clip-range-vf", "None"])["clip_range_vf"] is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_help_shows_every_hyperparameter_with_its_meaning(algorithm, capsys):
    assert main(["train", algorithm, "CartPole-v1", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in parsed(algorithm, "CartPole-v1").keys() - {"policy_kwargs"} | {"net_arch", "activation_fn", "out"}:
        assert f"--{name.replace('_', '-')}" in text
    assert "of Adam; a number" in text and f"(default: {preset(algorithm, 'CartPole-v1')['learning_rate']})" in text
    assert main(["train", algorithm, "--help"]) == 0  # an environment is not needed to ask
    assert f"usage: fastrl train {algorithm} ENVIRONMENT" in capsys.readouterr().out


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["train", "--help"], ["train"]])
def test_help_names_the_choices(args, capsys):
    assert main(args) == 0
    out = capsys.readouterr().out
    assert all(
        name in out for name in [*ALGORITHMS, *(env_id for _, env_id in PRESETS), "fastrl train ppo CartPole-v1"]
    )
    assert max(map(len, out.splitlines())) <= 100


def test_help_and_early_errors_do_not_load_torch():
    code = """if True:
        import sys
        from fastrl.cli import main
        codes = [main(line.split()) for line in
                 ("--help", "--version", "train --help", "train pp CartPole-v1", "train ppo Nowhere-v1", "oops")]
        assert codes == [0, 0, 0, 2, 2, 2], codes
        assert "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_python_m():
    run = subprocess.run([sys.executable, "-m", "fastrl", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"fastrl {fastrl.__version__}\n"
    assert subprocess.run([sys.executable, "-m", "fastrl", "oops"], capture_output=True).returncode == 2


# -- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trian ppo CartPole-v1", ["'trian'", "train"]),
        ("train pppo CartPole-v1", ["pppo", "did you mean ppo?", "dqn", "reinforce"]),
        ("train --seed 1", ["--seed", "ppo, dqn, reinforce"]),
        ("train ppo", ["needs an environment", "Acrobot-v1"]),
        ("train ppo --seed 1", ["needs an environment"]),
        ("train ppo cartpol-v1", ["'cartpol-v1'", "did you mean CartPole-v1?", "LunarLander-v3"]),
        ("train ppo LunarLander-v2", ["did you mean LunarLander-v3?"]),
        ("train ppo Nothing/Like-v0", ["'Nothing/Like-v0'", "CartPole-v1"]),
        ("train ppo -ppo-", ["needs an environment"]),
        ("train ppo cart/pole/-v1", ["'cart/pole/-v1'", "CartPole-v1"]),
        ("train ppo no_such_module:Env-v0", ["no_such_module"]),
        ("train ppo CartPole-v1 --gama 0.9", ["--gama", "did you mean --gamma?"]),
        ("train ppo CartPole-v1 --learning_rat=1", ["did you mean --learning-rate?"]),
        ("train ppo CartPole-v1 --totl-timesteps 9", ["did you mean --total-timesteps?"]),
        ("train ppo CartPole-v1 --normalize True", ["'True'"]),
        ("train ppo CartPole-v1 --n-steps 2.5", ["--n-steps", "'2.5'"]),
        ("train ppo CartPole-v1 --n-steps", ["--n-steps"]),
        ("train ppo CartPole-v1 --target-kl x", ["--target-kl", "FLOAT"]),
        ("train ppo CartPole-v1 --activation-fn Tan", ["Tan", "ReLU"]),
        ("train ppo CartPole-v1 --gamma 1.5", ["gamma is 1.5", "[0, 1]"]),
        ("train ppo CartPole-v1 --learning-rate fast", ["'fast'", "lin_0.001"]),
        ("train ppo CartPole-v1 --total-timesteps 0", ["total_timesteps is 0"]),
        ("train ppo CartPole-v1 --eval-episodes -1", ["eval_episodes is -1"]),
        ("train ppo CartPole-v1 --device nowhere", ["nowhere"]),
        ("train dqn Pendulum-v1", ["Discrete"]),
        ("train ppo Blackjack-v1", ["observation space"]),
        ("eval", ["needs a model file"]),
        ("eval nothing.fastrl", ["nothing.fastrl"]),
        ("eval . --episode 3", ["did you mean --episodes?"]),
        ("eval . --episodes 0", ["episodes is 0"]),
        ("eval .", ["model.fastrl"]),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(command, says, capsys):
    err = refused(capsys, command.split())
    assert all(words in err for words in says), err
    assert not list(Path().iterdir())


def test_missing_box2d_says_what_to_run(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    assert 'pip install "fastrl[box2d]"' in refused(capsys, ["train", "ppo", "LunarLander-v3"])


@pytest.mark.parametrize("out", ["full", "full/file", "full/file/run"])
def test_out_is_never_overwritten(out, capsys):
    Path("full").mkdir()
    Path("full/file").write_text("precious")
    assert out in refused(capsys, ["train", "ppo", "CartPole-v1", *SHORT["ppo"], "--out", out])
    assert [path.name for path in Path().rglob("*")] == ["full", "file"]
    assert Path("full/file").read_text() == "precious"


def test_model_files_that_cannot_be_used(capsys):
    assert main(["train", "ppo", "CartPole-v1", *SHORT["ppo"], *QUIET, "--out", "run"]) == 0
    capsys.readouterr()
    file = Path("run/model.fastrl")
    assert "observation_space" in refused(capsys, ["eval", str(file), "--env", "Acrobot-v1"])
    assert "did you mean CartPole-v1?" in refused(capsys, ["eval", str(file), "--env", "CartPol-v1"])
    file.write_bytes(file.read_bytes()[:1000])
    assert "model.fastrl" in refused(capsys, ["eval", str(file)])


def test_a_model_of_an_environment_without_a_name(capsys):
    fastrl.PPO("MlpPolicy", Counter).save("model.fastrl")
    assert "--env" in refused(capsys, ["eval", "model.fastrl"])


def test_warnings_are_plain_lines(capsys):
    assert main(["train", "ppo", "CartPole-v0", *SHORT["ppo"], *QUIET]) == 0
    err = capsys.readouterr().err
    assert "fastrl: warning: The environment CartPole-v0 is out of date" in err and "\x1b" not in err


def test_an_id_without_a_version_means_the_latest():
    assert main(["train", "ppo", "CartPole", *SHORT["ppo"], *QUIET]) == 0
    assert Path("runs/ppo-CartPole-v1-1").exists()


# -- what happens while running ----------------------------------------------------------------------------------

TINY = ["--n-steps", "8", "--batch-size", "8", "--total-timesteps", "1000", *QUIET, "--out", "run"]


def kept(capsys, code, args):
    """The line of a run that did not end well; its model is loadable, and its curve drawn."""
    err = refused(capsys, args, code)
    assert "run/model.fastrl" in err and Path("run/curve.png").exists()
    return err, fastrl.PPO.load("run/model.fastrl")


@pytest.mark.parametrize(
    ("fault", "says"),
    [({"fail_at": 20}, "the wheel fell off"), ({"nan_at": 20}, "nan"), ({"nan_at": 20, "nan_reward": True}, "nan")],
)
def test_a_failing_environment_leaves_the_model_so_far(fault, says, register, capsys):
    register("Faulty-v0", Counter, **fault)
    err, model = kept(capsys, 1, ["train", "ppo", "Faulty-v0", *TINY])
    assert says in err and "environment 0" in err
    assert 16 <= model.num_timesteps < 24 and model.n_updates > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_once_finishes_the_iteration_saves_and_evaluates(number, register, capsys, monkeypatch):
    monkeypatch.setattr(Interrupting, "number", number)
    register("Interrupting-v0", Interrupting)
    assert main(["train", "ppo", "Interrupting-v0", *TINY]) == 130
    out, err = capsys.readouterr()
    assert "interrupted after 16 steps" in err and "fastrl train --resume run" in err and err.count("\n") == 1
    assert "Evaluated" in out
    assert fastrl.PPO.load("run/model.fastrl").num_timesteps == 16


def test_ctrl_c_twice_stops_at_once(register, capsys, monkeypatch):
    monkeypatch.setattr(Interrupting, "presses", 2)
    register("Interrupting-v0", Interrupting)
    err = refused(capsys, ["train", "ppo", "Interrupting-v0", *TINY, "--checkpoint-every", "8"], 130)
    assert "stopped at once" in err and "fastrl train --resume run" in err
    assert not Path("run/model.fastrl").exists()
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["model_8_steps.fastrl"]


def test_more_than_one_sigterm_is_one(register, capsys, monkeypatch):
    monkeypatch.setattr(Interrupting, "number", signal.SIGTERM)
    monkeypatch.setattr(Interrupting, "presses", 3)
    register("Interrupting-v0", Interrupting)
    err = refused(capsys, ["train", "ppo", "Interrupting-v0", *TINY], 130)
    assert "interrupted after 16 steps" in err


def test_ctrl_c_while_saving_does_not_stop_the_saving(monkeypatch, capsys):
    save, press = fastrl.PPO.save, iter([signal.SIGINT])

    def pressed(*args):
        for number in press:
            signal.raise_signal(number)
        save(*args)

    monkeypatch.setattr(fastrl.PPO, "save", pressed)
    _, model = kept(capsys, 130, ["train", "ppo", "CartPole-v1", *SHORT["ppo"], *QUIET, "--out", "run"])
    assert model.num_timesteps >= 600


def test_ctrl_c_from_outside():
    args = [sys.executable, "-m", "fastrl", "train", "ppo", "CartPole-v1", "--total-timesteps", "100000000"]
    run = subprocess.Popen([*args, "--out", "run", "--no-progress"], stderr=subprocess.PIPE, text=True)
    while not Path("run/metrics.csv").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 130
    assert err.startswith("fastrl: interrupted after ") and err.count("\n") == 1
    assert fastrl.PPO.load("run/model.fastrl").num_timesteps > 0


def test_a_traceback_can_be_asked_for(monkeypatch, capsys):
    monkeypatch.setenv("FASTRL_TRACEBACK", "1")
    assert main(["train", "ppo", "CartPole-v1", "--gamma", "2"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "check_number" in err and err.splitlines()[-1].startswith("fastrl: gamma is 2.0")


def test_a_module_of_the_current_directory_registers_its_environment(tmp_path):
    code = "import gymnasium; gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv')"
    (tmp_path / "mine.py").write_text(code)
    command = "from fastrl.cli import main; raise SystemExit(main('train ppo mine:Mine-v0 --n-steps 8 --batch-size 8 " \
        "--total-timesteps 8 --eval-episodes 1'.split()))"  # fmt: skip
    script = "import sys; sys.path.remove(''); " + command  # as an installed command begins
    path = str(Path(fastrl.__file__).parents[1])
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, check=True)
    assert list(tmp_path.glob("runs/*/model.fastrl"))
