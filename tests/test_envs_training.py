"""Other libraries' loops on compiled environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import fastrl  # noqa: F401
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.usefixtures("few_threads")


def test_a_loop_like_cleanrls():
    """PPO as single files have it, without any part of fastrl but the environments."""
    torch.manual_seed(0)
    envs = RecordEpisodeStatistics(gym.make_vec("fastrl/CartPole-v1", num_envs=8))
    T, N = 64, envs.num_envs

    def network(n_out):
        return torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, n_out))

    actor, critic = network(2), network(1)
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=3e-3)
    obs, actions = torch.zeros(T, N, 4), torch.zeros(T, N)
    logprobs, rewards, dones, values = (torch.zeros(T, N) for _ in range(4))
    next_obs, next_done, lengths = torch.Tensor(envs.reset(seed=1)[0]), torch.zeros(N), []
    for _ in range(30):
        for t in range(T):
            obs[t], dones[t] = next_obs, next_done
            with torch.no_grad():
                policy = torch.distributions.Categorical(logits=actor(next_obs))
                actions[t], values[t] = policy.sample(), critic(next_obs).flatten()
            logprobs[t] = policy.log_prob(actions[t])
            array, reward, terminated, truncated, infos = envs.step(actions[t].long().numpy())
            rewards[t] = torch.Tensor(reward)
            next_obs, next_done = torch.Tensor(array), torch.Tensor(terminated | truncated)
            if "episode" in infos:
                lengths += infos["episode"]["l"][infos["_episode"]].tolist()
        with torch.no_grad():
            advantages, last, after, over = torch.zeros(T, N), 0.0, critic(next_obs).flatten(), next_done
            for t in reversed(range(T)):
                delta = rewards[t] + 0.98 * after * (1 - over) - values[t]
                advantages[t] = last = delta + 0.98 * 0.9 * (1 - over) * last
                after, over = values[t], dones[t]
            returns = advantages + values
        for _ in range(6):
            policy = torch.distributions.Categorical(logits=actor(obs))
            ratio = (policy.log_prob(actions) - logprobs).exp()
            scaled = (advantages - advantages.mean()) / advantages.std()
            gain = torch.min(scaled * ratio, scaled * ratio.clamp(0.8, 1.2)).mean()
            loss = 0.5 * (critic(obs).squeeze(-1) - returns).pow(2).mean() - gain
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert np.mean(lengths[-20:]) > 2 * np.mean(lengths[:20]), lengths


def test_stable_baselines3_learns_on_them(tmp_path, monkeypatch):
    """The wrapper that the page on Stable-Baselines3 shows."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecMonitor

    namespace: dict = {}
    (code,) = [code for code in blocks(ROOT / "docs/stable-baselines3.md", "python") if "class CompiledVecEnv" in code]
    exec(code.split("# Use it")[0], namespace)
    for id, algorithm in [("CartPole-v1", sb3.PPO), ("Pendulum-v1", sb3.PPO)]:
        vec = VecMonitor(namespace["CompiledVecEnv"](id, 8))
        model = algorithm("MlpPolicy", vec, n_steps=128, batch_size=256, learning_rate=1e-3, seed=0, device="cpu")
        model.learn(12_000 if id == "CartPole-v1" else 1_024)
        if id == "CartPole-v1":
            assert evaluate_policy(model, Monitor(gym.make(id)), 10)[0] > 60  # at random: 22
        vec.close()
