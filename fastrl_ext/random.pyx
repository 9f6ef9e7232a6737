"""Random indices: xoshiro256++ (Blackman and Vigna 2021, Scrambled Linear Pseudorandom Number Generators)."""

cimport cython
cimport numpy as cnp
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

cnp.import_array()


cdef inline uint64_t rotate(uint64_t x, int by) noexcept nogil:
    return (x << by) | (x >> (64 - by))


cdef inline uint64_t draw(State* s) noexcept nogil:
    cdef uint64_t result = rotate(s.a + s.d, 23) + s.a, t = s.b << 17
    s.c ^= s.a
    s.d ^= s.b
    s.b ^= s.c
    s.a ^= s.d
    s.c ^= t
    s.d = rotate(s.d, 45)
    return result


cdef inline uint64_t below(State* s, uint64_t high) noexcept nogil:
    """Uniform in [0, high): a multiplication where 32 bits suffice (Lemire 2019, Fast Random Integer Generation)."""
    cdef uint64_t x
    if high <= <uint64_t>1 << 32:
        x = (draw(s) >> 32) * high
        if <uint32_t>x < high:
            while <uint32_t>x < ((<uint64_t>1 << 32) - high) % high:
                x = (draw(s) >> 32) * high
        return x >> 32
    x = draw(s)
    while x < (0 - high) % high:
        x = draw(s)
    return x % high


cdef inline bint insert(int64_t* table, uint64_t slots, int64_t value) noexcept nogil:
    """Whether `value` was new to the hash table."""
    cdef uint64_t slot = ((<uint64_t>value * <uint64_t>0x9E3779B97F4A7C15) >> 20) & (slots - 1)
    while table[slot] != -1:
        if table[slot] == value:
            return False
        slot = (slot + 1) & (slots - 1)
    table[slot] = value
    return True


cdef bint distinct(State* s, int64_t* out, Py_ssize_t n, int64_t high) noexcept nogil:
    """`n` different integers of [0, high) in random order; False where memory is lacking.

    Floyd's algorithm (Bentley and Floyd 1987, A Sample of Brilliance) needs memory for `n` of them, not for all.
    """
    cdef Py_ssize_t k
    cdef int64_t pick
    cdef uint64_t slots = 4
    while slots < 2 * <uint64_t>n:
        slots *= 2
    cdef int64_t* table = <int64_t*>malloc(slots * sizeof(int64_t))
    if table is NULL:
        return False
    memset(table, 0xFF, slots * sizeof(int64_t))
    for k in range(n):
        pick = below(s, high - n + k + 1)
        if not insert(table, slots, pick):
            pick = high - n + k
            insert(table, slots, pick)
        out[k] = pick
    free(table)
    for k in range(n - 1, 0, -1):
        pick = below(s, k + 1)
        out[k], out[pick] = out[pick], out[k]
    return True


@cython.final
cdef class RandomStream:
    """Random indices, from a seed: None, an int, a sequence of ints or a numpy.random.SeedSequence."""

    def __init__(self, seed=None):
        if not isinstance(seed, np.random.SeedSequence):
            seed = np.random.SeedSequence(seed)
        self.state = seed.generate_state(4, np.uint64)

    @property
    def state(self):
        """uint64 [4], a new array. Assigning one resumes from there; ValueError where it is not a state."""
        return np.array([self._state.a, self._state.b, self._state.c, self._state.d], np.uint64)

    @state.setter
    def state(self, value):
        words = np.asarray(value)
        if words.dtype != np.uint64 or words.shape != (4,) or not words.any():
            raise ValueError(f"a random state is uint64 [4] and not all zero; got {words!r}")
        self._state.a, self._state.b, self._state.c, self._state.d = words.tolist()

    def integers(self, Py_ssize_t n, int64_t high, bint replace=True):
        """`n` integers of [0, high), int64 [n]: independent, or without `replace` all different."""
        if n < 0 or high < 1 or not (replace or n <= high):
            raise ValueError(f"cannot draw {n} integers below {high} with replace={replace}")
        cdef cnp.ndarray out = np.empty(n, np.int64)
        if not self.fill(<int64_t*>cnp.PyArray_DATA(out), n, high, replace):
            raise MemoryError(f"no memory to draw {n} distinct integers")
        return out

    cdef bint fill(self, int64_t* out, Py_ssize_t n, int64_t high, bint replace) noexcept nogil:
        cdef State state = self._state  # a local, so that it stays in registers: `out` might alias a member
        cdef Py_ssize_t k
        if replace:
            for k in range(n):
                out[k] = below(&state, high)
        elif not distinct(&state, out, n, high):
            return False
        self._state = state
        return True

    cdef void uniform(self, double* out, Py_ssize_t n) noexcept nogil:
        cdef State state = self._state
        cdef Py_ssize_t k
        for k in range(n):
            out[k] = (draw(&state) >> 11) * (1.0 / (<uint64_t>1 << 53))
        self._state = state
