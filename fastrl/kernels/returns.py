"""Advantages and returns. Arrays of rollouts are time-major, [T, N]; those of replay are one ring of records."""

from __future__ import annotations

import numpy as np

from fastrl.kernels._jit import kernel

Array = np.ndarray


@kernel
def gae(
    reward: Array, value: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    gamma: float, gae_lambda: float, advantage: Array, returns: Array,
) -> None:  # fmt: skip
    """δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t);   A_t = δ_t + γλ (1 − done_t) A_{t+1}

    V(s_{t+1}) is `final_value[t]` where the episode was truncated, `last_value` at the end of the rollout
    and `value[t + 1]` elsewhere; done = terminated or truncated. `last_value` is [N], the rest [T, N],
    flags bool, numbers float32 or float64. Writes `advantage` and `returns` = advantage + value.
    Schulman et al. 2016, eq. 16.
    """
    T, N = reward.shape
    for t in range(T - 1, -1, -1):
        for j in range(N):
            following, next_value = 0.0, 0.0
            if truncated[t, j] and not terminated[t, j]:
                next_value = float(final_value[t, j])
            elif not terminated[t, j]:
                next_value = float(value[t + 1, j] if t + 1 < T else last_value[j])
                following = float(advantage[t + 1, j]) if t + 1 < T else 0.0
            delta = reward[t, j] + gamma * next_value - value[t, j]
            advantage[t, j] = delta + gamma * gae_lambda * following
            returns[t, j] = advantage[t, j] + value[t, j]


@kernel
def discounted_returns(
    reward: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    gamma: float, returns: Array,
) -> None:  # fmt: skip
    """G_t = r_t + γ G_{t+1}; past an end G is 0 (terminated), `final_value[t]` (truncated) or `last_value`.

    Shapes and types as in `gae`. Writes `returns`. Sutton & Barto 2018, eq. 3.9.
    """
    T, N = reward.shape
    for j in range(N):
        following = float(last_value[j])
        for t in range(T - 1, -1, -1):
            if terminated[t, j]:
                following = 0.0
            elif truncated[t, j]:
                following = float(final_value[t, j])
            following = reward[t, j] + gamma * following
            returns[t, j] = following


@kernel
def n_step_windows(
    reward: Array, terminated: Array, truncated: Array, first: Array, newest: int, stride: int, n_steps: int,
    gamma: float, returns: Array, discount: Array, last: Array,
) -> None:  # fmt: skip
    """R = Σ_{k<m} γ^k r_{t+k} and γ^m, for windows of m ≤ n steps that stop at episode ends and at the newest record.

    `reward`, `terminated`, `truncated` [capacity] are a ring: record i, in the order of writing, lies in slot
    i % capacity, the one that follows it in its environment is i + `stride`, at most `capacity` on, and `newest` is
    the last that was written. `first` int64[B] are the windows' first records. Writes `returns`, `discount`
    (float32) and `last` (int64), the windows' last records, all [B]. What follows a window is worth `discount` times
    the value of next_obs[last], or nothing where that is terminated.
    Sutton & Barto 2018, eq. 7.1.
    """
    capacity = len(reward)
    for b in range(len(first)):
        record, slot = first[b], first[b] % capacity
        total, weight = float(reward[slot]), gamma
        for _ in range(min(n_steps - 1, (newest - record) // stride)):
            if terminated[slot] or truncated[slot]:
                break
            record += stride
            slot += stride
            if slot >= capacity:
                slot -= capacity
            total += weight * reward[slot]
            weight *= gamma
        returns[b], discount[b], last[b] = total, weight, record
