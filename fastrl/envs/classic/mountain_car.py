"""MountainCar-v0 and MountainCarContinuous-v0: a car too weak for the hill gathers speed in the valley (Moore 1990)."""

from __future__ import annotations

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl.envs.compiled import environment
from fastrl.kernels.sampling import uniform

MIN_POSITION, MAX_POSITION, MAX_SPEED = -1.2, 0.6, 0.07
LOW, HIGH = np.array([MIN_POSITION, -MAX_SPEED], np.float32), np.array([MAX_POSITION, MAX_SPEED], np.float32)


@environment
class MountainCar:
    """State and observation: position and velocity."""

    observation_space = Box(LOW, HIGH)
    action_space = Discrete(3)  # accelerate to the left, not at all, to the right
    state_size = 2
    max_episode_steps = 200
    reward_threshold = -110.0

    force = 0.001
    gravity = 0.0025
    goal_position = 0.5
    goal_velocity = 0.0

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        state[0] = -0.6 + 0.2 * uniform(rng)

    def step(self, state: np.ndarray, action: int, rng: np.ndarray) -> tuple[float, bool]:
        position, velocity = state[0], state[1]
        velocity += (action - 1) * self.force - math.cos(3 * position) * self.gravity
        velocity = min(max(velocity, -MAX_SPEED), MAX_SPEED)
        position = min(max(position + velocity, MIN_POSITION), MAX_POSITION)
        if position == MIN_POSITION and velocity < 0:
            velocity = 0.0
        state[0], state[1] = position, velocity
        return -1.0, position >= self.goal_position and velocity >= self.goal_velocity

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        obs[0], obs[1] = state[0], state[1]


@environment
class MountainCarContinuous:
    """State and observation: position and velocity, both rounded to float32, as Gymnasium keeps them."""

    observation_space = Box(LOW, HIGH)
    action_space = Box(-1, 1, (1,))  # the acceleration; what is beyond is cut
    state_size = 2
    max_episode_steps = 999
    reward_threshold = 90.0

    power = 0.0015
    goal_position = 0.45
    goal_velocity = 0.0

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        state[0] = np.float32(-0.6 + 0.2 * uniform(rng))

    def step(self, state: np.ndarray, action: np.ndarray, rng: np.ndarray) -> tuple[float, bool]:
        position, velocity = np.float32(state[0]), np.float32(state[1])
        force = min(max(action[0], np.float32(-1)), np.float32(1))
        slope = np.float32(0.0025 * math.cos(np.float64(np.float32(3) * position)))
        velocity += force * np.float32(self.power) - slope
        velocity = min(max(velocity, np.float32(-MAX_SPEED)), np.float32(MAX_SPEED))
        position = min(max(position + velocity, np.float32(MIN_POSITION)), np.float32(MAX_POSITION))
        if position == np.float32(MIN_POSITION) and velocity < 0:
            velocity = np.float32(0)
        state[0], state[1] = position, velocity
        there = bool(position >= np.float32(self.goal_position) and velocity >= np.float32(self.goal_velocity))
        effort = np.float64(action[0])
        return float((100.0 if there else 0.0) - 0.1 * effort * effort), there

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        obs[0], obs[1] = state[0], state[1]
