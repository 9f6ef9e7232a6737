"""TorchRL's estimate of advantages, as a drop-in for `torchrl.objectives.value.functional`. TorchRL is not needed."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from fastrl.checks import check_number
from fastrl.interop.arrays import common_dtype, numbers, to_kind
from fastrl.kernels.interop import gae_of_pairs
from fastrl.rollouts import is_tensor

__all__ = ["generalized_advantage_estimate"]


def generalized_advantage_estimate(
    gamma: float,
    lmbda: float,
    state_value: Any,
    next_state_value: Any,
    reward: Any,
    done: Any,
    terminated: Any = None,
    *,
    time_dim: int = -2,
) -> tuple[Any, Any]:
    """Advantages and value targets, bit for bit those of TorchRL's function of this name.

    δ_t = r_t + γ (1 − terminated_t) V(s'_t) − V(s_t) and A_t = δ_t + γλ (1 − done_t) A_{t+1} (Schulman et al. 2016,
    eq. 16). CPU tensors or NumPy arrays, all of one shape, such as [*batch, time, features], and float32 or float64.
    Nothing is differentiated: call it under `torch.no_grad()`, as estimators of fixed targets do.

    Args:
        gamma: γ in [0, 1], a number or a tensor of one.
        lmbda: λ in [0, 1], likewise.
        state_value: V(s_t).
        next_state_value: V(s'_t), of the observation that step t really led to.
        reward: r_t.
        done: bool; step t was the last of its trajectory.
        terminated: bool; step t led to a terminal state. None stands for `done`.
        time_dim: the axis of time.

    Returns:
        (advantage, value_target), of the arguments' shape and the kind of `reward`; value_target = advantage +
        state_value.

    Raises:
        ValueError: shapes that differ, an axis of time that they lack, γ or λ outside [0, 1], tensors elsewhere than
            on the CPU, or tensors that require gradients where gradients are recorded.
        TypeError: flags that are not bool, numbers that are neither float32 nor float64, or of both kinds.
    """
    gamma, lmbda = _number("gamma", gamma), _number("lmbda", lmbda)
    terminated = done if terminated is None else terminated
    given = {"state_value": state_value, "next_state_value": next_state_value, "reward": reward,
             "done": done, "terminated": terminated}  # fmt: skip
    _check_no_gradients(given)
    arrays = {name: numbers(name, x) for name, x in given.items()}
    value, next_value, rewards, dones, ends = arrays.values()
    dtype = common_dtype(state_value=value, next_state_value=next_value, reward=rewards)
    for name in ("done", "terminated"):
        if arrays[name].dtype != np.bool_:
            raise TypeError(f"{name} has the dtype {arrays[name].dtype}; it must be bool")
    shapes = {name: array.shape for name, array in arrays.items()}
    shape = rewards.shape
    if len(set(shapes.values())) > 1:
        raise ValueError(f"all arguments must have one shape; got {shapes}")
    if not -len(shape) <= time_dim < len(shape):
        raise ValueError(f"time_dim is {time_dim}; the arguments have the shape {shape}")
    axis = time_dim % len(shape)
    lag = math.prod(shape[axis + 1 :])
    parted = (math.prod(shape[:axis]), shape[axis] * lag)
    advantage, target = np.empty(shape, dtype), np.empty(shape, dtype)
    discount, decay = (dtype.type(_default_dtype()(number)) for number in (gamma, lmbda * gamma))
    rewards, value, next_value, ends, dones = (
        np.ascontiguousarray(array).reshape(parted) for array in (rewards, value, next_value, ends, dones)
    )
    gae_of_pairs(
        rewards, value, next_value, ends, dones, lag, discount, decay,
        advantage.reshape(parted), target.reshape(parted),
    )  # fmt: skip
    return to_kind(reward, advantage), to_kind(reward, target)


def _number(name: str, x: Any) -> float:
    if is_tensor(x) and x.numel() == 1:
        x = x.item()
    check_number(name, x, 0.0, 1.0)
    return float(x)


def _check_no_gradients(given: dict[str, Any]) -> None:
    for name, x in given.items():
        if is_tensor(x) and x.requires_grad and sys.modules["torch"].is_grad_enabled():
            raise ValueError(f"{name} requires gradients, and this estimate has none: call it under torch.no_grad()")


def _default_dtype() -> type[np.floating[Any]]:
    """Torch's default dtype, in which TorchRL multiplies discounts and flags, whatever the dtype of the values."""
    torch = sys.modules.get("torch")
    return np.float64 if torch is not None and torch.get_default_dtype() == torch.float64 else np.float32
