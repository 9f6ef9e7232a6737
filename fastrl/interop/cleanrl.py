"""CleanRL's advantages, and the replay buffer of its DQN, SAC, TD3, DDPG and C51 scripts; none of it is imported."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space

from fastrl.checks import check_number
from fastrl.interop.arrays import common_dtype, numbers, to_kind
from fastrl.interop.memory import as_tensors
from fastrl.interop.replay import Transitions
from fastrl.kernels.interop import gae_by_starts

__all__ = ["ReplayBuffer", "ReplayBufferSamples", "gae"]


def gae(
    rewards: Any, values: Any, dones: Any, next_value: Any, next_done: Any, gamma: float, gae_lambda: float
) -> tuple[Any, Any]:
    """Advantages and returns as CleanRL's PPO scripts compute them, bit for bit.

    δ_t = r_t + γ (1 − dones_{t+1}) V_{t+1} − V_t and A_t = δ_t + γλ (1 − dones_{t+1}) A_{t+1}, with `next_value` and
    `next_done` behind the last step (Schulman et al. 2016, eq. 16). An episode cut by a time limit counts as ended;
    `fastrl.compute_gae` tells the two apart.

    CPU tensors or NumPy arrays, float32 or float64; the results are of the kind of `rewards`.

    Args:
        rewards: [T, N].
        values: [T, N], V of the observations 0 to T - 1.
        dones: [T, N], 0 / 1; observation t begins an episode.
        next_value: [N] or [1, N], V of the observation after the last step.
        next_done: [N], 0 / 1; that observation begins an episode.
        gamma: γ in [0, 1].
        gae_lambda: λ in [0, 1].

    Returns:
        (advantages, returns), [T, N]; returns = advantages + values.

    Raises:
        ValueError: shapes that do not agree, γ or λ outside [0, 1], tensors elsewhere than on the CPU.
        TypeError: numbers that are neither float32 nor float64, or of both kinds.
    """
    check_number("gamma", gamma, 0.0, 1.0)
    check_number("gae_lambda", gae_lambda, 0.0, 1.0)
    reward, value = numbers("rewards", rewards), numbers("values", values)
    last_value = numbers("next_value", next_value).reshape(-1)
    dtype = common_dtype(rewards=reward, values=value, next_value=last_value)
    start, last_done = (numbers(name, x).astype(dtype) for name, x in (("dones", dones), ("next_done", next_done)))
    if reward.ndim != 2 or not len(reward):
        raise ValueError(f"rewards have the shape {reward.shape}; they must be [T, N], of at least one step")
    T, N = reward.shape
    got = (value.shape, start.shape, last_value.shape, last_done.reshape(-1).shape)
    if got != ((T, N), (T, N), (N,), (N,)):
        names = "values, dones, next_value and next_done"
        raise ValueError(
            f"{names} have the shapes {got}; with rewards {(T, N)} they must be {(T, N)} twice, {(N,)} twice"
        )
    advantage, returns = np.empty((T, N), dtype), np.empty((T, N), dtype)
    gae_by_starts(
        np.ascontiguousarray(reward), np.ascontiguousarray(value), np.ascontiguousarray(start), last_value,
        last_done.reshape(-1), dtype.type(gamma), dtype.type(gamma * gae_lambda), advantage, returns,
    )  # fmt: skip
    return to_kind(rewards, advantage), to_kind(rewards, returns)


class ReplayBufferSamples(NamedTuple):
    """B transitions, tensors [B, ...]; those of dones and rewards are [B, 1] float32."""

    observations: Any
    actions: Any
    next_observations: Any
    dones: Any
    rewards: Any


class ReplayBuffer(Transitions):
    """The buffer of `cleanrl_utils.buffers` (and, before, of Stable-Baselines3), over records.

    It takes the same arguments, draws the same numbers from NumPy's global stream and hands out the same tensors, so
    a seeded script ends with the same weights. `observations`, `next_observations`, `actions`, `rewards`, `dones` and
    `timeouts` are views of the records, [buffer_size, n_envs, ...].

    Args:
        buffer_size: transitions over all environments.
        observation_space: Box, Discrete, MultiDiscrete or MultiBinary, or a Dict of these.
        action_space: Box, Discrete, MultiDiscrete or MultiBinary.
        device: where the samples' tensors are; "auto" is CUDA where there is any.
        n_envs: transitions that one `add` brings.
        optimize_memory_usage: keep each observation once; the next one is that of the following step, also where an
            episode was cut, which is why `handle_timeout_termination` must then be False.
        handle_timeout_termination: whether samples' `dones` are 0 where infos, a list of dicts, said
            "TimeLimit.truncated".
        check_finite: refuse NaN and infinity in observations, actions and rewards.

    Raises:
        ValueError: a buffer_size or n_envs below 1, or both of `optimize_memory_usage` and
            `handle_timeout_termination`.
        TypeError: sizes that are no ints, a space that is not supported.
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
        torch = importlib.import_module("torch")  # by name: this floor works without it until there are samples
        self.device = torch.device("cuda" if device == "auto" else device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            self.device = torch.device("cpu")
        self.buffer_size, self.n_envs, self.pos, self.full = buffer_size, n_envs, 0, False
        self.observation_space, self.action_space = observation_space, action_space
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self._allocate(check_finite)

    def size(self) -> int:
        """Steps stored, each of `n_envs` transitions."""
        return self.buffer_size if self.full else self.pos

    def reset(self) -> None:
        """Forget all transitions."""
        self.pos, self.full = 0, False

    def extend(self, *columns: Any) -> None:
        """`add` for each step of columns that have a leading axis for them."""
        for step in zip(*columns, strict=True):
            self.add(*step)

    def sample(self, batch_size: int) -> ReplayBufferSamples:
        """Draw `batch_size` transitions uniformly. ValueError where there are none, or for a batch_size below 1."""
        parts = self._gather(self._draw_slots(self._draw_steps(batch_size)))
        return ReplayBufferSamples(*self._tensors(parts))

    def to_torch(self, array: Any, copy: bool = True) -> Any:
        """`array` as a tensor on the buffer's device; without `copy` it may share the array's memory."""
        return as_tensors([np.array(array) if copy else np.asarray(array)], self.device)[0]
