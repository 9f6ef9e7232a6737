"""Loops over rows of bytes, and what C compilers need in order to make them fast."""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__GNUC__) || defined(__clang__)
    /* GCC takes a function that does nothing but prefetch for one without effect; the empty statement keeps it. */
    #define FASTRL_PREFETCH(address) do { __builtin_prefetch(address); __asm__ volatile(""); } while (0)
    #else
    #define FASTRL_PREFETCH(address) ((void)0)
    #endif

    /* With a constant size a copy is a move or two; with a variable one, a call for every row. */
    #define FASTRL_FOR_SIZE(size, COPY) \\
        switch (size) { \\
            case 0: break; \\
            case 1: COPY(1) break; \\
            case 2: COPY(2) break; \\
            case 4: COPY(4) break; \\
            case 8: COPY(8) break; \\
            case 12: COPY(12) break; \\
            case 16: COPY(16) break; \\
            case 24: COPY(24) break; \\
            case 32: COPY(32) break; \\
            default: COPY(size) \\
        }

    static inline void fastrl_put(char *rows, Py_ssize_t step, const char *source, Py_ssize_t n, size_t size) {
    #define FASTRL_PUT(size) for (Py_ssize_t k = 0; k < n; k++) memcpy(rows + k * step, source + k * size, size);
        FASTRL_FOR_SIZE(size, FASTRL_PUT)
    }

    static inline void fastrl_take(char *target, const char *rows, Py_ssize_t step, const int64_t *index,
                            Py_ssize_t n, size_t size) {
    #define FASTRL_TAKE(size) \\
        for (Py_ssize_t k = 0; k < n; k++) memcpy(target + k * size, rows + index[k] * step, size);
        FASTRL_FOR_SIZE(size, FASTRL_TAKE)
    }

    /* The same from anywhere: target[k] = rows[k] + offset. */
    static inline void fastrl_collect(char *target, const char *const *rows, Py_ssize_t offset, Py_ssize_t n, size_t size) {
    #define FASTRL_COLLECT(size) \\
        for (Py_ssize_t k = 0; k < n; k++) memcpy(target + k * size, rows[k] + offset, size);
        FASTRL_FOR_SIZE(size, FASTRL_COLLECT)
    }

    /* Request whole records. They begin anywhere in a line, so the last byte gets a request of its own; to count
       the lines of each would save some, but the branch is hard to predict and costs more. */
    static inline void fastrl_prefetch(const char *rows, Py_ssize_t step, const int64_t *index, Py_ssize_t n) {
        for (Py_ssize_t k = 0; k < n; k++) {
            const char *record = rows + index[k] * step;
            for (Py_ssize_t byte = 0; byte < step; byte += 64) FASTRL_PREFETCH(record + byte);
            FASTRL_PREFETCH(record + step - 1);
        }
    }

    /* On the bits: compilers may vectorise that without assuming that all numbers are finite. */
    static inline int fastrl_finite(const char *data, Py_ssize_t n, int size) {
        int bad = 0;
    /* One more than an exponent of all ones reaches the sign's bit. */
    #define FASTRL_SCAN(word, exponent) { \\
            const word top = (word)~((word)-1 >> 1), one = (word)(top - (exponent)); \\
            word found = 0, each[16] = {0}; \\
            Py_ssize_t k = 0; \\
            for (; k + 16 <= n; k += 16) { \\
                word bits[16]; \\
                memcpy(bits, data + k * sizeof(word), sizeof bits); \\
                for (int j = 0; j < 16; j++) each[j] |= (word)((bits[j] & (exponent)) + one); \\
            } \\
            for (int j = 0; j < 16; j++) found |= each[j]; \\
            for (; k < n; k++) { \\
                word bits; \\
                memcpy(&bits, data + k * sizeof bits, sizeof bits); \\
                found |= (word)((bits & (exponent)) + one); \\
            } \\
            bad = (found & top) != 0; \\
        }
        switch (size) {
            case 2: FASTRL_SCAN(uint16_t, 0x7C00) break;
            case 4: FASTRL_SCAN(uint32_t, 0x7F800000) break;
            case 8: FASTRL_SCAN(uint64_t, 0x7FF0000000000000) break;
        }
        return !bad;
    }
    """
    # request the line of memory that holds the byte at address
    void prefetch_line "FASTRL_PREFETCH"(const char* address) noexcept nogil

    # request the n records at index from memory
    void prefetch "fastrl_prefetch"(const char* rows, Py_ssize_t step, const int64_t* index, Py_ssize_t n) noexcept nogil

    # rows[k * step] = source[k], for n rows of `size` bytes
    void put "fastrl_put"(char* rows, Py_ssize_t step, const char* source, Py_ssize_t n, size_t size) noexcept nogil

    # target[k] = rows[index[k] * step]
    void take "fastrl_take"(
        char* target, const char* rows, Py_ssize_t step, const int64_t* index, Py_ssize_t n, size_t size
    ) noexcept nogil

    # target[k] = rows[k] + offset
    void collect "fastrl_collect"(
        char* target, const char** rows, Py_ssize_t offset, Py_ssize_t n, size_t size
    ) noexcept nogil

    # whether `n` floats of `size` bytes (2, 4 or 8) are neither infinite nor NaN
    bint finite "fastrl_finite"(const char* data, Py_ssize_t n, int size) noexcept nogil
