"""Priorities of the transitions in a ring: a sum tree and a minimum tree, each level an array.

A node has sixteen children side by side: floats fill one cache line, and a million leaves are five levels deep. A
batch goes down, or its changes up, level by level, so that the next line of each of its members is on its way from
memory while the others are at work. A parent is computed from its children and never corrected by a difference, so
that the trees depend on the priorities alone and not on what these were before.
"""

cimport cython
cimport numpy as cnp
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport pow, powf
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from fastrl_ext.groups cimport least, pick, pick_leaf, prefetch_line, total
from fastrl_ext.random cimport RandomStream

import numpy as np

cnp.import_array()

cdef Py_ssize_t LONG_WORK = 1 << 12  # leaves to visit; the GIL is worth releasing from here on

cdef enum:
    FAN = 16
    LINE = 64
    BLOCK = 256  # members of a batch that go through the levels together


cdef inline uint32_t bits_of(float value) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &value, sizeof(bits))
    return bits


cdef inline float float_of(uint32_t bits) noexcept nogil:
    cdef float value
    memcpy(&value, &bits, sizeof(value))
    return value


cdef bint paired(cnp.ndarray indices, cnp.ndarray priorities) noexcept:
    return (
        cnp.PyArray_TYPE(indices) == cnp.NPY_INT64
        and cnp.PyArray_TYPE(priorities) == cnp.NPY_FLOAT32
        and cnp.PyArray_NDIM(indices) == cnp.PyArray_NDIM(priorities) == 1
        and cnp.PyArray_DIM(indices, 0) == cnp.PyArray_DIM(priorities, 0)
        and cnp.PyArray_ISCARRAY_RO(indices)
        and cnp.PyArray_ISCARRAY_RO(priorities)
    )


