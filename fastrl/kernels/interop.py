"""Generalised advantage estimation as other libraries write it, with their roundings: no operation is rearranged."""

from __future__ import annotations

import numpy as np

from fastrl.kernels._jit import kernel

Array = np.ndarray


@kernel
def gae_by_starts(
    reward: Array, value: Array, start: Array, last_value: Array, last_done: Array, gamma: float, decay: float,
    advantage: Array, returns: Array,
) -> None:  # fmt: skip
    """δ_t = r_t + γ V_{t+1} (1 − start_{t+1}) − V_t;   A_t = δ_t + decay (1 − start_{t+1}) A_{t+1}

    `start[t]` says that observation t begins an episode, `last_done` that one begins behind the last step; both are
    0 or 1, of the numbers' type. `last_value` and `last_done` are [N], the rest [T, N]; `gamma` and `decay` = γλ are
    of that type too. Writes `advantage` and `returns` = advantage + value. Schulman et al. 2016, eq. 16.
    """
    T, N = reward.shape
    zero, one = reward.dtype.type(0), reward.dtype.type(1)
    for t in range(T - 1, -1, -1):
        for j in range(N):
            if t == T - 1:
                live, next_value, following = one - last_done[j], last_value[j], zero
            else:
                live, next_value, following = one - start[t + 1, j], value[t + 1, j], advantage[t + 1, j]
            delta = reward[t, j] + gamma * next_value * live - value[t, j]
            advantage[t, j] = delta + decay * live * following
            returns[t, j] = advantage[t, j] + value[t, j]
