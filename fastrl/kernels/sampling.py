"""The random stream of the kernels: xoshiro256++ (Blackman & Vigna 2021, prng.di.unimi.it) as a plain array.

A stream is a uint64[4] array which every draw advances in place, so it can be handed from Python to a
kernel and back, copied, compared and saved. Interpreted and compiled draws are equal bit for bit: all
integers are masked to 64 bits, which costs compiled code nothing and saves Python from overflow.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from fastrl.kernels._jit import bare, kernel

MASK = 0xFFFF_FFFF_FFFF_FFFF


def new_stream(seed: int | None = None) -> np.ndarray:
    """A stream, uint64[4], expanded from `seed` by `numpy.random.SeedSequence`; None takes fresh entropy.

    Raises TypeError unless `seed` is an integer or None, and ValueError if it is negative.
    """
    if seed is not None:
        try:
            seed = operator.index(seed)
        except TypeError:
            raise TypeError(f"seed must be an integer or None, got {type(seed).__name__}") from None
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
    return np.random.SeedSequence(seed).generate_state(4, np.uint64)


@bare
def bits(stream: np.ndarray) -> int:
    """64 random bits. `stream` uint64[4], advanced."""
    s0, s1, s2, s3 = int(stream[0]), int(stream[1]), int(stream[2]), int(stream[3])
    total = (s0 + s3) & MASK
    result = (((total << 23) & MASK | total >> 41) + s0) & MASK
    s2 ^= s0
    s3 ^= s1
    stream[0] = s0 ^ s3
    stream[1] = s1 ^ s2
    stream[2] = s2 ^ (s1 << 17) & MASK
    stream[3] = (s3 << 45) & MASK | s3 >> 19
    return result


@kernel
def uniform(stream: np.ndarray) -> float:
    """A multiple of 2⁻⁵³ in [0, 1), each as likely. `stream` uint64[4], advanced."""
    return (bits(stream) >> 11) * 2.0**-53


@kernel
def integer(stream: np.ndarray, n: int | np.uint64) -> int:
    """An integer in 0 … n − 1, for 1 <= n <= 2⁵³; probabilities differ from 1 / n by at most 2⁻⁵³."""
    return int(uniform(stream) * n)


@kernel
def normal(stream: np.ndarray) -> float:
    """A standard normal number, by two uniform ones (Box & Muller 1958); `stream` uint64[4], advanced."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(stream)))
    return radius * math.cos(2.0 * math.pi * uniform(stream))


@bare
def below(stream: np.ndarray, n: int) -> Any:
    """An integer in 0 … n − 1, for 1 <= n <= 2³², each as likely (Lemire 2019, Fast Random Integer Generation).

    The same as `fastrl_ext.random` draws from the same state.
    """
    high, low_half, half = np.uint64(n), np.uint64(0xFFFF_FFFF), np.uint64(32)
    x = (np.uint64(bits(stream)) >> half) * high
    if x & low_half < high:
        threshold = (np.uint64(1 << 32) - high) % high
        while x & low_half < threshold:
            x = (np.uint64(bits(stream)) >> half) * high
    return np.int64(x >> half)


def permutations(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """int64 [n, size]: in each row 0 … size − 1, every order as likely. Four numbers are drawn from `rng`."""
    out = np.empty((n, size), np.int64)
    shuffle_rows(rng.integers(1, 2**63, 4, np.uint64), out)
    return out


@bare
def shuffle_rows(stream: np.ndarray, out: np.ndarray) -> None:
    """Write a random permutation of 0 … M − 1 into each row of `out` int64 [n, M] (Fisher and Yates)."""
    for r in range(out.shape[0]):
        for i in range(out.shape[1]):
            j = below(stream, i + 1)
            out[r, i] = out[r, j]  # what lies there moves on, and i takes its place
            out[r, j] = i


@kernel
def alias_tables(indptr: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables from which `draw` picks an entry of any row in constant time (Walker 1977, Vose 1991).

    Row r has the entries indptr[r] … indptr[r+1] − 1 (`indptr` int64[R + 1]), whose `probability`
    (float64[n]) sums to 1. Returns `accept` float64[n] and `alias` int64[n]: entry i keeps the share
    accept[i] of its 1/n-th part of the row and leaves the rest to entry alias[i].
    """
    accept, alias = np.empty(len(probability)), np.empty(len(probability), np.int64)
    small, large = np.empty(len(probability), np.int64), np.empty(len(probability), np.int64)
    for row in range(len(indptr) - 1):
        first, last = indptr[row], indptr[row + 1]
        n_small = n_large = 0
        for i in range(first, last):
            accept[i], alias[i] = probability[i] * (last - first), i
            if accept[i] < 1.0:
                small[n_small] = i
                n_small += 1
            else:
                large[n_large] = i
                n_large += 1
        while n_small > 0 and n_large > 0:
            n_small -= 1
            poor, rich = small[n_small], large[n_large - 1]
            alias[poor] = rich
            accept[rich] -= 1.0 - accept[poor]
            if accept[rich] < 1.0:
                n_large -= 1
                small[n_small] = rich
                n_small += 1
    return accept, alias


@kernel
def draw(stream: np.ndarray, accept: np.ndarray, alias: np.ndarray, first: int, last: int) -> np.uint64:
    """An entry among first … last − 1, with the probabilities given to `alias_tables`."""
    u = uniform(stream) * (last - first)
    entry = np.uint64(first + int(u))
    return entry if u - int(u) < accept[entry] else np.uint64(alias[entry])
