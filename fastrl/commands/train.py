"""`fastrl train`: an agent from an algorithm and an environment, and the directory that it leaves."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import fastrl
from fastrl import runs
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int
from fastrl.commands.common import EVAL_SEED, Failure, check_environment, describe, returns, score, writing_to
from fastrl.flags import UsageError, constructor_arguments, hyperparameter_flags, nearest, parse
from fastrl.help import ALGORITHMS, HELP_FLAGS, TRAIN_HELP, with_preset
from fastrl.presets import PRESETS, preset


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


def run(args: list[str]) -> None:
    """Train as `args` say."""
    if not args or args[0] in HELP_FLAGS:
        print(TRAIN_HELP)
        return
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
        raise UsageError(describe(error)) from error
    try:
        directory = runs.make_directory(options.out, algorithm, env_id)
    except OSError as error:
        raise UsageError(f"cannot use {options.out or 'runs'}: {error.strerror or error}") from error
    with writing_to(directory):
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
    return algorithm, check_environment(args[1]), args[2:]


def _run(model: Any, env_id: str, options: RunOptions, directory: Path) -> None:
    """Train, save whatever came of it, evaluate, and say where everything is."""
    file, curve = directory / "model.fastrl", directory / "curve.png"
    title = f"{type(model).__name__} on {env_id}, seed {model.seed}"
    metrics = runs.Metrics(directory / "metrics.csv", options.total_timesteps)
    failure: BaseException | None = None
    started = time.perf_counter()
    with GracefulInterrupt() as interrupt, writing_to(directory):  # an impatient Ctrl-C must not stop the saving
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
        raise Failure(f"{describe(failure)} ({kept})") from failure

    print(f"Trained {steps:,} steps in {seconds:.1f} s, {steps / seconds:,.0f} steps/s", flush=True)
    if options.eval_episodes:
        reached = returns(model, env_id, options.eval_episodes, EVAL_SEED)
        print(f"Evaluated: {score(reached)}")
        with writing_to(directory):
            runs.draw_curve(curve, metrics.rows, title, reached)
    print(f"Files in {directory}: model.fastrl, curve.png, metrics.csv, config.json")
    where = ["--env", env_id] if ":" in env_id else []
    print(f"Try next: {shlex.join(['fastrl', 'eval', str(file), *where])}")
