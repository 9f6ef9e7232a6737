"""CartPole-v1: a pole hinged to a cart is kept upright by pushing the cart (Barto, Sutton & Anderson 1983)."""

from __future__ import annotations

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl.envs.compiled import environment
from fastrl.kernels.sampling import uniform

X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360
HIGH = np.array([2 * X_LIMIT, np.inf, 2 * ANGLE_LIMIT, np.inf], np.float32)


@environment
class CartPole:
    """State and observation: the cart's position and velocity, the pole's angle (rad) and angular velocity."""

    observation_space = Box(-HIGH, HIGH)
    action_space = Discrete(2)  # push to the left, to the right
    state_size = 4
    max_episode_steps = 500
    reward_threshold = 475.0

    gravity = 9.8
    masspole = 0.1
    total_mass = 0.1 + 1.0
    length = 0.5  # half the pole's
    force_mag = 10.0
    tau = 0.02  # s, of a step
    sutton_barto_reward = False  # 0 for a step and -1 for falling, instead of 1 for a step

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        for i in range(4):
            state[i] = -0.05 + 0.1 * uniform(rng)

    def step(self, state: np.ndarray, action: int, rng: np.ndarray) -> tuple[float, bool]:
        x, x_dot, theta, theta_dot = state[0], state[1], state[2], state[3]
        force = self.force_mag if action == 1 else -self.force_mag
        cos, sin = math.cos(theta), math.sin(theta)
        polemass_length = self.masspole * self.length
        temp = (force + polemass_length * theta_dot * theta_dot * sin) / self.total_mass
        theta_acc = (self.gravity * sin - cos * temp) / (
            self.length * (4.0 / 3.0 - self.masspole * cos * cos / self.total_mass)
        )
        x_acc = temp - polemass_length * theta_acc * cos / self.total_mass
        state[0] = x + self.tau * x_dot
        state[1] = x_dot + self.tau * x_acc
        state[2] = theta + self.tau * theta_dot
        state[3] = theta_dot + self.tau * theta_acc
        fallen = abs(state[0]) > X_LIMIT or abs(state[2]) > ANGLE_LIMIT
        if self.sutton_barto_reward:
            return (-1.0 if fallen else 0.0), fallen
        return 1.0, fallen

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        for i in range(4):
            obs[i] = state[i]
