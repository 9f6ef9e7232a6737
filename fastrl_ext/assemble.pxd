"""Rows of a sample that are put together from several records."""

from libc.stdint cimport int64_t

from fastrl_ext.copies cimport collect, prefetch_line
from fastrl_ext.fields cimport Field
from fastrl_ext.frames cimport Frames, next_frames, obs_frames
from fastrl_ext.windows cimport Steps, record, request, window

cdef enum:
    CHUNK = 256  # frames that are found before the first of them is copied
    HEAD = 1024  # bytes of a frame that are asked for; processors foresee the rest of a long one


cdef struct Columns:
    Field* fields  # of a sample: obs, action, reward, next_obs, terminated, truncated, extra fields
    int n  # of them
    int reward  # its place, and likewise
    int terminated
    float* discount  # [B], or NULL where it is not wanted


cdef inline bint observed(const Columns* columns, int k) noexcept nogil:
    """Whether field `k` is one of obs or next_obs."""
    return k < columns.terminated - columns.reward - 1 or columns.reward < k < columns.terminated


cdef inline void prefetch_bytes(const char* address, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t byte
    for byte in range(0, size, 64):
        prefetch_line(address + byte)
    prefetch_line(address + size - 1)


cdef inline void assemble(
    const Columns* columns, const Steps* steps, const Frames* frames, const int64_t* slot, Py_ssize_t n,
    Py_ssize_t start, Py_ssize_t newest,
) noexcept nogil:
    """Copy the transitions that begin in `n` slots to the fields' targets, from row `start` on.

    Each loop asks memory for what the next one reads. `frames` is NULL where records hold next_obs; of the frames
    of `n` observations there are CHUNK at most.
    """
    cdef const char* first[CHUNK]
    cdef const char* last[CHUNK]
    cdef const char* obs[CHUNK]
    cdef const char* next_obs[CHUNK]
    cdef const char** source
    cdef float* returns = <float*>columns.fields[columns.reward].target + start
    cdef float unused
    cdef Py_ssize_t i, end
    cdef const Field* f
    cdef int stack = 1 if frames is NULL else frames.stack, k
    for i in range(n):
        request(steps, slot[i])
    for i in range(n):
        end = window(steps, slot[i], newest, &returns[i], &columns.discount[start + i] if columns.discount else &unused)
        first[i], last[i] = record(steps, slot[i]), record(steps, end)
        if frames is NULL:
            obs[i], next_obs[i] = first[i], last[i]
            prefetch_bytes(first[i], steps.step)
            prefetch_bytes(last[i], steps.step)
        else:
            obs_frames(frames, slot[i], &obs[i * stack])
            next_frames(frames, end, &next_obs[i * stack])
            for k in range(i * stack, (i + 1) * stack):
                prefetch_bytes(obs[k], min(frames.size, HEAD))
                prefetch_bytes(next_obs[k], min(frames.size, HEAD))
    for k in range(columns.n):
        f = &columns.fields[k]
        if k == columns.reward:
            continue
        if observed(columns, k):
            source = &obs[0] if k < columns.reward else &next_obs[0]
            collect(f.target + start * f.size, source, f.offset, n * stack, f.part)
        else:
            source = &last[0] if columns.terminated <= k <= columns.terminated + 1 else &first[0]
            collect(f.target + start * f.size, source, f.offset, n, f.size)
