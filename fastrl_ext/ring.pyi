from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastrl_ext.lock import Lock
from fastrl_ext.random import RandomStream
from fastrl_ext.store import Store
from fastrl_ext.trees import PriorityTrees

COLUMNS: tuple[str, str, str, str, str, str]

class Ring(Store):
    _lock: Lock
    _rng: RandomStream
    _added: int
    _first: int
    _file: Any
    _ragged: bool
    capacity: int
    num_envs: int

    def __init__(
        self,
        records: NDArray[Any],
        leaves: Iterable[tuple[str, np.dtype[Any], tuple[int, ...]]],
        capacity: int,
        num_envs: int,
        seed: int | Iterable[int] | np.random.SeedSequence | None,
        n_finite: int,
        sample_type: type[Any] | None,
        n_step: int,
        gamma: float,
        stack: int,
        file: Any = None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def clear(self) -> None: ...
    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any = False,
        **extra: Any,
    ) -> None: ...
    def sample(self, batch_size: int, *, replace: bool = True, out: Any = None) -> Any: ...
    def gather(self, indices: ArrayLike, *, out: Any = None) -> Any: ...
    def _forget(self) -> None: ...
    def _restart(self, first: int, added: int, ragged: bool) -> None: ...
    def _sample_by(
        self, trees: PriorityTrees, batch_size: int, beta: float, out: Any, weights: Any
    ) -> tuple[Any, NDArray[np.float32]]: ...
    def _newest(self, n: int) -> Any: ...
    def _add_rows(self, rows: list[NDArray[Any]], n: int) -> None: ...
