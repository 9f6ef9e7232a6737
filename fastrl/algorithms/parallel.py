"""What a run over several ranks does beside learning: it checks that they belong together, and keeps them so."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import platform
import re
import sys
import warnings
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastrl.algorithms.options import to_json
from fastrl.algorithms.saving import hyperparameters, own_state
from fastrl.learners.optimizers import optimizer_tensors
from fastrl.normalize import Moments
from fastrl.ranks import Ranks, largest_difference

if TYPE_CHECKING:
    from fastrl.algorithms.base import Algorithm

LIBRARIES = ("torch", "numpy", "numba", "gymnasium")


class Share:
    """One rank's share of a run of `learn`, which every rank has called.

    Raises:
        ValueError: where ranks differ in code, settings or what they have learnt from; the same on every rank.
        RankLost: wherever ranks meet, if one is missing.
    """

    def __init__(self, model: Algorithm, total_timesteps: int) -> None:
        self.model, self.ranks = model, model.ranks
        model._gathered_at = -1
        told = [json.loads(text) for text in self.ranks.gather(json.dumps(_settings(model, total_timesteps)).encode())]
        if difference := largest_difference(told):
            raise ValueError(f"the ranks do not belong together: {difference}. Start all of them alike")
        for x in [*_tensors(model), *itertools.chain(*_moments(model))]:
            self.ranks.spread(x)
        self._moments = self._copy_moments()
        self._waiting: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Count from where the run begins."""
        self._steps = 0  # of this rank, since ranks have met
        self._finished: list[tuple[float, int]] = []
        self._episodes = list(self.model.episodes)

    def note(self, n_steps: int, finished: list[tuple[float, int]]) -> None:
        """Steps and episodes of this rank."""
        self._steps += n_steps
        self._finished += finished

    def merge(self) -> None:
        """After a rollout: count the steps and episodes of all, and merge what is known of observations and rewards.

        Of the episodes that are told of, each rank brings its last ones, as many as its share of the window.
        """
        model, own = self.model, len(self._finished)
        kept = max(1, model.stats_window_size // self.ranks.size)
        row = np.full(2 + 2 * kept, np.nan)
        row[:2] = self._steps, own
        last = np.array(self._finished[-kept:], np.float64).ravel()
        row[2 : 2 + len(last)] = last
        table = self.ranks.rows(row)
        model.num_timesteps += int(table[:, 0].sum()) - self._steps
        model.num_episodes += int(table[:, 1].sum()) - own
        pairs = table[:, 2:].reshape(-1, 2)
        self._episodes += [(float(r), int(n)) for r, n in pairs[~np.isnan(pairs).any(1)]]
        self._episodes = self._episodes[-model.stats_window_size :]
        model.episodes.clear()
        model.episodes.extend(self._episodes)
        self._steps, self._finished = 0, []
        if model.normalizer is not None:
            for before, now in zip(self._moments, _moments(model), strict=True):
                self._merge(before, now)
            self._moments = self._copy_moments()

    def _merge(self, before: Moments, now: Moments) -> None:
        """What each rank has seen since `before`, which all had in common, into `now`."""
        # Sums about the common mean, so that nothing is lost where it is large. Each rank's own count holds `before`'s.
        away = now.mean - before.mean
        sums = np.concatenate([now.seen, now.seen * away, now.seen * (now.var + away**2)])
        if not self.ranks.is_first:
            sums -= np.concatenate([before.seen, np.zeros_like(away), before.seen * before.var])
        self.ranks.add_up(sums)
        n, (first, second) = sums[0], np.split(sums[1:], 2)
        now.seen[0], now.mean[:] = n, before.mean + first / n
        now.var[:] = second / n - (first / n) ** 2

    def _copy_moments(self) -> list[Moments]:
        return [Moments(*(x.copy() for x in moments)) for moments in _moments(self.model)]

    def average(self) -> None:
        """Parameters and moments of the optimiser ← their means over all ranks, by one all-reduce."""
        tensors = [x for x in _tensors(self.model) if x.is_floating_point()]
        shared = torch.cat([x.reshape(-1) for x in tensors]) / self.ranks.size
        self.ranks.add_up(shared)
        for x, mean in zip(tensors, shared.split([x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view_as(x))

    def agree(self, going_on: bool, interrupted: bool) -> tuple[bool, bool]:
        """After an iteration: (whether all ranks go on, whether one was interrupted); does what waits for all."""
        digest = functools.reduce(lambda crc, p: zlib.crc32(_bytes(p), crc), self.model.learner.parameters, 0)
        stop, asked, waiting, highest, lowest = self.ranks.greatest(
            not going_on, interrupted, bool(self._waiting), digest, -digest
        )
        if highest != -lowest:
            self._mend()
        if waiting:
            self.gather()
            for action in self._waiting:
                action()
            self._waiting.clear()
        return not stop and not asked, bool(asked)

    def _mend(self) -> None:
        """Processors that round otherwise let parameters drift apart, by a bit at a time."""
        for tensor in _tensors(self.model):
            self.ranks.spread(tensor)
        if self.ranks.is_first:
            warnings.warn(
                "the ranks' parameters had drifted apart, as on processors of different kinds; rank 0's count, and the "
                "same seed may not give the same result again", stacklevel=2,
            )  # fmt: skip

    def when_whole(self, action: Callable[[], None]) -> None:
        """See `Algorithm.when_whole`."""
        if self.ranks.is_first:
            self._waiting.append(action)

    def gather(self) -> None:
        """Bring what saving needs of the other ranks to rank 0."""
        from safetensors.numpy import load, save

        header, arrays = own_state(self.model)
        headers = self.ranks.gather(json.dumps(header).encode(), everywhere=False)
        states = self.ranks.gather(save(arrays), everywhere=False)
        self.model._of_ranks = [(json.loads(h), load(s)) for h, s in zip(headers, states, strict=True)]
        self.model._gathered_at = self.model.num_timesteps


def check_group(model: Algorithm) -> None:
    """Raise a ValueError unless `model` belongs to the process group that there is now."""
    here = Ranks.here()
    if here.size > 1 and not model.data_parallel:
        raise ValueError(
            f"{type(model).__name__} does not train over the {here.size} ranks of a process group: use PPO or "
            "REINFORCE, or for DQN fastrl.distributed.apex"
        )
    if model.data_parallel and (here.rank, here.size) != (model.ranks.rank, model.ranks.size):
        raise ValueError(
            f"the model was made as rank {model.ranks.rank} of {model.ranks.size}, and this is rank {here.rank} of "
            f"{here.size}: make or load it once the process group is there, and learn before it is left"
        )


def _settings(model: Algorithm, total_timesteps: int) -> dict[str, Any]:
    """What has to be the same on every rank."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    names = [name for name in hyperparameters(type(model)) if name not in LOCAL]
    return {
        "fastrl's code": _digest(*sorted(Path(__file__).parents[1].rglob("*.py"))),
        "the script": _digest(Path(script)) if script and Path(script).is_file() else "",
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "the algorithm": type(model).__name__,
        **{name: _alike(to_json(getattr(model, name, None))) for name in names},
        "the environment": model.env_id,
        "n_envs": model._copies,
        "the number of a rank's environments": model.num_envs,
        "the observation space": str(model.observation_space),
        "the action space": str(model.action_space),
        "the engine": model.engine,
        "the parameters": [[name, *p.shape] for name, p in model.policy.state_dict().items()],
        "the optimiser's state": sorted(optimizer_tensors(model.learner.optimizer)),
        "the steps taken": model.num_timesteps,
        "the number of updates": model.n_updates,
        "total_timesteps": total_timesteps,
    }


def _alike(value: Any) -> Any:
    """`value` in JSON's types, without where in memory functions and objects lie: the digests tell them apart."""
    return json.loads(re.sub(r" at 0x[0-9a-f]+", "", json.dumps(value)))


LOCAL = {"verbose", "tensorboard_log", "n_envs", "engine"}  # of one rank's own, or told otherwise


@functools.cache
def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _tensors(model: Algorithm) -> list[torch.Tensor]:
    """All that the policy and its optimiser consist of."""
    return [*model.policy.state_dict().values(), *optimizer_tensors(model.learner.optimizer).values()]


def _moments(model: Algorithm) -> list[Moments]:
    return [] if model.normalizer is None else [model.normalizer.obs_stats, model.normalizer.return_stats]


def _bytes(p: torch.Tensor) -> Any:
    return p.detach().cpu().reshape(-1).view(torch.uint8).numpy()
