"""Environments: how the algorithms step them, and compiled ones. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastrl.envs.registration import register_twins

if TYPE_CHECKING:
    from fastrl.envs.classic.table import tabular
    from fastrl.envs.compiled import Environment, environment
    from fastrl.envs.making import make, make_vec, register
    from fastrl.kernels.sampling import integer, normal, uniform

_HOME = {
    "Environment": "fastrl.envs.compiled",
    "environment": "fastrl.envs.compiled",
    "integer": "fastrl.kernels.sampling",
    "make": "fastrl.envs.making",
    "make_vec": "fastrl.envs.making",
    "normal": "fastrl.kernels.sampling",
    "register": "fastrl.envs.making",
    "tabular": "fastrl.envs.classic.table",
    "uniform": "fastrl.kernels.sampling",
}

__all__ = ["Environment", "environment", "integer", "make", "make_vec", "normal", "register", "tabular", "uniform"]

register_twins()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastrl.envs' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
