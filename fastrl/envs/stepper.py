"""One way to step any Gymnasium environment: single, vectorised in each autoreset mode, an id, a callable.

The algorithms see `Step`s only: the observation to act on next, and beside it the true final observation, so
that no autoreset convention reaches a rollout or a buffer.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastrl.checks import check_int
from fastrl.envs import records
from fastrl.envs.base import EnvironmentFailure, Step, Stepper, spaces_of
from fastrl.envs.env_list import EnvList
from fastrl.envs.registration import TWINS, is_registered

__all__ = ["EnvLike", "EnvList", "EnvironmentFailure", "Step", "Stepper", "VectorStepper", "make_stepper"]


class HasStepper(Protocol):
    """What `fastrl.VecEnv` is to the algorithms."""

    @property
    def stepper(self) -> Stepper:
        """What steps its environments."""


EnvLike = str | gym.Env | VectorEnv | HasStepper | Callable[[], gym.Env]


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
        self._owns([env])
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
            obs, info = self.env.reset(seed=seed if self.reseeds else None, options=options)
            if self.keep_infos:
                self.reset_infos = each_info(info, self.num_envs)
            return self._batch(obs, self.calls)
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
        if self.keep_infos:
            self.infos = last_infos(info, self.num_envs)
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


def each_info(info: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """What a vector environment tells of all environments, as a dict for each of the N."""
    infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, value in info.items():
        if key.startswith("_") and key[1:] in info:
            continue
        if isinstance(value, dict):
            value = each_info(value, num_envs)
        elif not hasattr(value, "__len__") or len(value) != num_envs:
            continue  # it is of none of them
        for i, told in enumerate(info.get(f"_{key}", np.ones(num_envs, bool))):
            if told:
                infos[i][key] = value[i]
    return infos


def last_infos(info: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """`each_info` of a step: where an episode ended and another began at once, that of its end."""
    return [each.get("final_info", each) if "final_obs" in each else each for each in each_info(info, num_envs)]


def is_made(env: Any) -> bool:
    """Whether `env` is an environment that exists already, not an id or a callable that makes some."""
    return isinstance(env, (gym.Env, VectorEnv, Stepper)) or isinstance(getattr(env, "stepper", None), Stepper)


def is_compiled(env: Any, twins: bool = False) -> bool:
    """Whether `env` is a compiled environment, or an id that means one; `twins` as of `make_stepper`."""
    if isinstance(env, str):
        return (twins and env in TWINS) or env.startswith("fastrl/") or is_registered(env)
    compiled = sys.modules.get("fastrl.envs.compiled")
    return compiled is not None and isinstance(env, compiled.Environment)


def make_stepper(env: EnvLike | Stepper, n_envs: int = 1, twins: bool = False) -> Stepper:
    """The stepper for an environment, a vector environment, a `VecEnv`, an id, or a callable that makes an environment.

    `n_envs` copies are made of an id, a compiled environment, or by a callable. With `twins`, an id of Gymnasium's
    that has a compiled twin means the twin; "fastrl/…" and ids of `fastrl.envs.register` always are compiled.

    Raises:
        TypeError: for anything else.
        ValueError: for `n_envs` below 1, or above 1 with an environment that exists already.
    """
    check_int("n_envs", n_envs)
    if isinstance(env, Stepper):
        return env
    if is_made(env) and n_envs != 1:
        raise ValueError("n_envs copies need an id or a callable; this is one environment that exists already")
    if isinstance(own := getattr(env, "stepper", None), Stepper):
        return own
    if is_compiled(env, twins):
        stepper = make_stepper(importlib.import_module("fastrl.envs.making").make_vec(env, n_envs))
        stepper.env_id = env if isinstance(env, str) else stepper.env_id
        return stepper
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
    if any(base.__module__.startswith("stable_baselines3.") for base in type(env).__mro__):
        raise TypeError(
            f"env is a {type(env).__name__} of Stable-Baselines3; make it by fastrl's make_vec_env, DummyVecEnv or "
            "SubprocVecEnv, which take the same arguments"
        )
    raise TypeError(f"env is a {type(env).__name__}; it must be an id, a gymnasium.Env, a VectorEnv or a callable")


def _made(env_id: str) -> gym.Env:
    try:
        return gym.make(env_id, disable_env_checker=True)
    except gym.error.DependencyNotInstalled as error:
        if "box2d" not in str(error).lower():
            raise
        raise gym.error.DependencyNotInstalled(f'{env_id} needs Box2D: pip install "fastrl[box2d]"') from error
