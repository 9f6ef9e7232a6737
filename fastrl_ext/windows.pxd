"""Returns over several steps of one environment, within a ring of records."""

from libc.stdint cimport int64_t

from fastrl_ext.copies cimport prefetch_line


cdef struct Chain:
    const char* base  # of the ring
    Py_ssize_t step  # bytes of a record
    Py_ssize_t slots  # records
    Py_ssize_t stride  # from a record to the following one of its environment
    Py_ssize_t reward  # bytes from the beginning of a record, and likewise
    Py_ssize_t terminated
    Py_ssize_t truncated
    Py_ssize_t n_steps
    double gamma


cdef inline Py_ssize_t following(const Chain* chain, Py_ssize_t slot) noexcept nogil:
    slot += chain.stride
    return slot - chain.slots if slot >= chain.slots else slot


cdef inline Py_ssize_t window(
    const Chain* chain, Py_ssize_t slot, Py_ssize_t newest, float* returns, float* discount
) noexcept nogil:
    """R = Σ_{k<m} γ^k r_{t+k} and γ^m of the window of m ≤ n_steps steps that begins at `slot`; tells where it ends.

    It stops at the end of the episode, and at `newest`, the slot written last: m is 1 at least. What follows is
    worth γ^m times the value of next_obs in the last slot, or nothing where that is terminated.
    Sutton and Barto 2018, eq. 7.1.
    """
    cdef Py_ssize_t ahead = newest - slot, k
    cdef const char* record = chain.base + slot * chain.step
    cdef double total = (<const float*>(record + chain.reward))[0], weight = chain.gamma
    if ahead < 0:
        ahead += chain.slots
    for k in range(1, chain.n_steps):
        ahead -= chain.stride
        if ahead < 0 or record[chain.terminated] or record[chain.truncated]:
            break
        slot = following(chain, slot)
        record = chain.base + slot * chain.step
        total += weight * (<const float*>(record + chain.reward))[0]
        weight *= chain.gamma
    returns[0], discount[0] = total, weight
    return slot


cdef inline void request(const Chain* chain, Py_ssize_t slot) noexcept nogil:
    """Ask memory for what `window` will read."""
    cdef Py_ssize_t k
    for k in range(chain.n_steps):
        prefetch_line(chain.base + slot * chain.step + chain.reward)
        prefetch_line(chain.base + slot * chain.step + chain.terminated)
        slot = following(chain, slot)
