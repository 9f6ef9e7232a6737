"""Vectors of a few numbers for kernels: `load` them, calculate with + - * / & |, also with numbers, `store` them.

Numba has no `restrict`, and the compiler does not vectorise a loop over arrays that might overlap. A kernel that
speaks of vectors itself is vectorised everywhere: LLVM splits them to what the processor has, and may fuse a product
with a sum. What the functions mean stands here; with NUMBA_DISABLE_JIT=1 this is what runs, on NumPy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import config

__all__ = [
    "at", "below", "exponent", "flat", "greatest", "load", "maximum", "minimum", "nonzero", "picked", "positive",
    "power_of_two", "rint", "scatter", "shift", "splat", "spread", "sqrt", "store", "strided", "total", "where",
    "zeros",
]  # fmt: skip

if TYPE_CHECKING or config.DISABLE_JIT:

    def zeros(array: Any, lanes: int) -> Any:
        """A vector of `lanes` zeros, a constant, of the array's dtype: the pattern of others. Its `len` is `lanes`."""
        return np.zeros(lanes, array.dtype)

    def flat(array: Any) -> Any:
        """The numbers of a contiguous array as a 1-D one, a view; its memory is not counted as in use."""
        return array.reshape(-1)

    def load(array: Any, i: int, like: Any) -> Any:
        """As many numbers of a contiguous 1-D array as `like` has lanes, from `i` on; of bools, a mask. Unchecked."""
        return array[i : i + len(like)].copy()

    def store(array: Any, i: int, vector: Any) -> None:
        """Write the vector's numbers into a contiguous 1-D array of its dtype, from `i` on. Unchecked."""
        array[i : i + len(vector)] = vector

    def strided(array: Any, i: int, stride: int, last: int, like: Any) -> Any:
        """Lane k takes number i + k stride of a contiguous 1-D array; those beyond lane `last` take its. Unchecked."""
        return array[i + stride * np.minimum(np.arange(len(like)), last)]

    def scatter(array: Any, i: int, stride: int, last: int, vector: Any) -> None:
        """Write lane k, up to lane `last`, to number i + k stride of a contiguous 1-D array. Unchecked."""
        array[i + stride * np.arange(last + 1)] = vector[: last + 1]

    def picked(array: Any, column: int, order: Any, i: int, last: int, like: Any) -> Any:
        """Lane k takes array[order[i + k], column] of a contiguous 2-D or 1-D array; as `strided`."""
        rows = order[i + np.minimum(np.arange(len(like)), last)]
        return array.reshape(len(array), -1)[rows, column].astype(like.dtype)

    def splat(number: Any, like: Any) -> Any:
        """`number` in each lane of a vector like `like`."""
        return np.full_like(like, number)

    def spread(vector: Any) -> Any:
        """The first lane in each lane."""
        return np.full_like(vector, vector[0])

    def shift(vector: Any, by: int, fill: Any) -> Any:
        """Lane i takes lane i + `by`, a constant; the last lanes take the first ones of `fill`."""
        return np.concatenate([vector, fill])[by : by + len(vector)]

    def where(mask: Any, one: Any, other: Any) -> Any:
        """`one` in the lanes where the mask is set, `other` elsewhere."""
        return np.where(mask, one, other)

    def nonzero(vector: Any) -> Any:
        """The mask of the lanes that are not 0."""
        return vector != 0

    def minimum(one: Any, other: Any) -> Any:
        """The lesser in each lane, of two vectors or a vector and a number; also of two numbers. NaN in `one` stays."""
        return np.minimum(one, other)

    def maximum(one: Any, other: Any) -> Any:
        """The greater in each lane; as `minimum`."""
        return np.maximum(one, other)

    def positive(vector: Any) -> Any:
        """The mask of the lanes that are greater than 0."""
        return vector > 0

    def sqrt(vector: Any) -> Any:
        """The square root in each lane."""
        return np.sqrt(vector)

    def total(vector: Any) -> Any:
        """The sum of all lanes, in any order."""
        return vector.sum()

    def greatest(vector: Any) -> Any:
        """The greatest of all lanes."""
        return vector.max()

    def below(like: Any, number: int) -> Any:
        """The mask of the lanes 0 … number - 1."""
        return np.arange(len(like)) < number

    def at(like: Any, number: int) -> Any:
        """The mask of one lane."""
        return np.arange(len(like)) == number

    def rint(vector: Any) -> Any:
        """The nearest whole number, the even one of two; also of a number."""
        return np.rint(vector)

    def exponent(vector: Any) -> Any:
        """The whole number e of each x = m 2^e, 1 ≤ m < 2, of positive float32 numbers."""
        return np.float32(np.frexp(vector)[1] - 1)

    def power_of_two(vector: Any) -> Any:
        """2 to the power of whole float32 numbers of -126 … 127; also of one. Of NaN, anything."""
        return np.ldexp(np.float32(1), np.int32(np.nan_to_num(vector)))

else:
    from fastrl.kernels._simd import (
        at,
        below,
        exponent,
        flat,
        greatest,
        load,
        maximum,
        minimum,
        nonzero,
        picked,
        positive,
        power_of_two,
        rint,
        scatter,
        shift,
        splat,
        spread,
        sqrt,
        store,
        strided,
        total,
        where,
        zeros,
    )
