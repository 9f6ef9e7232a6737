"""Responses of language models: advantages, baselines, whitening and divergences of their tokens.

Tokens of B responses lie end to end, without padding: response b has those from `offsets[b]` up to `offsets[b + 1]`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.activations import exp
from fastrl.kernels.simd import load, positive, splat, store, total, where, zeros

Array = np.ndarray
LANES = 16
WIDTH = 8  # of a group's vectors: groups are small
BLOCK = 1024  # numbers that are added up in their own type, before the sum is one of float64
K1, K2, K3 = 1, 2, 3
DIFFERENCE, DEVIATION, LEAVE_ONE_OUT = 0, 1, 2

SMALL = np.float32(0.35)  # below it e^x - 1 - x is its Taylor polynomial: in floats little would be left of it
T2, T3, T4, T5, T6, T7, T8 = (np.float32(1 / math.factorial(k)) for k in range(2, 9))
ONE, HALF = np.float32(1), np.float32(0.5)


@bare
def rise(offsets: Array, n: int) -> bool:
    """Whether int64 `offsets` rise from 0 to n."""
    for b in range(len(offsets) - 1):
        if offsets[b + 1] <= offsets[b]:
            return False
    return len(offsets) > 1 and offsets[0] == 0 and offsets[-1] == n


@bare
def token_gae(
    reward: Array, value: Array, offsets: Array, gamma: Any, trace: Any, advantage: Array, returns: Array
) -> None:
    """δ_t = r_t + γ V(s_{t+1}) − V(s_t);   A_t = δ_t + γλ A_{t+1}; past the last token of a response both are 0.

    All but `offsets` [B + 1] int64 are [tokens] of one float type, γ and `trace` = γλ are of it too. Writes `advantage`
    and `returns` = advantage + value.
    """
    for b in range(len(offsets) - 1):
        following = next_value = advantage.dtype.type(0)
        for t in range(offsets[b + 1] - 1, offsets[b] - 1, -1):
            following = reward[t] + gamma * next_value - value[t] + trace * following
            next_value = value[t]
            advantage[t], returns[t] = following, following + next_value


@bare
def group_advantages(score: Array, size: int, scale: int, eps: float, advantage: Array) -> None:
    """Of each group of `size` scores: less their mean, and scaled.

    DIFFERENCE: as it is. DEVIATION: by the group's standard deviation, of size − 1, and ε. LEAVE_ONE_OUT: by
    size / (size − 1), which makes the baseline the mean of the others. float64 [groups * size].
    """
    zero, share, whole = zeros(score, WIDTH), 1 / (size - 1), size // WIDTH * WIDTH
    for start in range(0, len(score), size):
        mean = _group_sum(score, start, whole, size, 0.0, False, zero) / size
        factor = 1.0
        if scale == DEVIATION:
            factor = 1 / (math.sqrt(_group_sum(score, start, whole, size, mean, True, zero) * share) + eps)
        elif scale == LEAVE_ONE_OUT:
            factor = size * share
        for i in range(start, start + whole, WIDTH):
            store(advantage, i, (load(score, i, zero) - splat(mean, zero)) * splat(factor, zero))
        for i in range(start + whole, start + size):
            advantage[i] = (score[i] - mean) * factor


@inlined
def _group_sum(score: Array, start: int, whole: int, size: int, center: float, squared: bool, zero: Any) -> float:
    part = zero
    for i in range(start, start + whole, WIDTH):
        error = load(score, i, zero) - splat(center, zero)
        part = part + (error * error if squared else error)
    result = total(part)
    for i in range(start + whole, start + size):
        error = score[i] - center
        result += error * error if squared else error
    return result


@bare
def whiten(x: Array, mask: Array, shift_mean: bool, eps: float, out: Array) -> None:
    """(x − μ) / √(σ² + ε), plus μ unless `shift_mean`; μ and σ², of n − 1, of where the mask is set; 0 elsewhere.

    `x` and `out` are flat, of one float type, `mask` bool. One number alone has no deviation: σ² is 0.
    """
    zero, count = zeros(x, LANES), 0
    for i in range(len(mask)):
        count += mask[i]
    if count == 0:
        out[:] = 0
        return
    mean = _sum(x, mask, 0.0, False, zero) / count
    variance = _sum(x, mask, mean, True, zero) / max(count - 1, 1)
    scale, back = 1 / math.sqrt(variance + eps), 0.0 if shift_mean else mean
    for k in range(len(x) // LANES):
        i = k * LANES
        scaled = (load(x, i, zero) - splat(mean, zero)) * splat(scale, zero) + splat(back, zero)
        store(out, i, where(load(mask, i, zero), scaled, zero))
    for i in range(len(x) // LANES * LANES, len(x)):
        out[i] = (x[i] - mean) * scale + back if mask[i] else 0.0


@inlined
def _sum(x: Array, mask: Array, center: float, squared: bool, zero: Any) -> float:
    """Σ (x − center), or of its squares, where the mask is set."""
    result, whole, middle = 0.0, len(x) // LANES * LANES, splat(center, zero)
    for start in range(0, whole, BLOCK):
        part = zero
        for i in range(start, min(start + BLOCK, whole), LANES):
            error = where(load(mask, i, zero), load(x, i, zero) - middle, zero)
            part = part + (error * error if squared else error)
        result += total(part)
    for i in range(whole, len(x)):
        if mask[i]:
            error = x[i] - center
            result += error * error if squared else error
    return result


@bare
def divergences(log_prob: Array, ref_log_prob: Array, estimator: int, out: Array) -> None:
    """Estimates of KL(π ‖ π_ref) by each token, with d = log π − log π_ref; float32 [tokens].

    K1: d. K2: d² / 2. K3: e^(−d) − 1 + d. Schulman 2020, "Approximating KL Divergence".
    """
    n = len(out)
    if n >= LANES:
        zero = zeros(out, LANES)
        for k in range(0, n, LANES):
            i = min(k, n - LANES)  # the last vector overlaps the one before
            store(out, i, _divergence(load(log_prob, i, zero) - load(ref_log_prob, i, zero), estimator))
        return
    one = zeros(out, 1)
    for i in range(n):
        store(out, i, _divergence(load(log_prob, i, one) - load(ref_log_prob, i, one), estimator))


@inlined
def _divergence(d: Any, estimator: int) -> Any:
    if estimator == K1:
        return d
    if estimator == K2:
        return HALF * d * d
    x = -ONE * d
    near = ((((((T8 * x + T7) * x + T6) * x + T5) * x + T4) * x + T3) * x + T2) * x * x
    return where(positive(x + SMALL) & positive(SMALL - x), near, exp(x) - ONE - x)


@bare
def divergence_sums(log_prob: Array, ref_log_prob: Array, offsets: Array, estimator: int, out: Array) -> None:
    """As `divergences`, added up over the tokens of each response; `out` [B] float32."""
    zero, one = zeros(out, LANES), zeros(out, 1)
    for b in range(len(out)):
        first, last, result = offsets[b], offsets[b + 1], 0.0
        whole = first + (last - first) // LANES * LANES
        for start in range(first, whole, BLOCK):
            part = zero
            for i in range(start, min(start + BLOCK, whole), LANES):
                part = part + _divergence(load(log_prob, i, zero) - load(ref_log_prob, i, zero), estimator)
            result += total(part)
        for i in range(whole, last):
            result += total(_divergence(load(log_prob, i, one) - load(ref_log_prob, i, one), estimator))
        out[b] = result
