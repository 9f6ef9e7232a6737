"""Observations of which a ring keeps each part once.

A *frame* is what a record holds of its observation: all of it, or the newest image of a stack. Where an observation
is made of the frames of records near by, which is checked byte for byte as it comes, the records say only so. What
is not found there lies in the rows of a pool, which have a record's layout up to the end of its frame. Rows form
lists, newest frame first; those that are free form one too. Row 0 is never lent and holds zeros.

Two numbers in each record say where the rest is:
    next: 0 where next_obs is the observation of the following record; else the list of its own frames. One of them
        alone is its newest, and the others are then those of obs, moved on by one.
    older: a list of the older frames of obs; or, not above 0, −a where they are those of the a records before and,
        in front of these, copies of the oldest of them; or −(stack + a) where zeros stand there instead.
"""

from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport realloc
from libc.string cimport memcmp, memcpy, memset

from fastrl_ext.fields cimport Field
from fastrl_ext.windows cimport Steps, earlier, following, record

cdef enum:
    MAX_STACK = 32


cdef struct Frames:
    Steps* steps
    int stack  # frames in an observation
    int n_leaves
    const Field* obs  # [n_leaves]
    const Field* next_obs
    Py_ssize_t next_at  # bytes from the beginning of a record
    Py_ssize_t older_at
    Py_ssize_t size  # bytes of a row
    Py_ssize_t rows
    Py_ssize_t spare  # rows that are free
    int32_t vacant  # the list of them
    int32_t* after  # [rows], the following row of the same list, 0 at its end
    char* pool


cdef inline int32_t* next_of(const Frames* frames, Py_ssize_t slot) noexcept nogil:
    return <int32_t*>(record(frames.steps, slot) + frames.next_at)


cdef inline int32_t* older_of(const Frames* frames, Py_ssize_t slot) noexcept nogil:
    return <int32_t*>(record(frames.steps, slot) + frames.older_at)


cdef inline char* row_at(const Frames* frames, int32_t row) noexcept nogil:
    return frames.pool + row * frames.size


