"""Sixteen numbers side by side: the children of a node in a tree."""

from libc.stdint cimport int64_t, uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if defined(__GNUC__) || defined(__clang__)
    #define FASTRL_PREFETCH(address) __builtin_prefetch(address)
    typedef double fastrl_pair __attribute__((vector_size(16)));
    typedef int64_t fastrl_counts __attribute__((vector_size(16)));
    #else
    #define FASTRL_PREFETCH(address) ((void)0)
    #endif

    /* Where a point falls is a matter of chance, and a branch on it would be mispredicted half the time: what
       begins at or before the point is counted. Compilers do not find the vectors by themselves. */
    static inline int64_t fastrl_pick(const double *begins, double *point) {
    #if defined(__GNUC__) || defined(__clang__)
        const fastrl_pair points = {*point, *point};
        fastrl_counts counts = {-1, 0};
        for (int k = 0; k < 16; k += 2) {
            fastrl_pair pair;
            memcpy(&pair, begins + k, sizeof pair);
            counts -= points >= pair;
        }
        const int64_t child = counts[0] + counts[1];
    #else
        int64_t child = -1;
        for (int k = 0; k < 16; k++) child += *point >= begins[k];
    #endif
        *point -= begins[child];
        return child;
    }

    /* The same by fours, for what has no sums beside it. */
    static inline int64_t fastrl_pick_leaf(const float *mass, double point) {
    #define FASTRL_FOUR(k) (((double)mass[k] + (double)mass[k + 1]) + ((double)mass[k + 2] + (double)mass[k + 3]))
        double begins[4] = {0, FASTRL_FOUR(0), FASTRL_FOUR(4), FASTRL_FOUR(8)};
        begins[2] += begins[1];
        begins[3] += begins[2];
        const int64_t four = (point >= begins[1]) + (point >= begins[2]) + (point >= begins[3]);
        const float *leaf = mass + 4 * four;
        const double rest = point - begins[four], second = leaf[0], third = second + leaf[1], last = third + leaf[2];
        return 4 * four + (rest >= second) + (rest >= third) + (rest >= last);
    }

    static inline double fastrl_total(const float *mass) {
        return (FASTRL_FOUR(0) + FASTRL_FOUR(4)) + (FASTRL_FOUR(8) + FASTRL_FOUR(12));
    }

    /* Floats that are not negative are ordered as their bits are. The shift makes 0 the greatest. */
    static inline uint32_t fastrl_least(const uint32_t *bits) {
        int32_t least = INT32_MAX;
        for (int k = 0; k < 16; k++) {
            const int32_t shifted = (int32_t)(bits[k] + (uint32_t)INT32_MAX);
            least = shifted < least ? shifted : least;
        }
        return (uint32_t)least - (uint32_t)INT32_MAX;
    }
    """
    # request the line of `address` from memory
    void prefetch_line "FASTRL_PREFETCH"(const void* address) noexcept nogil

    # the last child whose part of the line begins at or before `point`, from which its beginning is taken off
    int64_t pick "fastrl_pick"(const double* begins, double* point) noexcept nogil

    # the same where the parts' lengths are given
    int64_t pick_leaf "fastrl_pick_leaf"(const float* mass, double point) noexcept nogil

    double total "fastrl_total"(const float* mass) noexcept nogil

    # the least of positive floats, given as bits; 0 stands for none
    uint32_t least "fastrl_least"(const uint32_t* bits) noexcept nogil
