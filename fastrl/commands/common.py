"""What the commands share: errors on one line, the environment and the agent that are named, files that are written."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from fastrl import runs
from fastrl.flags import UsageError, nearest
from fastrl.help import ALGORITHMS
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


def needed(module: str, extra: str) -> Any:
    """`module`, which an extra of the package brings.

    Raises:
        UsageError: where it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f'{module} cannot be imported ({error}): pip install "fastrl[{extra}]"') from error


def joined(held: contextlib.ExitStack, address: str | None, jobs: int | None) -> Any:
    """Ray's module, connected to a cluster for as long as `held` is; of this machine alone where there is no address.

    Raises:
        UsageError: where Ray is missing or of another version, or nobody answers at the address.
    """
    from fastrl.distributed.cluster import connected

    try:
        return held.enter_context(connected(address, jobs))
    except (ImportError, ValueError, ConnectionError) as error:
        raise UsageError(str(error)) from error


def check_output(file: Path, force: bool, endings: Sequence[str], option: str = "--out") -> None:
    """Raise a UsageError unless `file` can be written, ends in one of `endings`, and overwrites nothing unasked."""
    if file.suffix.lower() not in endings:
        raise UsageError(f"{file} must end in {' or '.join(endings)}")
    if file.is_dir():
        raise UsageError(f"{file} is a directory; it must be a file")
    if file.exists() and not force:
        raise UsageError(f"{file} exists: name another with {option}, or overwrite it with --force")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {file.parent}: {error.strerror or error}") from error
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"cannot write to {file.parent}: Permission denied")


def read_algorithm(args: Sequence[str], command: str) -> str:
    """The algorithm that comes first in `args`."""
    name = args[0].lower() if args else ""
    if name in ALGORITHMS:
        return name
    if not name or name.startswith("-"):
        raise UsageError(f"fastrl {command} needs an algorithm first: {', '.join(ALGORITHMS)}")
    if re.search(r"-v\d+$", name):
        raise UsageError(f"fastrl {command} needs an algorithm before the environment: fastrl {command} ppo {args[0]}")
    raise UsageError(f"unknown algorithm {args[0]}{nearest(name, ALGORITHMS)}: there are {', '.join(ALGORITHMS)}")


def model_file(path: Path) -> Path:
    """The model's file where `path` is the directory of a run."""
    return path / runs.MODEL if path.is_dir() else path


def load_agent(path: Path, env: str | None = None, *, alone: bool = False) -> tuple[Any, str]:
    """The agent of a model file, or of a run's directory, and the full id of `env` or of its own environment.

    With `alone` no environment is made, and the id is empty.

    Raises:
        UsageError: where it cannot be loaded, or is of an environment that is not named or has other spaces.
    """
    file = model_file(path)
    from fastrl.checkpoint import read_model  # imports Torch

    try:
        header, _ = read_model(file)
        algorithm, env_id = str(header.get("algorithm")), env or header.get("env_id")
        if algorithm.lower() not in ALGORITHMS:
            raise UsageError(f"{file} holds a {algorithm}; there are {', '.join(ALGORITHMS)}")
        if alone:
            return getattr(fastrl, algorithm.upper()).load(file), ""
        if env is None and ":" in str(env_id):  # naming a module is for the user, not for a file
            raise UsageError(f"{file} names the environment {env_id}, a module to import: give --env if you trust it")
        if env_id is None:
            raise UsageError(f"{file} does not name its environment: give --env")
        env_id = check_environment(env_id)
        return getattr(fastrl, algorithm.upper()).load(file, env=env_id), env_id
    except Exception as error:
        raise UsageError(describe(error)) from error


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
        box2d = "box2d" in str(error).lower()
        why = 'it needs Box2D: pip install "fastrl[box2d]"' if box2d else str(error)
        raise UsageError(f"{env_id} cannot be made: {why}") from error
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
