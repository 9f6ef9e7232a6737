"""What stepping environments means here: N environments, checked at every step, with their episodes counted."""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from fastrl.envs import records
from fastrl_ext.stepping import all_finite, tally


class EnvironmentFailure(RuntimeError):
    """An environment raised in reset or step; the original exception is its cause."""


class NotFinite(ValueError):
    """A reward or an observation, `what`, is not finite."""

    def __init__(self, who: str, what: str, step: int) -> None:
        super().__init__(f"{who} returned {what} that is not finite at step {step}")
        self.what = what


class Step(NamedTuple):
    """What one step of N environments gave; observations of a Dict space are records, see `fastrl.envs.records`."""

    obs: np.ndarray  # [N, *obs] what the agent acts on next: the new episode's first where one ended
    reward: np.ndarray  # [N] float64
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    final_obs: np.ndarray  # [N, *obs] the observation that the action led to
    valid: np.ndarray  # [N] bool, False where the environment only reset itself: no transition


def spaces_of(env: Any, prefix: str = "") -> tuple[gym.Space, gym.Space]:
    """observation_space and action_space of `env`; a TypeError where one is missing, or no space."""
    found: list[Any] = []
    for name in (f"{prefix}observation_space", f"{prefix}action_space"):
        found.append(getattr(env, name, None))
        if not isinstance(found[-1], gym.Space):
            what = f"{found[-1]!r}" if hasattr(env, name) else "missing"
            raise TypeError(f"{name} of the environment {type(env).__name__} is {what}; it must be a gymnasium.Space")
    return found[0], found[1]


# Who last began episodes in an object that may be stepped by others too, by its id; steppers keep their objects alive.
_LAST: weakref.WeakValueDictionary[int, Stepper] = weakref.WeakValueDictionary()


class Stepper(ABC):
    """N environments, checked at every step, with the statistics of their episodes."""

    _ids: tuple[int, ...] = ()  # of the objects that are stepped
    reseeds = True  # whether `reset(seed)` decides what the environments draw

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, num_envs: int, spec: Any) -> None:
        self.observation_space, self.action_space, self.num_envs = observation_space, action_space, num_envs
        self.env_id: str | None = getattr(spec, "id", None)
        self.calls = 0  # steps taken by each environment
        self.seeded = False
        self.finished: list[tuple[float, int]] = []  # (return, length) of episodes, until somebody takes them
        self.keep_infos = False  # whether these are wanted:
        self.infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]  # of the last step, see `_tell`
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]  # of each one's last reset
        self.disturbed = False  # whether somebody has reset or stepped them since the model did
        self._next_seed: int | None = None
        self._started = time.time()
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._floating = np.issubdtype(observation_space.dtype or np.int64, np.floating)
        self._records = isinstance(observation_space, gym.spaces.Dict)

    def _owns(self, envs: Iterable[Any]) -> None:
        """Remember the objects that are stepped: whoever else steps them is told when episodes begin here."""
        self._ids = tuple(id(env.unwrapped) for env in envs)
        for key in self._ids:
            _LAST.setdefault(key, self)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin new episodes; environment i gets seed + i. Returns observations [N, *obs]."""
        seed, self._next_seed = self._next_seed if seed is None else seed, None
        self._returns[:], self._lengths[:] = 0, 0
        self.seeded |= seed is not None
        for key in self._ids:
            if (other := _LAST.get(key)) is not self:
                if other is not None:
                    other.disturbed = True
                _LAST[key] = self
        obs = self._reset(seed)
        self._check_finite("an observation", obs)
        return obs

    def seed(self, seed: int) -> None:
        """Let the next `reset` that is given no seed take this one."""
        self._next_seed = seed

    def step(self, action: np.ndarray) -> Step:
        """Take `action` [N, *action] in each environment."""
        step = self._step(action)
        self.calls += 1
        self._check_finite("a reward", step.reward)
        self._check_finite("an observation", step.final_obs)
        if step.obs is not step.final_obs:
            self._check_finite("a first observation", step.obs)
        n_done = tally(step.reward, step.valid, step.terminated, step.truncated, self._returns, self._lengths)
        if self.keep_infos:
            self._tell(step)
        if n_done:
            for i in np.flatnonzero(step.terminated | step.truncated):
                self.finished.append((float(self._returns[i]), int(self._lengths[i])))
                self._returns[i], self._lengths[i] = 0, 0
        return step

    def _tell(self, step: Step) -> None:
        """Add to the environments' infos what Stable-Baselines3's users find there."""
        self.infos = [dict(info) for info in self.infos]
        for info, cut in zip(self.infos, (step.truncated & ~step.terminated).tolist(), strict=True):
            info["TimeLimit.truncated"] = cut
        for i in np.flatnonzero(step.terminated | step.truncated).tolist():
            info, last = self.infos[i], records.as_users_have_them(self.observation_space, step.final_obs[i : i + 1])
            info["terminal_observation"] = {key: part[0] for key, part in last.items()} if self._records else last[0]
            seconds = round(time.time() - self._started, 6)
            info.setdefault("episode", {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": seconds})

    def running(self) -> np.ndarray:
        """[N] bool: which environments are in the middle of an episode."""
        return self._lengths > 0

    def take_finished(self) -> list[tuple[float, int]]:
        """(return, length) of the episodes that ended since the last call, oldest first."""
        finished, self.finished = self.finished, []
        return finished

    def state(self) -> Any:
        """What `restore` needs to continue the running episodes elsewhere, in JSON's types, or None."""
        return None

    def restore(self, state: Any) -> np.ndarray | None:
        """Continue the episodes of `state`; returns their observations, or None where that cannot be done."""
        return None

    @abstractmethod
    def _reset(self, seed: int | None) -> np.ndarray: ...

    @abstractmethod
    def _step(self, action: np.ndarray) -> Step: ...

    @abstractmethod
    def close(self) -> None:
        """Close the environments."""

    def _check_finite(self, what: str, array: np.ndarray) -> None:
        if array.dtype.names:
            fine = records.finite(array)
        elif (self._floating or what == "a reward") and not all_finite(array):
            fine = np.isfinite(array.reshape(self.num_envs, -1)).all(axis=1)
        else:
            return
        if not fine.all():
            i = int(np.flatnonzero(~fine)[0])
            raise ValueError(f"environment {i} returned {what} of {array[i]} at step {self.calls}; it must be finite")
