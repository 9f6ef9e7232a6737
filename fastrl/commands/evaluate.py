"""`fastrl eval`: how good a trained agent is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

import fastrl
from fastrl.checks import check_int
from fastrl.commands.common import EVAL_SEED, check_environment, describe, returns, score
from fastrl.flags import UsageError, parse
from fastrl.help import ALGORITHMS


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


def run(args: list[str]) -> None:
    """Evaluate as `args` say."""
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
        env_id = check_environment(env_id)
        model = getattr(fastrl, algorithm.upper()).load(file, env=env_id)
    except Exception as error:
        raise UsageError(describe(error)) from error
    print(f"{algorithm}, trained for {model.num_timesteps:,} steps, on {env_id}")
    print(f"Evaluated: {score(returns(model, env_id, options.episodes, options.seed))}")
