"""Other libraries' tensors as NumPy arrays and back, without importing Torch."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrl.rollouts import as_array, is_tensor


def numbers(name: str, x: Any) -> NDArray[Any]:
    """`x` as an array on the same memory. ValueError for a tensor that is not on the CPU; TypeError for no numbers."""
    array = as_array(name, x)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has the dtype {array.dtype}; it must hold real numbers")
    return array


def common_dtype(**arrays: NDArray[Any]) -> np.dtype[Any]:
    """The one dtype of all `arrays`, float32 or float64; TypeError where they differ or are of another."""
    dtypes = {name: array.dtype for name, array in arrays.items()}
    if len(set(dtypes.values())) > 1 or (dtype := next(iter(dtypes.values()))) not in (np.float32, np.float64):
        got = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"the numbers must all be float32 or all float64; got {got}")
    return dtype


def to_kind(like: Any, array: NDArray[Any]) -> Any:
    """`array` as a tensor on the same memory where `like` is one."""
    return sys.modules["torch"].from_numpy(array) if is_tensor(like) else array
