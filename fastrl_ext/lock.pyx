"""The lock of a buffer that several threads share."""

cimport cython
from cpython.pythread cimport WAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock


@cython.final
cdef class Lock:
    """A mutex that costs next to nothing where nobody waits. Not reentrant.

    The GIL, which every caller of `acquire` and `release` holds, protects the count; the semaphore is touched
    only by those who have to wait while a long copy runs without the GIL.
    """

    def __cinit__(self):
        self._turn = PyThread_allocate_lock()
        if self._turn is NULL:
            raise MemoryError("no memory for a lock")
        PyThread_acquire_lock(self._turn, WAIT_LOCK)

    def __dealloc__(self):
        if self._turn is not NULL:
            PyThread_free_lock(self._turn)

    def __enter__(self):
        self.acquire()

    def __exit__(self, *exception):
        self.release()
