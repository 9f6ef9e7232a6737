"""A ring of fixed-size records in one block of memory, written and drawn without Python in between.

A record is one transition of one environment. Its fields lie side by side, so that a drawn transition costs
one or two cache lines and not one for each field, and records are requested from memory before they are read.
"""

cimport numpy as cnp
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t

from fastrl_ext.assemble cimport CHUNK
from fastrl_ext.copies cimport finite
from fastrl_ext.fields cimport Field, resolve
from fastrl_ext.lock cimport Lock
from fastrl_ext.random cimport RandomStream
from fastrl_ext.store cimport Store
from fastrl_ext.trees cimport PriorityTrees

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t PyNumber_AsSsize_t(object, PyObject*) except? -1  # clips where the second is NULL

COLUMNS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")

cdef int N_COLUMNS = 6
cdef Py_ssize_t LONG_COPY = 1 << 20  # bytes; the GIL is worth releasing from here on



cdef class Ring(Store):
    """What `fastrl.ReplayBuffer` is made of, which adds `_convert`, `_pack` and `_unpack`.

    Args:
        records, leaves, n_finite, n_step, gamma, stack: as `Store` takes them. Where the first leaves are `COLUMNS`,
            calls whose arguments are just what is stored run no Python code at all. Of stacks, `stack` - 1 rounds
            of the environments more than `capacity` are kept, so that all older frames are there.
        capacity: transitions that can be drawn.
        num_envs: transitions in one `add`.
        seed: of the random stream.
        sample_type: the named tuple that `sample` returns where the leaves are plain; None leaves it to `_pack`.
    """

    cdef readonly Lock _lock
    cdef readonly RandomStream _rng
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t num_envs
    cdef public int64_t _added  # since the beginning or `clear`; transition i lies in the slot i modulo capacity
    cdef public int64_t _first  # the oldest one that may be read, where those before were lost; 0 else
    cdef int64_t _limit  # transitions from here on are announced to the file before they are written
    cdef readonly object _file
    cdef public bint _ragged  # since `clear`, some call brought more or fewer than a transition of each environment
    cdef bint _plain
    cdef type _sample_type
    cdef object _not_truncated

    def __cinit__(self, *args, **kwargs):
        self._lock = Lock()

    def __init__(
        self, cnp.ndarray records, leaves, Py_ssize_t capacity, Py_ssize_t num_envs, seed, int n_finite, sample_type,
        int n_step, double gamma, int stack, file=None,
    ):  # fmt: skip
        stream = RandomStream(seed)
        Store.__init__(self, records, leaves, num_envs, n_finite, n_step, gamma, stack)
        self._rng, self._sample_type = stream, sample_type
        self.capacity, self.num_envs = capacity, num_envs
        self._plain = self._names[:N_COLUMNS] == COLUMNS
        self._not_truncated = np.zeros(num_envs, np.bool_)
        self._file, self._limit = file, 0x7FFFFFFFFFFFFFFF
        if file is not None:
            self._first, self._added = file.progress.first, file.progress.added
            self._ragged, self._limit = file.progress.ragged, file.progress.dirty

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} is neither pickled nor copied: see its state_dict and save")

    def __len__(self):
        return self._size()

    cdef inline Py_ssize_t _size(self) noexcept:
        return min(self._added - self._first, self.capacity)

    def clear(self):
        """Forget all transitions. The random stream goes on from where it is."""
        with self._lock:
            self._forget()

    def _forget(self):
        self._restart(0, 0, False)
        self._empty()

    def _restart(self, int64_t first, int64_t added, bint ragged):
        """Hold the transitions first … added - 1 and no others from now on, with the file's knowledge."""
        if self._file is not None:
            self._file.flush(first, added, ragged, self._rng.state)
            self._limit = added
        self._first, self._added, self._ragged = first, added, ragged

    def add(self, obs, action, reward, next_obs, terminated, truncated=False, **extra):
        """Store one transition of each environment; the oldest make room.

        Shapes are [num_envs, *shape]; with one environment the leading axis may be left out, and numbers may be
        Python's. Arrays (or scalars) of the stored dtype are copied as they are; anything else, tensors too, is
        cast by the rule of the class. What is passed in may be changed afterwards.

        Args:
            obs: observations o_t, of the observation space.
            action: actions a_t, of the action space.
            reward: [num_envs] float32, r_t.
            next_obs: o_{t+1}; at the end of an episode its true last observation, never the next one's first.
            terminated: [num_envs] bool; o_{t+1} is terminal, worth nothing more.
            truncated: [num_envs] bool; the episode was cut at o_{t+1}. `False` stands for all environments.
            extra: a value for each of the extra fields.

        Raises:
            ValueError: a wrong shape, a number outside the stored dtype's range, NaN or infinity.
            TypeError: a dtype that has no safe cast, or an object array.
            KeyError: a missing or unknown key of a Dict observation or action, or extra field.
        """
        if truncated is False:
            truncated = self._not_truncated
        if not self._plain or not self._add_plain(obs, action, reward, next_obs, terminated, truncated, extra):
            columns = (obs, action, reward, next_obs, terminated, truncated)
            self._add_rows(self._convert(columns, extra, self.num_envs, "environment"), self.num_envs)

    cdef bint _add_plain(self, obs, action, reward, next_obs, terminated, truncated, dict extra) noexcept:
        cdef Py_ssize_t n = self.num_envs
        cdef Field* f = self._fields
        cdef PyObject* value
        cdef bint good
        cdef int k
        self._lock.acquire()
        good = (
            len(extra) == self._n_fields - N_COLUMNS
            and resolve(&f[0], obs, n)
            and resolve(&f[1], action, n)
            and resolve(&f[2], reward, n)
            and resolve(&f[3], next_obs, n)
            and resolve(&f[4], terminated, n)
            and resolve(&f[5], truncated, n)
        )
        for k in range(N_COLUMNS, self._n_fields):
            value = PyDict_GetItem(extra, self._names[k]) if good else NULL
            good = value is not NULL and resolve(&f[k], <object>value, n)
        for k in range(self._n_fields):
            good = good and (f[k].float_size == 0 or finite(f[k].source, n * f[k].count, f[k].float_size))
        good = good and self._added + n <= self._limit and self._write(n)
        self._lock.release()
        return good

    def _add_rows(self, list rows, Py_ssize_t n):
        """Add `n` transitions from an array [n, ...] for each field, of just what is stored."""
        cdef bint good = self._fields is not NULL and len(rows) == self._n_fields
        cdef int k
        with self._lock:
            for k in range(self._n_fields):
                good = good and resolve(&self._fields[k], rows[k], n)
            if not good:
                raise TypeError("rows must be C-contiguous arrays [n, ...] of each field's dtype")
            if self._added + n > self._limit:
                self._limit = self._file.announce(self._added + n)
            if not self._write(n):
                raise MemoryError(f"no memory to keep the observations of {n} transitions: lower the capacity")

    cdef bint _write(self, Py_ssize_t n) noexcept:
        """Store `n` rows from the fields' sources; False where memory is lacking, with those before stored."""
        cdef Py_ssize_t written
        if n * self._width < LONG_COPY:
            written = self._put(self._added, n)
        else:
            with nogil:
                written = self._put(self._added, n)
        self._added += written
        self._ragged |= written % self.num_envs != 0
        return written == n

    def sample(self, batch_size, *, bint replace=True, out=None):
        """Draw `batch_size` stored transitions uniformly.

        Args:
            batch_size: at least 1.
            replace: whether one transition may be drawn twice. Without, at most len(self) can be drawn.
            out: a sample of this size, from an earlier call, to write into and return.

        Returns:
            A `ReplaySample` of new arrays [batch_size, ...], the caller's own, or of tensors when the buffer was
            made with `device`.

        Raises:
            ValueError: an empty buffer, a batch_size below 1 or (without `replace`) above len(self), or an `out` of
                other shapes or dtypes.
            TypeError: batch_size is not an integer, or `out` not a sample.
        """
        return self._draw(self._admitted(batch_size, replace), replace, out, None, 0, NULL)

    def _sample_by(self, PriorityTrees trees not None, batch_size, double beta, out, weights):
        """As `sample`, by priority; and the weights, float32 [batch_size], a new array or `weights`."""
        cdef Py_ssize_t n = self._admitted(batch_size, True)
        if out is not None and not isinstance(weights, np.ndarray):
            raise ValueError(
                f"out.weights must be a writable C-contiguous array float32 [{n}]; got {type(weights).__name__}"
            )
        cdef cnp.ndarray written = np.empty(n, np.float32) if out is None else weights
        if written.dtype != np.float32 or (<object>written).shape != (n,) or not cnp.PyArray_ISCARRAY(written):
            raise ValueError(
                f"out.weights must be a writable C-contiguous array float32 [{n}]; got {written.dtype} "
                f"{list((<object>written).shape)}"
            )
        return self._draw(n, True, out, trees, beta, <float*>cnp.PyArray_DATA(written)), written

    cdef Py_ssize_t _admitted(self, batch_size, bint replace) except -1:
        """`batch_size` as a number; ValueError, before there is memory for them, for so many that cannot be drawn."""
        cdef Py_ssize_t n = PyNumber_AsSsize_t(batch_size, NULL), size = self._size()
        if n < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if self._fields is not NULL and (size == 0 or not replace and n > size):
            self._refuse(batch_size, size)
        if n > 0x7FFFFFFFFFFFFFFF // max(8, self._width):
            raise ValueError(f"batch_size is {batch_size}; so many transitions are more than can be addressed")
        return n

    cdef object _draw(self, Py_ssize_t n, bint replace, out, PriorityTrees trees, double beta, float* weights):
        cdef list rows = self._rows(n, out)
        cdef int64_t* index = <int64_t*>cnp.PyArray_DATA(<cnp.ndarray>rows[self._n_fields])
        cdef Py_ssize_t size, k
        cdef bint drawn = False
        self._lock.acquire()
        size = self._size()
        if size > 0 and (replace or n <= size):
            if trees is None:
                drawn = self._rng.fill(index, n, size, replace)
            else:
                trees.draw(self._added, self._rng, index, n, beta, weights)
                drawn = True
            if drawn:
                if self._added - self._first < self.capacity:
                    for k in range(n):
                        index[k] = (index[k] + self._first) % self.capacity
                self._read(rows, index, n)
                self._number(index, n)
        self._lock.release()
        if not drawn:
            self._refuse(n, size)
        return self._sample_of(rows) if out is None else out

    def gather(self, indices, *, out=None):
        """The transitions `indices`, integers [B] in [added - len(self), added), where `added` is all there were.

        A transition's index is its number in the order in which they were added, from 0 at the beginning or the last
        `clear`: `sample` tells those that it drew, and each names one transition for good. `out` and what is
        returned are as in `sample`.

        Raises:
            IndexError: the index of a transition that was overwritten or never added; negative ones do not count
                from the end.
            TypeError: indices that are not integers.
            ValueError: indices that are not [B], or an unsuitable `out`.
        """
        chosen = np.asarray(indices)
        if chosen.size and chosen.dtype.kind not in "iu":
            raise TypeError(f"indices must be integers; got {chosen.dtype}")
        if chosen.ndim != 1:
            raise ValueError(f"indices must have shape [B]; got {np.shape(indices)}")
        cdef Py_ssize_t n = len(chosen), k
        cdef list rows = self._rows(n, out)
        cdef cnp.ndarray checked = chosen.astype(np.int64)
        cdef int64_t* index = <int64_t*>cnp.PyArray_DATA(checked)
        cdef int64_t first, end
        self._lock.acquire()
        end = self._added
        first = end - self._size()
        for k in range(n):
            if not first <= index[k] < end:
                break
        else:
            k = n
            self._gather(rows, index, n)
        self._lock.release()
        if k < n:
            raise IndexError(
                f"index {chosen[k]} is outside [{first}, {end}), the transitions that this {type(self).__name__} holds"
                + (": it has been overwritten" if 0 <= index[k] < first else "")
            )
        return self._sample_of(rows) if out is None else out

    def _newest(self, Py_ssize_t n):
        """The last `n` transitions, oldest first; None where there are fewer."""
        cdef list rows = self._rows(n, None)
        cdef cnp.ndarray chosen = np.arange(n)
        cdef int64_t* index = <int64_t*>cnp.PyArray_DATA(chosen)
        cdef Py_ssize_t k
        cdef bint enough
        self._lock.acquire()
        enough = n <= self._size()
        if enough:
            for k in range(n):
                index[k] += self._added - n
            self._gather(rows, index, n)
        self._lock.release()
        return self._sample_of(rows) if enough else None

    def _refuse(self, n, size):
        name = type(self).__name__
        if size == 0:
            raise ValueError(f"cannot sample {n} transitions from an empty {name}: add some first")
        if n > size:
            raise ValueError(
                f"cannot sample {n} transitions without replacement from a {name} that holds {size}: ask for fewer, "
                "or for replace=True"
            )
        raise MemoryError(f"no memory to draw {n} transitions without replacement")

    cdef void _gather(self, list rows, int64_t* index, Py_ssize_t n) noexcept:
        """Read the transitions at `index`, which are stored; leaves their slots there."""
        cdef int64_t capacity = self.capacity, lap = self._added - self._added % capacity  # what slot 0 begins with
        cdef int64_t* named = <int64_t*>cnp.PyArray_DATA(<cnp.ndarray>rows[self._n_fields])
        cdef Py_ssize_t k
        for k in range(n):
            named[k] = index[k]
            index[k] -= lap - (capacity & -<int64_t>(index[k] < lap))
        self._read(rows, index, n)

    cdef void _number(self, int64_t* slots, Py_ssize_t n) noexcept:
        """Replace slots by the indices of the transitions that lie there."""
        cdef int64_t capacity = self.capacity, head = self._added % capacity, lap = self._added - head
        cdef Py_ssize_t k
        for k in range(n):
            slots[k] += lap - (capacity & -<int64_t>(slots[k] >= head))  # a branch could not be predicted

    cdef void _read(self, list rows, const int64_t* index, Py_ssize_t n) noexcept:
        cdef int k
        for k in range(self._n_outputs):
            self._fields[k].target = <char*>cnp.PyArray_DATA(<cnp.ndarray>rows[k])
        if n * self._width < LONG_COPY:
            self._copy(index, n)
        else:
            with nogil:
                self._copy(index, n)

    cdef void _copy(self, const int64_t* index, Py_ssize_t n) noexcept nogil:
        cdef int64_t slot[CHUNK]
        cdef int64_t capacity = self.capacity, slots = self._steps.slots, lap = self._added - self._added % capacity
        cdef Py_ssize_t start = 0, count, k
        if self._chunk == 0:
            self._take(index, n)
            return
        while start < n:
            count = min(n - start, self._chunk)
            for k in range(count):
                slot[k] = index[start + k]
                if slots > capacity:
                    slot[k] = (slot[k] + lap - (capacity if slot[k] + lap >= self._added else 0)) % slots
            self._assemble(slot, count, start, (self._added - 1) % slots)
            start += count

    cdef object _sample_of(self, list rows):
        cdef int k
        if not self._plain or self._sample_type is None:
            return self._pack(rows)
        extra = {}
        for k in range(N_COLUMNS, self._n_fields):
            extra[self._names[k]] = rows[k]
        discount = rows[self._n_fields + 1] if self._n_outputs > self._n_fields + 1 else None
        arguments = ((rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[self._n_fields], extra, discount),)
        return (<PyTypeObject*>tuple).tp_new(self._sample_type, <PyObject*>arguments, NULL)
