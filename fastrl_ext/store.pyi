from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST_STACK: int

class Store:
    _records: NDArray[Any]
    @property
    def _beside(self) -> int: ...
    def _frames_beside(self, n: int) -> tuple[NDArray[np.int32], NDArray[np.int32], list[NDArray[Any]]]: ...
    def _set_frames_beside(
        self, own: NDArray[np.int32], older: NDArray[np.int32], frames: list[NDArray[Any]]
    ) -> None: ...
