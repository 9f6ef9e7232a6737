"""Gymnasium's registry: the ids "fastrl/CartPole-v1" and so on."""

from __future__ import annotations

import gymnasium as gym

__all__ = ["register_twins"]

TWINS = ["CartPole-v1"]


def register_twins() -> None:
    """Register the compiled twins of Gymnasium's environments, with the same time limits and thresholds."""
    for id in TWINS:
        known = gym.spec(id)
        gym.register(
            id=f"fastrl/{id}",
            entry_point="fastrl.envs.making:entry_point",
            vector_entry_point="fastrl.envs.making:vector_entry_point",
            max_episode_steps=known.max_episode_steps,
            reward_threshold=known.reward_threshold,
            kwargs={"twin": id},
        )
