"""Programs written for Stable-Baselines3 run here with one change, that of their imports.

The scripts of tests/sb3_examples/ are as its users write them. They run changed by the rule of docs/from-sb3.md, and
unchanged where Stable-Baselines3 is installed, so that they stay what its users write.
"""

from __future__ import annotations

import copy
import inspect
import io
import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import fastrl
from fastrl.algorithms.foreign import ATTRIBUTES, FOREIGN

EXAMPLES = sorted((Path(__file__).parent / "sb3_examples").glob("*.py"))
RULE = (r"from stable_baselines3[a-z0-9_.]* import", "from fastrl import")
CALLBACKS = [name for name in fastrl.__all__ if name.endswith(("Callback", "Timesteps")) or name.startswith("Stop")]
NEEDS = {
    "own_logger": "tensorboard", "custom_callback": "tensorboard", "monitor_files": "pandas", "quickstart": "pygame",
    "vectorized": "pygame",
}  # fmt: skip


def run(example, code, folder):
    """Run a program in a folder of its own, in this process; one that starts processes, in a fresh one."""
    for module in NEEDS.get(example.stem, "").split():
        pytest.importorskip(module)
    file = folder / example.name
    file.write_text(code)
    if "SubprocVecEnv" in code:
        paths = [str(Path(__file__).parent.parent), *sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        done = subprocess.run([sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        exec(compile(code, str(file), "exec"), {"__name__": "__main__", "__file__": str(file)})


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_with_the_import_changed(example, tmp_path):
    code = re.sub(*RULE, example.read_text())
    assert "stable_baselines3" not in code
    run(example, code, tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_unchanged_with_stable_baselines3(example, tmp_path):
    pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(example, example.read_text(), tmp_path)


NOT_HERE = {
    "from stable_baselines3 import SAC": "fastrl has no SAC: for Box actions use PPO",
    "from stable_baselines3 import A2C, PPO": "fastrl has no A2C: use PPO",
    "from stable_baselines3.common.vec_env import VecNormalize": "no VecNormalize: pass normalize=True to PPO",
    "from stable_baselines3.common.vec_env import VecFrameStack": "FrameStackObservation",
    "from stable_baselines3.common.vec_env import VecMonitor": "leave it out",
    "from stable_baselines3 import HerReplayBuffer": "no hindsight replay",
    "from stable_baselines3.common.policies import ActorCriticPolicy": "torch.nn.Module of your own",
    "from stable_baselines3.common.noise import NormalActionNoise": "explores by ε",
}


@pytest.mark.parametrize("line, message", NOT_HERE.items(), ids=lambda text: text.split()[-1])
def test_what_is_not_here_says_what_to_use(line, message):
    with pytest.raises(ImportError, match=message):
        exec(re.sub(*RULE, line))


def test_the_page_has_every_name():
    page = (Path(__file__).parent.parent / "docs" / "from-sb3.md").read_text()
    assert f"s/{RULE[0]}/{RULE[1]}/" in page
    for name in (*fastrl._ELSEWHERE, *FOREIGN, *CALLBACKS):
        assert re.search(rf"\b{name}\b", page), name


def test_the_page_has_every_argument_of_stable_baselines3():
    theirs = pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")
    page = (Path(__file__).parent.parent / "docs" / "from-sb3.md").read_text()
    for cls in (theirs.PPO, theirs.DQN):
        names = {*inspect.signature(cls).parameters} | {name for name in dir(cls) if not name.startswith("_")}
        assert not [name for name in names if not re.search(rf"\b{name}\b", page)]


def test_what_is_not_here_is_no_attribute_of_the_public_names():
    assert not set(fastrl._ELSEWHERE) & set(fastrl.__all__) and list(fastrl._ELSEWHERE) == sorted(fastrl._ELSEWHERE)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        fastrl.Nonsense  # noqa: B018


def test_vec_envs_of_stable_baselines3_itself():
    theirs = pytest.importorskip("stable_baselines3.common.vec_env", reason="stable-baselines3 is not installed")
    with pytest.raises(TypeError, match="a DummyVecEnv of Stable-Baselines3; make it by fastrl's make_vec_env"):
        fastrl.PPO("MlpPolicy", theirs.DummyVecEnv([lambda: gym.make("CartPole-v1")]))


def test_global_streams_are_seeded():
    torch = pytest.importorskip("torch")

    def draw():
        fastrl.set_random_seed(3)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()
    with pytest.raises(ValueError, match="seed"):
        fastrl.set_random_seed(-1)


def test_arguments_of_load_as_stable_baselines3_has_them(tmp_path):
    fastrl.PPO("MlpPolicy", "CartPole-v1").save(tmp_path / "m")
    env = gym.make("CartPole-v1")
    custom = {"lr_schedule": lambda _: 1e-4, "clip_range": 0.1, "observation_space": env.observation_space,
              "action_space": env.action_space}  # fmt: skip
    for model in (
        fastrl.PPO.load(tmp_path / "m", custom_objects=custom, print_system_info=False, force_reset=True),
        fastrl.PPO.load(tmp_path / "m", env, "cpu", custom, False, True, clip_range=0.1),
    ):
        assert model.learning_rate(1.0) == 1e-4 and model.clip_range == 0.1
    for name in ("print_system_info", "force_reset"):
        with pytest.raises(ValueError, match=f"{name}=.* cannot apply"):
            fastrl.PPO.load(tmp_path / "m", **{name: name == "print_system_info"})
    with pytest.raises(ValueError, match=r"action_space of CartPole-v1 is Discrete\(2\); this .* is Discrete\(3\)"):
        fastrl.PPO.load(tmp_path / "m", custom_objects={"action_space": gym.spaces.Discrete(3)})
    with pytest.raises(TypeError, match="speed"):
        fastrl.PPO.load(tmp_path / "m", custom_objects={"speed": 3})


def test_arguments_of_save_and_of_set_env(tmp_path):
    model = fastrl.PPO("MlpPolicy", "CartPole-v1")
    model.save(tmp_path / "m", None, [])
    for wrong in (dict(exclude=["policy"]), dict(include=["env"])):
        with pytest.raises(ValueError, match="leave out exclude and include"):
            model.save(tmp_path / "m", **wrong)
    with pytest.raises(TypeError, match="BytesIO"):
        model.save(io.BytesIO())
    model.set_env(gym.make("CartPole-v1"), True)
    with pytest.raises(ValueError, match="force_reset=False cannot apply"):
        model.set_env(gym.make("CartPole-v1"), force_reset=False)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_that_are_elsewhere_say_where(name):
    model = fastrl.PPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(AttributeError, match=re.escape(ATTRIBUTES[name])):
        getattr(model, name)
    assert not hasattr(model, "nonsense") and copy.deepcopy(model).policy is not model.policy


def test_networks_say_where_to_find_what_policies_have():
    model = fastrl.PPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(AttributeError, match=r"use model\.predict"):
        _ = model.policy.predict
    with pytest.raises(AttributeError, match="'nonsense'"):
        _ = model.policy.nonsense
    with pytest.raises(TypeError, match="did you mean learning_rate"):
        fastrl.PPO("MlpPolicy", "CartPole-v1", lr=1e-3)
    with pytest.raises(AttributeError, match="did you mean 'EvalCallback'"):
        _ = fastrl.EvalCalback


def test_the_directory_of_a_run_is_its_model(tmp_path):
    model = fastrl.PPO("MlpPolicy", "CartPole-v1")
    model.save(tmp_path / "run/model.fastrl")
    assert fastrl.PPO.load(tmp_path / "run").env_id == fastrl.load_policy(tmp_path / "run").env_id == "CartPole-v1"
    assert "PPO of CartPole-v1, 0 steps" in repr(fastrl.load_policy(tmp_path / "run"))
    with pytest.raises(FileNotFoundError):
        fastrl.PPO.load(tmp_path)
