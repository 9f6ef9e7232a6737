"""Gymnasium's classic control problems, and tables, as compiled environments."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastrl.envs.compiled import Environment

__all__ = ["find"]

HOME = {
    "CartPole-v1": ("cartpole", "CartPole"),
}


def find(id: str, **kwargs: Any) -> Environment | None:
    """The compiled twin of Gymnasium's environment `id`, or of "fastrl/" + `id`; None where there is none.

    `kwargs` are other values for its constants.
    """
    name = id.removeprefix("fastrl/")
    if name not in HOME:
        return None
    module, attribute = HOME[name]
    found: Environment = getattr(import_module(f"fastrl.envs.classic.{module}"), attribute)
    return found.replace(**kwargs)
