"""Stepping environments one after the other at least cost; counting and storing what steps of any gave."""

cimport cython
cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastrl_ext.copies cimport finite

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object, int*)

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewLikeArray(cnp.ndarray, cnp.NPY_ORDER, void*, int)

cdef object TRUE = np.True_, FALSE = np.False_  # there is one of each


@cython.boundscheck(True)  # for `envs`, which `step` might change, and `actions`
def step_each(list envs not None, actions, cnp.ndarray like not None, take, failure, list infos=None):
    """Step environment i by `actions[i]`, each in its turn.

    Args:
        envs: N environments.
        actions: a sequence of N.
        like: an array [N, *obs] of the dtype that observations are to have.
        take: `take(i, result, obs, reward, terminated, truncated)` writes what environment i returned into the row i
            of each array. It is called where that is anything but what environments usually return: a tuple of an
            array of just this dtype and shape, a float or an int, two bools, and one thing more.
        failure: `failure(i, "step", error)` makes what is raised for an exception of an environment, its cause if it
            has no other.
        infos: where given, a list of N; infos[i] becomes the fifth thing that environment i returned.

    Returns:
        (obs like `like`, reward float64 [N], terminated bool [N], truncated bool [N]), all new, and in how many
        environments the episode is over.
    """
    cdef cnp.npy_intp n = len(envs), i, n_done = 0
    if cnp.PyArray_NDIM(like) == 0 or cnp.PyArray_DIM(like, 0) != n:
        raise ValueError(f"there are {n} environments, and observations of the shape {np.shape(like)}")
    if infos is not None and len(infos) != n:
        raise ValueError(f"there are {n} environments, and room for {len(infos)} infos")
    cdef cnp.ndarray obs = PyArray_NewLikeArray(like, cnp.NPY_CORDER, NULL, 0)
    cdef cnp.ndarray reward = cnp.PyArray_EMPTY(1, &n, cnp.NPY_DOUBLE, 0)
    cdef cnp.ndarray terminated = cnp.PyArray_EMPTY(1, &n, cnp.NPY_BOOL, 0)
    cdef cnp.ndarray truncated = cnp.PyArray_EMPTY(1, &n, cnp.NPY_BOOL, 0)
    cdef double* rewards = <double*>cnp.PyArray_DATA(reward)
    cdef char* ended = <char*>cnp.PyArray_DATA(terminated)
    cdef char* cut = <char*>cnp.PyArray_DATA(truncated)
    cdef bint plain = is_plain(obs)
    for i in range(n):
        try:
            result = envs[i].step(actions[i])
        except Exception as error:
            made = failure(i, "step", error)
            made.__cause__ = made.__cause__ or error
            raise made
        if (
            plain
            and type(result) is tuple
            and len(<tuple>result) == 5
            and is_row((<tuple>result)[0], obs)
            and as_number((<tuple>result)[1], rewards + i)
            and as_bool((<tuple>result)[2], ended + i)
            and as_bool((<tuple>result)[3], cut + i)
        ):
            copy_row(obs, i, (<tuple>result)[0])
        else:
            take(i, result, obs, reward, terminated, truncated)
        if infos is not None:
            infos[i] = result[4]
        n_done += ended[i] | cut[i]
    return obs, reward, terminated, truncated, n_done


def tally(
    cnp.ndarray reward not None, cnp.ndarray valid not None, cnp.ndarray terminated not None,
    cnp.ndarray truncated not None, cnp.ndarray returns not None, cnp.ndarray lengths not None,
):
    """Add `reward` float64 [N] to `returns` float64 [N], and `valid` bool [N] to `lengths` int64 [N].

    Returns:
        In how many environments the episode is over: `terminated` or `truncated`, bool [N].

    Raises:
        ValueError: for an array of another shape or dtype, or not contiguous; nothing is changed then.
    """
    cdef cnp.npy_intp n = len(returns), i, n_done = 0
    cdef double* more = <double*>column("reward", reward, cnp.NPY_DOUBLE, n)
    cdef char* counts = column("valid", valid, cnp.NPY_BOOL, n)
    cdef char* ended = column("terminated", terminated, cnp.NPY_BOOL, n)
    cdef char* cut = column("truncated", truncated, cnp.NPY_BOOL, n)
    cdef double* sums = <double*>column("returns", returns, cnp.NPY_DOUBLE, n)
    cdef int64_t* steps = <int64_t*>column("lengths", lengths, cnp.NPY_INT64, n)
    if not (cnp.PyArray_ISWRITEABLE(returns) and cnp.PyArray_ISWRITEABLE(lengths)):
        raise ValueError("returns and lengths must be writeable")
    for i in range(n):
        sums[i] += more[i]
        steps[i] += counts[i]
        n_done += ended[i] | cut[i]
    return n_done


