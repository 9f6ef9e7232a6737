"""The memory of one rollout: preallocated, time-major arrays."""

from __future__ import annotations

import numpy as np


class Rollout:
    """T steps of N environments. Every array is [T, N, ...]; `valid` marks the rows that are transitions."""

    def __init__(self, n_steps: int, num_envs: int, obs_dim: int, action_dim: int, action_dtype: type) -> None:
        shape = (n_steps, num_envs)
        self.obs = np.zeros((*shape, obs_dim), np.float32)
        self.action: np.ndarray = np.zeros((*shape, action_dim), action_dtype)
        self.log_prob, self.value, self.reward = (np.zeros(shape, np.float32) for _ in range(3))
        self.final_value = np.zeros(shape, np.float32)  # V of the true last observation, where truncated
        self.terminated, self.truncated, self.valid = (np.zeros(shape, bool) for _ in range(3))
        self.advantage, self.returns = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
