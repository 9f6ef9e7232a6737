"""Single environments, stepped one after the other in this process, with as little around them as can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from fastrl.envs import records
from fastrl.envs.base import EnvironmentFailure, NotFinite, Step, Stepper, spaces_of
from fastrl_ext.stepping import step_each

MAX_REPLAYED_NUMBERS = 200_000  # of actions; longer episodes are not restored from a file, but begun anew


class EnvList(Stepper):
    """Environments stepped one after the other in this process."""

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        first = envs[0]
        own = spaces_of(first)
        for i, env in enumerate(envs):
            if any(env is other for other in envs[:i]):
                raise ValueError("the callable returned the same environment twice; it must make a new one a call")
            if spaces_of(env) != own:
                raise ValueError(
                    f"environment {i} has spaces {env.observation_space}, {env.action_space}; environment 0 has "
                    f"{first.observation_space}, {first.action_space}: they must be equal"
                )
        super().__init__(*own, len(envs), first.spec)
        self.envs = list(envs)
        self._owns(envs)
        self._like = self._empty()
        self._all_valid = np.ones(self.num_envs, bool)
        self._all_valid.flags.writeable = False  # every step hands out the same
        self._as_int = isinstance(self.action_space, Discrete) and all(map(_is_gymnasiums, envs))
        # Each running episode's generator state at its start, and the row of the log where its actions begin: enough
        # to play it again.
        self._starts: list[Any] = [None] * self.num_envs
        self._first = [0] * self.num_envs
        self._row = 0  # the next of the log
        self._log = _new_log(self.action_space, self.num_envs)  # [rows, N, *action]

    def _empty(self) -> np.ndarray:
        return records.empty(self.observation_space, self.num_envs)

    def _begin(self, i: int, seed: int | None = None, step: int | None = None) -> np.ndarray:
        env = self.envs[i]
        try:
            self._starts[i] = _generator_state(env) if seed is None else seed
            obs, info = env.reset(seed=seed)
        except Exception as error:
            raise self._failure(i, "reset", error)  # noqa: B904
        if self.keep_infos:
            self.reset_infos[i] = info
        self._first[i] = self._row
        return self._checked(i, obs, self.calls if step is None else step)

    def _checked(self, i: int, obs: Any, step: int) -> np.ndarray:
        return records.as_row(self.observation_space, obs, f"environment {i}", step)

    def _number(self, i: int, reward: Any) -> float:
        try:
            array = np.asarray(reward)
        except Exception as error:
            raise self._failure(i, "step", error)  # noqa: B904
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(f"environment {i} returned the reward {array} at step {self.calls + 1}, not one number")
        return array.item()

    def _flag(self, i: int, name: str, value: Any) -> bool:
        try:
            array = np.asarray(value)
        except Exception as error:
            raise self._failure(i, "step", error)  # noqa: B904
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"environment {i} returned {name} = {value!r} at step {self.calls + 1}, neither True nor False"
            )
        return bool(array.item())

    def _failure(self, i: int, method: str, error: BaseException) -> Exception:
        """What is raised for an error of environment i, whose cause it is; compiled ones have said some of it."""
        if isinstance(error, NotFinite):
            return NotFinite(f"environment {i}", error.what, self.calls + (method == "step"))
        if isinstance(error, EnvironmentFailure):
            error = error.__cause__ or error
        when = f"after {self.calls} steps" if method == "reset" else f"at step {self.calls + 1}"
        failure = EnvironmentFailure(f"environment {i} raised {type(error).__name__} in {method} {when}: {error}")
        failure.__cause__ = error
        return failure

    def _reset(self, seed: int | None) -> np.ndarray:
        obs, self._row = self._empty(), 0
        for i in range(self.num_envs):
            obs[i] = self._begin(i, None if seed is None else seed + i)
        return obs

    def _step(self, action: np.ndarray) -> Step:
        actions = action.tolist() if self._as_int else action
        if self.keep_infos:
            self.infos = [{}] * self.num_envs
        final_obs, reward, terminated, truncated, n_done = step_each(
            self.envs, actions, self._like, self._take, self._failure, self.infos if self.keep_infos else None
        )
        self._record(action)
        next_obs = final_obs
        if n_done:
            next_obs = final_obs.copy()
            for i in np.flatnonzero(terminated | truncated).tolist():
                next_obs[i] = self._begin(i, step=self.calls + 1)
        return Step(next_obs, reward, terminated, truncated, final_obs, self._all_valid)

    def _take(
        self, i: int, result: Any, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        """Write what environment i returned into the arrays, where that is not quite the usual."""
        try:
            observation, paid, ended, cut, _ = result
        except Exception as error:
            raise self._failure(i, "step", error)  # noqa: B904
        terminated[i], truncated[i] = self._flag(i, "terminated", ended), self._flag(i, "truncated", cut)
        obs[i] = self._checked(i, observation, self.calls + 1)
        reward[i] = paid if isinstance(paid, float) else self._number(i, paid)

    def _record(self, action: np.ndarray) -> None:
        if self._log is None:
            return
        if self._row == len(self._log):  # make room: longer episodes than half of the log are not played again
            dropped = max(len(self._log) // 2, min(self._first))
            self._row -= dropped
            self._log[: self._row] = self._log[dropped:]
            for i, first in enumerate(self._first):
                self._first[i] = max(first - dropped, 0)
                if first < dropped:
                    self._starts[i] = None
        self._log[self._row] = action
        self._row += 1

    def state(self) -> Any:
        n_numbers = sum(self._row - first for first in self._first) * _numbers(self.action_space)
        if self._log is None or None in self._starts or n_numbers >= MAX_REPLAYED_NUMBERS:
            return None
        return [
            {"start": start, "actions": self._log[first : self._row, i].tolist()}
            for i, (start, first) in enumerate(zip(self._starts, self._first, strict=True))
        ]

    def restore(self, state: Any) -> np.ndarray | None:
        """Play the running episodes again from their first generator state; None for environments that have none."""
        try:
            return None if state is None or len(state) != self.num_envs else self._replay(state)
        except Exception:  # whatever a file may hold, or an environment make of it: episodes begin anew instead
            return None

    def _replay(self, state: Any) -> np.ndarray | None:
        assert self._log is not None
        taken = [np.asarray(episode["actions"], self._log.dtype) for episode in state]
        taken = [actions.reshape(len(actions), *self._log.shape[2:]) for actions in taken]
        obs, end = self._empty(), max(map(len, taken))
        for i, (env, episode, actions) in enumerate(zip(self.envs, state, taken, strict=True)):
            start = episode["start"]
            if isinstance(start, int):
                obs[i] = self._begin(i, start)
            else:
                env.unwrapped.np_random.bit_generator.state = start
                obs[i] = self._begin(i)
            for action in actions.tolist() if self._as_int else actions:
                observation, reward, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    return None
                obs[i] = self._checked(i, observation, 0)
                self._returns[i] += float(reward)
                self._lengths[i] += 1
            self._first[i] = end - len(actions)
            self._log[self._first[i] : end, i] = actions
        self._row = end
        self.seeded = True
        return obs

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _generator_state(env: gym.Env) -> Any:
    """The state of the environment's generator, or None where it has none of NumPy's default kind."""
    generator = getattr(env.unwrapped, "np_random", None)
    bits = getattr(generator, "bit_generator", None)
    return bits.state if isinstance(bits, np.random.PCG64) else None


def _is_gymnasiums(env: gym.Env) -> bool:
    """Whether Gymnasium wrote all of it: such environments take a Python int for a Discrete action, and are faster."""
    while isinstance(env, gym.Wrapper):
        if type(env).__module__ != "gymnasium.wrappers.common":
            return False
        env = env.env
    return type(env).__module__.startswith("gymnasium.envs.")


def _numbers(action_space: gym.Space) -> int:
    return math.prod(action_space.shape or ()) or 1


def _new_log(action_space: gym.Space, num_envs: int) -> np.ndarray | None:
    """Memory for actions; None where they are no arrays."""
    if not isinstance(action_space, (Box, Discrete, MultiBinary, MultiDiscrete)):
        return None
    rows = max(2, 2 * MAX_REPLAYED_NUMBERS // (num_envs * _numbers(action_space)))
    return np.empty((rows, num_envs, *(action_space.shape or ())), action_space.dtype)
