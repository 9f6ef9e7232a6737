cimport numpy as cnp
from libc.stdint cimport int64_t

from fastrl_ext.assemble cimport Columns
from fastrl_ext.fields cimport Field
from fastrl_ext.frames cimport Frames
from fastrl_ext.windows cimport Steps


cdef class Store:
    cdef readonly cnp.ndarray _records
    cdef Field* _fields  # of a transition, then of a sample's indices and discounts
    cdef int _n_fields  # of a transition
    cdef int _n_outputs  # of a sample
    cdef Columns _columns
    cdef Py_ssize_t _width  # bytes of a transition as it comes and goes
    cdef Steps _steps
    cdef Frames _frames
    cdef bint _shared  # whether next_obs is left to the following record
    cdef Py_ssize_t _chunk  # rows that are put together at once; 0 where each is one record
    cdef list _templates
    cdef tuple _names

    # An array [n, ...] for each field and for what else a sample tells: new ones, or those of `out`, checked.
    cdef list _rows(self, Py_ssize_t n, out)

    # Copy `n` rows from the fields' sources to the transitions from `number` on. Tells how many could be: fewer than
    # `n`, but whole rounds of the environments, where memory is lacking for what lies beside the records.
    cdef Py_ssize_t _put(self, int64_t number, Py_ssize_t n) noexcept nogil
    cdef void _put_fields(self, Py_ssize_t slot, Py_ssize_t start, Py_ssize_t n) noexcept nogil

    # Ask for the memory of the next `n` records.
    cdef void _request(self, Py_ssize_t slot, Py_ssize_t n) noexcept nogil

    # Copy the records in the slots to the fields' targets; only where no row is put together from several.
    cdef void _take(self, const int64_t* slot, Py_ssize_t n) noexcept nogil

    # Put together the rows that begin in the slots, for the targets' rows from `start` on, `_chunk` at most.
    cdef void _assemble(self, const int64_t* slot, Py_ssize_t n, Py_ssize_t start, Py_ssize_t newest) noexcept nogil

    # Forget what lies beside the records.
    cdef void _empty(self) noexcept
