"""A piece of training, and what all who do it need."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from benches.learning import recent_returns
from benches.operation import Missing

WARM_UP = 2000  # steps, or one iteration of the algorithm where that is more


class Job(NamedTuple):
    """What to train; `options` bear Stable-Baselines3's names, schedules and activations are strings."""

    algorithm: str
    env: str  # an id; "envpool:<id>" is EnvPool's
    n_envs: int
    options: dict[str, Any]
    steps: int
    scored: bool = False  # evaluate what was learnt
    env_threads: int = 1  # EnvPool's


def policy_kwargs(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of `options` with the activation of their policy_kwargs as a class; theirs are left as they are."""
    from torch import nn

    kwargs = dict(options.get("policy_kwargs", {}))
    if "activation_fn" in kwargs:
        kwargs["activation_fn"] = getattr(nn, kwargs["activation_fn"])
    return {**options, "policy_kwargs": kwargs} if kwargs else dict(options)


def linear(first: float) -> Callable[[float], float]:
    """Stable-Baselines3's form of "lin_<first>"."""
    return lambda remaining: remaining * first


def timed(learn: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    learn()
    return time.perf_counter() - wall, time.process_time() - processor


def require(module: str) -> None:
    """Missing, unless it is installed."""
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{module} is not installed")


def training_return(model: Any) -> float | None:
    """Mean return of the last training episodes; None if none has ended."""
    returns = recent_returns(model)
    return statistics.fmean(returns) if returns else None
