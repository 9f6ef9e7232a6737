"""Prioritised replay (Schaul et al. 2016): a batch drawn by priority, and new priorities for one that was drawn.

Weights are (N P(i))^-β over the greatest that any stored transition would have. Those of many draws after an update are
compared with what the priorities say, and so is how often rows are drawn.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import buffers
from benches.buffers import TENSORS
from benches.operation import Implementation, Missing, Operation, Work
from benches.transitions import Case, Rows, chunks, named, reading_once, spaces, transitions, whole
from fastrl import PrioritizedReplayBuffer

ALPHA, BETA = 0.6, 0.4
UPDATES = 64  # batches of new priorities, that take turns
CHECKED = 20_000  # rows that are drawn for the check
BINS = 20  # of rows in the order of their priorities, for χ²
CHI_SQUARE = 65.0  # of 19 degrees of freedom: once in 10⁶ times, were the rows drawn one by one


class Data(NamedTuple):
    case: Case
    stored: Rows  # [capacity]
    priority: np.ndarray  # [capacity] float32
    rows: np.ndarray  # [UPDATES, batch] int64, in each no row twice
    new: np.ndarray  # [UPDATES, batch] float32, their new priorities


class Filled(NamedTuple):
    """A library's buffer that holds the transitions, with their priorities."""

    sample: Callable[[], Any]
    read: Callable[[Any], tuple[Rows, Any]]  # of what `sample` returned: transitions, weights
    update: Callable[[Any, Any], Any]  # rows as numbers of slots, priorities
    kind: Callable[[np.ndarray], Any] = lambda x: x  # what its `update` takes


class Drawn(NamedTuple):
    batch: Rows
    rows: np.ndarray  # of many batches
    weights: np.ndarray  # float64, theirs


class Expected(NamedTuple):
    stored: Rows
    priority: np.ndarray


def data(case: Case) -> Data:
    """The first update raises the least priority, so that the greatest weight is another's."""
    rng = np.random.default_rng(1)
    priority, new = (np.abs(rng.standard_normal(n, np.float32)) for n in (case.capacity, (UPDATES, case.batch)))
    rows = np.stack([rng.choice(case.capacity, case.batch, replace=False, shuffle=False) for _ in range(UPDATES)])
    priority += np.float32(0.1)
    least = rows[0, 0]
    priority[least] = 0.01
    return Data(case, transitions(0, case.capacity, case.obs), priority, rows, new + np.float32(0.1))


def updated(data: Data) -> Expected:
    """What has to be drawn after the first update."""
    priority = data.priority.copy()
    priority[data.rows[0]] = data.new[0]
    return Expected(data.stored, priority)


def ours(data: Data, device: str | None = None) -> Filled:
    case = data.case
    buffer = PrioritizedReplayBuffer(case.capacity, *spaces(case), alpha=ALPHA, seed=0, device=device)
    for rows in chunks(case):
        buffer.add_batch(*data.stored.at(rows))
    buffer.update_priorities(np.arange(case.capacity), data.priority)
    return Filled(
        partial(buffer.sample, case.batch, BETA), lambda drawn: (Rows(*drawn[:6]), drawn.weights),
        buffer.update_priorities,
    )  # fmt: skip


def stable_baselines3(data: Data) -> Filled:
    raise Missing("it has no prioritised replay")


def cleanrl(data: Data) -> Filled:
    raise Missing("its one prioritised buffer is for Atari's frames, inside a script")


def rlox(data: Data) -> Filled:
    import rlox

    case, seeds = data.case, itertools.count()
    buffer = rlox.PrioritizedReplayBuffer(case.capacity, case.obs, 1, ALPHA, BETA)
    obs, action, reward, next_obs, terminated, truncated = data.stored
    flags = terminated.tolist(), truncated.tolist()
    for row in zip(obs, action.astype(np.float32)[:, None], reward.tolist(), *flags, next_obs, strict=True):
        buffer.push(*row)
    buffer.update_priorities(np.arange(case.capacity, dtype=np.uint64), data.priority.astype(np.float64))
    return Filled(
        lambda: buffer.sample(case.batch, next(seeds)), lambda drawn: (buffers.read_rlox(drawn), drawn["weights"]),
        buffer.update_priorities, lambda x: x.astype(np.uint64 if x.dtype == np.int64 else np.float64),
    )  # fmt: skip


