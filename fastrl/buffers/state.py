"""The state of a replay buffer as named arrays, and back, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastrl.buffers.layout import Leaf
from fastrl_ext.random import RandomStream

if TYPE_CHECKING:
    from fastrl.buffers.replay import ReplayBuffer

FORMAT = 1
HEADER = ("format", "capacity", "num_envs", "first", "added", "ragged")  # int64 scalars, beside "rng_state"
LINKS = ("_next", "_older")  # what records say of frames that lie beside them; these are "_beside/obs"
BESIDE = "_beside/"

Want = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]


def arrays(buffer: ReplayBuffer) -> dict[str, NDArray[Any]]:
    """The arrays to save, some of them views of the records."""
    numbers = (FORMAT, buffer.capacity, buffer.num_envs, buffer._first, buffer._added, buffer._ragged)
    header = {name: np.array(number, np.int64) for name, number in zip(HEADER, numbers, strict=True)}
    size = min(buffer._added, len(buffer._records))
    fields = {leaf.name: buffer._records[leaf.name][:size] for leaf in _kept(buffer)}
    if buffer.share_next_obs:
        *links, frames = buffer._frames_beside(size)
        fields |= dict(zip(_links(buffer), links, strict=False))
        fields |= {BESIDE + leaf.name: array for leaf, array in zip(_kept(buffer), frames, strict=False)}
    return {**header, "rng_state": buffer.rng_state, **fields}


def restore(buffer: ReplayBuffer, state: Mapping[str, NDArray[Any]]) -> None:
    """Make `buffer` the one whose `arrays` these are. ValueError, and no change, where it was made otherwise."""
    size = _check_header(buffer, state)
    want: Want = {leaf.name: (leaf.dtype, (size, *leaf.shape)) for leaf in _kept(buffer)}
    want |= {name: (np.dtype(np.int32), (size,)) for name in _links(buffer)}
    beside = _beside(buffer)
    names = {*HEADER, "rng_state", *want, *(BESIDE + leaf.name for leaf in beside)}
    if state.keys() != names:
        raise ValueError(f"the saved buffer has the arrays {sorted(state)}, this one {sorted(names)}")
    _check_arrays(state, want)
    if buffer.share_next_obs:
        total = _check_links(buffer, state)
        _check_arrays(state, {BESIDE + leaf.name: (leaf.dtype, (total, *leaf.shape)) for leaf in beside})
    stream = RandomStream(0)
    stream.state = state["rng_state"]
    with buffer._lock:
        if buffer.share_next_obs:
            links = [np.ascontiguousarray(state[name]) for name in _links(buffer)]
            frames = [np.ascontiguousarray(state[BESIDE + leaf.name]) for leaf in beside]
            buffer._set_frames_beside(links[0], links[-1], frames)
        if buffer._file is not None:
            buffer._restart(0, 0, False)
        for leaf in _kept(buffer):
            buffer._records[leaf.name][:size] = state[leaf.name]
        buffer.rng_state = stream.state
        buffer._restart(int(state["first"]), int(state["added"]), bool(state["ragged"]))


def size_limit(buffer: ReplayBuffer) -> int:
    """Bytes that a file of such a buffer has at most."""
    width = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in buffer._leaves)
    return len(buffer._records) * (width + buffer._records.itemsize) + (1 << 20)


def _kept(buffer: ReplayBuffer) -> list[Leaf]:
    """The fields of a record that hold numbers of a transition, those of its observation first."""
    dtype = buffer._records.dtype
    return [Leaf(name, dtype[name].base, dtype[name].shape) for name in dtype.names or () if name not in LINKS]


def _links(buffer: ReplayBuffer) -> list[str]:
    return [name for name in LINKS if name in (buffer._records.dtype.names or ())]


def _beside(buffer: ReplayBuffer) -> list[Leaf]:
    """The fields of a frame that may lie beside the records."""
    if not buffer.share_next_obs:
        return []
    return [leaf for leaf in _kept(buffer) if leaf.name == "obs" or leaf.name.startswith("obs/")]


def _check_header(buffer: ReplayBuffer, state: Mapping[str, Any]) -> int:
    """How many records the state has."""
    want: Want = {**dict.fromkeys(HEADER, (np.dtype(np.int64), ())), "rng_state": (np.dtype(np.uint64), (4,))}
    if missing := want.keys() - state.keys():
        raise ValueError(f"not the state of a replay buffer: it lacks {sorted(missing)}")
    _check_arrays(state, want)
    own = {"format": FORMAT, "capacity": buffer.capacity, "num_envs": buffer.num_envs}
    for name, number in own.items():
        if state[name] != number:
            raise ValueError(f"the saved buffer has {name} {state[name]}, this one {number}")
    if state["ragged"] and (option := buffer._in_step()):
        raise ValueError(
            f"the saved buffer was not filled by all {buffer.num_envs} environments in step; {option} needs that"
        )
    if not 0 <= state["first"] <= state["added"]:
        raise ValueError(f"the saved buffer holds transitions {state['first']} to {state['added']}; there are no such")
    return min(int(state["added"]), len(buffer._records))


def _check_links(buffer: ReplayBuffer, state: Mapping[str, NDArray[Any]]) -> int:
    """How many frames lie beside the records."""
    own, stack, added, slots = state["_next"], buffer.frame_stack, int(state["added"]), len(buffer._records)
    older = state["_older"] if stack > 1 else np.zeros_like(own)
    slot = np.arange(len(own))
    newest = slot if added <= slots else (slot - added) % slots  # places in the order of adding
    followed = newest + buffer.num_envs < len(own)
    good = np.isin(own, [0, 1, stack]) & ((own > 0) | followed)
    good &= (older == stack - 1) | ((older <= 0) & (older > -2 * stack))
    if not good.all():
        raise ValueError(f"record {int(good.argmin())} of the saved buffer refers to observations that are not there")
    return int(own.sum(dtype=np.int64) + np.maximum(older, 0).sum(dtype=np.int64))


def _check_arrays(state: Mapping[str, Any], want: Want) -> None:
    for name, (dtype, shape) in want.items():
        array = np.asarray(state[name])
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape} in the saved buffer; here it is {dtype} {shape}")
