"""The step from a gradient to new parameters: global-norm clip and Adam, over flat vectors."""

from __future__ import annotations

import math

import numpy as np

from fastrl.kernels._jit import bare
from fastrl.kernels.activations import LANES
from fastrl.kernels.simd import load, sqrt, store, total, zeros

BETA_1, BETA_2 = 0.9, 0.999
LARGEST = 1.8e19  # norm of a gradient: Adam keeps its square, and that must be a float32 still


@bare
def norm(x: np.ndarray) -> float:
    """The Euclidean norm of a flat float32 vector."""
    like = zeros(x, LANES)
    a, b = like, like
    whole = len(x) - len(x) % (2 * LANES)
    for i in range(0, whole, 2 * LANES):
        one, other = load(x, i, like), load(x, i + LANES, like)
        a, b = a + one * one, b + other * other
    squares = float(total(a + b))
    for i in range(whole, len(x)):
        squares += float(x[i]) * float(x[i])
    return math.sqrt(squares)


@bare
def lerp(x: np.ndarray, y: np.ndarray, share: float) -> None:
    """x ← x + share · (y − x), over flat float32 vectors; a share of 1 makes a copy."""
    if share == 1:
        for i in range(len(x)):
            x[i] = y[i]
        return
    like = zeros(x, LANES)
    whole, weight = len(x) - len(x) % LANES, np.float32(share)
    for i in range(0, whole, LANES):
        old = load(x, i, like)
        store(x, i, old + (load(y, i, like) - old) * weight)
    for i in range(whole, len(x)):
        x[i] += (y[i] - x[i]) * weight


@bare
def descend(
    params: np.ndarray, grads: np.ndarray, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, step: int,
    learning_rate: float, adam_eps: float, max_grad_norm: float,
) -> bool:  # fmt: skip
    """One step of Adam (Kingma and Ba 2015, algorithm 1) down `grads`, its norm clipped as Torch clips it.

    Flat float32 vectors of one length; `step` counts from 1; `max_grad_norm` may be infinite. Returns False, and
    nothing has happened, where the norm of `grads` is not finite, or beyond `LARGEST`.
    """
    size = norm(grads)
    if not size <= LARGEST:
        return False
    scale = np.float32(min(1.0, max_grad_norm / (size + 1e-6)))
    rate = np.float32(learning_rate / (1 - BETA_1**step))
    correction, eps = np.float32(1 / math.sqrt(1 - BETA_2**step)), np.float32(adam_eps)
    like = zeros(params, LANES)
    whole = len(params) - len(params) % LANES
    for i in range(0, whole, LANES):
        g = load(grads, i, like) * scale
        m = load(exp_avg, i, like) * BETA_1 + g * (1 - BETA_1)
        v = load(exp_avg_sq, i, like) * BETA_2 + g * g * (1 - BETA_2)
        store(exp_avg, i, m)
        store(exp_avg_sq, i, v)
        store(params, i, load(params, i, like) - m * rate / (sqrt(v) * correction + eps))
    for i in range(whole, len(params)):
        g = grads[i] * scale
        exp_avg[i] = exp_avg[i] * np.float32(BETA_1) + g * np.float32(1 - BETA_1)
        exp_avg_sq[i] = exp_avg_sq[i] * np.float32(BETA_2) + g * g * np.float32(1 - BETA_2)
        params[i] -= exp_avg[i] * rate / (np.sqrt(exp_avg_sq[i]) * correction + eps)
    return True
