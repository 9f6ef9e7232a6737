"""Transitions that buffers are filled with: their first number is the row's own.

So a row that was drawn says which one it is, and has to be that one in all its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

CHUNK = 10_000  # rows that are added at once while filling
ADDED = 8  # sets of transitions that take turns in being added


class Rows(NamedTuple):
    """Transitions, arrays [n, ...]; `obs[:, 0]` is the number of the row."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any = None  # which not all peers hand out

    def at(self, rows: Any) -> Rows:
        return Rows(*(x[rows] for x in self))


class Case(NamedTuple):
    obs: int  # numbers, float32
    batch: int
    capacity: int
    envs: int = 1  # transitions that are added at once

    @property
    def row_bytes(self) -> int:
        """Of a record, padded to eight bytes."""
        return (8 * self.obs + 14 + 7) // 8 * 8

    def __str__(self) -> str:
        drawn = f"batch {self.batch} of" if self.envs == 1 else f"{self.envs} environments, capacity"
        return f"obs {self.obs}, {drawn} {self.capacity:,}"


class Data(NamedTuple):
    case: Case
    stored: Rows  # [capacity]
    new: Rows  # [ADDED * envs]
    own: Rows  # [envs], what is added: some of the new ones, changed in place


def named(*cases: Case) -> dict[str, Case]:
    return {str(case): case for case in cases}


def transitions(first: int, n: int, obs_size: int, ends: float = 0.1) -> Rows:
    """Of these, so many parts are terminated, and as many truncated."""
    rng = np.random.default_rng(first)
    obs, next_obs = (rng.standard_normal((n, obs_size), np.float32) for _ in range(2))
    obs[:, 0] = np.arange(first, first + n)
    end = rng.random(n)
    flags = end < ends, (end >= ends) & (end < 2 * ends)
    return Rows(obs, rng.integers(0, 2, n), rng.standard_normal(n, np.float32), next_obs, *flags)


def data(case: Case) -> Data:
    new = transitions(case.capacity, ADDED * case.envs, case.obs)
    new.terminated[0], new.truncated[0] = True, False  # so that the check of one row sees the flag
    return Data(case, transitions(0, case.capacity, case.obs), new, Rows(*(x[: case.envs].copy() for x in new)))


def spaces(case: Case) -> tuple[Box, Discrete]:
    return Box(-np.inf, np.inf, (case.obs,), np.float32), Discrete(2)


def reading_once(sample: Callable[[], Any], batch: int, rows: int, row_bytes: int) -> Callable[[int], None]:
    """Before the first round, draw until hardly a page of the buffer is left that was not read since it was filled.

    The first reading of a page takes a microsecond more on virtual machines, which is nothing of the buffer's.
    """
    pages = min(rows, rows * row_bytes // 4096)

    def fresh(round: int) -> None:
        for _ in range(5 * pages // batch + 1 if round == 0 else 0):
            sample()

    return fresh


def chunks(case: Case) -> list[slice]:
    return [slice(first, min(first + CHUNK, case.capacity)) for first in range(0, case.capacity, CHUNK)]


def whole(result: Rows, stored: Rows) -> None:
    """Every row is one of those stored, in all its parts; few are drawn twice."""
    drawn = np.asarray(result.obs)
    rows = drawn[:, 0].astype(np.int64) - int(stored.obs[0, 0])
    assert ((rows >= 0) & (rows < len(stored.obs))).all(), "rows that were never stored"
    assert len(np.unique(rows)) > min(len(rows), len(stored.obs)) / 2, "the same rows again and again"
    for name in Rows._fields[:5]:
        expected = getattr(stored, name)[rows]
        given = np.asarray(getattr(result, name)).reshape(expected.shape)
        np.testing.assert_array_equal(given, expected, err_msg=f"{name} is not that of its row")
