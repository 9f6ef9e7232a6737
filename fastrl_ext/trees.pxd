cimport numpy as cnp
from libc.stdint cimport int64_t, uint32_t

from fastrl_ext.random cimport RandomStream


cdef enum:
    MAX_LEVELS = 17  # 16 ** 16 leaves are more than can be addressed


cdef class PriorityTrees:
    cdef readonly Py_ssize_t capacity
    cdef readonly double alpha
    cdef readonly Py_ssize_t nbytes
    cdef cnp.ndarray _block
    cdef int _top  # the level of the root
    cdef Py_ssize_t _nodes[MAX_LEVELS]
    cdef float* _mass  # level 0 of the sum tree
    cdef double* _sum[MAX_LEVELS]  # its levels from 1 on
    cdef double* _begin[MAX_LEVELS]  # the sum of what lies before a node among the children of its parent
    cdef uint32_t* _least[MAX_LEVELS]  # the minimum tree, floats as their bits
    cdef int64_t _added
    cdef float _highest

    # `n` leaves of the `added` transitions, at least one of which is stored, and their importance weights.
    cdef void draw(
        self, int64_t added, RandomStream stream, int64_t* slots, Py_ssize_t n, double beta, float* weights
    ) noexcept
    cdef void _draw(self, RandomStream stream, int64_t* slots, Py_ssize_t n, double beta, float* weights) noexcept nogil
    cdef void _descend(self, double* points, int64_t* nodes, Py_ssize_t n) noexcept nogil
    cdef void _extend(self, int64_t added) noexcept
    cdef void _fill(self, Py_ssize_t first, Py_ssize_t end) noexcept nogil
    cdef void _set(self, const int64_t* indices, const float* priorities, Py_ssize_t n) noexcept nogil
    cdef void _ascend(self, Py_ssize_t* nodes, Py_ssize_t n) noexcept nogil
    cdef void _sum_range(self, Py_ssize_t first, Py_ssize_t end) noexcept nogil
    cdef void _sum_up(self, int level, Py_ssize_t node) noexcept nogil
    cdef float _mass_of(self, float priority) noexcept nogil
    cdef void _set_leaf(self, Py_ssize_t leaf, float priority) noexcept nogil
