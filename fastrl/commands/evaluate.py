"""`fastrl eval`: how good a trained agent is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from fastrl.checks import check_int
from fastrl.commands.common import EVAL_SEED, describe, load_agent, returns, score
from fastrl.flags import UsageError, parse


@dataclass
class EvalOptions:
    """What to evaluate, where and how often.

    Args:
        file: a model that `fastrl train` wrote, or the directory it is in.
        env: environment to evaluate in; None for the one that the agent was trained in.
        episodes: how many episodes.
        seed: of the environments; the default is what `fastrl train` evaluates with.
        json: print one line of JSON, with the return of each episode.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    env: str | None = None
    episodes: int = 100
    seed: int = EVAL_SEED
    json: bool = False


def run(args: list[str]) -> None:
    """Evaluate as `args` say."""
    if not args:
        raise UsageError("fastrl eval needs a model file, such as runs/ppo-CartPole-v1-1/model.fastrl")
    options = parse(EvalOptions, args, "fastrl eval", "Evaluate a trained agent: the mean return of whole episodes.")
    try:
        check_int("episodes", options.episodes)
        check_int("seed", options.seed, 0)
    except ValueError as error:
        raise UsageError(describe(error)) from error
    model, env_id = load_agent(options.file, options.env)
    reached = returns(model, env_id, options.episodes, options.seed)
    about = {"algorithm": type(model).__name__, "env": env_id, "timesteps": model.num_timesteps}
    if options.json:
        result = {"mean": float(np.mean(reached)), "std": float(np.std(reached)), "returns": reached}
        print(json.dumps({**about, "seed": options.seed, "episodes": options.episodes, **result}))
        return
    print(f"{about['algorithm']}, trained for {model.num_timesteps:,} steps, on {env_id}")
    print(f"Evaluated: {score(reached)}")
