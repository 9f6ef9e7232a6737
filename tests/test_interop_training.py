"""Stable-Baselines3's algorithms with our buffers and with its own: seeded alike, they end with the same weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest

sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")

import gymnasium as gym
import torch
from gymnasium.spaces import Box, Dict
from stable_baselines3.common import buffers as theirs
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from fastrl.interop import sb3 as ours


class ByKey(gym.ObservationWrapper):
    """Observations as dicts of two keys."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = Dict(a=Box(-9, 9, (1,), np.float32), b=Box(-9, 9, (2,), np.float32))

    def observation(self, obs):
        return {"a": obs[:1], "b": obs[1:]}


SMALL = dict(policy_kwargs=dict(net_arch=[32, 32]), seed=3, device="cpu")
OFF_POLICY = dict(buffer_size=500, learning_starts=100, batch_size=32, **SMALL)
RUNS = {
    "DQN": (sb3.DQN, "ReplayBuffer", "CartPole-v1", 1, 2000, dict(OFF_POLICY, train_freq=4, target_update_interval=50)),
    "DQN, 3 envs": (sb3.DQN, "ReplayBuffer", "CartPole-v1", 3, 1500, dict(OFF_POLICY, train_freq=4)),
    "DQN, shared": (sb3.DQN, "ReplayBuffer", "CartPole-v1", 1, 1000, dict(
        OFF_POLICY, optimize_memory_usage=True, replay_buffer_kwargs=dict(handle_timeout_termination=False))),
    "DQN, 3 steps": (sb3.DQN, "NStepReplayBuffer", "CartPole-v1", 2, 1000, dict(
        OFF_POLICY, replay_buffer_kwargs=dict(n_steps=3, gamma=0.97))),
    "SAC": (sb3.SAC, "ReplayBuffer", "Pendulum-v1", 1, 400, dict(OFF_POLICY)),
    "SAC, dict": (sb3.SAC, "DictReplayBuffer", ByKey, 2, 400, dict(OFF_POLICY)),
    "TD3, normalised": (sb3.TD3, "ReplayBuffer", "Pendulum-v1", 2, 500, dict(OFF_POLICY)),
    "PPO": (sb3.PPO, "RolloutBuffer", "CartPole-v1", 1, 512, dict(SMALL, n_steps=256, n_epochs=2)),
    "PPO, normalised": (sb3.PPO, "RolloutBuffer", "Pendulum-v1", 3, 900, dict(
        SMALL, n_steps=150, n_epochs=2, batch_size=50)),
    "PPO, dict": (sb3.PPO, "DictRolloutBuffer", ByKey, 2, 256, dict(SMALL, n_steps=64, n_epochs=2)),
    "A2C": (sb3.A2C, "RolloutBuffer", "CartPole-v1", 4, 600, dict(SMALL)),
}  # fmt: skip


def make_env(env, n_envs, normalised):
    if env is ByKey:
        envs = make_vec_env(lambda: ByKey(gym.make("Pendulum-v1")), n_envs, seed=5)
    else:
        envs = make_vec_env(env, n_envs, seed=5)
    return VecNormalize(envs) if normalised else envs


def make(run, module):
    algorithm, name, env, n_envs, _, keywords = RUNS[run]
    kind = "rollout_buffer_class" if "Rollout" in name else "replay_buffer_class"
    policy = "MultiInputPolicy" if env is ByKey else "MlpPolicy"
    envs = make_env(env, n_envs, "normalised" in run)
    return algorithm(policy, envs, **{kind: getattr(module, name)}, **copy.deepcopy(keywords))


def assert_same_weights(a, b):
    """Bit for bit, the optimizers' moments too."""
    tensors, others = flatten(a.get_parameters()), flatten(b.get_parameters())
    assert tensors.keys() == others.keys() and tensors
    for name, tensor in tensors.items():
        assert torch.equal(tensor, others[name]), name


def flatten(state, name=""):
    """The tensors of nested dicts and lists, by path."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {key: tensor for part, value in items for key, tensor in flatten(value, f"{name}/{part}").items()}

pytestmark = pytest.mark.usefixtures("few_threads")


@pytest.mark.parametrize("run", RUNS)
def test_seeded_runs_end_with_the_same_weights_as_stable_baselines3(run):
    mine, other = (make(run, module).learn(RUNS[run][4]) for module in (ours, theirs))
    assert_same_weights(mine, other)
    fresh = flatten(make(run, theirs).get_parameters())
    assert any(
        not torch.equal(tensor, fresh[key]) for key, tensor in flatten(mine.get_parameters()).items() if key in fresh
    )


@pytest.mark.parametrize("run", ["DQN, 3 envs", "DQN, shared", "DQN, 3 steps", "SAC, dict"])
@pytest.mark.filterwarnings("ignore:The last trajectory")
def test_replay_is_saved_loaded_and_resumed_as_stable_baselines3_does(run, tmp_path):
    ends = []
    for module in (ours, theirs):
        model = make(run, module).learn(300)
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "replay")
        again = RUNS[run][0].load(tmp_path / "model", env=make_env(*RUNS[run][2:4], False), device="cpu")
        again.load_replay_buffer(tmp_path / "replay")
        assert type(again.replay_buffer) is type(model.replay_buffer)
        assert again.replay_buffer.size() == model.replay_buffer.size() > 0
        again.set_random_seed(11)
        ends.append(again.learn(300, reset_num_timesteps=False))
    assert_same_weights(*ends)
