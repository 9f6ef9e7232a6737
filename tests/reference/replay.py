"""The obvious replay buffer, a list; and its random stream in Python's integers. They are the specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MASK = 2**64 - 1


def row(batch: Any, k: int) -> Any:
    """Element k of a batch of nested arrays, copied."""
    if isinstance(batch, dict):
        return {key: row(part, k) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(row(part, k) for part in batch)
    return np.array(batch[k])


def stack(rows: list[Any]) -> Any:
    """The inverse of `row`, for one element or more."""
    if isinstance(rows[0], dict):
        return {key: stack([r[key] for r in rows]) for key in rows[0]}
    if isinstance(rows[0], tuple):
        return tuple(stack([r[i] for r in rows]) for i in range(len(rows[0])))
    return np.stack(rows)


class ListReplay:
    """Transitions in a list; each is a tuple of what `add` was given."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.history = capacity, []

    def add(self, columns: tuple[Any, ...], n: int) -> None:
        self.history += [row(columns, k) for k in range(n)]

    def clear(self) -> None:
        self.history = []

    def __len__(self) -> int:
        return min(len(self.history), self.capacity)

    @property
    def indices(self) -> range:
        """Of what the buffer still holds."""
        return range(len(self.history) - len(self), len(self.history))

    def gather(self, indices: Any) -> tuple[Any, ...]:
        assert all(int(index) in self.indices for index in indices)
        return stack([self.history[int(index)] for index in indices])

    def slots(self) -> tuple[Any, ...]:
        """All that the buffer holds, by slot."""
        return stack([self.history[i] for i in sorted(self.indices, key=lambda i: i % self.capacity)])

    def recent(self, n: int) -> tuple[Any, ...]:
        return stack(self.history[len(self.history) - n :])


def xoshiro256pp(state: list[int]) -> Iterator[int]:
    """Blackman and Vigna's generator; `state` is changed in place."""

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & MASK

    while True:
        result = (rotate((state[0] + state[3]) & MASK, 23) + state[0]) & MASK
        t = state[1] << 17 & MASK
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = rotate(state[3], 45)
        yield result


def below(stream: Iterator[int], high: int) -> int:
    """Uniform in [0, high): every number gets equally many of the generator's values, the rest are refused."""
    if high <= 2**32:
        while True:
            product = (next(stream) >> 32) * high
            if product % 2**32 >= 2**32 % high:
                return product >> 32
    while True:
        x = next(stream)
        if x >= 2**64 % high:
            return x % high


def distinct(stream: Iterator[int], n: int, high: int) -> list[int]:
    """Floyd's sample of a set, then Fisher and Yates's shuffle."""
    picks: list[int] = []
    for top in range(high - n, high):
        pick = below(stream, top + 1)
        picks.append(top if pick in picks else pick)
    for k in range(n - 1, 0, -1):
        other = below(stream, k + 1)
        picks[k], picks[other] = picks[other], picks[k]
    return picks