def put_row(Py_ssize_t t, tuple columns not None, tuple values not None):
    """columns[k][t] = values[k], for arrays [T, N, ...] and their values at one time, [N, ...].

    Raises:
        ValueError: for another number of values than columns; and what NumPy raises.
    """
    cdef Py_ssize_t k
    cdef cnp.ndarray column
    if len(columns) != len(values):
        raise ValueError(f"there are {len(columns)} columns and {len(values)} values")
    for k in range(len(columns)):
        column, value = columns[k], values[k]
        if 0 <= t < len(column) and is_row(value, column) and cnp.PyArray_ISCARRAY(column) and is_plain(column):
            copy_row(column, t, value)
        else:
            column[t] = value


def all_finite(cnp.ndarray array not None):
    """Whether an array of numbers holds neither infinity nor NaN."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(array)
    if cnp.PyArray_ISFLOAT(array) and size <= 8 and cnp.PyArray_ISCARRAY_RO(array):
        return finite(<char*>cnp.PyArray_DATA(array), cnp.PyArray_SIZE(array), <int>size)
    return bool(np.isfinite(array).all())


cdef bint is_plain(cnp.ndarray rows) noexcept:
    """Whether rows may be copied as bytes: they are numbers, of this machine's byte order."""
    return cnp.PyTypeNum_ISNUMBER(cnp.PyArray_TYPE(rows)) and cnp.PyArray_ISNOTSWAPPED(rows)


cdef void copy_row(cnp.ndarray rows, Py_ssize_t i, object row) noexcept:
    """rows[i] = row, where `row` is_row and `rows` are plain, writeable and C-contiguous."""
    cdef Py_ssize_t size = cnp.PyArray_NBYTES(<cnp.ndarray>row)
    memcpy(<char*>cnp.PyArray_DATA(rows) + i * size, cnp.PyArray_DATA(<cnp.ndarray>row), size)


cdef bint is_row(object value, cnp.ndarray rows) noexcept:
    """Whether `value` is an array with the dtype and the shape of a row."""
    cdef int axis
    if not cnp.PyArray_CheckExact(value):
        return False
    cdef cnp.ndarray array = <cnp.ndarray>value
    if cnp.PyArray_TYPE(array) != cnp.PyArray_TYPE(rows) or cnp.PyArray_NDIM(array) != cnp.PyArray_NDIM(rows) - 1:
        return False
    for axis in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, axis) != cnp.PyArray_DIM(rows, axis + 1):
            return False
    return cnp.PyArray_ISCARRAY_RO(array)


cdef bint as_number(object value, double* number) noexcept:
    cdef int overflow = 0
    if PyFloat_Check(value):  # float64 too
        number[0] = PyFloat_AS_DOUBLE(value)
    elif PyLong_CheckExact(value):
        number[0] = <double>PyLong_AsLongLongAndOverflow(value, &overflow)
    else:
        return False
    return overflow == 0


cdef bint as_bool(object value, char* flag) noexcept:
    flag[0] = value is True or value is TRUE
    return flag[0] or value is False or value is FALSE


cdef char* column(str name, cnp.ndarray array, int type_num, cnp.npy_intp n) except NULL:
    if (
        cnp.PyArray_TYPE(array) != type_num
        or cnp.PyArray_NDIM(array) != 1
        or cnp.PyArray_DIM(array, 0) != n
        or not cnp.PyArray_ISCARRAY_RO(array)
    ):
        kind = cnp.PyArray_DescrFromType(type_num)
        raise ValueError(f"{name} is {array.dtype} of the shape {np.shape(array)}; it must be {kind} ({n},), contiguous")
    return <char*>cnp.PyArray_DATA(array)
