"""Records by number: rows of fields written to a block of memory and gathered from it, in no order of their own."""

cimport cython
cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.list cimport PyList_CheckExact, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uintptr_t

from fastrl_ext.copies cimport finite, prefetch, put, take
from fastrl_ext.fields cimport Field, describe

import numpy as np

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_New(type, int, cnp.npy_intp*, int, cnp.npy_intp*, void*, int, int, PyObject*)

cdef Py_ssize_t BLOCK = 1 << 14  # bytes of records that are on their way while as many are copied
cdef Py_ssize_t LINE = 64  # bytes of a cache line


@cython.final
cdef class Table:
    """A structured array [n], C-contiguous, written `width` rows at a time.

    Args:
        records: the array, or a view of some of its fields.
        width: rows of one `put`; 0 for a table that is only read.
        n_finite: how many leading fields must be finite where they hold floats.
        masked: the last two fields are float32, of one number each, and what is taken of the last but one is a · (1 − b)
            where b is the last, which is not handed out.
    """

    cdef cnp.ndarray _records
    cdef char* _base
    cdef Py_ssize_t _step
    cdef Py_ssize_t _length
    cdef Py_ssize_t _width
    cdef Field* _fields
    cdef int _n_fields
    cdef int _n_taken
    cdef list _templates
    cdef list _scratch  # float32 [width, ...] for each field of that type, for values that have to be cast

    def __dealloc__(self):
        PyMem_Free(self._fields)

    def __init__(self, cnp.ndarray records, Py_ssize_t width=0, int n_finite=0, bint masked=False):
        if self._fields is not NULL:
            raise RuntimeError("a table is initialised once")
        dtype = records.dtype
        if dtype.names is None or records.ndim != 1 or not records.flags.c_contiguous:
            raise TypeError(f"records must be a C-contiguous structured array [n]; got {dtype} in {records.ndim}-d")
        parts = [dtype[name] for name in dtype.names]
        if masked and [(part.base, part.itemsize) for part in parts[len(parts) - 2 :]] != [(np.float32, 4)] * 2:
            raise TypeError(f"the last two fields must be float32, of one number each; got {dtype}")
        self._templates = [np.empty((0, *part.shape), part.base) for part in parts]
        self._scratch = [np.empty((width, *part.shape), "f4") if part.base == "f4" else None for part in parts]
        self._fields = <Field*>PyMem_Calloc(max(1, len(parts)), sizeof(Field))
        if self._fields is NULL:
            raise MemoryError(f"no memory for {len(parts)} fields")
        for k, name in enumerate(dtype.names):
            describe(&self._fields[k], self._templates[k], dtype.fields[name][1], k < n_finite)
        self._n_fields, self._length, self._width = len(parts), len(records), width
        self._n_taken = self._n_fields - masked
        self._records, self._base, self._step = records, <char*>cnp.PyArray_DATA(records), dtype.itemsize

    cdef int _check_made(self) except -1:
        if self._records is None:
            raise RuntimeError("Table.__init__ has not been called")
        return 0

    def put(self, Py_ssize_t first, tuple values not None):
        """Write `width` rows from `first` on: a value for each field, an array [width, *shape].

        A field of one number takes any shape of `width` numbers, and with a width of 1 the leading axis may be left
        out. Where the field is float32, values may be float64 or bool, or a list of bools for one of one number.

        Returns:
            Whether the values were of these kinds and, where they must be, finite. If not, nothing was written.

        Raises:
            IndexError: rows that are not all within the records.
            RuntimeError: a table that is not initialised.
        """
        self._check_made()
        cdef Py_ssize_t n = self._width
        cdef Field* f
        cdef int k
        if not 0 <= first <= self._length - n:
            raise IndexError(f"rows {first} to {first + n - 1} are outside a table of {self._length}")
        if len(values) != self._n_fields:
            return False
        for k in range(self._n_fields):
            f = &self._fields[k]
            if not locate(f, values[k], n, self._scratch[k]):
                return False
            if f.float_size != 0 and not finite(f.source, n * f.count, f.float_size):
                return False
        for k in range(self._n_fields):
            f = &self._fields[k]
            put(self._base + first * self._step + f.offset, self._step, f.source, n, f.size)
        return True

    def take(self, cnp.ndarray indices not None):
        """New arrays [B, *shape], one for each field, of the rows `indices`, integers [B].

        Their memory begins on a cache line, as that of Torch's own tensors does: matrix products may round otherwise
        where it does not.

        Raises:
            IndexError: an index outside [0, n); negative ones do not count from the end.
            TypeError: indices that are not integers, nor an array.
            RuntimeError: a table that is not initialised.
        """
        cdef cnp.ndarray chosen = indices
        self._check_made()
        if not (cnp.PyArray_TYPE(chosen) == cnp.NPY_INT64 and cnp.PyArray_ISCARRAY_RO(chosen)):
            if indices.size and indices.dtype.kind not in "iu":
                raise TypeError(f"indices must be integers; got {indices.dtype}")
            chosen = np.require(indices, np.int64, ["C_CONTIGUOUS", "ALIGNED"])
        if chosen.ndim != 1:
            raise ValueError(f"indices must have shape [B]; they have {chosen.ndim} axes")
        cdef Py_ssize_t n = cnp.PyArray_DIM(chosen, 0), k
        cdef const int64_t* index = <const int64_t*>cnp.PyArray_DATA(chosen)
        for k in range(n):
            if not 0 <= index[k] < self._length:
                raise IndexError(f"index {index[k]} is outside a table of {self._length} rows")
        cdef list rows = self._rows(n)
        self._read(rows, index, n)
        return rows

    cdef list _rows(self, Py_ssize_t n):
        """An array [n, ...] for each field; they share a block of memory, and each begins on a line of its own."""
        cdef cnp.npy_intp dims[64]
        cdef cnp.npy_intp size = LINE
        cdef Field* f
        cdef int k, axis
        cdef list rows = []
        for k in range(self._n_taken):
            size += (n * self._fields[k].size + LINE - 1) & -LINE
        block = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
        cdef char* data = <char*>cnp.PyArray_DATA(block)
        data += -<Py_ssize_t>(<uintptr_t>data) & (LINE - 1)
        dims[0] = n
        for k in range(self._n_taken):
            f = &self._fields[k]
            for axis in range(f.ndim):
                dims[1 + axis] = f.dims[axis]
            row = PyArray_New(cnp.ndarray, 1 + f.ndim, dims, f.type_num, NULL, data, 0, cnp.NPY_ARRAY_CARRAY, NULL)
            Py_INCREF(block)
            cnp.PyArray_SetBaseObject(row, block)
            rows.append(row)
            data += (n * f.size + LINE - 1) & -LINE
        return rows

    cdef void _read(self, list rows, const int64_t* index, Py_ssize_t n) noexcept:
        """Copy the records at `index` to `rows`, each block while the next is on its way."""
        cdef Py_ssize_t block = max(1, BLOCK // max(1, self._step)), start = 0, count
        cdef Field* f
        cdef int k
        for k in range(self._n_taken):
            self._fields[k].target = <char*>cnp.PyArray_DATA(<cnp.ndarray>rows[k])
        prefetch(self._base, self._step, index, min(n, block))
        while start < n:
            count = min(block, n - start)
            prefetch(self._base, self._step, index + start + count, min(block, n - start - count))
            for k in range(self._n_taken):
                f = &self._fields[k]
                take(f.target + start * f.size, self._base + f.offset, self._step, index + start, count, f.size)
            if self._n_taken < self._n_fields:
                self._mask(index, start, count)
            start += count

    cdef void _mask(self, const int64_t* index, Py_ssize_t start, Py_ssize_t count) noexcept:
        cdef float* number = <float*>self._fields[self._n_taken - 1].target
        cdef const char* mask = self._base + self._fields[self._n_taken].offset
        cdef Py_ssize_t k
        for k in range(start, start + count):
            number[k] *= 1 - (<const float*>(mask + index[k] * self._step))[0]


cdef bint shaped(Field* f, cnp.ndarray array, Py_ssize_t n) noexcept:
    cdef int lead = cnp.PyArray_NDIM(array) - f.ndim, axis
    if f.count == 1:
        return cnp.PyArray_SIZE(array) == n
    if not (lead == 1 and cnp.PyArray_DIM(array, 0) == n or lead == 0 and n == 1):
        return False
    for axis in range(f.ndim):
        if cnp.PyArray_DIM(array, lead + axis) != f.dims[axis]:
            return False
    return True


cdef bint locate(Field* f, object value, Py_ssize_t n, cnp.ndarray scratch) noexcept:
    """Point `f.source` at `n` rows, cast where need be; False where `value` is of no kind that `put` takes."""
    cdef cnp.ndarray array
    cdef int type_num
    cdef float* cast = NULL if scratch is None else <float*>cnp.PyArray_DATA(scratch)
    cdef Py_ssize_t k
    if PyList_CheckExact(value):
        if cast is NULL or f.count != 1 or PyList_GET_SIZE(value) != n:
            return False
        for k in range(n):
            flag = <object>PyList_GET_ITEM(value, k)
            if not PyBool_Check(flag):
                return False
            cast[k] = flag is True
        f.source = <const char*>cast
        return True
    if not cnp.PyArray_CheckExact(value):
        return False
    array = <cnp.ndarray>value
    if not shaped(f, array, n) or not cnp.PyArray_ISCARRAY_RO(array):
        return False
    type_num, f.source = cnp.PyArray_TYPE(array), <const char*>cnp.PyArray_DATA(array)
    if type_num == f.type_num:
        return True
    if cast is NULL:
        return False
    if type_num == cnp.NPY_DOUBLE:
        for k in range(n * f.count):
            cast[k] = <float>(<const double*>f.source)[k]
    elif type_num == cnp.NPY_BOOL:
        for k in range(n * f.count):
            cast[k] = f.source[k]
    else:
        return False
    f.source = <const char*>cast
    return True