def cpprb(data: Data) -> Filled:
    import cpprb

    case = data.case
    buffer = cpprb.PrioritizedReplayBuffer(case.capacity, buffers.cpprb_fields(case.obs), alpha=ALPHA, eps=0.0)
    for rows in chunks(case):
        stored = dict(zip(buffers.CPPRB, data.stored.at(rows), strict=True))
        buffer.add(**stored, priorities=data.priority[rows])
    return Filled(
        partial(buffer.sample, case.batch, BETA), lambda drawn: (buffers.read_cpprb(drawn), drawn["weights"]),
        buffer.update_priorities,
    )  # fmt: skip


def tianshou(data: Data) -> Filled:
    from tianshou.data import Batch, PrioritizedReplayBuffer

    case = data.case
    buffer = PrioritizedReplayBuffer(case.capacity, alpha=ALPHA, beta=BETA)
    buffer.set_batch(Batch(buffers.tianshou_batch(data.stored), policy=Batch()))
    buffer._size = case.capacity
    buffer.update_weight(np.arange(case.capacity), data.priority)
    return Filled(
        partial(buffer.sample, case.batch), lambda drawn: (buffers.read_tianshou(drawn[0]), drawn[0].weight),
        buffer.update_weight,
    )  # fmt: skip


def torchrl(data: Data) -> Filled:
    import torch
    from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

    case = data.case
    try:
        importlib.import_module("torchrl._torchrl")
    except ImportError:
        raise Missing("torchrl._torchrl, its trees in C++, does not load with this version of Torch") from None
    storage = LazyTensorStorage(case.capacity)
    buffer = PrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=storage, batch_size=case.batch)
    for rows in chunks(case):
        buffer.extend(buffers.torchrl_rows(data.stored.at(rows)))
    buffer.update_priority(torch.arange(case.capacity), torch.from_numpy(data.priority))
    return Filled(
        partial(buffer.sample, return_info=True),
        lambda drawn: (buffers.read_torchrl(drawn[0]), drawn[1]["priority_weight"]),
        buffer.update_priority, torch.from_numpy,
    )  # fmt: skip


