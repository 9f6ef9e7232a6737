"""Spaces as fields of a record, and callers' values as rows of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from numpy.typing import NDArray


class Leaf(NamedTuple):
    """A field of a record: an array of one dtype."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def make_leaf(name: str, dtype: Any, shape: Any) -> Leaf:
    """A `Leaf` in this machine's byte order; TypeError unless the dtype is of numbers that can be kept."""
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise TypeError(f"{name} is of dtype {dtype}; a buffer keeps bool, integers and floats of up to 64 bits")
    return Leaf(name, dtype, tuple(int(size) for size in shape))


def leaves(space: Space[Any], name: str) -> list[Leaf]:
    """The fields that hold elements of `space`: one, or for a Dict or Tuple those of its parts, as "name/key"."""
    if isinstance(space, (Dict, Tuple)):
        return [leaf for key, part in _parts(space) for leaf in leaves(part, f"{name}/{key}")]
    if isinstance(space, (Box, Discrete, MultiBinary, MultiDiscrete)):
        return [make_leaf(name, space.dtype, space.shape)]
    raise TypeError(
        f"{name} is of the space {space}; a buffer keeps Box, Discrete, MultiBinary, MultiDiscrete, and Dict and "
        "Tuple of these"
    )


def stored(fields: list[Leaf], share_next_obs: bool, frame_stack: int) -> list[Leaf]:
    """What a record holds of a transition's fields, and the links to what it does not hold: see frames.pxd."""
    if not share_next_obs:
        return fields
    names = [leaf.name for leaf in fields]
    reward, terminated = names.index("reward"), names.index("terminated")
    obs, rest = fields[: terminated - reward - 1], fields[terminated - reward - 1 : reward + 1]
    links = [make_leaf("_next", "i4", ())]
    if frame_stack > 1:
        obs = [leaf._replace(shape=leaf.shape[1:]) for leaf in obs]
        links.append(make_leaf("_older", "i4", ()))
    return [*obs, *rest, *links, *fields[terminated:]]


def record_dtype(fields: list[Leaf]) -> np.dtype[Any]:
    """The dtype of a record: the fields in this order, but lying by alignment, so that no padding parts them."""
    by_alignment = sorted(fields, key=lambda leaf: -leaf.dtype.alignment)
    return np.dtype([tuple(leaf) for leaf in by_alignment], align=True)[[leaf.name for leaf in fields]]


def flatten(space: Space[Any], value: Any, name: str) -> Iterator[Any]:
    """The parts of an element (or batch of elements) of `space`, in the order of `leaves`."""
    if not isinstance(space, (Dict, Tuple)):
        yield value
        return
    if isinstance(space, Dict):
        if not isinstance(value, Mapping):
            raise TypeError(f"{name} must be a dict with the keys {list(space)}; got {type(value).__name__}")
        if value.keys() != space.spaces.keys():
            raise KeyError(f"{name} has the keys {list(value)}; its space has {list(space)}")
    elif not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
        got = len(value) if isinstance(value, (tuple, list)) else type(value).__name__
        raise ValueError(f"{name} must be a tuple of {len(space.spaces)} parts; got {got}")
    for key, part in _parts(space):
        yield from flatten(part, value[key], f"{name}/{key}")


def unflatten(space: Space[Any], rows: Iterator[Any]) -> Any:
    """The inverse of `flatten`; takes from `rows` what belongs to `space`."""
    if isinstance(space, Dict):
        return {key: unflatten(part, rows) for key, part in _parts(space)}
    if isinstance(space, Tuple):
        return tuple(unflatten(part, rows) for _, part in _parts(space))
    return next(rows)


def as_rows(leaf: Leaf, value: Any, n: int) -> NDArray[Any]:
    """`value` as a C-contiguous array [n, *leaf.shape] of the leaf's dtype, or an error that says why not."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{leaf.name} is no array: {error}") from None
    if array.dtype == object:
        raise TypeError(f"{leaf.name} is an array of Python objects; it must hold {leaf.dtype} numbers")
    if n == 1 and array.shape == leaf.shape:
        array = array[np.newaxis]
    if array.shape != (n, *leaf.shape):
        unbatched = f" or {leaf.shape}" if n == 1 else ""
        raise ValueError(f"{leaf.name} has the shape {array.shape}; it must be {(n, *leaf.shape)}{unbatched}")
    _check_cast(leaf, array)
    with np.errstate(over="ignore"):  # the check for finite numbers speaks of it with the environment's index
        return np.require(array, leaf.dtype, ["C_CONTIGUOUS", "ALIGNED"])


def _check_cast(leaf: Leaf, array: NDArray[Any]) -> None:
    """Integers are cast where every one of them fits, everything else where the kind of number stays the same."""
    if array.dtype.kind in "biu" and leaf.dtype.kind in "biu":
        if np.can_cast(array.dtype, leaf.dtype) or not array.size:
            return
        limits = np.iinfo(leaf.dtype) if leaf.dtype.kind in "iu" else None
        low, high = (limits.min, limits.max) if limits else (0, 1)
        for number in (int(array.min()), int(array.max())):
            if not low <= number <= high:
                raise ValueError(f"{leaf.name} holds {number}; it is stored as {leaf.dtype}, {low} to {high}")
    elif not np.can_cast(array.dtype, leaf.dtype, "same_kind"):
        raise TypeError(
            f"{leaf.name} is {array.dtype} and is stored as {leaf.dtype}: convert it, for instance with "
            f".astype({str(leaf.dtype)!r}), if that is meant"
        )


def _parts(space: Dict | Tuple) -> list[tuple[Any, Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, Dict) else list(enumerate(space.spaces))
