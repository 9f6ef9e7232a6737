from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

class RandomStream:
    """Random indices, from a seed: None, an int, a sequence of ints or a numpy.random.SeedSequence."""

    def __init__(self, seed: int | Iterable[int] | np.random.SeedSequence | None = None) -> None: ...
    @property
    def state(self) -> NDArray[np.uint64]: ...
    @state.setter
    def state(self, value: NDArray[np.uint64]) -> None: ...
    def integers(self, n: int, high: int, replace: bool = True) -> NDArray[np.int64]: ...
