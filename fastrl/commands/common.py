"""What the commands share: errors on one line, the environment that is named, and how good an agent is."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from fastrl.flags import UsageError, nearest
from fastrl.presets import PRESETS

EVAL_SEED = 10_000  # one for all: every model is judged on the same episodes


class Failure(Exception):
    """Something that went wrong, or was stopped, while running."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def describe(error: BaseException) -> str:
    plain = (UsageError, Failure, ValueError, TypeError, RuntimeError, OSError)
    return str(error) if isinstance(error, plain) and str(error) else f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"cannot write to {directory}: {error.strerror or error}") from error


def check_environment(env_id: str) -> str:
    """The full id of an environment that can be made."""
    import gymnasium

    if ":" in env_id and "" not in sys.path:
        sys.path.insert(0, "")  # the module may be one of the current directory, as with python -m fastrl
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model makes it again, and lets them through
            with contextlib.closing(gymnasium.make(env_id)) as env:
                # The registered id does not say which module registers it.
                return env_id if ":" in env_id or env.spec is None else env.spec.id
    except gymnasium.error.DependencyNotInstalled as error:
        how = 'Box2D: pip install "fastrl[box2d]"' if "box2d" in str(error).lower() else str(error)
        raise UsageError(f"{env_id} needs {how}") from error
    except Exception as error:
        if env_id in gymnasium.registry or not isinstance(error, gymnasium.error.Error):
            raise UsageError(f"{env_id} cannot be made: {describe(error)}") from error
        with_preset = ", ".join(sorted({name for _, name in PRESETS}))
        raise UsageError(
            f"unknown environment {env_id!r}{nearest(env_id, gymnasium.registry)}: there are {with_preset}, and all "
            "others that Gymnasium knows, your own as module:Name-v0"
        ) from error


def returns(model: Any, env_id: str, episodes: int, seed: int) -> list[float]:
    from fastrl.learners.torch import one_thread

    with one_thread(True):
        return fastrl.evaluate_policy(model, env_id, episodes, return_episode_rewards=True, seed=seed)[0]


def score(returns: Sequence[float]) -> str:
    return (
        f"mean return {np.mean(returns):.1f} ± {np.std(returns):.1f} over {len(returns)} episodes "
        f"(lowest {min(returns):.1f}, highest {max(returns):.1f})"
    )
