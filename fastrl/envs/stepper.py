"""One way to step any Gymnasium environment: single, vectorised in each autoreset mode, an id, a callable.

The algorithms see `Step`s only: the observation to act on next, and beside it the true final observation, so
that no autoreset convention reaches a rollout or a buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastrl.checks import check_int
from fastrl.envs.base import EnvironmentFailure, Step, Stepper
from fastrl.envs.env_list import EnvList

__all__ = ["EnvLike", "EnvList", "EnvironmentFailure", "Step", "Stepper", "VectorStepper", "make_stepper"]

EnvLike = str | gym.Env | VectorEnv | Callable[[], gym.Env]


class VectorStepper(Stepper):
    """A Gymnasium vector environment, in whichever of the three autoreset modes it declares."""

    def __init__(self, env: VectorEnv) -> None:
        super().__init__(env.single_observation_space, env.single_action_space, env.num_envs, env.spec)
        self.env = env
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self._ended = np.zeros(self.num_envs, bool)

    def _failure(self, method: str, error: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"the vector environment raised {type(error).__name__} in {method} after {self.calls} steps: {error}"
        )

    def _batch(self, obs: Any) -> np.ndarray:
        array = np.array(obs)  # a copy: vector environments may write into the same memory again
        self._check_shape(array, (self.num_envs, *(self.observation_space.shape or ())), "the vector environment")
        return array

    def _reset(self, seed: int | None, options: dict[str, Any] | None = None) -> np.ndarray:
        self._ended[:] = False
        try:
            return self._batch(self.env.reset(seed=seed, options=options)[0])
        except Exception as error:
            raise self._failure("reset", error) from error

    def _step(self, action: np.ndarray) -> Step:
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._failure("step", error) from error
        final_obs, reward = self._batch(obs), np.array(reward, np.float64)
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        done, valid, next_obs = terminated | truncated, np.ones(self.num_envs, bool), final_obs
        if self.mode == AutoresetMode.NEXT_STEP:
            valid = ~self._ended
            self._ended = done
        elif done.any() and self.mode == AutoresetMode.SAME_STEP:
            if "final_obs" not in info:
                raise ValueError('a vector environment of the mode SAME_STEP must give info["final_obs"]')
            final_obs = final_obs.copy()
            for i in np.flatnonzero(done):
                final_obs[i] = info["final_obs"][i]
        elif done.any():
            next_obs = self._reset(None, {"reset_mask": done})
        return Step(next_obs, reward, terminated, truncated, final_obs, valid)

    def close(self) -> None:
        self.env.close()


def make_stepper(env: EnvLike | Stepper, n_envs: int = 1) -> Stepper:
    """The stepper for an environment, a vector environment, an id, or a callable that makes an environment.

    `n_envs` copies are made of an id or by a callable.

    Raises:
        TypeError: for anything else.
        ValueError: for `n_envs` below 1, or above 1 with an environment that exists already.
    """
    check_int("n_envs", n_envs)
    if isinstance(env, Stepper):
        return env
    if isinstance(env, (gym.Env, VectorEnv)) and n_envs != 1:
        raise ValueError("n_envs copies need an id or a callable; this is one environment that exists already")
    if isinstance(env, VectorEnv):
        return VectorStepper(env)
    if isinstance(env, gym.Env):
        return EnvList([env])
    if isinstance(env, str):
        return EnvList([gym.make(env) for _ in range(n_envs)])
    if callable(env):
        envs = [env() for _ in range(n_envs)]
        if not all(isinstance(made, gym.Env) for made in envs):
            raise TypeError(f"the callable made a {type(envs[0]).__name__}; it must make a gymnasium.Env")
        return EnvList(envs)
    raise TypeError(f"env is a {type(env).__name__}; it must be an id, a gymnasium.Env, a VectorEnv or a callable")
