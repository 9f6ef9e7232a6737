"""What callers pass as rollouts, made the arrays that kernels take: the checks of all of `fastrl.returns`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastrl.checks import check_number
from fastrl_ext.rollouts import plain_outputs

__all__ = ["as_array", "check_unit", "is_tensor", "prepare", "results"]


def check_unit(name: str, number: float) -> None:
    """`check_number` for [0, 1]; a float that lies in it is passed quickly."""
    if not (type(number) is float and 0 <= number <= 1):
        check_number(name, number, 0, 1)


def prepare(
    names: tuple[str, ...], columns: tuple[Any, ...], last_values: Any, terminated: Any, truncated: Any,
    final_values: Any, out: Any, out_names: tuple[str, ...],
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:  # fmt: skip
    """((*columns, last_values, terminated, truncated, final_values), outputs) as kernels take them.

    Contiguous arrays, the numbers of one float type. `columns` are numbers [T] or [T, N] of the steps, rewards
    first; `out` None or a tuple. Where nothing was truncated, the arrays returned for `truncated` and
    `final_values` have no effect. Raises as `fastrl.compute_gae` says.
    """
    # What has no effect where nothing was truncated: any flags, any numbers.
    rest = (terminated, columns[0]) if truncated is None else (truncated, final_values)
    made = plain_outputs((*columns, rest[1]), last_values, (terminated, rest[0]), out, len(out_names))
    if made is not None:
        return (*columns, last_values, terminated, *rest), made
    numbers = {name: _numbers(name, x) for name, x in zip(names, columns, strict=True)}
    shape = numbers["rewards"].shape
    if len(shape) not in (1, 2) or 0 in shape:
        raise ValueError(f"rewards have shape {shape}; they must be (T,) or (T, N) and not empty")
    last_value = _numbers("last_values", last_values)
    if last_value.shape not in ((shape[1:], (1,)) if len(shape) == 1 else (shape[1:],)):
        raise ValueError(f"last_values have shape {last_value.shape}; for rewards {shape} it must be {shape[1:]}")
    terminated = _flags("terminated", terminated, shape)
    truncated = terminated if truncated is None else _flags("truncated", truncated, shape)
    if final_values is None and np.any(truncated & ~terminated):
        raise ValueError(
            "truncated episodes need final_values: the value of the observation each one ended in "
            "(pass truncated=None if none was truncated)"
        )
    final_value = numbers["rewards"] if final_values is None else _numbers("final_values", final_values)
    for name, array in (*numbers.items(), ("final_values", final_value)):
        if array.shape != shape:
            raise ValueError(f"{name} have shape {array.shape}; rewards have {shape}: they must be equal")
    dtype = np.result_type(np.float32, *numbers.values())
    floats = [np.ascontiguousarray(x, dtype) for x in (*numbers.values(), last_value.reshape(-1), final_value)]
    arrays = (*floats[:-1], np.ascontiguousarray(terminated), np.ascontiguousarray(truncated), floats[-1])
    return arrays, _outputs(out, out_names, is_tensor(columns[0]), arrays)


def _outputs(out: Any, names: tuple[str, ...], as_tensor: bool, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """New arrays like inputs[0] to write to, or those of `out`, checked."""
    shape, dtype = inputs[0].shape, inputs[0].dtype
    if out is None:
        return tuple(np.empty(shape, dtype) for _ in names)
    if not isinstance(out, tuple) or len(out) != len(names):
        raise TypeError(f"out must be a tuple ({', '.join(names)})")
    arrays: list[np.ndarray] = []
    for k, x in enumerate(out):
        name = "out" if len(names) == 1 else f"out[{k}]"
        if is_tensor(x) != as_tensor or not (as_tensor or isinstance(x, np.ndarray)):
            raise TypeError(f"{name} is a {type(x).__name__}; it must be of the same kind as rewards")
        array = as_array(name, x)
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(f"{name} is {array.dtype}{array.shape}; it must be {dtype}{shape}")
        if not array.flags.c_contiguous or not array.flags.writeable:
            raise ValueError(f"{name} must be C-contiguous and writeable")
        if any(np.may_share_memory(array, other) for other in (*inputs, *arrays)):
            raise ValueError(f"{name} shares memory with another array of the call; pass separate memory")
        arrays.append(array)
    return tuple(arrays)


def results(out: Any, arrays: tuple[Any, ...], rewards: Any) -> tuple[Any, ...]:
    """What the caller gets: `out`, or the new arrays, as tensors where rewards are."""
    if out is not None:
        return out
    if type(rewards) is not np.ndarray and is_tensor(rewards):
        return tuple(sys.modules["torch"].from_numpy(array) for array in arrays)
    return arrays


def is_tensor(x: Any) -> bool:
    """Whether `x` is a Torch tensor, without importing Torch: none can exist before Torch is loaded."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_array(name: str, x: Any) -> np.ndarray:
    """`x` as an array, of a tensor on the same memory. ValueError for a tensor that is not on the CPU."""
    if is_tensor(x):
        if x.device.type != "cpu":
            raise ValueError(f"{name} are on {x.device}; this function takes CPU tensors: pass {name}.cpu()")
        x = x.detach()
        return (x.float() if x.dtype is sys.modules["torch"].bfloat16 else x).numpy()
    return np.asarray(x)


def _numbers(name: str, x: Any) -> np.ndarray:
    array = as_array(name, x)
    if array.dtype.kind not in "iubf":
        raise TypeError(f"{name} have dtype {array.dtype}; they must be real numbers, float32 or float64")
    if array.dtype in (np.float32, np.float64):
        return array
    # Python numbers and small types take the arrays' float32; wide integers need float64 to be exact.
    return array.astype(np.float64 if array.dtype.itemsize > 4 and array.ndim > 0 else np.float32)


def _flags(name: str, x: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = as_array(name, x)
    if array.shape != shape:
        raise ValueError(f"{name} have shape {array.shape}; rewards have {shape}: they must be equal")
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} have dtype {array.dtype}; they must be bool, or 0 and 1")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must be bool, or 0 and 1; found other numbers")
    return array != 0
