"""Small environments whose every number is known, for the tests."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete


class Counter(gym.Env):
    """Observations count the steps of an episode, marked by its number: [episode, t]. Ends at `length`."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length=3, truncate=False, fail_at=None, nan_at=None, nan_reward=False, shape=(2,), first=0):
        self.length, self.truncate, self.fail_at, self.nan_at = length, truncate, fail_at, nan_at
        self.nan_reward, self.shape, self.episode, self.total = nan_reward, shape, first, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._obs(), {}

    def _obs(self):
        return np.resize(np.array([self.episode, self.t], np.float32), self.shape)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t, self.total = self.t + 1, self.total + 1
        if self.fail_at == self.total:
            raise KeyError("the wheel fell off")
        obs, reward = self._obs(), float(self.t)
        if self.nan_at == self.total:
            obs = obs if self.nan_reward else obs * np.nan
            reward = np.nan if self.nan_reward else reward
        end = self.t >= self.length
        return obs, reward, end and not self.truncate, end and self.truncate, {}


class Identity(gym.Env):
    """The reward is 1 for repeating the observation, else 0: quickly learnt. Any action and observation space."""

    def __init__(self, space, observation_space=None, length=20):
        self.action_space, self.observation_space, self.length = space, observation_space or space, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.t = 0
        return self._next(), {}

    def _next(self):
        self.obs = self.observation_space.sample()
        return self.obs

    def step(self, action):
        assert self.action_space.contains(action), (action, self.action_space)
        self.t += 1
        if isinstance(self.action_space, Box):
            reward = 1.0 - float(np.abs(action - self.obs).mean())
        else:
            reward = float(np.mean(np.asarray(action) == np.asarray(self.obs)))
        return self._next(), reward, False, self.t >= self.length, {}
