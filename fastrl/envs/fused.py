"""Compiled environments behind the algorithms: stepped like any others, or through whole rollouts by one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl.checks import diverged
from fastrl.envs.base import EnvironmentFailure
from fastrl.envs.stepper import VectorStepper
from fastrl.envs.vector import FUNCTIONS, CompiledVectorEnv
from fastrl.kernels import environment as kernels
from fastrl.kernels.collect import Envs, Normalization, Policy, Steps, collect
from fastrl.kernels.updates import BAD_BATCH, DIVERGED

CHANGING = ("states", "rngs", "lengths", "returns")  # of the vector environment: everything that steps change
NO_BOUNDS = np.empty(0, np.float32)
NO_EPISODES = np.empty((0, 2))


class CompiledStepper(VectorStepper):
    """N environments of a `CompiledVectorEnv`."""

    env: CompiledVectorEnv
    tells = (EnvironmentFailure, ValueError)

    def __init__(self, env: CompiledVectorEnv) -> None:
        super().__init__(env)
        n, (*_, n_choices) = env.num_envs, env.handle.tolist()
        shape, space = (n, n_choices or env.environment.obs_size), env.single_action_space
        low, high = (space.low, space.high) if isinstance(space, Box) else (NO_BOUNDS, NO_BOUNDS)
        self.arrays = Envs(
            env.handle, env.states, env.rngs, env.lengths, env.returns, env.max_episode_steps, not space.shape, low,
            high, np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(n), np.zeros(n, bool),
            np.ones(n, bool), np.zeros(3, np.int64),
        )  # fmt: skip
        self._ended_episodes = NO_EPISODES

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.arrays = self.arrays._replace(env=self.env.handle)  # as of this process

    def collect(
        self, policy: Policy, norm: Normalization, rollout: Any, noise: np.ndarray, left: np.ndarray, bootstrap: bool
    ) -> int:
        """Fill `rollout`, T steps of each environment, or fewer where `left` is played; returns how many.

        Arguments as of `fastrl.kernels.collect.collect`; `rollout` has its arrays as [T, N, ...].

        Raises:
            ValueError: for a reward, an observation or an action that is not finite, or a Discrete observation
                outside its space; EnvironmentFailure for what the functions of the environment raise. Both name
                environment and step.
        """
        flat: dict[str, Any] = {name: array.reshape(-1, *array.shape[2:]) for name, array in vars(rollout).items()}
        rows = len(flat["reward"])
        if len(self._ended_episodes) < rows:
            self._ended_episodes = np.empty((rows, 2))
        written: Any = {name: flat[name] for name in Steps._fields if name in flat}
        steps = Steps(noise, **written, ended=self._ended_episodes, bounded=np.empty_like(flat["action"][0]))
        try:
            taken, n_ended = self.run(collect, policy, norm, steps, left, bootstrap)
        except Exception:
            self.after(self.taken, NO_EPISODES)
            raise
        self.after(taken, self._ended_episodes[:n_ended])
        return taken

    def run(self, kernel: Any, *arguments: Any) -> Any:
        """What `kernel` returns for the environments and the arguments, or first of all; raises as `collect`."""
        self.arrays.where[:] = 0
        try:
            result = kernel(self.arrays, *arguments)
        except Exception as error:
            i, function, t = self.arrays.where.tolist()
            raise EnvironmentFailure(
                f"environment {i} raised {type(error).__name__} in {FUNCTIONS[function]} at step "
                f"{self.calls + t + 1}: {error}"
            ) from error
        code = result[0] if isinstance(result, tuple) else result
        if code == DIVERGED:
            raise diverged()
        if code < 0:
            raise ValueError(self._what_is_wrong(code))
        return result

    @property
    def taken(self) -> int:
        """The steps that every environment took in the last `run`, also where that failed."""
        return int(self.arrays.where[2])

    def _what_is_wrong(self, code: int) -> str:
        i, space = int(self.arrays.where[0]), self.observation_space
        step, obs = self.calls + self.taken + 1, self.arrays.obs[i]
        if code == kernels.BAD_ACTION:
            return f"the policy's action for environment {i} is not finite at step {step}: its weights are not"
        if code == BAD_BATCH:
            return f"the replay buffer holds an action that is not in {self.action_space}"
        if code == kernels.BAD_REWARD:
            found, must = f"a reward of {self.arrays.reward[i]}", "finite, as float32 too"
        elif isinstance(space, Discrete):
            found, must = f"an observation of {obs[0]:g}", f"in {space}"
        else:
            found, must = f"an observation of {obs}", "finite"
        return f"environment {i} returned {found} at step {step}; it must be {must}"

    def after(self, taken: int, ended: np.ndarray) -> None:
        """Count `taken` steps of each environment, and the episodes that `ended`: rows of return and length."""
        self.calls += taken
        self.env.calls += taken
        self.finished.extend((episode, int(length)) for episode, length in ended.tolist())
        self._returns[:], self._lengths[:] = self.env.returns, self.env.lengths

    def observations(self) -> np.ndarray:
        """What the environments show now, [N, *obs]."""
        return self.env.observations()

    def state(self) -> Any:
        return {name: getattr(self.env, name).tolist() for name in CHANGING}

    def restore(self, state: Any) -> np.ndarray | None:
        """Continue from `state`, bit for bit; None, and nothing is changed, where no such environments left it."""
        env, where = self.env, np.zeros(2, np.int64)
        try:
            arrays = _as_left(state, env)
            obs = np.empty((self.num_envs, env.environment.obs_size), np.float32)
            if arrays is None or kernels.observe_all(env.handle, arrays["states"], obs, where):
                return None
        except Exception:  # whatever a file may hold, or an environment make of it: episodes begin anew instead
            return None
        for name, array in arrays.items():
            getattr(env, name)[:] = array
        self._returns[:], self._lengths[:] = env.returns, env.lengths
        self.seeded = True
        return self.observations()


def _as_left(state: Any, env: CompiledVectorEnv) -> dict[str, np.ndarray] | None:
    """The arrays of `state`, if they are those of running episodes of as many environments with their time limit."""
    arrays = {name: np.array(state[name], getattr(env, name).dtype) for name in CHANGING}
    for name, array in arrays.items():
        if array.shape != getattr(env, name).shape or array.tolist() != state[name]:  # nor rounded, nor NaN
            return None
    lengths = arrays["lengths"]
    in_time = lengths.min() >= 0 and not 0 < env.max_episode_steps <= lengths.max()
    possible = in_time and np.isfinite(arrays["returns"]).all() and arrays["rngs"].any(axis=1).all()
    return arrays if possible else None
