"""Running normalisation of observations and rewards, as in Stable-Baselines3's VecNormalize."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrl.kernels import normalize as kernels
from fastrl.kernels.collect import Normalization


class Moments(NamedTuple):
    """Mean and variance of everything seen so far; kernels write into the arrays."""

    mean: np.ndarray  # [D] float64
    var: np.ndarray  # [D] float64
    seen: np.ndarray  # [1] float64, how many

    @classmethod
    def of_nothing(cls, n: int) -> Moments:
        """Zero mean and unit variance, which the first observations replace all but entirely."""
        return cls(np.zeros(n), np.ones(n), np.full(1, 1e-4))


class Normalizer:
    """Observations to zero mean and unit variance, rewards by the deviation of the discounted return.

    The statistics move only in `observe` and `reward`, which training calls; `obs` leaves them as they are.
    """

    def __init__(self, obs_dim: int, num_envs: int, gamma: float) -> None:
        self.obs_stats, self.return_stats = Moments.of_nothing(obs_dim), Moments.of_nothing(1)
        self.returns, self.gamma = np.zeros(num_envs), gamma

    def observe(self, obs: np.ndarray) -> None:
        """Take flat observations [n, obs_dim] into the statistics."""
        kernels.observe(obs, *self.obs_stats)

    def obs(self, obs: np.ndarray) -> np.ndarray:
        """Normalised float32 observations [n, obs_dim], clipped to ±10, with the statistics as they stand."""
        out = np.empty(obs.shape, np.float32)
        kernels.normalize(obs, self.obs_stats.mean, self.obs_stats.var, out)
        return out

    def reward(self, reward: np.ndarray, done: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Scaled float32 rewards [N], clipped to ±10; an environment's running return restarts where it is done."""
        out = np.empty(reward.shape, np.float32)
        kernels.scale_reward(reward, done, valid, self.gamma, self.returns, *self.return_stats, out)
        return out

    def for_kernels(self) -> Normalization:
        """Itself as `fastrl.kernels.collect` takes it."""
        obs, rewards = self.obs_stats, self.return_stats
        return Normalization(
            True, float(self.gamma), obs.mean, obs.var, obs.seen, self.returns, rewards.mean, rewards.var, rewards.seen
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        """The statistics, under the names and in the shapes of the model file."""
        obs, rewards = self.obs_stats, self.return_stats
        return {
            "obs.mean": obs.mean, "obs.var": obs.var, "obs.count": obs.seen[0, ...],
            "return.mean": rewards.mean[0, ...], "return.var": rewards.var[0, ...],
            "return.count": rewards.seen[0, ...], "returns": self.returns,
        }  # fmt: skip

    def state(self) -> dict[str, np.ndarray]:
        """Everything that resuming needs, as arrays of their own."""
        return {key: array.copy() for key, array in self._arrays().items()}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state()`.

        Raises:
            ValueError: where an array is missing or of another shape; nothing is changed then.
        """
        own = self._arrays()
        for key, array in own.items():
            # The running returns belong to the environments; the number of these may differ after loading.
            if key not in state or (key != "returns" and state[key].shape != array.shape):
                raise ValueError(f"normalisation statistics {key!r} are missing or of another shape")
        for key, array in own.items():
            if state[key].shape == array.shape:
                array[...] = state[key]


_nothing = np.empty(0)
NO_NORMALIZATION = Normalization(False, 0.0, *[_nothing] * 7)  # for kernels
