"""Running normalisation of observations and rewards, as in Stable-Baselines3's VecNormalize."""

from __future__ import annotations

import numpy as np

EPSILON = 1e-8
CLIP = 10.0


class RunningMeanStd:
    """Mean and variance of everything seen so far, by Chan et al.'s parallel update, in float64."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), np.full((), 1e-4)

    def update(self, batch: np.ndarray) -> None:
        """Take in `batch`, [n, *shape]."""
        if not len(batch):
            return
        mean, var, n = batch.mean(axis=0, dtype=np.float64), batch.var(axis=0, dtype=np.float64), len(batch)
        total = self.count + n
        delta = mean - self.mean
        self.mean = self.mean + delta * (n / total)
        self.var = (self.var * self.count + var * n + delta**2 * self.count * n / total) / total
        self.count = total


class Normalizer:
    """Observations to zero mean and unit variance, rewards by the deviation of the discounted return.

    The statistics move only in `observe` and `reward`, which training calls; `obs` leaves them as they are.
    """

    def __init__(self, obs_dim: int, num_envs: int, gamma: float) -> None:
        self.obs_stats, self.return_stats = RunningMeanStd((obs_dim,)), RunningMeanStd(())
        self.returns, self.gamma = np.zeros(num_envs), gamma

    def observe(self, obs: np.ndarray) -> None:
        """Take flat observations [n, obs_dim] into the statistics."""
        self.obs_stats.update(obs)

    def obs(self, obs: np.ndarray) -> np.ndarray:
        """Normalised float32 observations, clipped to ±10, with the statistics as they stand."""
        stats = self.obs_stats
        return np.clip((obs - stats.mean) / np.sqrt(stats.var + EPSILON), -CLIP, CLIP).astype(np.float32)

    def reward(self, reward: np.ndarray, done: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Scaled float32 rewards [N], clipped to ±10; an environment's running return restarts where it is done."""
        self.returns = self.returns * self.gamma + reward
        self.return_stats.update(self.returns[valid])
        self.returns[done] = 0
        scale = np.sqrt(self.return_stats.var + EPSILON)
        return np.clip(reward / scale, -CLIP, CLIP).astype(np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that resuming needs, as arrays."""
        both = {"obs": self.obs_stats, "return": self.return_stats}
        arrays = {f"{k}.{part}": np.asarray(getattr(s, part)) for k, s in both.items() for part in vars(s)}
        return {**arrays, "returns": self.returns}

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Continue from `state()`.

        Raises:
            ValueError: where an array is missing or of another shape; nothing is changed then.
        """
        own = self.state()
        for key, array in own.items():
            # The running returns belong to the environments; the number of these may differ after loading.
            if key not in state or (key != "returns" and state[key].shape != array.shape):
                raise ValueError(f"normalisation statistics {key!r} are missing or of another shape")
        for key, stats in (("obs", self.obs_stats), ("return", self.return_stats)):
            for part in vars(stats):
                setattr(stats, part, np.array(state[f"{key}.{part}"]))
        if state["returns"].shape == self.returns.shape:
            self.returns = np.array(state["returns"])
