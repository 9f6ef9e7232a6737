import numpy as np
from numpy.typing import NDArray

def integers(low: int, high: int, n: int) -> NDArray[np.int64]: ...
