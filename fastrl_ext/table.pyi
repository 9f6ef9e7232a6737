from typing import Any

from numpy.typing import NDArray

class Table:
    """A structured array [n], C-contiguous, written `width` rows at a time."""

    def __init__(self, records: NDArray[Any], width: int = 0, n_finite: int = 0, masked: bool = False) -> None: ...
    def put(self, first: int, values: tuple[Any, ...]) -> bool: ...
    def take(self, indices: NDArray[Any]) -> list[NDArray[Any]]: ...
