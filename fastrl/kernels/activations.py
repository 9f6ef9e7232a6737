"""Activation functions and their derivatives over flat arrays, a vector at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.simd import (
    exponent,
    load,
    maximum,
    minimum,
    positive,
    power_of_two,
    rint,
    store,
    where,
    zeros,
)

IDENTITY, TANH, RELU, LEAKY_RELU, ELU, SIGMOID, SOFTPLUS = range(7)
CODES = {"Tanh": TANH, "ReLU": RELU, "LeakyReLU": LEAKY_RELU, "ELU": ELU, "Sigmoid": SIGMOID, "Softplus": SOFTPLUS}
LANES = 16  # LLVM splits them to what the processor has
SLOPE = 0.01  # of LeakyReLU where it is negative


P0, P1, P2, P3, P4, P5, P6 = (np.float32(x) for x in (
    4.89352455891786e-03, 6.37261928875436e-04, 1.48572235717979e-05, 5.12229709037114e-08, -8.60467152213735e-11,
    2.00018790482477e-13, -2.76076847742355e-16,
))  # fmt: skip
Q0, Q1, Q2, Q3 = (
    np.float32(x) for x in (4.89352518554385e-03, 2.26843463243900e-03, 1.18534705686654e-04, 1.19825839466702e-06)
)
TANH_LIMIT = np.float32(7.9)
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_LOW, EXP_HIGH = np.float32(-87.0), np.float32(88.0)
E2, E3, E4, E5, E6, E7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))
ONE = np.float32(1)
LN2 = np.float32(math.log(2))
L1, L3, L5, L7, L9, L11, L13 = (np.float32(2 / n) for n in range(1, 15, 2))


@inlined
def tanh(x: Any) -> Any:
    """A rational approximation of orders 13 / 6 on ±7.9, beyond which float32's tanh is ±1 within an ulp.

    x and its result are a vector of float32, or one. That of NaN is NaN, here and below.
    """
    x = minimum(maximum(x, -TANH_LIMIT), TANH_LIMIT)
    z = x * x
    p = x * ((((((P6 * z + P5) * z + P4) * z + P3) * z + P2) * z + P1) * z + P0)
    return p / (((Q3 * z + Q2) * z + Q1) * z + Q0)


@inlined
def exp(x: Any) -> Any:
    """exp(x) = 2^n exp(r), n = ⌊x / ln 2⌉, |r| ≤ ln 2 / 2 by a Taylor polynomial; to a few ulp.

    x and its result are a vector of float32, or one. Below -87 it is that of -87, 1.6e-38; above 88 that of 88.
    """
    x = minimum(maximum(x, EXP_LOW), EXP_HIGH)
    n = rint(x * LOG2_E)
    r = x - n * LN2_HIGH - n * LN2_LOW
    return (((((((E7 * r + E6) * r + E5) * r + E4) * r + E3) * r + E2) * r + ONE) * r + ONE) * power_of_two(n)


@inlined
def log(x: Any) -> Any:
    """log x of a vector of float32 ≥ 1: x = m 2^e, log m = 2 artanh t, t = (m − 1) / (m + 1) by its series."""
    e = exponent(x)
    m = x * power_of_two(e * -ONE)
    t = (m - ONE) / (m + ONE)
    z = t * t
    return e * LN2 + t * ((((((L13 * z + L11) * z + L9) * z + L7) * z + L5) * z + L3) * z + L1)


@bare
def activate(code: int, y: np.ndarray, first: int, end: int) -> None:
    """y ← f(y) for the numbers first … end − 1 of a flat float32 array, a multiple of 16 of them."""
    like = zeros(y, LANES)
    if code == TANH:
        for i in range(first, end, LANES):
            store(y, i, tanh(load(y, i, like)))
    elif code == RELU:
        for i in range(first, end, LANES):
            store(y, i, maximum(load(y, i, like), like))
    elif code == LEAKY_RELU:
        for i in range(first, end, LANES):
            x = load(y, i, like)
            store(y, i, maximum(x, x * SLOPE))
    elif code == ELU:
        for i in range(first, end, LANES):
            x = load(y, i, like)
            store(y, i, where(positive(x), x, exp(x) - 1.0))
    elif code == SIGMOID:
        for i in range(first, end, LANES):
            store(y, i, 1.0 / (exp(like - load(y, i, like)) + 1.0))
    elif code == SOFTPLUS:
        for i in range(first, end):
            y[i] = max(y[i], np.float32(0)) + math.log1p(math.exp(-abs(y[i])))


@bare
def chain(code: int, y: np.ndarray, first: int, d_y: np.ndarray, i_d: int, count: int) -> None:
    """d_y ← d_y f'(x) where y = f(x), for `count` numbers from y[first] and d_y[i_d] on, a multiple of 16."""
    like = zeros(y, LANES)
    if code == TANH:
        for i in range(0, count, LANES):
            h, d = load(y, first + i, like), load(d_y, i_d + i, like)
            store(d_y, i_d + i, d - d * h * h)
    elif code == RELU:
        for i in range(0, count, LANES):
            store(d_y, i_d + i, where(positive(load(y, first + i, like)), load(d_y, i_d + i, like), like))
    elif code == LEAKY_RELU:
        for i in range(0, count, LANES):
            d = load(d_y, i_d + i, like)
            store(d_y, i_d + i, where(positive(load(y, first + i, like)), d, d * SLOPE))
    elif code == ELU:
        for i in range(0, count, LANES):
            h, d = load(y, first + i, like), load(d_y, i_d + i, like)
            store(d_y, i_d + i, where(positive(h), d, d * h + d))
    elif code == SIGMOID:
        for i in range(0, count, LANES):
            h, d = load(y, first + i, like), load(d_y, i_d + i, like)
            store(d_y, i_d + i, d * h * (1.0 - h))
    elif code == SOFTPLUS:
        for i in range(count):
            d_y[i_d + i] *= 1 - math.exp(-y[first + i])
