"""Acrobot-v1: two hinged links are swung up by a torque between them (Sutton 1996)."""

from __future__ import annotations

import math

import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl.envs.compiled import environment
from fastrl.kernels._jit import kernel
from fastrl.kernels.sampling import uniform

MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi
HIGH = np.array([1, 1, 1, 1, MAX_SPEED_1, MAX_SPEED_2], np.float32)
GRAVITY = 9.8


@kernel
def acceleration(
    theta1: float, theta2: float, speed1: float, speed2: float, torque: float
) -> tuple[float, float]:  # fmt: skip
    """θ̈₁ and θ̈₂ of links of length, mass and moment of inertia 1, as in Sutton & Barto's book."""
    cos, sin = math.cos(theta2), math.sin(theta2)
    d1 = 0.25 + (1.25 + cos) + 2.0
    d2 = 0.25 + 0.5 * cos + 1.0
    phi2 = 0.5 * GRAVITY * math.cos(theta1 + theta2 - math.pi / 2)
    phi1 = (
        -0.5 * speed2 * speed2 * sin
        - speed2 * speed1 * sin
        + 1.5 * GRAVITY * math.cos(theta1 - math.pi / 2)
        + phi2
    )  # fmt: skip
    second = (torque + d2 / d1 * phi1 - 0.5 * speed1 * speed1 * sin - phi2) / (1.25 - d2 * d2 / d1)
    return -(d2 * second + phi1) / d1, second


@kernel
def wrapped(angle: float) -> float:
    """The angle in [−π, π]."""
    while angle > math.pi:
        angle -= 2 * math.pi
    while angle < -math.pi:
        angle += 2 * math.pi
    return angle


@environment
class Acrobot:
    """State: the angle of the first link from hanging, of the second from the first (rad), and their speeds."""

    observation_space = Box(-HIGH, HIGH)
    action_space = Discrete(3)  # the torque, -1, 0 or 1
    state_size = 4
    max_episode_steps = 500
    reward_threshold = -100.0

    dt = 0.2  # s, of a step

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        for i in range(4):
            state[i] = np.float32(-0.1 + 0.2 * uniform(rng))

    def step(self, state: np.ndarray, action: int, rng: np.ndarray) -> tuple[float, bool]:
        a, b, v, w = state[0], state[1], state[2], state[3]
        torque, dt, half = action - 1.0, self.dt, self.dt / 2
        # The classical Runge-Kutta method; (v, w) and (p, q) are the derivatives of the angles and of the speeds.
        p1, q1 = acceleration(a, b, v, w, torque)
        v2, w2 = v + half * p1, w + half * q1
        p2, q2 = acceleration(a + half * v, b + half * w, v2, w2, torque)
        v3, w3 = v + half * p2, w + half * q2
        p3, q3 = acceleration(a + half * v2, b + half * w2, v3, w3, torque)
        v4, w4 = v + dt * p3, w + dt * q3
        p4, q4 = acceleration(a + dt * v3, b + dt * w3, v4, w4, torque)
        state[0] = wrapped(a + dt / 6 * (v + 2 * v2 + 2 * v3 + v4))
        state[1] = wrapped(b + dt / 6 * (w + 2 * w2 + 2 * w3 + w4))
        state[2] = min(max(v + dt / 6 * (p1 + 2 * p2 + 2 * p3 + p4), -MAX_SPEED_1), MAX_SPEED_1)
        state[3] = min(max(w + dt / 6 * (q1 + 2 * q2 + 2 * q3 + q4), -MAX_SPEED_2), MAX_SPEED_2)
        up = -math.cos(state[0]) - math.cos(state[1] + state[0]) > 1.0
        return (0.0 if up else -1.0), up

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        obs[0], obs[1] = math.cos(state[0]), math.sin(state[0])
        obs[2], obs[3] = math.cos(state[1]), math.sin(state[1])
        obs[4], obs[5] = state[2], state[3]
