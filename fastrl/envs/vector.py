"""A compiled environment as a `gymnasium.vector.VectorEnv`: one kernel call a step, whatever the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from fastrl.checks import check_int
from fastrl.envs.compiled import Environment
from fastrl.envs.single import check_options, in_place
from fastrl.envs.stepper import EnvironmentFailure
from fastrl.kernels import environment as kernels
from fastrl.kernels.sampling import new_stream

__all__ = ["CompiledVectorEnv"]

FUNCTIONS = ("reset", "step", "observe")


class CompiledVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N copies of a compiled environment, in Gymnasium's mode SAME_STEP.

    An environment whose episode ends begins the next one within the same step: `obs` is the new episode's first,
    and the last one's final observation is `infos["final_obs"][i]`, where `infos["_final_obs"][i]` is set. What an
    environment does depends on its own seed alone, not on how many there are.

    Args:
        environment: what `fastrl.envs.environment` made.
        num_envs: N.
        max_episode_steps: episodes are truncated then; 0: never; by default the environment's own number.
        debug: check every index, for environments in the making: a tenth slower.

    Attributes:
        environment: as above.
        handle: int64[5], the environment as kernels take it.
        states, rngs, lengths, returns: float64[N, S], uint64[N, 4], int64[N], float64[N]: everything that changes,
            where kernels read and write it: states, random streams, and of running episodes the length (-1 before
            the first reset) and return. They may be saved, and written back (what is assigned to them is copied):
            `observations` has what follows.

    Raises:
        TypeError, ValueError: for arguments out of range; a function that cannot be compiled.
    """

    states, rngs, lengths, returns = map(in_place, ("states", "rngs", "lengths", "returns"))

    def __init__(
        self, environment: Environment, num_envs: int = 1, max_episode_steps: int | None = None, debug: bool = False
    ) -> None:
        check_int("num_envs", num_envs)
        if not isinstance(environment, Environment):
            raise TypeError(f"environment is {environment!r}; it must be one that fastrl.envs.environment made")
        limit = environment.max_episode_steps if max_episode_steps is None else max_episode_steps
        check_int("max_episode_steps", limit, 0)
        self.environment, self.num_envs, self.max_episode_steps = environment, num_envs, limit
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = environment.observation_space
        self.single_action_space = environment.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._handle, self._debug = environment.handle(debug), debug
        self._states = np.zeros((num_envs, environment.state_size))
        self._rngs = np.empty((num_envs, 4), np.uint64)
        self._lengths, self._returns = np.full(num_envs, -1), np.zeros(num_envs)
        self._rngs[:] = np.random.SeedSequence().generate_state(4 * num_envs, np.uint64).reshape(num_envs, 4)
        self.calls = 0  # steps taken by each environment
        self._where = np.zeros(2, np.int64)
        self._final, self._ended = np.empty((num_envs, environment.obs_size), np.float32), np.empty(num_envs, np.int64)
        self._action_shape = self.action_space.shape
        self._action_type = np.float32 if isinstance(self.single_action_space, Box) else np.int64
        self._discrete = isinstance(self.single_observation_space, Discrete)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = self.environment.handle(self._debug)  # addresses of another process are none here

    @property
    def handle(self) -> np.ndarray:
        """The environment as kernels take it."""
        return self._handle

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes. Returns observations [N, *obs] and an empty dict.

        Args:
            seed: environment i gets seed + i; or one for each, where None lets its stream go on, as no seed does.
            options: {"reset_mask": bool[N]} resets the environments where it is set, and no others.

        Raises:
            ValueError, TypeError: for a wrong number of seeds, a mask of the wrong shape or dtype, or empty, or
                another option.
        """
        mask = self._mask(options)
        for i, stream in self._streams(seed).items():
            if mask[i]:
                self._rngs[i] = stream
        self._call(
            kernels.reset_all, self._handle, self._states, self._rngs, self._lengths, self._returns, mask, self._where
        )
        return self.observations(), {}

    def observations(self) -> np.ndarray:
        """The observations [N, *obs] of the present states; ValueError if one is not finite."""
        obs = np.empty((self.num_envs, self.environment.obs_size), np.float32)
        if self._call(kernels.observe_all, self._handle, self._states, obs, self._where):
            self._refuse(kernels.BAD_OBS, None)
        return self._as_observations(obs)

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
        """Take `actions` [N, *action]. Returns obs, rewards float64[N], terminations, truncations bool[N], infos.

        Raises:
            ValueError: for actions of another shape or dtype, or outside their space (of Box: not finite), before
                anything is changed; for a reward or an observation that is not finite, or a Discrete one outside
                its space.
            EnvironmentFailure: if a function of the environment raised; its exception is the cause.
        """
        if type(actions) is not np.ndarray or actions.dtype != self._action_type or not actions.flags.c_contiguous:
            actions = self._as_actions(actions)
        if actions.shape != self._action_shape:
            raise ValueError(f"actions have the shape {actions.shape}; it must be {self._action_shape}")
        n, environment = self.num_envs, self.environment
        obs, reward = np.empty((n, environment.obs_size), np.float32), np.empty(n)
        terminated, truncated, done = np.empty(n, np.bool_), np.empty(n, np.bool_), np.empty(n, np.bool_)
        try:
            n_ended = kernels.step_all(
                self._handle, self._states, self._rngs, self._lengths, self._returns, self.max_episode_steps, actions,
                environment.nvec, obs, reward, terminated, truncated, done, self._final, self._ended, self._where,
            )  # fmt: skip
        except Exception as error:
            self._fail(error)
        if n_ended < 0:
            self._refuse(n_ended, actions)
        self.calls += 1
        infos: dict[str, Any] = {}
        if n_ended:
            final = np.empty(n, object)
            last = self._as_observations(self._final[:n_ended].copy())
            for i, observation in zip(self._ended[:n_ended].tolist(), last, strict=True):
                final[i] = observation
            infos = {"final_obs": final, "_final_obs": done, "final_info": {}, "_final_info": done.copy()}
        return self._as_observations(obs), reward, terminated, truncated, infos

    def render(self) -> NoReturn:
        """Raise: compiled environments have no pictures."""
        raise NotImplementedError("compiled environments do not render; watch the policy in gymnasium.make's own")

    def _as_observations(self, numbers: np.ndarray) -> np.ndarray:
        """`numbers` float32[n, D] in the observation space's shape and dtype."""
        if self._discrete:
            return numbers[:, 0].astype(np.int64)
        shape = self.single_observation_space.shape or ()
        return numbers if len(shape) == 1 else numbers.reshape(len(numbers), *shape)

    def _as_actions(self, actions: Any) -> np.ndarray:
        array = np.asarray(actions)
        if array.dtype.kind not in ("iuf" if self._action_type is np.float32 else "biu"):
            raise ValueError(f"actions are {array.dtype}; they must be of {self.action_space}")
        return np.ascontiguousarray(array, self._action_type)

    def _streams(self, seed: Any) -> dict[int, np.ndarray]:
        """The streams of the environments that get a new one."""
        if seed is None:
            return {}
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + i for i in range(self.num_envs)]
        if not isinstance(seed, (Sequence, np.ndarray)) or isinstance(seed, str):
            raise TypeError(f"seed is {seed!r}; it must be an int, or one for each environment")
        if len(seed) != self.num_envs:
            raise ValueError(f"there are {len(seed)} seeds for {self.num_envs} environments")
        return {i: new_stream(each) for i, each in enumerate(seed) if each is not None}

    def _mask(self, options: dict[str, Any] | None) -> np.ndarray:
        check_options(options, {"reset_mask"})
        if not options:
            return np.ones(self.num_envs, np.bool_)
        mask = options["reset_mask"]
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            raise TypeError(f"options['reset_mask'] is {mask!r}; it must be a bool array")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] is {mask}; it must be {self.num_envs} bools, not all False")
        return np.ascontiguousarray(mask)

    def _call(self, kernel: Any, *arguments: Any) -> Any:
        try:
            return kernel(*arguments)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> NoReturn:
        i, function = self._where.tolist()
        raise EnvironmentFailure(
            f"environment {i} raised {type(error).__name__} in {FUNCTIONS[function]} at step {self.calls + 1}: {error}"
        ) from error

    def _refuse(self, code: int, actions: Any) -> NoReturn:
        i = int(self._where[0])
        if code == kernels.NOT_RESET:
            raise gym.error.ResetNeeded(f"environment {i} was not reset; call reset before step")
        if code == kernels.BAD_ACTION:
            raise ValueError(f"the action {actions[i]} of environment {i} is not in {self.single_action_space}")
        what = "a reward" if code == kernels.BAD_REWARD else "an observation"
        wrong = f"outside {self.single_observation_space}" if what != "a reward" and self._discrete else "not finite"
        raise ValueError(f"environment {i} returned {what} that is {wrong} at step {self.calls + 1}")
