"""Replay buffers that are full: one transition more, those of many environments at once, and a batch drawn."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from functools import partial

import numpy as np

from benches.buffers import BUFFERS, OF_TENSORS, TENSORS, Filled
from benches.limits import library
from benches.operation import Implementation, Missing, Operation, Work
from benches.transitions import ADDED, Case, Data, Rows, data, named, reading_once, whole

C_FIELDS = ("obs", "next_obs", "action", "reward", "terminated", "truncated")


def records(case: Case, stored: Rows) -> np.ndarray:
    """The transitions, each in one piece, as limits.c reads them."""
    formats = [(np.float32, case.obs), (np.float32, case.obs), np.int64, np.float32, np.bool_, np.bool_]
    size = 4 * case.obs
    offsets = [0, size, *(2 * size + k for k in (0, 8, 12, 13))]
    block = np.empty(
        case.capacity, {"names": C_FIELDS, "formats": formats, "offsets": offsets, "itemsize": case.row_bytes}
    )
    for name in C_FIELDS:
        block[name] = getattr(stored, name)
    return block


def c_loop(data: Data) -> Work:
    loops, case = library(), data.case
    if loops is None:
        raise Missing("no C compiler")
    block, observations = records(case, data.stored), np.empty((2, case.batch, case.obs), np.float32)
    numbers = [np.empty(case.batch, dtype) for dtype in (np.int64, np.float32, np.uint8, np.uint8, np.int64)]
    source, *out = (np.ctypeslib.as_ctypes(array) for array in (block.view(np.uint8), *observations, *numbers))
    sizes = (ctypes.c_long(n) for n in (case.row_bytes, 4 * case.obs, case.capacity, case.batch))
    call = partial(loops.sample, source, *sizes, *out)
    call()
    drawn = dict(zip(C_FIELDS, (*observations, *numbers), strict=False))
    whole(Rows(**drawn), data.stored)
    return Work(call, fresh=reading_once(call, case.batch, case.capacity, case.row_bytes))


def memory_copy(data: Data) -> Work:
    """A batch's bytes, that lie together; each call those of another place."""
    case, n = data.case, data.case.batch
    block = np.ones((case.capacity, case.row_bytes), np.uint8)
    places = [block[k : k + n] for k in np.random.default_rng(0).integers(0, len(block) - n + 1, 4096)]
    following, out = itertools.cycle(places), np.empty_like(places[0])

    def call() -> None:
        np.copyto(out, next(following))

    return Work(call, fresh=reading_once(call, n, case.capacity, case.row_bytes))


def all_of_them(result: Rows, added: Rows) -> None:
    whole(result, added)
    assert len(np.unique(np.asarray(result.obs)[:, 0])) == len(added.obs), "rows that were added are not there"


def fresh(data: Data, round: int) -> None:
    """Other numbers in the arrays that are added."""
    first = round % ADDED * data.case.envs
    for mine, new in zip(data.own, data.new.at(slice(first, first + data.case.envs)), strict=True):
        np.copyto(mine, new)


def adding(fill: Callable[[Data], Filled], data: Data) -> Work:
    filled = fill(data)
    return Work(filled.add, filled.newest, partial(fresh, data))


def sampling(fill: Callable[[Data], Filled], data: Data) -> Work:
    filled, case = fill(data), data.case
    return Work(filled.sample, filled.read, reading_once(filled.sample, case.batch, case.capacity, case.row_bytes))


def implementations(how: Callable[[Callable[[Data], Filled], Data], Work]) -> dict[str, Implementation]:
    """Tensors are handed out by `sample` alone; what hands them out is compared with ours that does."""
    made = {name: Implementation(partial(how, fill), **options) for name, (fill, options) in BUFFERS.items()}
    if how is not sampling:
        return {name: implementation for name, implementation in made.items() if name != TENSORS}
    return made | {name: made[name]._replace(beside=TENSORS) for name in OF_TENSORS}


CASES = named(Case(4, 64, 100_000), Case(8, 256, 1_000_000), Case(376, 256, 100_000))
RING = 102_400  # a multiple of all numbers of environments

REPLAY_ADD = Operation(
    "Replay: add one transition", CASES, data, lambda data: data.new.at(slice(1)), implementations(adding), all_of_them
)
REPLAY_ADD_BATCH = Operation(
    "Replay: add the transitions of many environments", named(Case(4, 64, RING, 64), Case(376, 64, RING, 64)), data,
    lambda data: data.new.at(slice(data.case.envs)), implementations(adding), all_of_them,
    sweeps={"environments": {n: Case(4, 64, RING, n) for n in (1, 4, 16, 64, 256, 1024)}},
    unit="transition", per=lambda case: case.envs,
)  # fmt: skip
REPLAY_SAMPLE = Operation(
    "Replay: sample a batch", CASES, data, lambda data: data.stored,
    {
        **implementations(sampling),
        "C loop": Implementation(c_loop, role="bound"),
        "memory copy": Implementation(memory_copy, role="bound"),
    },
    whole,
    sweeps={
        "batch": {n: Case(4, n, 100_000) for n in (1, 16, 64, 256, 1024, 4096)},
        "capacity": {n: Case(4, 256, n) for n in (1000, 10_000, 100_000, 1_000_000, 10_000_000)},
    },
)  # fmt: skip
