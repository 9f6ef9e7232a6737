from libc.stdint cimport int64_t, uint64_t


cdef struct State:
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d


cdef class RandomStream:
    cdef State _state

    # False, and nothing drawn, where memory is lacking, which only `replace=False` needs.
    cdef bint fill(self, int64_t* out, Py_ssize_t n, int64_t high, bint replace) noexcept nogil

    # `n` numbers uniform in [0, 1), from the upper 53 bits of each draw.
    cdef void uniform(self, double* out, Py_ssize_t n) noexcept nogil
