"""The whole way from one observation to the environment's action: each call of a kernel from Python costs its share."""

from __future__ import annotations

import math

import numpy as np

from fastrl.kernels._jit import bare
from fastrl.kernels.acting import predict_one
from fastrl.kernels.normalize import normalize


@bare
def predict(
    obs: np.ndarray, mean: np.ndarray, var: np.ndarray, noise: np.ndarray, params: np.ndarray, plan: np.ndarray,
    work: np.ndarray, head: np.ndarray, low: np.ndarray, high: np.ndarray, action: np.ndarray,
) -> bool:  # fmt: skip
    """Write the `action` [c] for `obs` float32 [n_in], as `predict_one`; False where `obs` holds NaN or infinity.

    `obs` is normalised in place by `mean` and `var` float64 [n_in], and the action kept within `low` and `high`
    float32 [c], unless these are empty.
    """
    for x in obs:
        if not math.isfinite(x):
            return False
    if len(mean) > 0:
        batch = obs.reshape(1, len(obs))
        normalize(batch, mean, var, batch)
    predict_one(obs, noise, params, plan, work, head, action)
    for j in range(len(low)):
        if action[j] < low[j]:
            action[j] = low[j]
        elif action[j] > high[j]:
            action[j] = high[j]
    return True
