"""The quick look at what `fastrl.returns` is given: most calls need no conversion, and are over in a microsecond."""

cimport numpy as cnp
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM

cnp.import_array()


def plain_outputs(tuple columns, last_values, tuple flags, out, Py_ssize_t n):
    """`n` arrays to write results to where the kernels can take everything as it is; None where that has to be seen.

    Plain are exact NumPy arrays, C-contiguous, aligned and in this machine's byte order: `columns` of one float
    dtype [T, N], not empty, `last_values` [N] likewise and `flags` bool [T, N]; and `out`, if it is not None, a tuple
    of `n` writeable ones like the columns, none of which overlaps another array. The result is `out` or new.
    """
    cdef object first = columns[0], array
    cdef int float_type, k
    if not cnp.PyArray_CheckExact(first):
        return None
    float_type = cnp.PyArray_TYPE(<cnp.ndarray>first)
    if not (float_type == cnp.NPY_FLOAT32 or float_type == cnp.NPY_FLOAT64) or cnp.PyArray_NDIM(<cnp.ndarray>first) != 2:
        return None
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(<cnp.ndarray>first)
    if shape[0] == 0 or shape[1] == 0:
        return None
    if not is_plain(last_values, float_type, 1, shape + 1):
        return None
    for array in flags:
        if not is_plain(array, cnp.NPY_BOOL, 2, shape):
            return None
    for array in columns:
        if not is_plain(array, float_type, 2, shape):
            return None
    if out is None:
        return new_arrays(shape, float_type, n)
    if type(out) is not tuple or len(<tuple>out) != n:
        return None
    k = 0
    for array in <tuple>out:
        if not is_plain(array, float_type, 2, shape) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array):
            return None
        for other in (last_values, *flags, *columns, *(<tuple>out)[:k]):
            if overlaps(array, other):
                return None
        k += 1
    return out


cdef tuple new_arrays(cnp.npy_intp* shape, int type_num, Py_ssize_t n):
    cdef tuple made = PyTuple_New(n)
    cdef object array
    cdef Py_ssize_t k
    for k in range(n):
        array = cnp.PyArray_EMPTY(2, shape, type_num, 0)
        Py_INCREF(array)
        PyTuple_SET_ITEM(made, k, array)
    return made


cdef bint is_plain(object x, int type_num, int ndim, cnp.npy_intp* shape) noexcept:
    cdef int axis
    if not cnp.PyArray_CheckExact(x):
        return False
    cdef cnp.ndarray array = <cnp.ndarray>x
    if cnp.PyArray_TYPE(array) != type_num or cnp.PyArray_NDIM(array) != ndim or not cnp.PyArray_ISCARRAY_RO(array):
        return False
    for axis in range(ndim):
        if cnp.PyArray_DIMS(array)[axis] != shape[axis]:
            return False
    return True


cdef bint overlaps(object x, object y) noexcept:
    """Whether two contiguous arrays share memory."""
    cdef char* a = <char*>cnp.PyArray_DATA(<cnp.ndarray>x)
    cdef char* b = <char*>cnp.PyArray_DATA(<cnp.ndarray>y)
    return a < b + cnp.PyArray_NBYTES(<cnp.ndarray>y) and b < a + cnp.PyArray_NBYTES(<cnp.ndarray>x)
