"""One block of records, and how rows of bytes get in and out of it."""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastrl_ext.assemble cimport CHUNK, Columns, assemble, observed
from fastrl_ext.copies cimport prefetch, prefetch_line, put, take
from fastrl_ext.fields cimport Field, describe, fits
from fastrl_ext.frames cimport MAX_STACK, Frames, keep, listed, next_of, older_of, reserve, row_at, store, vacate
from fastrl_ext.windows cimport Steps

import numpy as np

cnp.import_array()

LONGEST_STACK = MAX_STACK

cdef Py_ssize_t AHEAD = 1 << 13  # bytes to be written next that are asked for, at most
cdef Py_ssize_t BLOCK = 1 << 14  # bytes of records that are on their way while as many are copied


cdef class Store:
    """The records of a ring, of which each field may be anywhere in its record.

    Args:
        records: [slots], the block: a structured dtype, C-contiguous. With the int32 fields "_next" and, where an
            observation is a stack, "_older", it keeps each observation once: see frames.pxd.
        leaves: (name, dtype, shape) of each field of a transition, in the order in which rows come and go.
        stride: from a record to the following one of its environment.
        n_finite: how many leading fields must be finite where they hold floats.
        n_step, gamma: steps that a drawn transition spans, and the discount of each.
        stack: frames in an observation, along its first axis; 1 where records hold all of it.
    """

    def __dealloc__(self):
        PyMem_Free(self._fields)
        free(self._frames.after)
        free(self._frames.pool)

    def __init__(
        self, cnp.ndarray records, leaves, Py_ssize_t stride, int n_finite, int n_step, double gamma, int stack
    ):
        if self._fields is not NULL:
            raise RuntimeError("a ring is initialised once")
        dtype = records.dtype
        columns = [*leaves, ("indices", np.int64, ()), ("discount", np.float32, ())]
        self._names = tuple(name for name, *_ in columns)
        self._templates = [np.empty((0, *shape), kind) for _, kind, shape in columns]
        self._fields = <Field*>PyMem_Calloc(len(columns), sizeof(Field))
        if self._fields is NULL:
            raise MemoryError(f"no memory for {len(columns)} fields")
        self._n_fields = len(leaves)
        self._n_outputs = self._n_fields + (1 if n_step == 1 else 2)
        self._records, self._shared = records, "_next" in dtype.names
        reward, terminated = self._names.index("reward"), self._names.index("terminated")
        for k, name in enumerate(self._names[: self._n_fields]):
            place = name if name in dtype.names else name.replace("next_obs", "obs", 1)
            describe(&self._fields[k], self._templates[k], dtype.fields[place][1], k < n_finite)
            self._fields[k].part = dtype[place].itemsize
            self._width += self._fields[k].size
        for k in range(self._n_fields, len(columns)):
            describe(&self._fields[k], self._templates[k], 0, False)
        longest = (len(records) + stride - 1) // max(1, stride)  # records of one environment
        self._steps = Steps(
            base=<char*>cnp.PyArray_DATA(records), step=dtype.itemsize, slots=len(records), stride=stride,
            reward=dtype.fields["reward"][1], terminated=dtype.fields["terminated"][1],
            truncated=dtype.fields["truncated"][1], n_step=min(n_step, longest), gamma=gamma,
        )  # fmt: skip
        self._columns = Columns(fields=self._fields, n=self._n_fields, reward=reward, terminated=terminated, discount=NULL)
        if self._shared:
            self._frames.steps, self._frames.stack = &self._steps, stack
            self._frames.obs, self._frames.next_obs = self._fields, &self._fields[reward + 1]
            self._frames.n_leaves, self._frames.size = terminated - reward - 1, 1
            self._frames.next_at = dtype.fields["_next"][1]
            self._frames.older_at = dtype.fields["_older"][1] if stack > 1 else 0
            for k in range(self._frames.n_leaves):
                self._frames.size = max(self._frames.size, self._fields[k].offset + self._fields[k].part)
        if self._shared or n_step > 1:
            self._chunk = max(1, min(CHUNK // stack, BLOCK // self._width))

    @property
    def _beside(self):
        """Bytes of memory that are in use beside the records."""
        return self._frames.rows * (self._frames.size + sizeof(int32_t))

    cdef list _rows(self, Py_ssize_t n, out):
        """An array [n, ...] for each field and for what else a sample tells: new ones, or those of `out`, checked."""
        cdef cnp.npy_intp dims[64]
        cdef Field* f
        cdef int k, axis
        cdef list rows
        if self._fields is NULL:
            raise RuntimeError(f"{type(self).__name__}.__init__ has not been called")
        if out is not None:
            rows = self._unpack(out)
            for k in range(self._n_outputs):
                if not fits(&self._fields[k], rows[k], n):
                    self._misfit(k, rows[k], n)
            return rows
        rows = []
        dims[0] = n
        for k in range(self._n_outputs):
            f = &self._fields[k]
            for axis in range(f.ndim):
                dims[1 + axis] = f.dims[axis]
            rows.append(cnp.PyArray_EMPTY(1 + f.ndim, dims, f.type_num, 0))
        return rows

    def _misfit(self, k, row, n):
        template = self._templates[k]
        got = f"{row.dtype} {list(row.shape)}" if isinstance(row, np.ndarray) else type(row).__name__
        raise ValueError(
            f"out.{self._names[k]} must be a writable C-contiguous array {template.dtype} {[n, *template.shape[1:]]}; "
            f"got {got}"
        )

    cdef void _empty(self) noexcept:
        free(self._frames.after)
        free(self._frames.pool)
        self._frames.after, self._frames.pool, self._frames.vacant = NULL, NULL, 0
        self._frames.rows = self._frames.spare = 0

    cdef Py_ssize_t _put(self, int64_t number, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t done = 0, slot = number % self._steps.slots, count, begun, rows, i
        while done < n:
            count = min(n - done, self._steps.slots - slot)
            if self._shared:
                # one round of the environments at a time, which `add` brings: all of it is stored, or nothing
                begun = done % self._steps.stride
                count = min(count, self._steps.stride - begun)
                rows = min(n - done, self._steps.stride) * (2 * self._frames.stack - 1)
                if begun == 0 and not reserve(&self._frames, rows):
                    return done
                for i in range(done, done + count):
                    store(&self._frames, number + i, i)
            self._put_fields(slot, done, count)
            done += count
            slot = slot + count if slot + count < self._steps.slots else 0
        self._request(slot, min(n, self._steps.slots - slot))
        return n

    cdef void _request(self, Py_ssize_t slot, Py_ssize_t n) noexcept nogil:
        """Have the memory of the next `n` records brought near while the environment takes its step."""
        cdef Py_ssize_t size = n * self._steps.step, byte
        if size <= AHEAD:
            for byte in range(0, size, 64):  # a line each
                prefetch_line(self._steps.base + slot * self._steps.step + byte)

    cdef void _put_fields(self, Py_ssize_t slot, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
        cdef Field* f
        cdef int k
        for k in range(self._n_fields):
            if self._shared and observed(&self._columns, k):
                continue
            f = &self._fields[k]
            put(
                self._steps.base + slot * self._steps.step + f.offset, self._steps.step, f.source + start * f.size, n,
                f.size,
            )  # fmt: skip

    cdef void _take(self, const int64_t* slot, Py_ssize_t n) noexcept nogil:
        """Each block of records is copied while the next is on its way."""
        cdef Py_ssize_t step = self._steps.step, block = max(1, BLOCK // step), start = 0, count
        cdef Field* f
        cdef int k
        prefetch(self._steps.base, step, slot, min(n, block))
        while start < n:
            count = min(block, n - start)
            prefetch(self._steps.base, step, slot + start + count, min(block, n - start - count))
            for k in range(self._n_fields):
                f = &self._fields[k]
                take(f.target + start * f.size, self._steps.base + f.offset, step, slot + start, count, f.size)
            start += count

    cdef void _assemble(self, const int64_t* slot, Py_ssize_t n, Py_ssize_t start, Py_ssize_t newest) noexcept nogil:
        self._columns.discount = NULL
        if self._n_outputs > self._n_fields + 1:
            self._columns.discount = <float*>self._fields[self._n_fields + 1].target
        assemble(&self._columns, &self._steps, &self._frames if self._shared else NULL, slot, n, start, newest)

    def _frames_beside(self, Py_ssize_t n):
        """What the first `n` records say of frames that lie beside them.

        Returns:
            own: int32 [n], how many frames of its own next_obs has.
            older: int32 [n], how many older frames of its own obs has, or else, not above 0, where they are.
            frames: for each field of obs an array of all these frames, by record, those of next_obs first, oldest
                first.
        """
        cdef Frames* beside = &self._frames
        cdef Py_ssize_t total = max(0, beside.rows - 1 - beside.spare), at = 0, i
        cdef int32_t[::1] own = np.zeros(n, np.int32), older = np.zeros(n, np.int32), row = np.zeros(total + 1, np.int32)
        cdef list frames = []
        cdef cnp.ndarray array
        cdef Field* f
        for i in range(n):
            own[i] = listed(beside, next_of(beside, i)[0], &row[at])
            at += own[i]
            if beside.stack > 1:
                older[i] = min(0, older_of(beside, i)[0]) or listed(beside, older_of(beside, i)[0], &row[at])
                at += max(0, older[i])
        for k in range(beside.n_leaves):
            f = &self._fields[k]
            shape = self._templates[k].shape[1 if beside.stack == 1 else 2 :]
            array = np.empty((total, *shape), self._templates[k].dtype)
            for i in range(total):
                memcpy(<char*>cnp.PyArray_DATA(array) + i * f.part, row_at(beside, row[i]) + f.offset, f.part)
            frames.append(array)
        return np.asarray(own), np.asarray(older), frames

    def _set_frames_beside(self, const int32_t[::1] own, const int32_t[::1] older, list frames):
        """The inverse, of arrays that have been checked; MemoryError, with nothing changed, where memory is lacking."""
        cdef Frames* beside = &self._frames
        cdef Py_ssize_t at = 0, i
        if not reserve(beside, len(frames[0])):
            raise MemoryError(f"no memory for {len(frames[0])} observations beside the records")
        beside.vacant, beside.spare = 0, 0
        vacate(beside, 1, beside.rows)
        for i in range(beside.n_leaves):
            self._fields[i].source = <const char*>cnp.PyArray_DATA(<cnp.ndarray>frames[i])
        for i in range(len(own)):
            at += own[i]
            next_of(beside, i)[0] = keep(beside, beside.obs, at - 1, own[i])
            if beside.stack > 1:
                at += max(0, older[i])
                older_of(beside, i)[0] = older[i] if older[i] <= 0 else keep(beside, beside.obs, at - 1, older[i])
