"""One way to step any Gymnasium environment: single, vectorised in each autoreset mode, an id, a callable.

The algorithms see `Step`s only: the observation to act on next, and beside it the true final observation, so
that no autoreset convention reaches a rollout or a buffer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastrl.checks import check_int
from fastrl.envs import records
from fastrl.envs.base import EnvironmentFailure, Step, Stepper, spaces_of
from fastrl.envs.env_list import EnvList
from fastrl.envs.registration import TWINS, is_registered

__all__ = ["EnvLike", "EnvList", "EnvironmentFailure", "Step", "Stepper", "VectorStepper", "make_stepper"]

EnvLike = str | gym.Env | VectorEnv | Callable[[], gym.Env]


class VectorStepper(Stepper):
    """A Gymnasium vector environment, in whichever of the three autoreset modes it declares; EnvPool's too.

    EnvPool's environments take their seed when they are made, and `reset(seed)` leaves them as they are.
    """

    tells: tuple[type[Exception], ...] = ()  # what its errors are that name environment and step themselves

    def __init__(self, env: VectorEnv) -> None:
        from_envpool = any(base.__module__.startswith("envpool.") for base in type(env.unwrapped).__mro__)
        if from_envpool and env.unwrapped.is_async:  # type: ignore[attr-defined]
            raise ValueError(
                f"this EnvPool steps fewer of its {env.num_envs} environments at a time (batch_size); an agent here "
                "acts in all of them at every step: make it without batch_size"
            )
        super().__init__(*spaces_of(env, "single_"), env.num_envs, env.spec)
        self.env = env
        self.mode = AutoresetMode((env.metadata or {}).get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.reseeds = not from_envpool
        self._ended = np.zeros(self.num_envs, bool)

    def _failure(self, method: str, error: Exception) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"the vector environment raised {type(error).__name__} in {method} after {self.calls} steps: {error}"
        )

    def _batch(self, obs: Any, step: int) -> np.ndarray:
        return records.as_rows(self.observation_space, self.num_envs, obs, "the vector environment", step)

    def _reset(self, seed: int | None, options: dict[str, Any] | None = None) -> np.ndarray:
        self._ended[:] = False
        try:
            return self._batch(self.env.reset(seed=seed if self.reseeds else None, options=options)[0], self.calls)
        except self.tells:
            raise
        except Exception as error:
            raise self._failure("reset", error) from error

    def _step(self, action: np.ndarray) -> Step:
        try:
            obs, reward, terminated, truncated, info = self.env.step(action)
        except self.tells:
            raise
        except Exception as error:
            raise self._failure("step", error) from error
        final_obs, reward = self._batch(obs, self.calls + 1), np.array(reward, np.float64)
        terminated, truncated = np.array(terminated, bool), np.array(truncated, bool)
        done, next_obs = terminated | truncated, final_obs
        valid = ~self._ended  # none has, but for the mode NEXT_STEP
        if self.mode == AutoresetMode.NEXT_STEP:
            self._ended = done
        elif self.mode == AutoresetMode.SAME_STEP and np.count_nonzero(done):
            if "final_obs" not in info:
                raise ValueError('a vector environment of the mode SAME_STEP must give info["final_obs"]')
            final_obs = final_obs.copy()
            for i in np.flatnonzero(done):
                final_obs[i] = self._last(info["final_obs"], int(i))
        elif np.count_nonzero(done):
            next_obs = self._reset(None, {"reset_mask": done})
        return Step(next_obs, reward, terminated, truncated, final_obs, valid)

    def _last(self, final_obs: Any, i: int) -> Any:
        """Environment i's part of info["final_obs"]: an array of observations, or of a Dict space a dict of arrays."""
        if not self._records:
            return final_obs[i]
        own = {key: part[i] for key, part in final_obs.items()} if isinstance(final_obs, Mapping) else final_obs[i]
        return records.as_row(self.observation_space, own, f"environment {i} of the vector environment", self.calls + 1)

    def close(self) -> None:
        self.env.close()


def make_stepper(env: EnvLike | Stepper, n_envs: int = 1, twins: bool = False) -> Stepper:
    """The stepper for an environment, a vector environment, an id, or a callable that makes an environment.

    `n_envs` copies are made of an id, a compiled environment, or by a callable. With `twins`, an id of Gymnasium's
    that has a compiled twin means the twin; "fastrl/…" and ids of `fastrl.envs.register` always are compiled.

    Raises:
        TypeError: for anything else.
        ValueError: for `n_envs` below 1, or above 1 with an environment that exists already.
    """
    check_int("n_envs", n_envs)
    if isinstance(env, Stepper):
        return env
    if isinstance(env, (gym.Env, VectorEnv)) and n_envs != 1:
        raise ValueError("n_envs copies need an id or a callable; this is one environment that exists already")
    if isinstance(env, str) and ((twins and env in TWINS) or env.startswith("fastrl/") or is_registered(env)):
        stepper = make_stepper(importlib.import_module("fastrl.envs.making").make_vec(env, n_envs))
        stepper.env_id = env
        return stepper
    if (compiled := sys.modules.get("fastrl.envs.compiled")) and isinstance(env, compiled.Environment):
        return make_stepper(importlib.import_module("fastrl.envs.making").make_vec(env, n_envs))
    if isinstance(env, VectorEnv):
        if (vector := sys.modules.get("fastrl.envs.vector")) and isinstance(env, vector.CompiledVectorEnv):
            return importlib.import_module("fastrl.envs.fused").CompiledStepper(env)
        return VectorStepper(env)
    if isinstance(env, gym.Env):
        return EnvList([env])
    if isinstance(env, str):
        return EnvList([_made(env) for _ in range(n_envs)])  # a stepper checks itself
    if callable(env):
        envs = [env() for _ in range(n_envs)]
        if not all(isinstance(made, gym.Env) for made in envs):
            raise TypeError(f"the callable made a {type(envs[0]).__name__}; it must make a gymnasium.Env")
        return EnvList(envs)
    raise TypeError(f"env is a {type(env).__name__}; it must be an id, a gymnasium.Env, a VectorEnv or a callable")


def _made(env_id: str) -> gym.Env:
    try:
        return gym.make(env_id, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        if "box2d" not in str(error).lower():
            raise
        raise gym.error.DependencyNotInstalled(f'{env_id} needs Box2D: pip install "fastrl[box2d]"') from error
