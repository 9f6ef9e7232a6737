"""The command line: `fastrl train`, `fastrl eval`.

Torch is imported only once the command has been found to make sense: help and most errors come at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

import fastrl
from fastrl import runs
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int
from fastrl.flags import UsageError, constructor_arguments, hyperparameter_flags, nearest, parse
from fastrl.help import ALGORITHMS, HELP, TRAIN_HELP, with_preset
from fastrl.presets import PRESETS, preset

EVAL_SEED = 10_000  # one for all: every model is judged on the same episodes
HELP_FLAGS = ("-h", "--help")


class Failure(Exception):
    """Something that went wrong, or was stopped, while running."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class RunOptions:
    """How long to train, and where the results go.

    Args:
        total_timesteps: environment steps to train for, counted over all copies of the environment.
        out: directory for the results, new or empty; None for runs/ALGORITHM-ENVIRONMENT-N.
        eval_episodes: episodes to evaluate the trained agent on; 0 for none.
        progress: show a progress bar.
    """

    total_timesteps: int = 100_000
    out: Path | None = None
    eval_episodes: int = 100
    progress: bool = True


@dataclass
class EvalOptions:
    """What to evaluate, where and how often.

    Args:
        file: a model that `fastrl train` wrote, or the directory it is in.
        env: environment to evaluate in; None for the one that the agent was trained in.
        episodes: how many episodes.
        seed: of the environments; the default is what `fastrl train` evaluates with.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    env: str | None = None
    episodes: int = 100
    seed: int = EVAL_SEED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's own.

    Returns:
        The exit code: 0 fine, 1 failed while running, 2 wrong usage, 130 interrupted. Where it is not 0, one
        line on stderr says why.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return _dispatch(args)
        except SystemExit as stop:  # --help of one command
            return int(stop.code or 0)
        except (Exception, KeyboardInterrupt) as error:
            return _report(error)


def _dispatch(args: list[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command in HELP_FLAGS:
        print(HELP)
    elif command == "--version":
        print(f"fastrl {fastrl.__version__}")
    elif command == "train" and (not rest or rest[0] in HELP_FLAGS):
        print(TRAIN_HELP)
    elif command == "train":
        _train(rest)
    elif command == "eval":
        _evaluate(rest)
    else:
        raise UsageError(f"unknown command {command!r}{nearest(command, ('train', 'eval'))}; see fastrl --help")
    return 0


# -- train ---------------------------------------------------------------------------------------------------


def _train(args: list[str]) -> None:
    algorithm, env_id, rest = _what_to_train(args)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # read by tqdm when it is imported: keeps logs short
    cls, defaults = getattr(fastrl, algorithm.upper()), {"seed": 0, **preset(algorithm, env_id)}
    total_timesteps = defaults.pop("total_timesteps", RunOptions.total_timesteps)
    flags = make_dataclass("TrainOptions", [
        ("run", RunOptions, field(default_factory=lambda: RunOptions(total_timesteps))),
        (algorithm, hyperparameter_flags(cls, defaults)),
    ], kw_only=True)  # fmt: skip
    what = f"Train {cls.__name__} on {env_id}"
    parsed: Any = parse(flags, rest, f"fastrl train {algorithm} {env_id}", f"{what}.")
    options, arguments = parsed.run, constructor_arguments(getattr(parsed, algorithm), defaults)

    try:
        check_int("total_timesteps", options.total_timesteps)
        check_int("eval_episodes", options.eval_episodes, 0)
        model = cls("MlpPolicy", env_id, **arguments)
    except Exception as error:
        raise UsageError(_describe(error)) from error
    try:
        directory = runs.make_directory(options.out, algorithm, env_id)
    except OSError as error:
        raise UsageError(f"cannot use {options.out or 'runs'}: {error.strerror or error}") from error
    with _writing_to(directory):
        runs.write_config(
            directory / "config.json", command=shlex.join(["fastrl", "train", *args]), algorithm=algorithm,
            env=env_id, seed=model.seed, total_timesteps=options.total_timesteps, hyperparameters=arguments,
        )  # fmt: skip
    start = "from its preset" if (algorithm, env_id) in PRESETS else "for which there is no preset"
    print(f"{what}, {start}: {options.total_timesteps:,} steps, seed {model.seed}", flush=True)
    _run(model, env_id, options, directory)


def _what_to_train(args: list[str]) -> tuple[str, str, list[str]]:
    """The algorithm, the environment, and the options after them."""
    algorithm = args[0].lower()
    if algorithm not in ALGORITHMS:
        what = "the algorithm comes first, not" if algorithm.startswith("-") else "unknown algorithm"
        raise UsageError(f"{what} {args[0]}{nearest(algorithm, ALGORITHMS)}: there are {', '.join(ALGORITHMS)}")
    if args[1:2] in (["-h"], ["--help"]):
        return algorithm, "ENVIRONMENT", args[1:]
    if len(args) < 2 or args[1].startswith("-"):
        raise UsageError(f"fastrl train {algorithm} needs an environment next, such as {with_preset(algorithm)[0]}")
    return algorithm, _check_environment(args[1]), args[2:]


def _run(model: Any, env_id: str, options: RunOptions, directory: Path) -> None:
    """Train, save whatever came of it, evaluate, and say where everything is."""
    file, curve = directory / "model.fastrl", directory / "curve.png"
    title = f"{type(model).__name__} on {env_id}, seed {model.seed}"
    metrics = runs.Metrics(directory / "metrics.csv", options.total_timesteps)
    failure: BaseException | None = None
    started = time.perf_counter()
    with GracefulInterrupt() as interrupt, _writing_to(directory):  # an impatient Ctrl-C must not stop the saving
        try:
            model.learn(options.total_timesteps, callback=metrics, progress_bar=options.progress)
        except (Exception, KeyboardInterrupt) as error:
            failure = error
        seconds, steps = time.perf_counter() - started, model.num_timesteps
        model.save(file)
        metrics.add(model.metrics)
        runs.draw_curve(curve, metrics.rows, title)
    kept = f"after {steps:,} steps; the model so far is {file}"
    if model.interrupted or interrupt.requested or isinstance(failure, KeyboardInterrupt):
        raise Failure(f"interrupted {kept}", 130) from failure
    if failure is not None:
        raise Failure(f"{_describe(failure)} ({kept})") from failure

    print(f"Trained {steps:,} steps in {seconds:.1f} s, {steps / seconds:,.0f} steps/s", flush=True)
    if options.eval_episodes:
        returns = _returns(model, env_id, options.eval_episodes, EVAL_SEED)
        print(f"Evaluated: {_score(returns)}")
        with _writing_to(directory):
            runs.draw_curve(curve, metrics.rows, title, returns)
    print(f"Files in {directory}: model.fastrl, curve.png, metrics.csv, config.json")
    where = ["--env", env_id] if ":" in env_id else []
    print(f"Try next: {shlex.join(['fastrl', 'eval', str(file), *where])}")


@contextlib.contextmanager
def _writing_to(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"cannot write to {directory}: {error.strerror or error}") from error


# -- eval ----------------------------------------------------------------------------------------------------


def _evaluate(args: list[str]) -> None:
    if not args:
        raise UsageError("fastrl eval needs a model file, such as runs/ppo-CartPole-v1-1/model.fastrl")
    options = parse(EvalOptions, args, "fastrl eval", "Evaluate a trained agent: the mean return of whole episodes.")
    file = options.file / "model.fastrl" if options.file.is_dir() else options.file
    from fastrl.checkpoint import read_model  # imports Torch

    try:
        check_int("episodes", options.episodes)
        check_int("seed", options.seed, 0)
        header, _ = read_model(file)
        algorithm, env_id = str(header.get("algorithm")), options.env or header.get("env_id")
        if algorithm.lower() not in ALGORITHMS:
            raise UsageError(f"{file} holds a {algorithm}; there are {', '.join(ALGORITHMS)}")
        if options.env is None and ":" in str(env_id):  # naming a module is for the user, not for a file
            raise UsageError(f"{file} names the environment {env_id}, a module to import: give --env if you trust it")
        if env_id is None:
            raise UsageError(f"{file} does not name its environment: give --env")
        env_id = _check_environment(env_id)
        model = getattr(fastrl, algorithm.upper()).load(file, env=env_id)
    except Exception as error:
        raise UsageError(_describe(error)) from error
    print(f"{algorithm}, trained for {model.num_timesteps:,} steps, on {env_id}")
    print(f"Evaluated: {_score(_returns(model, env_id, options.episodes, options.seed))}")


def _returns(model: Any, env_id: str, episodes: int, seed: int) -> list[float]:
    from fastrl.learners.torch import one_thread

    with one_thread(True):
        return fastrl.evaluate_policy(model, env_id, episodes, return_episode_rewards=True, seed=seed)[0]


def _score(returns: Sequence[float]) -> str:
    return (
        f"mean return {np.mean(returns):.1f} ± {np.std(returns):.1f} over {len(returns)} episodes "
        f"(lowest {min(returns):.1f}, highest {max(returns):.1f})"
    )


# -- what both need --------------------------------------------------------------------------------------------


def _check_environment(env_id: str) -> str:
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
            raise UsageError(f"{env_id} cannot be made: {_describe(error)}") from error
        with_preset = ", ".join(sorted({name for _, name in PRESETS}))
        raise UsageError(
            f"unknown environment {env_id!r}{nearest(env_id, gymnasium.registry)}: there are {with_preset}, and all "
            "others that Gymnasium knows, your own as module:Name-v0"
        ) from error


def _describe(error: BaseException) -> str:
    plain = (UsageError, Failure, ValueError, TypeError, RuntimeError, OSError)
    return str(error) if isinstance(error, plain) and str(error) else f"{type(error).__name__}: {error}"


def _report(error: BaseException) -> int:
    """Print what happened, on one line; returns the exit code."""
    if os.environ.get("FASTRL_TRACEBACK"):
        traceback.print_exception(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    message = "interrupted" if interrupted else " ".join(_describe(error).split())
    print(f"fastrl: {message}", file=sys.stderr)
    return 130 if interrupted else getattr(error, "code", 1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))  # Gymnasium colours its warnings for any output
    print(f"fastrl: warning: {' '.join(text.split()).removeprefix('WARN: ')}", file=sys.stderr)
