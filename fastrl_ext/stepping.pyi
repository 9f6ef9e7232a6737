from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def step_each(
    envs: list[Any],
    actions: Sequence[Any] | NDArray[Any],
    like: NDArray[Any],
    take: Callable[..., None],
    failure: Callable[[int, str, Exception], Exception],
    infos: list[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], int]: ...
def tally(
    reward: NDArray[np.float64],
    valid: NDArray[np.bool_],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    returns: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> int: ...
def put_row(t: int, columns: tuple[NDArray[Any], ...], values: tuple[NDArray[Any], ...]) -> None: ...
def all_finite(array: NDArray[Any]) -> bool: ...