cdef inline bint reserve(Frames* frames, Py_ssize_t n) noexcept nogil:
    """Have at least `n` free rows; False where memory is lacking."""
    cdef Py_ssize_t rows = frames.rows + max(n - frames.spare + (frames.rows == 0), frames.rows // 8), row
    cdef void* grown
    if n <= frames.spare and frames.rows:
        return True
    if rows > 0x7FFFFFFF:
        return False
    grown = realloc(frames.after, rows * sizeof(int32_t))
    if grown is NULL:
        return False
    frames.after = <int32_t*>grown
    grown = realloc(frames.pool, rows * frames.size)
    if grown is NULL:
        return False
    frames.pool = <char*>grown
    if frames.rows == 0:
        memset(frames.pool, 0, frames.size)
        frames.rows = 1
    vacate(frames, frames.rows, rows)
    frames.rows = rows
    return True


cdef inline void vacate(Frames* frames, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Have the rows begin … end - 1 free, which are in no list."""
    cdef Py_ssize_t row
    for row in range(end - 1, begin - 1, -1):
        frames.after[row], frames.vacant = frames.vacant, row
    frames.spare += end - begin


cdef inline void drop(Frames* frames, int32_t row) noexcept nogil:
    """Free a list."""
    cdef int32_t rest
    while row > 0:
        rest = frames.after[row]
        frames.after[row], frames.vacant, row = frames.vacant, row, rest
        frames.spare += 1


cdef inline int32_t keep(Frames* frames, const Field* source, Py_ssize_t newest, Py_ssize_t n) noexcept nogil:
    """A new list of the `n` frames up to `newest` of the sources; as many rows have to be free."""
    cdef int32_t row = 0, fresh
    cdef Py_ssize_t i
    cdef int k
    for i in range(newest - n + 1, newest + 1):
        fresh = frames.vacant
        frames.vacant, frames.after[fresh], row = frames.after[fresh], row, fresh
        for k in range(frames.n_leaves):
            memcpy(row_at(frames, row) + source[k].offset, source[k].source + i * source[k].part, source[k].part)
    frames.spare -= n
    return row


cdef inline int32_t listed(const Frames* frames, int32_t first, int32_t* rows) noexcept nogil:
    """Write the rows of a list to `rows`, oldest frame first; tells how many."""
    cdef int32_t n = 0, row = first, k
    while row > 0:
        n += 1
        row = frames.after[row]
    row = first
    for k in range(n - 1, -1, -1):
        rows[k] = row
        row = frames.after[row]
    return n


cdef inline void spread(const Frames* frames, int32_t row, const char** frame, int n) noexcept nogil:
    """Point frame[n - 1] … frame[0] at the rows of a list."""
    cdef int k
    for k in range(n - 1, -1, -1):
        frame[k] = row_at(frames, row)
        row = frames.after[row]


cdef inline void obs_frames(const Frames* frames, Py_ssize_t slot, const char** frame) noexcept nogil:
    """Point frame[0] … frame[stack - 1] at the frames of the observation, oldest first."""
    cdef int k = frames.stack - 1, older, begin
    frame[k] = record(frames.steps, slot)
    if k == 0:
        return
    older = older_of(frames, slot)[0]
    if older > 0:
        spread(frames, older, frame, k)
        return
    begin = k - (-older) % frames.stack
    while k > begin:
        slot = earlier(frames.steps, slot)
        k -= 1
        frame[k] = record(frames.steps, slot)
    while k > 0:
        k -= 1
        frame[k] = frame[begin] if -older < frames.stack else row_at(frames, 0)


cdef inline void next_frames(const Frames* frames, Py_ssize_t slot, const char** frame) noexcept nogil:
    """The same for next_obs."""
    cdef const char* obs[MAX_STACK]
    cdef int32_t row = next_of(frames, slot)[0]
    cdef int last = frames.stack - 1, k
    if row == 0:
        obs_frames(frames, following(frames.steps, slot), frame)
        return
    frame[last] = row_at(frames, row)
    if frames.after[row]:
        spread(frames, frames.after[row], frame, last)
    elif last > 0:
        obs_frames(frames, slot, obs)
        for k in range(last):
            frame[k] = obs[k + 1]


cdef inline bint same(const Frames* frames, const char* frame, const Field* source, Py_ssize_t i) noexcept nogil:
    """Whether a stored frame is frame `i` of the sources, byte for byte."""
    cdef int k
    for k in range(frames.n_leaves):
        if memcmp(frame + source[k].offset, source[k].source + i * source[k].part, source[k].part) != 0:
            return False
    return True


cdef inline bint moved_on(const Frames* frames, Py_ssize_t i) noexcept nogil:
    """Whether all but the newest frame of row `i` of next_obs are those of obs, moved on by one."""
    cdef const Field* obs = frames.obs
    cdef const Field* after = frames.next_obs
    cdef int k
    for k in range(frames.n_leaves):
        if memcmp(after[k].source + i * obs[k].size, obs[k].source + i * obs[k].size + obs[k].part,
                  obs[k].size - obs[k].part) != 0:  # fmt: skip
            return False
    return True


cdef inline int32_t place_older(Frames* frames, int64_t number, Py_ssize_t slot, Py_ssize_t newest) noexcept nogil:
    """Say, as `older` does, where those before frame `newest` of obs are to be found, or keep them."""
    cdef const Field* obs = frames.obs
    cdef int found = 0, wanted = frames.stack - 1
    cdef Py_ssize_t i, first = newest - wanted
    cdef bint repeated = True, zero = True
    while found < wanted and number >= (found + 1) * frames.steps.stride:
        slot = earlier(frames.steps, slot)
        if not same(frames, record(frames.steps, slot), obs, newest - found - 1):
            break
        found += 1
    for i in range(first, newest - found):
        repeated = repeated and memcmp(
            obs.source + i * obs.part, obs.source + (newest - found) * obs.part, obs.part
        ) == 0  # fmt: skip
        zero = zero and same(frames, row_at(frames, 0), obs, i)
    if repeated:
        return -found
    return -(frames.stack + found) if zero else keep(frames, obs, newest - 1, wanted)


cdef inline void store(Frames* frames, int64_t number, Py_ssize_t i) noexcept nogil:
    """Write row `i` of the observations' sources to transition `number`; 2 · stack − 1 rows have to be free."""
    cdef Steps* steps = frames.steps
    cdef const char* frame[MAX_STACK]
    cdef Py_ssize_t slot = number % steps.slots, newest = (i + 1) * frames.stack - 1, before
    cdef const Field* obs = frames.obs
    cdef bint shared = number >= steps.stride and steps.slots > steps.stride
    cdef int k
    if number >= steps.slots:
        drop(frames, next_of(frames, slot)[0])
        if frames.stack > 1:
            drop(frames, older_of(frames, slot)[0])
    if shared:
        before = earlier(steps, slot)
        next_frames(frames, before, frame)
        for k in range(frames.stack):
            shared = shared and same(frames, frame[k], obs, i * frames.stack + k)
        if shared:
            drop(frames, next_of(frames, before)[0])
            next_of(frames, before)[0] = 0
    for k in range(frames.n_leaves):
        memcpy(record(steps, slot) + obs[k].offset, obs[k].source + newest * obs[k].part, obs[k].part)
    if frames.stack > 1:
        older_of(frames, slot)[0] = place_older(frames, number, slot, newest)
    next_of(frames, slot)[0] = keep(frames, frames.next_obs, newest, 1 if moved_on(frames, i) else frames.stack)
