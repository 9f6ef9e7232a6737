"""From a record to the following one of its environment, and returns over several of them."""

from fastrl_ext.copies cimport prefetch_line


cdef struct Steps:
    char* base  # of the ring
    Py_ssize_t step  # bytes of a record
    Py_ssize_t slots  # records
    Py_ssize_t stride  # from a record to the following one of its environment
    Py_ssize_t reward  # bytes from the beginning of a record, and likewise
    Py_ssize_t terminated
    Py_ssize_t truncated
    Py_ssize_t n_step
    double gamma


cdef inline char* record(const Steps* steps, Py_ssize_t slot) noexcept nogil:
    return steps.base + slot * steps.step


cdef inline Py_ssize_t following(const Steps* steps, Py_ssize_t slot) noexcept nogil:
    slot += steps.stride
    return slot - steps.slots if slot >= steps.slots else slot


cdef inline Py_ssize_t earlier(const Steps* steps, Py_ssize_t slot) noexcept nogil:
    slot -= steps.stride
    return slot + steps.slots if slot < 0 else slot


cdef inline Py_ssize_t window(
    const Steps* steps, Py_ssize_t slot, Py_ssize_t newest, float* returns, float* discount
) noexcept nogil:
    """R = Σ_{k<m} γ^k r_{t+k} and γ^m of the window of m ≤ n_step steps that begins at `slot`; tells where it ends.

    It stops at the end of the episode, and at `newest`, the slot written last: m is 1 at least. What follows is
    worth γ^m times the value of next_obs in the last slot, or nothing where that is terminated.
    Sutton and Barto 2018, eq. 7.1.
    """
    cdef Py_ssize_t ahead = newest - slot, k
    cdef const char* here = record(steps, slot)
    cdef double total = (<const float*>(here + steps.reward))[0], weight = steps.gamma
    if ahead < 0:
        ahead += steps.slots
    for k in range(1, steps.n_step):
        ahead -= steps.stride
        if ahead < 0 or here[steps.terminated] or here[steps.truncated]:
            break
        slot = following(steps, slot)
        here = record(steps, slot)
        total += weight * (<const float*>(here + steps.reward))[0]
        weight *= steps.gamma
    returns[0], discount[0] = total, weight
    return slot


cdef inline void request(const Steps* steps, Py_ssize_t slot) noexcept nogil:
    """Ask memory for what `window` will read."""
    cdef Py_ssize_t k
    for k in range(steps.n_step):
        prefetch_line(record(steps, slot) + steps.reward)
        prefetch_line(record(steps, slot) + steps.terminated)
        slot = following(steps, slot)
