"""A field of a record, and whether a caller's value is just what it stores."""

cimport numpy as cnp
from cpython.bool cimport PyBool_Check
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport Py_TYPE, PyObject
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*)


cdef struct Field:
    Py_ssize_t offset  # in the record
    Py_ssize_t size  # bytes
    Py_ssize_t part  # bytes that the record holds: all, or one frame of a stack
    Py_ssize_t count  # numbers
    int type_num
    int ndim
    cnp.npy_intp* dims
    PyObject* scalar_type
    int float_size  # bytes of a number that must be finite; 0 where any may be stored
    const char* source  # the rows of the call in progress; valid only while the lock is held
    char* target  # likewise
    char scratch[8]  # a row that came as a scalar


cdef inline int describe(Field* field, cnp.ndarray template, Py_ssize_t offset, bint must_be_finite) except -1:
    """Fill in `field` from an empty array [0, *shape], which has to outlive it."""
    cdef int axis
    field.offset, field.type_num = offset, cnp.PyArray_TYPE(template)
    field.ndim, field.dims = cnp.PyArray_NDIM(template) - 1, cnp.PyArray_DIMS(template) + 1
    field.count = 1
    for axis in range(field.ndim):
        field.count *= field.dims[axis]
    field.size = field.part = field.count * template.itemsize
    field.scalar_type = <PyObject*>template.dtype.type
    field.float_size = template.itemsize if must_be_finite and template.dtype.kind == "f" else 0
    return 0


cdef inline bint matches(Field* field, cnp.ndarray array, int lead) noexcept:
    """Whether `array` has the field's type and, behind `lead` leading axes, its shape."""
    cdef int axis
    if lead < 0 or cnp.PyArray_TYPE(array) != field.type_num or cnp.PyArray_NDIM(array) != lead + field.ndim:
        return False
    for axis in range(field.ndim):
        if cnp.PyArray_DIM(array, lead + axis) != field.dims[axis]:
            return False
    return True


cdef inline bint fits(Field* field, object value, Py_ssize_t n) noexcept:
    """Whether `n` rows can be written to `value`."""
    return (
        cnp.PyArray_CheckExact(value)
        and matches(field, <cnp.ndarray>value, 1)
        and cnp.PyArray_DIM(<cnp.ndarray>value, 0) == n
        and cnp.PyArray_ISCARRAY(<cnp.ndarray>value)
    )


cdef inline bint resolve(Field* field, object value, Py_ssize_t n) noexcept:
    """Point `field.source` at `n` rows without running any Python code; False where that is impossible."""
    cdef cnp.ndarray array
    cdef int lead, overflow = 0
    if cnp.PyArray_CheckExact(value):
        array = <cnp.ndarray>value
        lead = cnp.PyArray_NDIM(array) - field.ndim
        field.source = <const char*>cnp.PyArray_DATA(array)
        return (
            (lead == 1 and cnp.PyArray_DIM(array, 0) == n or lead == 0 and n == 1)
            and matches(field, array, lead)
            and cnp.PyArray_ISCARRAY_RO(array)
        )
    if n != 1 or field.ndim != 0:
        return False
    field.source = field.scratch
    if <PyObject*>Py_TYPE(value) is field.scalar_type:
        cnp.PyArray_ScalarAsCtype(value, field.scratch)
    elif field.type_num == cnp.NPY_FLOAT32 and PyFloat_Check(value):
        (<float*>field.scratch)[0] = <float>PyFloat_AS_DOUBLE(value)
    elif field.type_num == cnp.NPY_INT64 and PyLong_CheckExact(value):
        (<int64_t*>field.scratch)[0] = PyLong_AsLongLongAndOverflow(value, &overflow)
    elif field.type_num == cnp.NPY_BOOL and PyBool_Check(value):
        field.scratch[0] = value is True
    else:
        return False
    return not overflow
