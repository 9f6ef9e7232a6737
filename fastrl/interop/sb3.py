"""Buffers for Stable-Baselines3's `replay_buffer_class` and `rollout_buffer_class`.

Each is a subclass of the class whose name it bears, takes its arguments, draws the same numbers from NumPy's global
stream and hands out the same tensors, so that a seeded run ends with the same weights, bit for bit. Only the time
differs, and what is refused: capacities below 1, shapes that would be broadcast, casts that would lose numbers, and
NaN or infinity (unless `check_finite=False`). `HerReplayBuffer` stays Stable-Baselines3's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from stable_baselines3.common import buffers as sb3
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from fastrl.checks import check_int, check_number
from fastrl.interop.replay import Transitions
from fastrl.interop.rollout import DictRolloutBuffer, RolloutBuffer
from fastrl.kernels import interop as peers

if not hasattr(sb3, "NStepReplayBuffer"):
    raise ImportError("fastrl.interop.sb3 needs Stable-Baselines3 2.7 or later: pip install -U stable-baselines3")

__all__ = ["DictReplayBuffer", "DictRolloutBuffer", "NStepReplayBuffer", "ReplayBuffer", "RolloutBuffer"]


class ReplayBuffer(Transitions, sb3.ReplayBuffer):
    """Uniform replay over records, for DQN, SAC, TD3 and DDPG: `replay_buffer_class=ReplayBuffer`.

    `observations`, `next_observations`, `actions`, `rewards`, `dones` and `timeouts` are views of the records,
    [buffer_size, n_envs, ...]; what is written to them is sampled.

    Args:
        buffer_size: transitions over all environments.
        observation_space: Box, Discrete, MultiDiscrete or MultiBinary.
        action_space: likewise.
        device: where the samples' tensors are.
        n_envs: transitions that one `add` brings.
        optimize_memory_usage: keep each observation once; the next one is that of the following step, also where an
            episode was cut, which is why `handle_timeout_termination` must then be False.
        handle_timeout_termination: whether samples' `dones` are 0 where infos said "TimeLimit.truncated".
        check_finite: refuse NaN and infinity in observations, actions and rewards.

    Raises:
        ValueError: a buffer_size or n_envs below 1, or both of `optimize_memory_usage` and
            `handle_timeout_termination`.
        TypeError: sizes that are no ints.
        MemoryError: a buffer_size that this machine cannot hold.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        check_finite: bool = True,
    ) -> None:
        super(sb3.ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs)
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self._allocate(check_finite)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Draw `batch_size` transitions uniformly.

        Args:
            batch_size: at least 1.
            env: a VecNormalize, by which observations and rewards are normalised.

        Returns:
            `ReplayBufferSamples` of new tensors [batch_size, ...]; those of dones and rewards are [batch_size, 1].

        Raises:
            ValueError: an empty buffer, or a batch_size below 1.
        """
        return self._get_samples(self._draw_steps(batch_size), env)

    def _get_samples(self, batch_inds: NDArray[np.int64], env: Any = None) -> Any:
        obs, actions, next_obs, dones, rewards = self._gather(self._draw_slots(batch_inds))
        if env is not None:
            obs, next_obs = env.normalize_obs(obs), env.normalize_obs(next_obs)
            rewards = self._normalize_reward(rewards, env)
        samples = ReplayBufferSamples if self._keys is None else DictReplayBufferSamples
        return samples(*self._tensors((obs, actions, next_obs, dones, rewards)))


class DictReplayBuffer(ReplayBuffer, sb3.DictReplayBuffer):
    """`ReplayBuffer` for Dict observations; they are dicts by key in what it takes, holds and hands out.

    `optimize_memory_usage` is refused, as Stable-Baselines3's own refuses it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self._keys is None:
            raise TypeError(f"DictReplayBuffer is for Dict observations; the space is {self.observation_space}")
        if self.optimize_memory_usage:
            raise ValueError("DictReplayBuffer cannot share observations: pass optimize_memory_usage=False")


class NStepReplayBuffer(ReplayBuffer, sb3.NStepReplayBuffer):
    """`ReplayBuffer` whose samples span up to `n_steps` steps (Sutton & Barto 2018, eq. 7.1).

    `rewards` is Σ_{k<m} γ^k r_{t+k} over the m ≤ n_steps steps up to an episode's end or the newest step,
    `next_observations` and `dones` are those of the last of them, and `discounts` [B, 1] is γ^m.

    Args:
        args: as `ReplayBuffer`'s; `optimize_memory_usage` is refused.
        n_steps: at least 1.
        gamma: γ, as a Python float.
        kwargs: as `ReplayBuffer`'s.
    """

    def __init__(self, *args: Any, n_steps: int = 3, gamma: float = 0.99, **kwargs: Any) -> None:
        ReplayBuffer.__init__(self, *args, **kwargs)
        check_int("n_steps", n_steps)
        check_number("gamma", gamma, 0.0, 1.0)
        if self.optimize_memory_usage or self._keys is not None:
            raise ValueError("NStepReplayBuffer takes neither shared nor Dict observations")
        self.n_steps, self.gamma = n_steps, gamma
        self._begin = self._memory.only("observations", "actions")
        self._end = self._memory.only("next_observations", "dones", "timeouts", masked=True)

    def _get_samples(self, batch_inds: NDArray[np.int64], env: Any = None) -> Any:
        slots = self._draw_slots(batch_inds)
        obs, actions = self._begin.take(slots)  # which checks the slots, as the kernel does not
        rewards = np.empty((len(slots), self.n_steps), np.float32)
        lengths, ends = np.empty_like(slots), np.empty_like(slots)
        reward, done, timeout = (self._memory.column(name).reshape(-1) for name in ("rewards", "dones", "timeouts"))
        newest = (self.pos - 1) % self.buffer_size * self.n_envs
        peers.n_step_windows(reward, done, timeout, slots, newest, self.n_envs, rewards, lengths, ends)

        # The roundings of float32 are those of Stable-Baselines3: its operations, in its order.
        discounts = self.gamma ** np.arange(self.n_steps + 1, dtype=np.float32)
        returns = (self._normalize_reward(rewards, env) * discounts[:-1]).sum(axis=1, keepdims=True)
        next_obs, dones = self._end.take(ends)
        if env is not None:
            obs, next_obs = env.normalize_obs(obs), env.normalize_obs(next_obs)
        parts = (obs, actions, next_obs, dones, returns, discounts[lengths, np.newaxis])
        return ReplayBufferSamples(*self._tensors(parts))
