"""One way to step any Gymnasium environment: single, vectorised in each autoreset mode, an id, a callable.

The algorithms see `Step`s only: the observation to act on next, and beside it the true final observation, so
that no autoreset convention reaches a rollout or a buffer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from fastrl.checks import check_int

EnvLike = str | gym.Env | VectorEnv | Callable[[], gym.Env]

MAX_REPLAYED_NUMBERS = 200_000  # of actions; longer episodes are not restored from a file, but begun anew


class EnvironmentFailure(RuntimeError):
    """An environment raised in reset or step; the original exception is its cause."""


class Step(NamedTuple):
    """What one step of N environments gave."""

    obs: np.ndarray  # [N, *obs] what the agent acts on next: the new episode's first where one ended
    reward: np.ndarray  # [N] float64
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    final_obs: np.ndarray  # [N, *obs] the observation that the action led to
    valid: np.ndarray  # [N] bool, False where the environment only reset itself: no transition


class Stepper(ABC):
    """N environments, checked at every step, with the statistics of their episodes."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space, num_envs: int, spec: Any) -> None:
        self.observation_space, self.action_space, self.num_envs = observation_space, action_space, num_envs
        self.env_id: str | None = spec.id if spec is not None else None
        self.calls = 0  # steps taken by each environment
        self.seeded = False
        self.finished: list[tuple[float, int]] = []  # (return, length) of episodes, until somebody takes them
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._floating = np.issubdtype(observation_space.dtype or np.int64, np.floating)

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Begin new episodes; environment i gets seed + i. Returns observations [N, *obs]."""
        self._returns[:], self._lengths[:] = 0, 0
        self.seeded |= seed is not None
        obs = self._reset(seed)
        self._check_finite("an observation", obs)
        return obs

    def step(self, action: np.ndarray) -> Step:
        """Take `action` [N, *action] in each environment."""
        step = self._step(action)
        self.calls += 1
        self._check_finite("a reward", step.reward)
        self._check_finite("an observation", step.final_obs)
        if step.obs is not step.final_obs:
            self._check_finite("a first observation", step.obs)
        self._returns += step.reward
        self._lengths += step.valid
        for i in np.flatnonzero(step.terminated | step.truncated):
            self.finished.append((float(self._returns[i]), int(self._lengths[i])))
            self._returns[i], self._lengths[i] = 0, 0
        return step

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
        if (self._floating or what == "a reward") and not np.isfinite(array).all():
            i = int(np.flatnonzero(~np.isfinite(array.reshape(self.num_envs, -1)).all(axis=1))[0])
            raise ValueError(f"environment {i} returned {what} of {array[i]} at step {self.calls}; it must be finite")

    def _check_shape(self, obs: np.ndarray, shape: tuple[int, ...], who: str) -> None:
        if obs.shape != shape:
            raise ValueError(
                f"{who} returned an observation of shape {obs.shape} at step {self.calls}; "
                f"its observation space {self.observation_space} says {shape}"
            )


def _generator_state(env: gym.Env) -> Any:
    """The state of the environment's generator, or None where it has none of NumPy's default kind."""
    generator = getattr(env.unwrapped, "np_random", None)
    bits = getattr(generator, "bit_generator", None)
    return bits.state if isinstance(bits, np.random.PCG64) else None


class EnvList(Stepper):
    """Environments stepped one after the other in this process."""

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        first = envs[0]
        for i, env in enumerate(envs):
            if any(env is other for other in envs[:i]):
                raise ValueError("the callable returned the same environment twice; it must make a new one a call")
            if env.observation_space != first.observation_space or env.action_space != first.action_space:
                raise ValueError(
                    f"environment {i} has spaces {env.observation_space}, {env.action_space}; environment 0 has "
                    f"{first.observation_space}, {first.action_space}: they must be equal"
                )
        super().__init__(first.observation_space, first.action_space, len(envs), first.spec)
        self.envs = list(envs)
        # Each running episode's generator state at its start, and its actions: enough to play it again.
        self._starts: list[Any] = [None] * len(envs)
        self._actions: list[list[np.ndarray]] = [[] for _ in envs]

    def _empty(self) -> np.ndarray:
        return np.empty((self.num_envs, *(self.observation_space.shape or ())), self.observation_space.dtype)

    def _begin(self, i: int, seed: int | None = None) -> np.ndarray:
        env = self.envs[i]
        try:
            self._starts[i] = _generator_state(env) if seed is None else seed
            obs, _ = env.reset(seed=seed)
        except Exception as error:
            raise self._failure(i, "reset", error) from error
        self._actions[i] = []
        return self._checked(i, obs)

    def _checked(self, i: int, obs: Any) -> np.ndarray:
        array = np.asarray(obs)
        self._check_shape(array, self.observation_space.shape or (), f"environment {i}")
        return array

    def _failure(self, i: int, method: str, error: Exception) -> EnvironmentFailure:
        when = f"after {self.calls} steps" if method == "reset" else f"at step {self.calls + 1}"
        return EnvironmentFailure(f"environment {i} raised {type(error).__name__} in {method} {when}: {error}")

    def _reset(self, seed: int | None) -> np.ndarray:
        obs = self._empty()
        for i in range(self.num_envs):
            obs[i] = self._begin(i, None if seed is None else seed + i)
        return obs

    def _step(self, action: np.ndarray) -> Step:
        final_obs, reward = self._empty(), np.empty(self.num_envs)
        terminated, truncated = np.empty(self.num_envs, bool), np.empty(self.num_envs, bool)
        ended = []
        for i, env in enumerate(self.envs):
            try:
                obs, paid, terminated[i], truncated[i], _ = env.step(action[i])
                paid = np.asarray(paid)
            except Exception as error:
                raise self._failure(i, "step", error) from error
            if paid.size != 1 or paid.dtype.kind not in "biuf":
                raise ValueError(f"environment {i} returned the reward {paid} at step {self.calls + 1}, not one number")
            final_obs[i], reward[i] = self._checked(i, obs), paid.item()
            if terminated[i] or truncated[i]:
                ended.append(i)
            elif len(self._actions[i]) < MAX_REPLAYED_NUMBERS:
                self._actions[i].append(action[i])
        next_obs = final_obs
        if ended:
            next_obs = final_obs.copy()
            for i in ended:
                next_obs[i] = self._begin(i)
        return Step(next_obs, reward, terminated, truncated, final_obs, np.ones(self.num_envs, bool))

    def state(self) -> Any:
        n_numbers = sum(map(len, self._actions)) * (math.prod(self.action_space.shape or ()) or 1)
        if None in self._starts or n_numbers >= MAX_REPLAYED_NUMBERS:
            return None
        return [
            {"start": start, "actions": np.asarray(actions).tolist()}
            for start, actions in zip(self._starts, self._actions, strict=True)
        ]

    def restore(self, state: Any) -> np.ndarray | None:
        """Play the running episodes again from their first generator state; None for environments that have none."""
        try:
            return None if state is None or len(state) != self.num_envs else self._replay(state)
        except Exception:  # whatever a file may hold, or an environment make of it: episodes begin anew instead
            return None

    def _replay(self, state: Any) -> np.ndarray | None:
        obs = self._empty()
        for i, (env, episode) in enumerate(zip(self.envs, state, strict=True)):
            start = episode["start"]
            if isinstance(start, int):
                obs[i] = self._begin(i, start)
            else:
                env.unwrapped.np_random.bit_generator.state = start
                obs[i] = self._begin(i)
            for action in np.asarray(episode["actions"], self.action_space.dtype):
                observation, reward, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    return None
                obs[i] = self._checked(i, observation)
                self._returns[i] += float(reward)
                self._lengths[i] += 1
                self._actions[i].append(action)
        self.seeded = True
        return obs

    def close(self) -> None:
        for env in self.envs:
            env.close()


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
