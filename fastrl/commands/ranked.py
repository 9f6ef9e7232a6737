"""`fastrl train` as one of several ranks, which torchrun has started: rank 0 does what it always does, the others help.

Rank 0 alone reads and writes the directory of the run: what the others need of it, it tells them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastrl
from fastrl import checkpoints, runs
from fastrl.commands.common import describe
from fastrl.commands.plan import Plan, path_after
from fastrl.commands.training import terminated_like_interrupted
from fastrl.distributed.joining import TIMEOUT, Group, process_group
from fastrl.files import remove_unfinished
from fastrl.flags import UsageError
from fastrl.ranks import RankLost

DIRECTORY = "directory"
PATIENCE = "FASTRL_RANK_TIMEOUT"  # seconds, in the environment


def run(args: list[str], lead: Callable[[list[str], Group], list[float]]) -> list[float]:
    """Train as one rank; `lead` is what rank 0 does. Returns what that returns, on other ranks nothing."""
    with contextlib.ExitStack() as held:
        try:
            ranks = held.enter_context(process_group(_patience()))
        except (ValueError, ConnectionError) as error:
            raise UsageError(str(error)) from error
        if not ranks.is_first:
            with contextlib.suppress(RankLost), terminated_like_interrupted():  # rank 0 says what happened
                _check_alike(ranks, args)
                _follow(ranks)
                return []
            sys.exit(1)
        _check_alike(ranks, args)
        try:
            return lead(_again(ranks, args), ranks)
        finally:
            with contextlib.suppress(RankLost):
                _tell(ranks, None)


def _patience() -> float:
    given = os.environ.get(PATIENCE)
    try:
        return TIMEOUT if given is None else float(given)
    except ValueError:
        raise UsageError(f"{PATIENCE} is {given!r} in the environment; it must be a number of seconds") from None


def _check_alike(ranks: Group, args: list[str]) -> None:
    for rank, text in enumerate(told := ranks.gather(json.dumps(args).encode())):
        if text != told[0]:
            first, other = (" ".join(json.loads(words)) for words in (told[0], text))
            raise UsageError(
                f"the ranks were started with different arguments: rank 0 with {first}; rank {rank} with {other}"
            )


def _again(ranks: Group, args: list[str]) -> list[str]:
    """The words of an attempt after the first: it goes on where the last one was cut off."""
    if (kept := ranks.recall(DIRECTORY)) is None or path_after("--resume", args) is not None:
        return args
    remove_unfinished(Path(kept))
    if not (Path(kept) / runs.CONFIG).is_file():
        return args if path_after("--out", args) is not None else [*args, "--out", kept]
    print("A rank has ended before its time: all of them go on", flush=True)
    named = args[: next((i for i, word in enumerate(args[:2]) if word.startswith("-")), 2)]
    return [*named, "--resume", kept, *(word for word in args if word == "--no-progress")]


def check(ranks: Group | None, plan: Plan) -> None:
    """Raise a UsageError for what several ranks cannot share."""
    if ranks is None or ranks.size == 1:
        return
    if not getattr(fastrl, plan.algorithm.upper()).data_parallel:
        raise UsageError(
            f"{plan.algorithm} does not train over several ranks: use ppo or reinforce, one process, or for DQN "
            "fastrl.distributed.apex"
        )
    if plan.options.seeds is not None:
        raise UsageError("--seeds and torchrun do not combine: --ray spreads the seeds over a cluster")
    try:
        for name in ("n_envs", "batch_size"):
            ranks.share(name, plan.arguments.get(name, ranks.size))
    except ValueError as error:
        raise UsageError(str(error)) from error


def remember(ranks: Group | None, directory: Path) -> None:
    """Let later attempts know where the run's files are."""
    if ranks is not None:
        ranks.remember(DIRECTORY, str(directory.absolute()))


def together(ranks: Group | None, plan: Plan, make: Callable[[], Any], file: Path | None = None) -> Any:
    """The model that `make` gives, while the other ranks make theirs by `plan`, or of the checkpoint `file`."""
    if ranks is None:
        return make()
    _tell(ranks, plan, file)
    return ranks.together(make, describe)


def _tell(ranks: Group, plan: Plan | None, file: Path | None = None) -> None:
    """Tell the other ranks what to do, once; None tells them that there is nothing."""
    from fastrl.algorithms.options import to_json  # imports Torch

    if ranks.told:
        return
    ranks.told = True
    order = None
    if plan is not None:
        arguments = {name: to_json(value) for name, value in plan.arguments.items()}
        order = [plan.algorithm, plan.env_id, arguments, plan.options.total_timesteps]
    ranks.first(json.dumps(order).encode())
    ranks.first(b"" if file is None else file.read_bytes())


def _follow(ranks: Group) -> None:
    """What a rank other than the first does: it learns, and nothing else."""
    from fastrl.algorithms.options import from_json

    order, data = json.loads(ranks.first(b"")), ranks.first(b"")
    if order is None:
        return
    algorithm, env_id, arguments, total = order
    cls, arguments = getattr(fastrl, algorithm.upper()), {**from_json(arguments), "verbose": 0}

    def make() -> Any:
        if not data:
            return cls("MlpPolicy", env_id, **arguments)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / runs.MODEL
            file.write_bytes(data)
            return checkpoints.load(cls, file, env=env_id, device=arguments["device"], verbose=0)

    model = ranks.together(make, describe)
    if model.num_timesteps < total:
        model.learn(total - model.num_timesteps, reset_num_timesteps=False)
