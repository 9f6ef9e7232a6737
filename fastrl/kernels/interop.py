"""What other libraries compute, with their roundings: no floating-point operation is rearranged."""

from __future__ import annotations

import numpy as np

from fastrl.kernels._jit import kernel

Array = np.ndarray
Number = np.floating


@kernel
def gae_by_starts(
    reward: Array, value: Array, start: Array, last_value: Array, last_done: Array, gamma: Number, decay: Number,
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


@kernel
def gae_of_pairs(
    reward: Array, value: Array, next_value: Array, terminated: Array, done: Array, lag: int, gamma: Number,
    decay: Number, advantage: Array, target: Array,
) -> None:  # fmt: skip
    """δ_t = r_t + γ (1 − terminated_t) V(s'_t) − V(s_t);   A_t = δ_t + decay (1 − done_t) A_{t+1}

    Arrays [B, T · lag], C-contiguous: step t + 1 lies `lag` numbers behind step t. Flags are bool, `gamma` and `decay`
    = γλ of the numbers' type. Writes `advantage` and `target` = advantage + value. Schulman et al. 2016, eq. 16.

    Four rows take their steps side by side, as each step of one has to wait for the step before it; more rows would
    compete for the same lines of the cache.
    """
    B, size = reward.shape
    zero = reward.dtype.type(0)
    for first in range(0, B, 4):
        last = min(first + 4, B)
        for b in range(first, last):
            for k in range(size):
                ahead = (zero if terminated[b, k] else gamma) * next_value[b, k]
                advantage[b, k] = reward[b, k] + ahead - value[b, k]
        for k in range(size - lag - 1, -1, -1):
            for b in range(first, last):
                advantage[b, k] += advantage[b, k + lag] * (zero if done[b, k] else decay)
        for b in range(first, last):
            for k in range(size):
                target[b, k] = advantage[b, k] + value[b, k]


@kernel
def n_step_windows(
    reward: Array, done: Array, timeout: Array, first: Array, newest: int, stride: int, rewards: Array, lengths: Array,
    ends: Array,
) -> None:  # fmt: skip
    """Windows of m ≤ n steps that stop at episode ends and at the newest step.

    `reward`, `done` and `timeout` [capacity] are a ring in which the record that follows i in its environment is i +
    `stride`, and `newest` begins the row that was written last. `first` int64 [B] are the windows' first records.
    Writes `rewards` [B, n], with zeros behind a window, m as `lengths` [B] and the windows' last records as `ends` [B].
    """
    capacity, n = len(reward), rewards.shape[1]
    for b in range(len(first)):
        i, length = first[b], 1
        rewards[b] = 0
        rewards[b, 0] = reward[i]
        while length < n and not done[i] and not timeout[i] and not newest <= i < newest + stride:
            i = (i + stride) % capacity
            rewards[b, length] = reward[i]
            length += 1
        lengths[b], ends[b] = length, i
