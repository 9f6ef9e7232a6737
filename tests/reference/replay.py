"""The obvious replay buffer, a list; and its random stream in Python's integers. They are the specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.reference.returns import n_step_window

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


class EnvironmentsInStep(ListReplay):
    """The same where every environment adds in its turn, and a drawn transition may span several steps."""

    def __init__(self, capacity: int, num_envs: int, n_step: int, gamma: float) -> None:
        super().__init__(capacity)
        self.num_envs, self.n_step, self.gamma = num_envs, n_step, gamma

    def gather(self, indices: Any) -> tuple[Any, ...]:
        """With the discounts as an eighth part where n_step > 1; rewards and discounts are float64 there."""
        assert all(int(index) in self.indices for index in indices)
        return self.spans([int(index) for index in indices])

    def recent(self, n: int) -> tuple[Any, ...]:
        return self.spans(range(len(self.history) - n, len(self.history)))

    def spans(self, ordinals: Any) -> tuple[Any, ...]:
        if self.n_step == 1:
            return stack([self.history[i] for i in ordinals])
        return stack([self.span(i) for i in ordinals])

    def span(self, first: int) -> tuple[Any, ...]:
        steps = self.history[first :: self.num_envs]
        rewards, terminated, truncated = ([step[k] for step in steps] for k in (2, 4, 5))
        outcomes = list(zip(rewards, terminated, truncated, strict=True))
        total, weight, end = n_step_window(outcomes, 0, self.n_step, self.gamma)
        return (*steps[0][:2], np.float64(total), *steps[end][3:6], steps[0][6], np.float64(weight))


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
