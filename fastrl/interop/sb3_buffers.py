"""Buffers for Stable-Baselines3's `replay_buffer_class` and `rollout_buffer_class`; public in `fastrl.interop.sb3`.

Each is a subclass of the class whose name it bears, takes its arguments, draws the same numbers from NumPy's global
stream and hands out the same tensors, so that a seeded run ends with the same weights, bit for bit. Only the time
differs, and what is refused: capacities below 1, shapes that would be broadcast, casts that would lose numbers, and
NaN or infinity (unless `check_finite=False`). `HerReplayBuffer` stays Stable-Baselines3's own.

`PrioritizedReplayBuffer` has no namesake: it is a `ReplayBuffer` that draws from a stream of its own, which the global
one seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray
from stable_baselines3.common import buffers as sb3
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from fastrl.buffers.prioritized import as_updates
from fastrl.checks import check_int, check_number
from fastrl.interop.replay import Transitions
from fastrl.interop.rollout import DictRolloutBuffer, RolloutBuffer
from fastrl.kernels import interop as peers
from fastrl_ext.legacy import integers
from fastrl_ext.random import RandomStream
from fastrl_ext.trees import PriorityTrees

if not hasattr(sb3, "NStepReplayBuffer"):
    raise ImportError("fastrl.interop.sb3 needs Stable-Baselines3 2.7 or later: pip install -U stable-baselines3")

__all__ = [
    "DictReplayBuffer",
    "DictRolloutBuffer",
    "NStepReplayBuffer",
    "PrioritizedReplayBuffer",
    "ReplayBuffer",
    "RolloutBuffer",
]


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
        return self._samples_at(self._draw_slots(batch_inds), env)

    def _samples_at(self, slots: NDArray[np.int64], env: Any) -> Any:
        obs, actions, next_obs, dones, rewards = self._gather(slots)
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


class PrioritizedReplayBuffer(ReplayBuffer):
    """`ReplayBuffer` that draws transition i with the probability p_i^α / Σ_j p_j^α (Schaul et al. 2016, eq. 1).

    The priority p_i is what `update_priorities` was last told of i, usually |TD error| + ε. New transitions get the
    highest one that was ever told, at first 1. Stable-Baselines3's own algorithms tell none and use no weights; the
    `train` of a subclass does both. Observations may also be of a Dict space.

    `indices`, int64 [B], and `weights`, a float32 tensor [B, 1] in (0, 1], belong to the last sample; they are None
    before the first and after `reset`, copying or loading. Indices count the transitions in the order of adding, those
    of one `add` by environment.

    Args:
        args: as `ReplayBuffer`'s; `optimize_memory_usage` is refused.
        alpha: α, in [0, 1]: 0 draws uniformly.
        beta: β, in [0, 1], how far `weights` make up for the priorities; 1 is in full. The attribute may be assigned.
        kwargs: as `ReplayBuffer`'s.

    Raises:
        ValueError, TypeError, MemoryError: as `ReplayBuffer`; ValueError for an alpha or beta outside [0, 1].
    """

    indices: NDArray[np.int64] | None = None
    weights: Any = None

    def __init__(self, *args: Any, alpha: float = 0.6, beta: float = 0.4, **kwargs: Any) -> None:
        check_number("alpha", alpha, 0, 1)
        check_number("beta", beta, 0, 1)
        super().__init__(*args, **kwargs)
        if self.optimize_memory_usage:
            raise ValueError("PrioritizedReplayBuffer cannot share observations: pass optimize_memory_usage=False")
        self.beta = beta
        self._added = 0
        self._trees = PriorityTrees(self.buffer_size * self.n_envs, alpha)
        self._stream = RandomStream(integers(0, 2**32, 4))

    @property
    def alpha(self) -> float:
        """α."""
        return self._trees.alpha

    def add(self, *args: Any, **kwargs: Any) -> None:
        """As `ReplayBuffer.add`."""
        super().add(*args, **kwargs)
        self._added += self.n_envs

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Draw `batch_size` transitions by priority, one from each of as many equal parts of Σ p^α.

        Afterwards `weights` are (N P(i))^-β divided by the greatest such number of all N stored transitions.

        Args, Returns, Raises: as `ReplayBuffer.sample`; ValueError also for a `beta` outside [0, 1].
        """
        self._check_draw(batch_size, self._added)
        check_number("beta", self.beta, 0, 1)
        indices, weights = self._trees.sample(self._added, self._stream, batch_size, self.beta)
        samples = self._samples_at(indices % self._trees.capacity, env)
        self.indices, self.weights = indices, self.to_torch(weights[:, np.newaxis])
        return samples

    def update_priorities(self, priorities: Any, indices: Any = None) -> None:
        """Set the priorities of transitions that were drawn. Of several for one, the last counts.

        A transition that has been overwritten since it was drawn is left out.

        Args:
            priorities: [B] or [B, 1], an array or a tensor on any device; kept as float32.
            indices: [B] integers that `indices` once was; by default those of the last sample.

        Raises:
            ValueError: a priority that is 0, negative, NaN or infinite (as a float32), shapes that differ, or no
                indices where nothing was sampled.
            IndexError: an index that no transition has had since the beginning or `reset`.
            TypeError: indices that are no integers, priorities that are no numbers. In none is anything changed.
        """
        if indices is None:
            indices = self.indices
        if indices is None:
            raise ValueError("there is no last sample whose priorities to update: sample first, or pass indices")
        if getattr(priorities, "shape", ())[1:] == (1,):
            priorities = priorities[:, 0]
        self._trees.update(self._added, *as_updates(indices, priorities))

    def reset(self) -> None:
        """Forget all transitions and priorities; the random stream goes on."""
        super().reset()
        self._trees.clear()
        self._added = 0
        self.indices = self.weights = None

    def __getstate__(self) -> dict[str, Any]:
        trees = (self.alpha, self._trees.priorities(self._added), self._trees.highest)
        return {**self.__dict__, "_trees": trees, "_stream": self._stream.state, "indices": None, "weights": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        alpha, priorities, highest = state["_trees"]
        self._trees = PriorityTrees(self.buffer_size * self.n_envs, alpha)
        self._trees.restore(self._added, priorities, highest)
        self._stream = RandomStream()
        self._stream.state = state["_stream"]
