"""The obvious versions of `fastrl.kernels.normalize`: they return what the kernels write."""

from __future__ import annotations

import numpy as np


def observe(batch, mean, var, count):
    """Moments with a batch [n, D] taken in, from the sums of x and of x² that the old ones stand for."""
    if len(batch) == 0:
        return mean, var, count
    batch = batch.astype(np.float64)
    total = count + len(batch)
    new_mean = (mean * count + batch.sum(axis=0)) / total
    squares = count * (var + mean**2) + (batch**2).sum(axis=0)
    return new_mean, squares / total - new_mean**2, total


def normalize(obs, mean, var):
    return np.clip((obs - mean) / np.sqrt(var + 1e-8), -10, 10).astype(np.float32)


def scale_reward(reward, done, valid, gamma, returns, mean, var, count):
    """(returns, mean, var, count, out)."""
    returns = gamma * returns + reward
    mean, var, count = observe(returns[valid][:, None], mean, var, count)
    return np.where(done, 0, returns), mean, var, count, normalize(reward, 0, var)