@cython.final
cdef class PriorityTrees:
    """What buffers draw by, one thread at a time.

    Transitions are counted from 0 in the order of adding, `added` of them until now; number i lies in the leaf i
    modulo `capacity`. The minimum tree's leaves are p_i, the sum tree's p_i^α, float32 both, and 0 where there is no
    transition; sums are float64. New transitions get the highest p_i that was ever set, 1 at first.

    Args:
        capacity: leaves.
        alpha: α in [0, 1], with which no p_i^α is too small or too great for a float32.
    """

    def __cinit__(self, Py_ssize_t capacity, double alpha):
        if capacity < 1 or not 0 <= alpha <= 1:
            raise ValueError(f"capacity is {capacity} and alpha {alpha}; they must be at least 1 and in [0, 1]")
        self.capacity, self.alpha, self._highest = capacity, alpha, 1
        cdef Py_ssize_t count = capacity
        self._nodes[0] = count
        while self._top == 0 or count > 1:
            count = count // FAN + (count % FAN > 0)
            self._top += 1
            self._nodes[self._top] = count
        rows = [FAN * <object>self._nodes[level + 1] for level in range(self._top)] + [FAN]
        self._block = np.zeros(8 * rows[0] + 20 * sum(rows[1:]) + LINE, np.uint8)
        self.nbytes = self._block.nbytes
        cdef char* place = <char*>cnp.PyArray_DATA(self._block)
        place += -<Py_ssize_t>place & (LINE - 1)
        cdef Py_ssize_t row
        for level, row in enumerate(rows):
            if level == 0:
                self._mass = <float*>place
                place += row * sizeof(float)
            else:
                self._sum[level], self._begin[level] = <double*>place, <double*>place + row
                place += 2 * row * sizeof(double)
            self._least[level] = <uint32_t*>place
            place += row * sizeof(uint32_t)

    @property
    def highest(self):
        """The highest priority that was ever set; new transitions get it."""
        return self._highest

    def clear(self):
        """Forget all priorities, the highest too."""
        memset(self._mass, 0, self.nbytes - LINE)
        self._added, self._highest = 0, 1

    def priorities(self, int64_t added):
        """p_i of the stored transitions, by leaf: float32 [min(added, capacity)], a new array."""
        self._extend(added)
        cdef cnp.ndarray found = np.empty(min(added, self.capacity), np.float32)
        memcpy(cnp.PyArray_DATA(found), self._least[0], found.nbytes)
        return found

    def levels(self, int64_t added):
        """Both trees, leaves first: for each level its sums (of p_i^α) and minima (of p_i), new arrays."""
        cdef cnp.ndarray sums, minima
        cdef const char* source
        self._extend(added)
        found = []
        for level in range(self._top + 1):
            sums = np.empty(self._nodes[level], np.float64 if level else np.float32)
            minima = np.empty(self._nodes[level], np.float32)
            source = <const char*>self._sum[level] if level else <const char*>self._mass
            memcpy(cnp.PyArray_DATA(sums), source, sums.nbytes)
            memcpy(cnp.PyArray_DATA(minima), self._least[level], minima.nbytes)
            found.append((sums, minima))
        return found

    def restore(self, int64_t added, cnp.ndarray priorities, float highest):
        """Take over `priorities`, float32 [min(added, capacity)] by leaf, and `highest`; all positive and finite."""
        cdef Py_ssize_t n = min(added, self.capacity), leaf
        cdef cnp.ndarray values = np.array(priorities, np.float32, order="C").reshape(n)
        cdef const float* value = <const float*>cnp.PyArray_DATA(values)
        self.clear()
        self._added, self._highest = added, highest
        with nogil:
            for leaf in range(n):
                self._set_leaf(leaf, value[leaf])
            self._sum_range(0, n)

    @staticmethod
    def takes(indices, priorities):
        """Whether `update` can use these as they are; what else they may be it does not check."""
        return cnp.PyArray_CheckExact(indices) and cnp.PyArray_CheckExact(priorities) and paired(indices, priorities)

    def update(self, int64_t added, cnp.ndarray indices not None, cnp.ndarray priorities not None):
        """Set p_i for each i of `indices`, int64 [n], to that of `priorities`, float32 [n], both C-contiguous.

        The last of several for one i counts; where transition i has been overwritten nothing is changed.

        Raises:
            IndexError: an i that is no transition's.
            ValueError: a priority that is 0, negative, NaN or infinite.
            TypeError: other arrays.
        """
        if not paired(indices, priorities):
            raise TypeError(
                "indices and priorities must be int64 [n] and float32 [n], C-contiguous; got "
                f"{indices.dtype} {list((<object>indices).shape)} and {priorities.dtype} {list((<object>priorities).shape)}"
            )
        cdef Py_ssize_t n = len(indices), k
        if n >= LONG_WORK:  # what is checked may not be changed while the GIL is released
            indices, priorities = indices.copy(), priorities.copy()
        cdef const int64_t* index = <const int64_t*>cnp.PyArray_DATA(indices)
        cdef const float* priority = <const float*>cnp.PyArray_DATA(priorities)
        for k in range(n):
            if not 0 <= index[k] < added:
                raise IndexError(f"index {index[k]} is no transition's: {added} were added, counted from 0")
            if not 0 < priority[k] <= FLT_MAX:
                raise ValueError(
                    f"the priority of index {index[k]} is {priority[k]} as a float32; it must be above 0 and finite"
                )
        self._extend(added)
        if n < LONG_WORK:
            self._set(index, priority, n)
        else:
            with nogil:
                self._set(index, priority, n)

    def sample(self, int64_t added, RandomStream stream not None, Py_ssize_t n, double beta):
        """Draw `n` of the `added` transitions: new arrays, i int64 [n] as `update` takes them, weights float32 [n].

        Raises:
            ValueError: n or added below 1.
        """
        if n < 1 or added < 1:
            raise ValueError(f"cannot draw {n} of {added} transitions; both must be at least 1")
        cdef cnp.ndarray indices = np.empty(n, np.int64), weights = np.empty(n, np.float32)
        cdef int64_t* index = <int64_t*>cnp.PyArray_DATA(indices)
        cdef Py_ssize_t k
        self.draw(added, stream, index, n, beta, <float*>cnp.PyArray_DATA(weights))
        for k in range(n):  # the newest transition of each leaf
            index[k] = added - 1 - (added - 1 - index[k]) % self.capacity
        return indices, weights

    cdef void draw(
        self, int64_t added, RandomStream stream, int64_t* slots, Py_ssize_t n, double beta, float* weights
    ) noexcept:
        self._extend(added)
        if n < LONG_WORK:
            self._draw(stream, slots, n, beta, weights)
        else:
            with nogil:
                self._draw(stream, slots, n, beta, weights)

    cdef void _draw(self, RandomStream stream, int64_t* slots, Py_ssize_t n, double beta, float* weights) noexcept nogil:
        """Draw one leaf from each of `n` equal parts of the whole mass.

        The weights are (P_min / P_i)^β = ((N P_i)^-β) / max_j (N P_j)^-β, P being p^α over its sum (Schaul et al.
        2016, eq. 1 and section 3.4): N and the sum cancel.
        """
        cdef double points[BLOCK]
        cdef double part, mass, ratio
        cdef Py_ssize_t start = 0, count, k
        part = self._sum[self._top][0] / n
        mass = self._mass_of(float_of(self._least[self._top][0]))
        while start < n:
            count = min(BLOCK, n - start)
            stream.uniform(points, count)
            for k in range(count):
                points[k] = (start + k + points[k]) * part
            self._descend(points, slots + start, count)
            for k in range(start, start + count):
                ratio = mass / self._mass[slots[k]]
                weights[k] = powf(<float>ratio, <float>beta) if ratio > FLT_MIN else <float>pow(ratio, beta)
            start += count

    cdef void _descend(self, double* points, int64_t* nodes, Py_ssize_t n) noexcept nogil:
        """Find the leaves in which `points` of the mass fall.

        By rounding a point may be found behind the children of the node that it fell in. The last of them gets it;
        leaves of no mass are only behind the last transition, where none may go.
        """
        cdef int64_t last = min(self._added, self.capacity) - 1, node
        cdef Py_ssize_t k
        cdef int level
        memset(nodes, 0, n * sizeof(int64_t))
        for level in range(self._top - 1, 0, -1):
            for k in range(n):
                node = FAN * nodes[k]
                node = min(node + pick(self._begin[level] + node, &points[k]), last >> (4 * level))
                if level == 1:
                    prefetch_line(self._mass + FAN * node)
                else:
                    prefetch_line(self._begin[level - 1] + FAN * node)
                    prefetch_line(self._begin[level - 1] + FAN * node + FAN // 2)
                nodes[k] = node
        for k in range(n):
            node = FAN * nodes[k]
            nodes[k] = min(node + pick_leaf(self._mass + node, points[k]), last)

    cdef void _extend(self, int64_t added) noexcept:
        """Give the transitions that came since the last call the highest priority."""
        cdef int64_t first = max(self._added, added - self.capacity)
        cdef Py_ssize_t start = first % self.capacity, n = added - first, count
        self._added = added
        while n > 0:
            count = min(n, self.capacity - start)
            if count < LONG_WORK:
                self._fill(start, start + count)
            else:
                with nogil:
                    self._fill(start, start + count)
            n -= count
            start = 0

    cdef void _fill(self, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
        cdef float mass = self._mass_of(self._highest)
        cdef Py_ssize_t leaf
        for leaf in range(first, end):
            self._mass[leaf], self._least[0][leaf] = mass, bits_of(self._highest)
        self._sum_range(first, end)

    cdef void _sum_range(self, Py_ssize_t first, Py_ssize_t end) noexcept nogil:
        """Compute all that is above the leaves from `first` to before `end`, of which there must be one."""
        cdef Py_ssize_t node, last = end - 1
        cdef int level
        for level in range(1, self._top + 1):
            first, last = first // FAN, last // FAN
            for node in range(first, last + 1):
                self._sum_up(level, node)

    cdef void _set(self, const int64_t* indices, const float* priorities, Py_ssize_t n) noexcept nogil:
        cdef int64_t lap = self._added - self._added % self.capacity, gone = self._added - self.capacity
        cdef Py_ssize_t leaves[BLOCK]
        cdef float values[BLOCK]
        cdef Py_ssize_t start = 0, k, count
        while start < n:
            count = 0
            for k in range(start, min(n, start + BLOCK)):
                if indices[k] >= gone:
                    leaves[count] = indices[k] - (lap - (self.capacity & -<int64_t>(indices[k] < lap)))
                    values[count] = priorities[k]
                    prefetch_line(self._mass + leaves[count])
                    prefetch_line(self._least[0] + leaves[count])
                    count += 1
            for k in range(count):
                self._highest = max(self._highest, values[k])
                self._set_leaf(leaves[k], values[k])
            self._ascend(leaves, count)
            start += BLOCK

    cdef void _ascend(self, Py_ssize_t* nodes, Py_ssize_t n) noexcept nogil:
        """Compute all that is above the leaves `nodes`, which is written over; neighbours share most of the work."""
        cdef Py_ssize_t k, count
        cdef int level
        for level in range(1, self._top + 1):
            count = 0
            for k in range(n):
                if count == 0 or nodes[k] // FAN != nodes[count - 1]:
                    nodes[count] = nodes[k] // FAN
                    count += 1
            n = count
            for k in range(n):
                self._sum_up(level, nodes[k])

    cdef inline float _mass_of(self, float priority) noexcept nogil:
        return powf(priority, <float>self.alpha)

    cdef inline void _set_leaf(self, Py_ssize_t leaf, float priority) noexcept nogil:
        self._mass[leaf], self._least[0][leaf] = self._mass_of(priority), bits_of(priority)

    cdef inline void _sum_up(self, int level, Py_ssize_t node) noexcept nogil:
        cdef Py_ssize_t first = FAN * node, child
        cdef double sum = 0
        if level == 1:
            sum = total(self._mass + first)
        else:
            for child in range(first, first + FAN):
                self._begin[level - 1][child] = sum
                sum += self._sum[level - 1][child]
        self._sum[level][node] = sum
        self._least[level][node] = least(self._least[level - 1] + first)
