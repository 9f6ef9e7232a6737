"""Gymnasium's registry: the ids "fastrl/CartPole-v1" and so on."""

from __future__ import annotations

import gymnasium as gym

__all__ = ["is_registered", "register_twins"]

TWINS = (
    "Acrobot-v1", "CartPole-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "FrozenLake-v1", "FrozenLake8x8-v1",
    "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "Taxi-v4",
)  # fmt: skip


MAKING = "fastrl.envs.making"


def is_registered(id: str) -> bool:
    """Whether `fastrl.envs.register` made the id known."""
    entry_point = getattr(gym.registry.get(id), "vector_entry_point", None)
    return getattr(getattr(entry_point, "func", None), "__module__", None) == MAKING  # of a partial


def register_twins() -> None:
    """Register the compiled twins of Gymnasium's environments, with the same time limits and thresholds."""
    for id in TWINS:
        known = gym.registry.get(id)
        if known is None:  # another version of Gymnasium has another version of this environment
            continue
        gym.register(
            id=f"fastrl/{id}",
            entry_point=f"{MAKING}:entry_point",
            vector_entry_point=f"{MAKING}:vector_entry_point",
            max_episode_steps=known.max_episode_steps,
            reward_threshold=known.reward_threshold,
            kwargs={"environment": id},
        )
