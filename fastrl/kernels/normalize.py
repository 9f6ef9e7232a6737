"""Running normalisation, as in Stable-Baselines3's VecNormalize.

The moments of what was seen are three arrays, written in place: `mean` and `var` float64[D], `count` float64[1].
"""

from __future__ import annotations

import math

import numpy as np

from fastrl.kernels._jit import bare, inlined

EPSILON = 1e-8
CLIP = 10.0

Array = np.ndarray


@inlined
def _merge(n: int, batch_mean: float, squares: float, j: int, mean: Array, var: Array, count: float) -> None:
    """Column j of `count` rows and one of `n` more, whose squared distances from `batch_mean` sum to `squares`."""
    total, delta = count + n, batch_mean - mean[j]
    mean[j] += delta * (n / total)
    var[j] = (var[j] * count + squares + delta**2 * count * n / total) / total


@inlined
def _clipped(x: float) -> float:
    """`x` within ±10; NaN stays NaN."""
    return min(max(x, -CLIP), CLIP)


@bare
def observe(batch: Array, mean: Array, var: Array, count: Array) -> None:
    """Take the rows of `batch` [n, D] into the moments of its columns: Chan et al.'s parallel update, 1983."""
    n = len(batch)
    if n == 0:
        return
    for j in range(len(mean)):
        batch_mean = 0.0
        for i in range(n):
            batch_mean += float(batch[i, j])
        batch_mean /= n
        squares = 0.0
        for i in range(n):
            squares += (float(batch[i, j]) - batch_mean) ** 2
        _merge(n, batch_mean, squares, j, mean, var, count[0])
    count[0] += n


@bare
def normalize(obs: Array, mean: Array, var: Array, out: Array) -> None:
    """out = (obs − mean) / √(var + ε), clipped to ±10. `obs` and `out` [n, D]; they may be the same array."""
    for j in range(len(mean)):
        deviation = math.sqrt(var[j] + EPSILON)
        for i in range(len(obs)):
            out[i, j] = _clipped((obs[i, j] - mean[j]) / deviation)


@bare
def scale_reward(
    reward: Array, done: Array, valid: Array, gamma: float, returns: Array, mean: Array, var: Array, count: Array,
    out: Array,
) -> None:  # fmt: skip
    """out = reward / √(var + ε), clipped to ±10, where var is that of the discounted return G ← γ G + reward.

    `reward` float64[N], `done` and `valid` bool[N], `out` [N]. `returns` float64[N] is G of the running episodes:
    it moves on, its `valid` entries are taken into `mean`, `var` and `count`, float64[1], and it begins again from 0
    where the episode is `done`.
    """
    n, batch_mean = 0, 0.0
    for i in range(len(reward)):
        returns[i] = returns[i] * gamma + reward[i]
        if valid[i]:
            n += 1
            batch_mean += returns[i]
    if n > 0:
        batch_mean /= n
        squares = 0.0
        for i in range(len(reward)):
            if valid[i]:
                squares += (returns[i] - batch_mean) ** 2
        _merge(n, batch_mean, squares, 0, mean, var, count[0])
        count[0] += n
    deviation = math.sqrt(var[0] + EPSILON)
    for i in range(len(reward)):
        if done[i]:
            returns[i] = 0.0
        out[i] = _clipped(reward[i] / deviation)
