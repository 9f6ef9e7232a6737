"""A compiled environment as a `gymnasium.Env`."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl.envs.base import EnvironmentFailure, NotFinite
from fastrl.envs.compiled import Environment
from fastrl.kernels.environment import reset_one, step_one
from fastrl.kernels.sampling import new_stream
from fastrl_ext.stepping import all_finite

__all__ = ["CompiledEnv", "check_options", "in_place"]


def in_place(name: str) -> Any:
    """A property for the array in `_name`: what is assigned is copied into it. Kernels take its memory for granted."""

    def read(self: Any) -> np.ndarray:
        array: np.ndarray = getattr(self, f"_{name}")
        return array

    def write(self: Any, value: Any) -> None:
        own = read(self)
        new = _as_given(value, own.dtype)
        if new.shape != own.shape or not np.can_cast(new.dtype, own.dtype, "same_kind"):
            raise ValueError(
                f"{name} is {new.dtype} {new.shape}; it must be {own.dtype} {own.shape}: what is assigned is copied"
            )
        own[...] = new

    return property(read, write)


def _as_given(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """`value` as an array; whole numbers that fit one of unsigned `dtype` as one, from 2 to the 63 on too."""
    try:
        if dtype.kind == "u" and not isinstance(value, np.ndarray):
            exact = np.array(value, object)
            if exact.size and all(isinstance(n, (int, np.integer)) for n in exact.flat):
                return exact.astype(dtype) if min(exact.flat) >= 0 else exact.astype(np.int64)
        return np.asarray(value)
    except (ValueError, OverflowError):
        return np.array(value, object)  # which fits nothing


def check_options(options: dict[str, Any] | None, known: set[str]) -> None:
    """Raise a ValueError if `options` of a reset hold anything else than `known`."""
    if other := sorted(set(options or ()) - known):
        raise ValueError(f"reset takes no option {', '.join(other)}; compiled environments begin as they are written")


class CompiledEnv(gym.Env[Any, Any]):
    """One copy of a compiled environment, without a time limit: `fastrl.envs.make` and `gymnasium.make` add it.

    Its first episode after `reset(seed=s)` is the one that `CompiledVectorEnv` begins with the seed s; later
    episodes take their streams from `np_random`.

    Attributes:
        environment: what `fastrl.envs.environment` made.
        state: float64[S]; it may be written, and what is assigned to it is copied.
        rng: uint64[4], the random stream of the running episode; likewise.
    """

    state, rng = in_place("state"), in_place("rng")

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, environment: Environment, debug: bool = False) -> None:
        self.environment = environment
        self.observation_space, self.action_space = environment.observation_space, environment.action_space
        self._handle, self._debug = environment.handle(debug), debug
        self._state, self._rng = np.zeros(environment.state_size), np.zeros(4, np.uint64)
        self._running, self._calls = False, 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = self.environment.handle(self._debug)  # addresses of another process are none here

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode. Returns its first observation and an empty dict. ValueError for any option."""
        check_options(options, set())
        super().reset(seed=seed)
        self._rng[:] = self.np_random.integers(2**64, size=4, dtype=np.uint64) if seed is None else new_stream(seed)
        obs = np.empty(self.environment.obs_size, np.float32)
        self._call("reset", reset_one, self._handle, self._state, self._rng, obs)
        self._running = True
        return self._observation(obs), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take `action`. Returns observation, reward, terminated, False and an empty dict.

        Raises:
            ValueError: for an action outside the action space (of Box: of another shape, or not finite); for a reward
                or an observation that is not finite, naming the step, counted since the environment was made.
            EnvironmentFailure: where a function of the environment raises, likewise.
        """
        if not self._running:
            raise gym.error.ResetNeeded("call reset before step")
        obs, taken = np.empty(self.environment.obs_size, np.float32), self._action(action)
        reward, terminated = self._call("step", step_one, self._handle, self._state, taken, self._rng, obs)
        if not math.isfinite(reward):
            raise NotFinite("the environment", "a reward", self._calls + 1)
        self._calls += 1
        return self._observation(obs), reward, terminated, False, {}

    def render(self) -> NoReturn:
        """Raise: compiled environments have no pictures."""
        raise NotImplementedError("compiled environments do not render; watch the policy in gymnasium.make's own")

    def _action(self, action: Any) -> Any:
        space = self.action_space
        if isinstance(space, Box):
            array = np.asarray(action, np.float32)
            if array.shape == space.shape and np.isfinite(array).all():
                return np.ascontiguousarray(array)
        elif space.contains(action):
            return int(action) if isinstance(space, Discrete) else np.ascontiguousarray(action, np.int64)
        raise ValueError(f"the action {action!r} is not in {space}")

    def _call(self, name: str, kernel: Any, *arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except Exception as error:
            raise EnvironmentFailure(
                f"the environment raised {type(error).__name__} in {name} at step {self._calls + 1}: {error}"
            ) from error

    def _observation(self, obs: np.ndarray) -> Any:
        space = self.observation_space
        if not all_finite(obs):
            raise NotFinite("the environment", "an observation", self._calls)
        return np.int64(obs[0]) if isinstance(space, Discrete) else obs.reshape(space.shape or ())
