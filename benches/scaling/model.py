"""A cost model of data-parallel PPO: what an iteration takes, fitted to measurements, and what that says of many."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from benches.scaling.runs import Run

Measured = list[tuple[Run, dict[str, float]]]
METRICS = 6  # numbers that travel with the gradient


def messages(ranks: int) -> int:
    """One after the other in a ring all-reduce (Patarasuk and Yuan 2009): ranks − 1 to add up, as many to share."""
    return 2 * (ranks - 1)


def reduced(run: Run) -> tuple[int, float]:
    """How many all-reduces an update has, and the bytes that each rank sends in all of them."""
    vectors, numbers = (run.minibatches, run.minibatches) if run.average == "gradients" else (1, 3)
    return vectors + 2, messages(run.ranks) / run.ranks * 4 * numbers * (run.parameters + METRICS)


@dataclass(frozen=True)
class Cost:
    """Seconds. Of a rank with n environments, b rows of each minibatch and P parameters:

    rollout = T (step + n (each + environment)) + an all-reduce of counters,
    update = minibatches (call + row b P + adam P) + rest + all-reduces, of gradients, moments and agreement,
    where a ring all-reduce takes reduce + messages · trip · delay + bytes · byte, if there are several ranks.
    """

    step: float  # of all environments of a rank at once
    each: float  # environment: acting, and what surrounds its step
    call: float  # of a minibatch
    row: float  # and parameter, forward and backward
    adam: float  # and parameter
    rest: float  # of an iteration
    reduce: float  # an all-reduce, whatever is between the ranks
    byte: float
    trip: float  # ways from one rank to another that a message has to wait for, one after the other; no seconds

    def rollout(self, run: Run) -> float:
        """Seconds of gathering experience."""
        own = run.n_steps * (self.step + run.n_envs / run.ranks * (self.each + (run.env_us or 0) * 1e-6))
        return own + self.network(run, 1, 0.0)

    def network(self, run: Run, reduces: int, sent: float) -> float:
        """Seconds of so many all-reduces, in which a rank sends so many bytes."""
        if run.ranks == 1:
            return 0.0
        waiting = messages(run.ranks) * self.trip * (run.delay_ms or 0.0) * 1e-3
        return reduces * (self.reduce + waiting) + sent * self.byte

    def update(self, run: Run) -> float:
        """Seconds of learning."""
        rows = run.batch_size / run.ranks
        own = self.call + self.row * rows * run.parameters + self.adam * run.parameters
        return run.minibatches * own + self.rest + self.network(run, *reduced(run))

    def iteration(self, run: Run) -> float:
        """Seconds of both."""
        return self.rollout(run) + self.update(run)


def fit(measured: Measured) -> Cost:
    """The cost, none of it negative, of least relative error for rollouts and updates.

    Compiled environments have costs of their own: fit them apart.
    """
    names = list(Cost.__dataclass_fields__)
    nothing = Cost(*[0.0] * len(names))
    rows, targets = [], []
    for run, seconds in measured:
        free = replace(run, env_us=0 if run.env_us is not None else None)
        for part in ("rollout", "update"):
            known = nothing.rollout(run) if part == "rollout" else 0.0
            unit = [getattr(replace(nothing, **{name: 1.0}), part)(free) for name in names]
            rows.append(np.array(unit) / seconds[part])
            targets.append(1 - known / seconds[part])
    table = np.array(rows)
    scale = np.where(table.any(0), np.abs(table).max(0), 1)
    return Cost(*(nnls(table / scale, np.array(targets))[0] / scale))


def errors(cost: Cost, measured: Measured) -> list[float]:
    """Of each run's iteration, predicted over measured, less one."""
    return [cost.iteration(run) / seconds["iteration"] - 1 for run, seconds in measured]


@dataclass(frozen=True)
class Network:
    """What joins many ranks: seconds of a message one way, bytes a second, a ring or a tree, of gloo or of nccl."""

    name: str
    delay: float
    bandwidth: float
    reduce: float | None = None  # of an all-reduce, whatever is between ranks; None for the fitted
    tree: bool = False
    trip: float | None = None  # as of `Cost`

    def seconds(self, cost: Cost, run: Run, reduces: int, sent: float) -> float:
        """Of so many all-reduces, in which a rank sends so many bytes."""
        hops = 2 * math.ceil(math.log2(run.ranks)) if self.tree else messages(run.ranks)
        each = cost.reduce if self.reduce is None else self.reduce
        trip = cost.trip if self.trip is None else self.trip
        return reduces * (each + hops * trip * self.delay) + sent / self.bandwidth


# Assumed, not measured: 15 µs one way between two machines by TCP; nccl a kernel's launch and 3 µs a hop.
ETHERNET = Network("10 Gb/s Ethernet, gloo", 15e-6, 1.25e9)
INFINIBAND = Network("NVLink or InfiniBand, nccl", 3e-6, 25e9, reduce=20e-6, tree=True, trip=1.0)


def slowest(ranks: int, spread: float) -> float:
    """How many times a rank's own rollout that of the slowest takes: about, for a normal one of this deviation."""
    return 1 + spread * math.sqrt(2 * math.log(ranks)) if ranks > 1 else 1.0


def speedup(cost: Cost, run: Run, network: Network, spread: float = 0.0) -> float:
    """Of `run`, on as many machines as it has ranks, over one rank with the same settings."""
    alone, local = cost.iteration(replace(run, ranks=1)), replace(cost, reduce=0.0, trip=0.0, byte=0.0)
    reduces, sent = reduced(run)
    together = local.rollout(run) * slowest(run.ranks, spread) + local.update(run)
    return alone / (together + network.seconds(cost, run, reduces + 1, sent))


def grown(run: Run, ranks: Iterable[int]) -> list[Run]:
    """`run` with as many environments and rows a minibatch for each of more ranks: weak scaling."""
    return [replace(run, ranks=n, n_envs=run.n_envs * n, batch_size=run.batch_size * n) for n in ranks]
