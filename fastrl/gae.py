"""Generalised advantage estimation for anybody's arrays: checks and views around one kernel."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastrl.kernels import returns as kernels

__all__ = ["compute_gae"]


def compute_gae(
    rewards: Any,
    values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Generalised advantage estimates and the returns that a value function should fit.

    δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t) and A_t = δ_t + γλ (1 − done_t) A_{t+1} with
    done = terminated or truncated (Schulman et al. 2016, "High-Dimensional Continuous Control Using
    Generalized Advantage Estimation", eq. 16). An episode cut by a time limit is no terminal state: its last
    step bootstraps from the value of the observation it really ended in, and the trace stops there.

    NumPy arrays or CPU tensors; the results are of the kind of `rewards` and of the common float type of
    `rewards` and `values`, float32 or float64. Time comes first.

    Args:
        rewards: (T,) or (T, N). `rewards[t]` follows the action taken in the state that `values[t]` judges.
        values: as rewards; V(s_t).
        last_values: (N,), or a number for (T,) rewards; V of the observation after the last step.
        terminated: as rewards, bool or 0 / 1; step t reached a terminal state.
        truncated: as rewards; step t was the last of its episode for another reason (a time limit).
        final_values: as rewards; V of the true last observation, read only where `truncated`.
        gamma: discount, in [0, 1].
        gae_lambda: λ in [0, 1]; 0 gives one-step errors, 1 gives Monte-Carlo returns less the value.
        out: (advantages, returns) to write into: C-contiguous, of the result's kind, shape and dtype,
            sharing no memory with the inputs.

    Returns:
        (advantages, returns), shaped as rewards; returns = advantages + values.

    Raises:
        ValueError: on shapes that differ, γ or λ outside [0, 1], truncation without `final_values`, flags
            other than 0 / 1, tensors that are not on the CPU, or an unusable `out`.
        TypeError: on dtypes that are not real numbers.
    """
    for name, number in (("gamma", gamma), ("gae_lambda", gae_lambda)):
        if not 0 <= number <= 1:
            raise ValueError(f"{name} is {number}; it must lie in [0, 1]")
    as_tensor = _is_tensor(rewards)
    reward, value = _numbers("rewards", rewards), _numbers("values", values)
    if reward.ndim not in (1, 2) or reward.size == 0:
        raise ValueError(f"rewards have shape {reward.shape}; they must be (T,) or (T, N) and not empty")
    shape = reward.shape
    dtype = np.float64 if np.float64 in (reward.dtype, value.dtype) else np.float32
    last_value = _numbers("last_values", last_values)
    if last_value.shape not in ((shape[1:], (1,)) if len(shape) == 1 else (shape[1:],)):
        raise ValueError(f"last_values have shape {last_value.shape}; for rewards {shape} it must be {shape[1:]}")
    terminated = _flags("terminated", terminated, shape)
    truncated = np.zeros(shape, bool) if truncated is None else _flags("truncated", truncated, shape)
    if final_values is None and np.any(truncated & ~terminated):
        raise ValueError(
            "truncated episodes need final_values: the value of the observation each one ended in "
            "(pass truncated=None if none was truncated)"
        )
    final_value = value if final_values is None else _numbers("final_values", final_values)
    for name, array in (("values", value), ("final_values", final_value)):
        if array.shape != shape:
            raise ValueError(f"{name} have shape {array.shape}; rewards have {shape}: they must be equal")
    inputs = [reward, value, last_value, terminated, truncated, final_value]
    advantages, returns = _outputs(out, shape, dtype, as_tensor, inputs)

    columns = (shape[0], -1)
    kernels.gae(
        np.ascontiguousarray(reward, dtype).reshape(columns),
        np.ascontiguousarray(value, dtype).reshape(columns),
        np.ascontiguousarray(last_value, dtype).reshape(-1),
        np.ascontiguousarray(terminated).reshape(columns),
        np.ascontiguousarray(truncated).reshape(columns),
        np.ascontiguousarray(final_value, dtype).reshape(columns),
        float(gamma), float(gae_lambda), advantages.reshape(columns), returns.reshape(columns),
    )  # fmt: skip
    if out is not None:
        return out
    if as_tensor:
        torch = sys.modules["torch"]
        return torch.from_numpy(advantages), torch.from_numpy(returns)
    return advantages, returns


def _is_tensor(x: Any) -> bool:
    torch = sys.modules.get("torch")  # a tensor cannot exist before Torch is loaded
    return torch is not None and isinstance(x, torch.Tensor)


def _array(name: str, x: Any) -> np.ndarray:
    if _is_tensor(x):
        if x.device.type != "cpu":
            raise ValueError(f"{name} are on {x.device}; compute_gae takes CPU tensors: pass {name}.cpu()")
        return x.detach().numpy()
    return np.asarray(x)


def _numbers(name: str, x: Any) -> np.ndarray:
    array = _array(name, x)
    if array.dtype.kind not in "iubf":
        raise TypeError(f"{name} have dtype {array.dtype}; they must be real numbers, float32 or float64")
    if array.dtype in (np.float32, np.float64):
        return array
    # Python numbers and small types take the arrays' float32; wide integers need float64 to be exact.
    return array.astype(np.float64 if array.dtype.itemsize > 4 and array.ndim > 0 else np.float32)


def _flags(name: str, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = _array(name, x)
    if array.shape != shape:
        raise ValueError(f"{name} have shape {array.shape}; rewards have {shape}: they must be equal")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} have dtype {array.dtype}; they must be bool, or 0 and 1")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be bool, or 0 and 1; found other numbers")
    return array != 0


def _outputs(
    out: Any, shape: tuple[int, ...], dtype: type, as_tensor: bool, inputs: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    if out is None:
        return np.empty(shape, dtype), np.empty(shape, dtype)
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError("out must be a tuple (advantages, returns)")
    arrays: list[np.ndarray] = []
    for name, x in zip(("out[0]", "out[1]"), out, strict=True):
        if _is_tensor(x) != as_tensor or not (as_tensor or isinstance(x, np.ndarray)):
            raise TypeError(f"{name} is a {type(x).__name__}; it must be of the same kind as rewards")
        array = _array(name, x)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}{array.shape}; it must be {np.dtype(dtype)}{shape}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError(f"{name} must be C-contiguous and writeable")
        if any(np.may_share_memory(array, other) for other in inputs + arrays):
            raise ValueError(f"{name} shares memory with another array of the call; pass separate memory")
        arrays.append(array)
    return arrays[0], arrays[1]
