"""Rollout buffers for Stable-Baselines3's PPO and A2C, over records; `fastrl.interop.sb3` is where they are public."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict
from numpy.typing import NDArray
from stable_baselines3.common import buffers as sb3
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from fastrl.buffers.layout import make_leaf
from fastrl.checks import check_int, check_number
from fastrl.interop.memory import Column, Memory, action_leaf, as_tensors, observation_leaves
from fastrl.kernels.interop import gae_by_starts


class RolloutBuffer(sb3.RolloutBuffer):
    """A rollout of n_steps x n_envs records, for PPO and A2C: `rollout_buffer_class=RolloutBuffer`.

    Advantages and returns are computed by a kernel with Stable-Baselines3's float32 operations in its order, so they
    are equal bit for bit. `observations`, `actions`, `rewards`, `episode_starts`, `values`, `log_probs`, `advantages`
    and `returns` are views of the records, [buffer_size, n_envs, ...]; after `get`, those that it hands out are
    [n_envs * buffer_size, ...], environment by environment, until `reset`.

    Args:
        buffer_size: steps of each environment.
        observation_space: Box, Discrete, MultiDiscrete or MultiBinary.
        action_space: likewise.
        device: where the samples' tensors are.
        gae_lambda: λ in [0, 1].
        gamma: γ in [0, 1].
        n_envs: transitions that one `add` brings.
        check_finite: refuse NaN and infinity in observations, actions and rewards.

    Raises:
        ValueError: a buffer_size or n_envs below 1, γ or λ outside [0, 1].
        TypeError: sizes that are no ints, γ or λ that are no numbers.
        MemoryError: a buffer_size that this machine cannot hold.
    """

    observations = Column()
    actions = Column()
    rewards = Column()
    episode_starts = Column()
    values = Column()
    log_probs = Column()
    advantages = Column()
    returns = Column()

    def __init__(
        self,
        buffer_size: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        device: Any = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        *,
        check_finite: bool = True,
    ) -> None:
        check_int("n_envs", n_envs)
        check_int("buffer_size", buffer_size)
        check_number("gae_lambda", gae_lambda, 0.0, 1.0)
        check_number("gamma", gamma, 0.0, 1.0)
        super(sb3.RolloutBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs)
        self.gae_lambda, self.gamma = gae_lambda, gamma
        self._keys = list(observation_space.spaces) if isinstance(observation_space, Dict) else None
        obs = observation_leaves(observation_space, "observations")
        drawn = ("actions", "values", "log_probs", "advantages", "returns")
        numbers = [make_leaf(name, np.float32, ()) for name in ("rewards", "episode_starts", *drawn[1:])]
        inputs = [*obs, action_leaf(action_space, action_space.dtype), numbers[0]]
        finite = len(inputs) if check_finite else 0
        self._drawn = (*(leaf.name for leaf in obs), *drawn)
        self._memory = Memory([*inputs, *numbers[1:]], buffer_size, n_envs, finite)
        self._input = self._memory.only(*(leaf.name for leaf in [*inputs, *numbers[1:4]]))
        self._flat = self._memory if n_envs == 1 else Memory([*inputs, *numbers[1:]], n_envs * buffer_size, 1)
        self._batches = self._flat.only(*self._drawn)
        self.reset()

    def _column(self, name: str) -> Any:
        if not self.generator_ready or name in ("rewards", "episode_starts"):
            return self._memory.column(name)
        column = self._flat.column(name)
        if isinstance(column, dict):
            return {key: view[:, 0] for key, view in column.items()}
        return column if column.ndim == 2 else column[:, 0]

    def reset(self) -> None:
        """Begin a new rollout; the old one's records are written over."""
        self.generator_ready, self.pos, self.full = False, 0, False

    def add(self, obs: Any, action: Any, reward: Any, episode_start: Any, value: Any, log_prob: Any) -> None:
        """Store one step of each environment.

        Args:
            obs: [n_envs, *shape], or a mapping of them by the keys of a Dict space.
            action: n_envs actions.
            reward: [n_envs].
            episode_start: [n_envs] bool; `obs` begins an episode.
            value: a tensor of n_envs numbers, V(obs).
            log_prob: likewise, log π(action | obs).

        Raises:
            ValueError: a full buffer, a wrong shape, NaN or infinity.
            TypeError: a dtype that has no safe cast.
            KeyError: a key of a Dict observation that is missing.
        """
        if self.full:
            raise ValueError(f"the rollout of {self.buffer_size} steps is full: reset it first")
        parts = [obs] if self._keys is None else [obs[key] for key in self._keys]
        value, log_prob = value.detach().cpu().numpy(), log_prob.detach().cpu().numpy()
        self._input.put(self.pos, (*parts, action, reward, episode_start, value, log_prob))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: Any, dones: NDArray[Any]) -> None:
        """Write `advantages` and `returns` = advantages + values, Schulman et al. 2016, eq. 16.

        Args:
            last_values: a tensor of n_envs numbers, V of the observation after the last step.
            dones: [n_envs] bool; that observation begins an episode.

        Raises:
            ValueError: numbers other than n_envs.
        """
        last_value = last_values.detach().cpu().numpy().astype(np.float32).ravel()
        last_done = np.asarray(dones, np.float32).ravel()
        for name, array in (("last_values", last_value), ("dones", last_done)):
            if len(array) != self.n_envs:
                raise ValueError(f"{name} has {len(array)} numbers; there are {self.n_envs} environments")
        column = self._memory.column
        gae_by_starts(
            column("rewards"), column("values"), column("episode_starts"), last_value, last_done,
            np.float32(self.gamma), np.float32(self.gamma * self.gae_lambda), column("advantages"), column("returns"),
        )  # fmt: skip

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        """All steps once, in a random order, in batches of `batch_size` (None: in one); the last may be smaller.

        Yields:
            `RolloutBufferSamples` of new tensors [B, ...]; actions are float32.

        Raises:
            ValueError: a rollout that is not complete, or a batch_size below 1.
        """
        if not self.full:
            raise ValueError(f"the rollout holds {self.pos} of {self.buffer_size} steps; add the rest before get")
        total = self.buffer_size * self.n_envs
        batch_size = total if batch_size is None else batch_size
        check_int("batch_size", batch_size)
        indices = np.random.permutation(total)  # noqa: NPY002, the stream that theirs draws from
        if not self.generator_ready and self.n_envs > 1:
            self._memory.by_environment(self._flat)
        self.generator_ready = True
        for start in range(0, total, batch_size):
            yield self._get_samples(indices[start : start + batch_size])

    def _get_samples(self, batch_inds: NDArray[np.int64], env: Any = None) -> Any:
        *observations, actions, values, log_probs, advantages, returns = self._batches.take(batch_inds)
        rest = [actions.astype(np.float32, copy=False), values, log_probs, advantages, returns]
        obs, tensors = as_tensors(observations, self.device), as_tensors(rest, self.device)
        if self._keys is None:
            return RolloutBufferSamples(obs[0], *tensors)
        return DictRolloutBufferSamples(dict(zip(self._keys, obs, strict=True)), *tensors)


class DictRolloutBuffer(RolloutBuffer, sb3.DictRolloutBuffer):
    """`RolloutBuffer` for Dict observations; they are dicts by key in what it takes, holds and hands out."""