def many(filled: Filled, drawn: Any, batch: int) -> Drawn:
    """The batch, and what else it takes to see how the rows are drawn."""
    first, rows, weights = filled.read(drawn)[0], [], []
    for _ in range(CHECKED // batch):
        batch_drawn, given = filled.read(drawn)
        rows.append(np.asarray(batch_drawn.obs)[:, 0].astype(np.int64))
        weights.append(np.asarray(given).astype(np.float64).ravel())  # a copy: the next draw changes cpprb's
        drawn = filled.sample()
    return Drawn(first, np.stack(rows), np.stack(weights))


def by_priority(drawn: Drawn, expected: Expected) -> None:
    """Whole transitions, drawn as often as they should be."""
    whole(drawn.batch, expected.stored)
    share = expected.priority.astype(np.float64) ** ALPHA
    order = np.argsort(expected.priority)
    ends = np.searchsorted(np.cumsum(share[order]), np.linspace(0, share.sum(), BINS + 1)[1:-1])
    bin_of = np.empty(len(order), np.int64)
    bin_of[order] = np.searchsorted(ends, np.arange(len(order)), side="right")
    wanted = np.bincount(bin_of, share, BINS) / share.sum() * drawn.rows.size
    found = np.bincount(bin_of[drawn.rows.ravel()], minlength=BINS)
    chi_square = ((found - wanted) ** 2 / wanted).sum()
    assert chi_square < CHI_SQUARE, f"rows are not drawn by their priorities: χ² of {BINS} bins is {chi_square:.0f}"


def right(drawn: Drawn, expected: Expected) -> None:
    by_priority(drawn, expected)
    wanted = (expected.priority[drawn.rows].astype(np.float64) / expected.priority.min()) ** (-ALPHA * BETA)
    np.testing.assert_allclose(drawn.weights, wanted, rtol=1e-3, err_msg="weights")


def right_up_to_a_factor(drawn: Drawn, expected: Expected) -> None:
    greatest = drawn.weights.max(axis=1, keepdims=True)
    by_priority(drawn, expected)
    wanted = expected.priority[drawn.rows].astype(np.float64) ** (-ALPHA * BETA)
    wanted /= wanted.max(axis=1, keepdims=True)
    np.testing.assert_allclose(drawn.weights / greatest, wanted, rtol=1e-3, err_msg="weights")


def sampling(fill: Callable[[Data], Filled], data: Data) -> Work:
    filled = fill(data)
    filled.update(filled.kind(data.rows[0]), filled.kind(data.new[0]))
    fresh = reading_once(filled.sample, data.case.batch, data.case.capacity, data.case.row_bytes)
    return Work(filled.sample, lambda drawn: many(filled, drawn, data.case.batch), fresh)


def updating(fill: Callable[[Data], Filled], data: Data) -> Work:
    """Each call another batch; after the first one the check."""
    filled = fill(data)
    pairs = itertools.cycle([(filled.kind(a), filled.kind(b)) for a, b in zip(data.rows, data.new, strict=True)])
    update = filled.update
    return Work(lambda: update(*next(pairs)), lambda _: many(filled, filled.sample(), data.case.batch))


OF_THE_BATCH = "normalises weights by the greatest of the batch, not of the buffer"
BUFFERS: dict[str, tuple[Callable[[Data], Filled], dict[str, Any]]] = {
    "fastrl": (ours, {"role": "ours"}),
    TENSORS: (partial(ours, device="cpu"), {"role": "ours", "needs": ("torch",)}),
    "Stable-Baselines3": (stable_baselines3, {}),
    "CleanRL": (cleanrl, {}),
    "rlox": (rlox, {"needs": ("rlox",)}),
    "cpprb": (cpprb, {"needs": ("cpprb",)}),
    "Tianshou": (tianshou, {"needs": ("tianshou",), "why": OF_THE_BATCH}),
    "TorchRL": (torchrl, {"needs": ("torchrl", "tensordict")}),
}


def implementations(how: Callable[[Callable[[Data], Filled], Data], Work]) -> dict[str, Implementation]:
    """Tensors are handed out by `sample` alone."""
    made = {name: Implementation(partial(how, fill), **options) for name, (fill, options) in BUFFERS.items()}
    if how is not sampling:
        return {name: implementation for name, implementation in made.items() if name != TENSORS}
    return made | {"TorchRL": made["TorchRL"]._replace(beside=TENSORS)}


CASES = named(Case(4, 64, 100_000), Case(8, 256, 1_000_000), Case(376, 256, 100_000))
CAPACITIES = {"capacity": {n: Case(4, 256, n) for n in (1000, 10_000, 100_000, 1_000_000)}}

PRIORITISED_SAMPLE = Operation(
    "Prioritised replay: sample a batch", CASES, data, updated, implementations(sampling), right, CAPACITIES
)
PRIORITISED_ANY_SCALE = Operation(
    "Prioritised replay: sample a batch, weights up to a factor", dict(list(CASES.items())[:2]), data, updated,
    implementations(sampling), right_up_to_a_factor,
)  # fmt: skip
PRIORITISED_UPDATE = Operation(
    "Prioritised replay: new priorities for a batch", dict(list(CASES.items())[:2]), data, updated,
    implementations(updating), right_up_to_a_factor, CAPACITIES,
)  # fmt: skip
