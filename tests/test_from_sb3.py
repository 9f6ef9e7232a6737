"""Programs written for Stable-Baselines3 run here with one change, that of their imports.

The scripts of tests/sb3_examples/ are as its users write them. They run changed by the rule of docs/from-sb3.md, and
unchanged where Stable-Baselines3 is installed, so that they stay what its users write.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import pytest

import fastrl

EXAMPLES = sorted((Path(__file__).parent / "sb3_examples").glob("*.py"))
RULE = (r"from stable_baselines3[a-z0-9_.]* import", "from fastrl import")
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


def test_what_is_not_here_is_no_attribute_of_the_public_names():
    assert not set(fastrl._ELSEWHERE) & set(fastrl.__all__) and list(fastrl._ELSEWHERE) == sorted(fastrl._ELSEWHERE)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        fastrl.Nonsense  # noqa: B018


def test_vec_envs_of_stable_baselines3_itself():
    theirs = pytest.importorskip("stable_baselines3.common.vec_env", reason="stable-baselines3 is not installed")
    with pytest.raises(TypeError, match="a DummyVecEnv of Stable-Baselines3; make it by fastrl's make_vec_env"):
        fastrl.PPO("MlpPolicy", theirs.DummyVecEnv([lambda: gym.make("CartPole-v1")]))
