"""Gymnasium's classic control problems, and tables, as compiled environments."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastrl.envs.compiled import Environment

__all__ = ["find"]

HOME = {
    "Acrobot-v1": ("acrobot", "Acrobot"),
    "CartPole-v1": ("cartpole", "CartPole"),
    "MountainCar-v0": ("mountain_car", "MountainCar"),
    "MountainCarContinuous-v0": ("mountain_car", "MountainCarContinuous"),
    "Pendulum-v1": ("pendulum", "Pendulum"),
}
TABLES = ("CliffWalking-v1", "CliffWalkingSlippery-v1", "FrozenLake-v1", "FrozenLake8x8-v1", "Taxi-v4")


def find(id: str, **kwargs: Any) -> Environment | None:
    """The compiled twin of Gymnasium's environment `id`, or of "fastrl/" + `id`; None where there is none.

    `kwargs` are other values for its constants, or, of environments that are tables, what `gymnasium.make` takes.
    """
    name = id.removeprefix("fastrl/")
    if name in TABLES:
        return import_module("fastrl.envs.classic.table").tabular(name, **kwargs)
    if name not in HOME:
        return None
    module, attribute = HOME[name]
    found: Environment = getattr(import_module(f"fastrl.envs.classic.{module}"), attribute)
    return found.replace(**kwargs)
