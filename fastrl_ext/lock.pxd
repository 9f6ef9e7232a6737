cimport cython
from cpython.pythread cimport (
    WAIT_LOCK,
    PyThread_acquire_lock,
    PyThread_release_lock,
    PyThread_type_lock,
)


@cython.final
cdef class Lock:
    cdef Py_ssize_t _users  # the holder and those who wait
    cdef PyThread_type_lock _turn  # free for the moment in which the lock is handed on

    cdef inline void acquire(self) noexcept:
        self._users += 1
        if self._users > 1:
            with nogil:
                PyThread_acquire_lock(self._turn, WAIT_LOCK)

    cdef inline void release(self) noexcept:
        self._users -= 1
        if self._users > 0:
            PyThread_release_lock(self._turn)
