"""Pendulum-v1: a pendulum is swung up and held there with little torque."""

from __future__ import annotations

import math

import numpy as np
from gymnasium.spaces import Box

from fastrl.envs.compiled import environment
from fastrl.kernels.sampling import uniform

MAX_SPEED, MAX_TORQUE = 8.0, 2.0
HIGH = np.array([1, 1, MAX_SPEED], np.float32)


@environment
class Pendulum:
    """State: the angle from upright (rad) and its speed."""

    observation_space = Box(-HIGH, HIGH)
    action_space = Box(-MAX_TORQUE, MAX_TORQUE, (1,))  # the torque; what is beyond is cut
    state_size = 2
    max_episode_steps = 200

    g = 10.0
    m = 1.0
    l = 1.0
    dt = 0.05  # s, of a step

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        state[0] = math.pi * (2 * uniform(rng) - 1)
        state[1] = 2 * uniform(rng) - 1

    def step(self, state: np.ndarray, action: np.ndarray, rng: np.ndarray) -> tuple[float, bool]:
        angle, speed = state[0], state[1]
        torque = min(max(action[0], np.float32(-MAX_TORQUE)), np.float32(MAX_TORQUE))
        off = (angle + math.pi) % (2 * math.pi) - math.pi
        # What is done with the torque alone is rounded to float32, as Gymnasium's is.
        cost = off * off + 0.1 * (speed * speed) + np.float32(0.001) * (torque * torque)
        push = np.float32(3.0 / (self.m * self.l * self.l)) * torque
        speed += (3 * self.g / (2 * self.l) * math.sin(angle) + push) * self.dt
        state[1] = min(max(speed, -MAX_SPEED), MAX_SPEED)
        state[0] = angle + state[1] * self.dt
        return -cost, False

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        obs[0], obs[1], obs[2] = math.cos(state[0]), math.sin(state[0]), state[1]
