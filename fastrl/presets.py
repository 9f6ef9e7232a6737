"""Hyperparameters to start from, one row for each algorithm and environment.

What a row does not name keeps the algorithm's default. `docs/results.md` shows what most of them reach.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS", "preset"]

PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("ppo", "CartPole-v1"): dict(
        total_timesteps=100_000, n_envs=8, n_steps=128, n_epochs=4, gamma=0.98, gae_lambda=0.9,
        learning_rate="lin_0.003",
    ),
    ("ppo", "LunarLander-v3"): dict(
        total_timesteps=500_000, n_envs=16, n_steps=256, batch_size=256, n_epochs=10, gamma=0.99, gae_lambda=0.95,
        learning_rate="lin_0.001", ent_coef=0.01, normalize=True, policy_kwargs=dict(net_arch=[128, 128]),
    ),
    ("ppo", "Acrobot-v1"): dict(
        total_timesteps=200_000, n_envs=16, n_steps=256, n_epochs=4, gae_lambda=0.94, normalize=True,
    ),
    ("ppo", "MountainCar-v0"): dict(
        total_timesteps=1_000_000, n_envs=16, n_steps=16, n_epochs=4, gae_lambda=0.98, normalize=True,
    ),
    ("ppo", "Pendulum-v1"): dict(
        total_timesteps=200_000, n_envs=4, n_steps=1024, n_epochs=10, gamma=0.9, gae_lambda=0.95,
        learning_rate="lin_0.002",
    ),
    ("dqn", "CartPole-v1"): dict(
        total_timesteps=72_000, learning_rate="lin_0.0007", batch_size=64, buffer_size=100_000, learning_starts=1000,
        tau=0.01, target_update_interval=4, train_freq=4, gradient_steps=4, double_q=True,
        exploration_fraction=0.08, exploration_final_eps=0.02, policy_kwargs=dict(net_arch=[128, 128]), n_steps=4,
    ),
    ("dqn", "Acrobot-v1"): dict(
        total_timesteps=100_000, learning_rate=6.3e-4, batch_size=128, buffer_size=50_000, learning_starts=0,
        target_update_interval=250, train_freq=4, gradient_steps=-1, exploration_fraction=0.12,
        exploration_final_eps=0.1, policy_kwargs=dict(net_arch=[256, 256]),
    ),
    ("reinforce", "CartPole-v1"): dict(
        total_timesteps=300_000, n_envs=8, n_episodes=16, learning_rate="lin_0.01", baseline=True,
    ),
}  # fmt: skip


def preset(algorithm: str, env_id: str | None) -> dict[str, Any]:
    """The row of `algorithm` ("ppo", "dqn", "reinforce") and `env_id`, as a new dict; empty where there is none."""
    return dict(PRESETS.get((algorithm, env_id or ""), {}))
