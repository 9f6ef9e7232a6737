"""Observations of N environments as one array: [N, *obs], or for a Dict space [N] records with a field for each key.

Records are indexed, copied and compared like any rows, keep each part's dtype, and give it by `records[key]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict

__all__ = ["as_row", "as_rows", "as_users_have_them", "empty", "finite", "layout"]


def layout(space: gym.Space) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape of the row of one observation."""
    if not isinstance(space, Dict):
        return np.dtype(space.dtype), tuple(space.shape or ())
    return np.dtype([(key, *layout(part)) for key, part in space.spaces.items()], align=True), ()


def empty(space: gym.Space, n: int) -> np.ndarray:
    """Room for `n` observations; that of records is zeroed, their padding with it."""
    dtype, shape = layout(space)
    return np.zeros(n, dtype) if dtype.names else np.empty((n, *shape), dtype)


def as_row(space: gym.Space, obs: Any, who: str, step: int) -> np.ndarray:
    """One observation as it fits into a row of `empty`; a ValueError that names `who` and `step` where it does not."""
    return _converted(space, obs, (), who, step)


def as_rows(space: gym.Space, n: int, obs: Any, who: str, step: int) -> np.ndarray:
    """A batch of `n` observations as rows of their own; raises as `as_row`."""
    return _converted(space, obs, (n,), who, step)


def as_users_have_them(space: gym.Space, rows: np.ndarray) -> Any:
    """Rows as Gymnasium's vector environments hand them out: those of a Dict as a dict of arrays."""
    if not isinstance(space, Dict):
        return rows
    return {key: as_users_have_them(part, rows[key]) for key, part in space.spaces.items()}


def finite(rows: np.ndarray) -> np.ndarray:
    """[N] bool: which observations hold neither infinity nor NaN."""
    if rows.dtype.names:
        return np.logical_and.reduce([finite(rows[name]) for name in rows.dtype.names])
    return np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)


def _converted(space: gym.Space, obs: Any, leading: tuple[int, ...], who: str, step: int) -> np.ndarray:
    if isinstance(space, Dict):
        record = np.zeros(leading, layout(space)[0])
        _fill(space, record, obs, leading, who, step)
        return record
    try:
        array = np.array(obs) if leading else np.asarray(obs)  # batches may lie in memory that is written again
    except ValueError as error:
        raise ValueError(f"{who} returned an observation that is no array at step {step}: {error}") from None
    shape = (*leading, *(space.shape or ()))
    if array.shape != shape:
        raise ValueError(
            f"{who} returned an observation of shape {array.shape} at step {step}; "
            f"its observation space {space} says {shape}"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{who} returned an observation of dtype {array.dtype} at step {step}; its observation space {space} says "
            f"{space.dtype}"
        )
    return array


def _fill(space: Dict, record: np.ndarray, obs: Any, leading: tuple[int, ...], who: str, step: int) -> None:
    if not isinstance(obs, Mapping) or obs.keys() != space.spaces.keys():
        found = list(obs) if isinstance(obs, Mapping) else f"a {type(obs).__name__}"
        raise ValueError(f"{who} returned the observation {found} at step {step}, not a dict of {list(space.spaces)}")
    for key, part in space.spaces.items():
        record[key] = _converted(part, obs[key], leading, f"{who}, part {key!r},", step)
