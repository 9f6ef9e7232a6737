"""Small compiled environments for the tests, each with another kind of action or observation."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from fastrl.envs import environment, integer, uniform


@environment
class Count:
    """No chance in it: [t, last action, sum]; action 1 adds the step's number to the sum; ends beyond `goal`."""

    observation_space = Box(-np.inf, np.inf, (3, 1), np.float32)
    action_space = Discrete(3)
    state_size = 3
    max_episode_steps = 7

    goal = 9.0

    def reset(self, state, rng):
        state[2] = 0.5

    def step(self, state, action, rng):
        state[0] += 1
        state[1] = action
        if action == 1:
            state[2] += state[0]
        return state[2] - action, state[2] > self.goal

    def observe(self, state, obs):
        obs[:] = state


@environment
class Walk:
    """A walk over the cells 0 … 9 with a chance of slipping; a Discrete observation; it ends at either side."""

    observation_space = Discrete(10)
    action_space = Discrete(2)
    state_size = 1

    slip = 0.2

    def reset(self, state, rng):
        state[0] = 3 + integer(rng, 4)

    def step(self, state, action, rng):
        right = (action == 1) != (uniform(rng) < self.slip)
        state[0] += 1 if right else -1
        return 1.0 * right, state[0] == 0 or state[0] == 9

    def observe(self, state, obs):
        obs[0] = state[0]


@environment
class Dials:
    """MultiDiscrete: the reward is the sum of what the dials show, weighted."""

    observation_space = Box(0, 10, (3,), np.float32)
    action_space = MultiDiscrete([2, 3, 4])
    state_size = 3
    max_episode_steps = 5

    weights = np.array([1.0, 10.0, 100.0])

    def reset(self, state, rng):
        state[:] = 0

    def step(self, state, action, rng):
        reward = 0.0
        for i in range(3):
            state[i] = action[i]
            reward += self.weights[i] * action[i]
        return reward, False

    def observe(self, state, obs):
        obs[:] = state


@environment
class Lamps:
    """MultiBinary."""

    observation_space = Box(0, 1, (4,), np.float32)
    action_space = MultiBinary(4)
    state_size = 4
    max_episode_steps = 5

    def reset(self, state, rng):
        pass

    def step(self, state, action, rng):
        lit = 0
        for i in range(4):
            state[i] = action[i]
            lit += action[i]
        return lit, lit == 4

    def observe(self, state, obs):
        obs[:] = state


@environment
class Push:
    """Box: a point is pushed about; NaN when it comes to `hole`, a NaN reward at `trap`, 1 / 0 at `gap`."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)
    state_size = 2
    max_episode_steps = 50

    hole, trap, gap, off = 1e9, 1e9, 1e9, 1e9

    def reset(self, state, rng):
        state[0] = uniform(rng)

    def step(self, state, action, rng):
        for i in range(2):
            state[i] += action[i]
        if state[1] > self.off:
            state[int(state[1]) + 2] = 1.0
        if state[1] > self.trap:
            return np.nan, False
        if state[1] > self.gap:
            raise ValueError("mind the gap")
        return -abs(state[0]), False

    def observe(self, state, obs):
        obs[:] = state
        if state[1] > self.hole:
            obs[0] = np.nan


ALL = (Count, Walk, Dials, Lamps, Push)
