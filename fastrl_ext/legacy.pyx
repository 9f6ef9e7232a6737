"""NumPy's global random stream, the one that `numpy.random.seed` seeds, without the cost of its Python functions."""

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint32_t
from numpy.random cimport bitgen_t

import numpy as np
from numpy.random import get_bit_generator

cnp.import_array()


def integers(int64_t low, int64_t high, Py_ssize_t n):
    """What `numpy.random.randint(low, high, n)` would return, int64 [n], leaving the stream in the same state.

    NumPy has frozen that stream (its NEP 19): 32 random bits at a time under the smallest mask that covers the range,
    drawn again where they exceed it; none where there is but one number to draw from.

    Raises:
        ValueError: n below 0, or no numbers from `low` to `high` - 1.
    """
    if n < 0 or low >= high:
        raise ValueError(f"cannot draw {n} integers from [{low}, {high})")
    if high - low > 0xFFFFFFFF:
        return np.random.randint(low, high, n, np.int64)
    cdef cnp.npy_intp size = n
    cdef cnp.ndarray out = cnp.PyArray_EMPTY(1, &size, cnp.NPY_INT64, 0)
    cdef int64_t* number = <int64_t*>cnp.PyArray_DATA(out)
    cdef uint32_t top = <uint32_t>(high - low - 1), mask = top, bits
    cdef Py_ssize_t k
    cdef bitgen_t* stream
    for k in range(5):
        mask |= mask >> (1 << k)
    generator = get_bit_generator()
    stream = <bitgen_t*>PyCapsule_GetPointer(generator.capsule, "BitGenerator")
    with generator.lock:
        for k in range(n):
            bits = 0
            if top != 0:
                bits = stream.next_uint32(stream.state) & mask
                while bits > top:
                    bits = stream.next_uint32(stream.state) & mask
            number[k] = low + <int64_t>bits
    return out
