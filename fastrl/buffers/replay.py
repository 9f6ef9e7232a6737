"""Experience replay in one block of records, for any of Gymnasium's array spaces. Torch is not needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from numpy.typing import NDArray

from fastrl.buffers import archive
from fastrl.buffers.layout import Leaf, as_rows, flatten, leaves, make_leaf, record_dtype, unflatten
from fastrl.checks import check_int
from fastrl_ext.random import RandomStream
from fastrl_ext.ring import COLUMNS, Ring

__all__ = ["ReplayBuffer", "ReplaySample"]

FORMAT = 1
HEADER = ("format", "capacity", "num_envs", "added")  # int64 scalars of the saved state


class ReplaySample(NamedTuple):
    """B transitions. Arrays [B, ...], or tensors; Dict and Tuple spaces give dicts and tuples of them."""

    obs: Any
    action: Any
    reward: Any  # [B] float32
    next_obs: Any
    terminated: Any  # [B] bool: next_obs is terminal
    truncated: Any  # [B] bool: the episode was cut at next_obs, which is worth bootstrapping from
    indices: Any  # [B] int64: which transitions in the order of adding, as `gather` takes them
    extra: dict[str, Any]  # the extra fields by name


class ReplayBuffer(Ring):
    """The last `capacity` transitions, and uniform samples of them.

    A transition is one record (obs, action, reward, next_obs, terminated, truncated, extra fields) in a block of
    memory that is reserved at once and costs nothing until it is filled: `nbytes` in all, no more. Records form
    one ring, in the order in which they were added, whatever the number of environments; any capacity of at
    least `num_envs` will do.

    Each number is stored in its space's own dtype, Discrete values as they are (also where `start` is not 0),
    rewards as float32, flags as bool. Input of another dtype is cast: integers into integers (and 0 / 1 into
    bool) where every value fits, into floats always; floats into floats. Nothing else, floats into integers for
    one, is cast silently. Nothing is broadcast.

    Threads may add and sample at the same time: a sample never holds a half-written transition.

    Args:
        capacity: transitions over all environments.
        observation_space: Box, Discrete, MultiBinary, MultiDiscrete, or Dict and Tuple of these, of any depth.
        action_space: likewise.
        num_envs: transitions that one `add` brings.
        device: samples are tensors on this Torch device. None: NumPy arrays, and Torch is never imported.
        seed: of the random stream: an int, a sequence of ints or a numpy.random.SeedSequence; None draws one.
        extra_fields: {name: (dtype, shape)} of further numbers to keep with each transition.
        check_finite: refuse NaN and infinity in observations, actions and rewards.

    Raises:
        ValueError: a capacity below 1 or below `num_envs`, an unusable device, seed or name of an extra field.
        TypeError: an unsupported space or dtype, or arguments that are no numbers where numbers are meant.
        MemoryError: a capacity that this machine cannot hold.
    """

    _fixed: tuple[str, ...] = ("format", "capacity", "num_envs")  # in a saved state just as in the buffer that loads it
    _reserved: tuple[str, ...] = (*HEADER, "rng_state")  # names of saved arrays that are no fields

    def __init__(
        self,
        capacity: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        num_envs: int = 1,
        device: Any = None,
        seed: int | Iterable[int] | np.random.SeedSequence | None = None,
        extra_fields: Mapping[str, tuple[Any, Iterable[int]]] | None = None,
        check_finite: bool = True,
    ) -> None:
        check_int("num_envs", num_envs)
        check_int("capacity", capacity)
        if capacity < num_envs:
            raise ValueError(f"capacity is {capacity}; it must be at least num_envs, {num_envs}")
        self.observation_space, self.action_space = observation_space, action_space
        self.device = None
        if device is not None:
            self._torch = importlib.import_module("torch")  # by name: this floor works without it
            self.device = _usable(self._torch, device)
        inputs = [*leaves(observation_space, "obs"), *leaves(action_space, "action"), make_leaf("reward", "f4", ()),
                  *leaves(observation_space, "next_obs")]  # fmt: skip
        flags = [make_leaf(name, "?", ()) for name in ("terminated", "truncated")]
        extras = _extra_leaves(extra_fields or {}, {"self", *ReplaySample._fields, *self._reserved})
        self._leaves, self._extra_names = [*inputs, *flags, *extras], [leaf.name for leaf in extras]
        self._n_finite = len(inputs) if check_finite else 0
        records = _reserve(capacity, record_dtype(self._leaves))
        super().__init__(records, num_envs, seed, self._n_finite, ReplaySample if device is None else None)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({len(self)} of {self.capacity} transitions of {self._records.itemsize} bytes, "
            f"num_envs={self.num_envs})"
        )

    def add_batch(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminated: Any,
        truncated: Any = False,
        **extra: Any,
    ) -> None:
        """Store any number of transitions, as `add` would one after the other: arrays [n, ...], rewards [n].

        Of more than `capacity` the last ones stay. Raises as `add` does.
        """
        shape = tuple(np.shape(reward))
        if len(shape) != 1:
            raise ValueError(f"reward has the shape {shape}; add_batch takes n transitions at once, rewards (n,)")
        if truncated is False:
            truncated = np.zeros(shape, np.bool_)
        columns = (obs, action, reward, next_obs, terminated, truncated)
        self._add_rows(self._convert(columns, extra, shape[0], "row"), shape[0])

    def recent(self, n: int | None = None) -> ReplaySample:
        """The last `n` transitions (None: all there are), oldest first. ValueError where there are fewer."""
        size = len(self)
        n = size if n is None else n
        check_int("n", n, minimum=0)
        found = self._newest(n) if n <= size else None
        if found is None:
            raise ValueError(f"n is {n}; the {type(self).__name__} holds {size} transitions")
        return found

    def __getitem__(self, name: str) -> Any:
        """A column of what is stored, [len(self), ...], as a read-only view that later calls of `add` change.

        The transition with the index i, as `sample` and `gather` count them, lies in row i % capacity.
        "obs", "action", "reward", "next_obs", "terminated", "truncated" or an extra field; KeyError for others.
        """
        records = self._records[: len(self)]
        records.flags.writeable = False
        columns = self._structure([records[leaf.name] for leaf in self._leaves])
        if name not in columns:
            raise KeyError(f"no column {name!r}; there are {list(columns)}")
        return columns[name]

    def end_episodes(self) -> None:
        """Mark the newest transition of each environment as truncated, unless it is terminated.

        For a loop that abandons its running episodes: windows over several steps then do not run into the next.
        """
        with self._lock:
            newest = (self._added - 1 - np.arange(min(self.num_envs, len(self)))) % self.capacity
            self._records["truncated"][newest] |= ~self._records["terminated"][newest]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the full buffer occupies."""
        return self._records.nbytes

    @property
    def rng_state(self) -> NDArray[np.uint64]:
        """The state of the random stream, uint64 [4]; assigning one resumes from there."""
        return self._rng.state

    @rng_state.setter
    def rng_state(self, state: NDArray[np.uint64]) -> None:
        self._rng.state = state

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """All that `load_state_dict` needs to go on exactly from here, as new arrays of numbers."""
        with self._lock:
            return {name: np.array(array) for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become the buffer whose `state_dict` this is. ValueError, and no change, where it was made otherwise."""
        self._check_state(state)
        with self._lock:
            self._restore(state)

    def _check_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Raise ValueError unless `_restore` can become this."""
        with self._lock:
            header, columns = self._header(), self._columns()
        want = {name: (array.dtype, array.shape) for name, array in header.items()}
        if missing := want.keys() - state.keys():
            raise ValueError(f"not the state of a replay buffer: it lacks {sorted(missing)}")
        _check_arrays(state, want)
        for name in self._fixed:
            if state[name] != header[name]:
                raise ValueError(f"the saved buffer has {name} {state[name]}, this one {header[name]}")
        if not 0 <= state["added"] < 1 << 62:
            raise ValueError(f"the saved buffer has added {state['added']} transitions; that cannot be")
        size = min(int(state["added"]), self.capacity)
        want |= {name: (array.dtype, (size, *array.shape[1:])) for name, array in columns.items()}
        if state.keys() != want.keys():
            raise ValueError(f"the saved buffer has the arrays {sorted(state)}, this one {sorted(want)}")
        _check_arrays(state, want)
        RandomStream(0).state = state["rng_state"]

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._added = int(state["added"])
        self.rng_state = state["rng_state"]
        for leaf in self._leaves:
            self._records[leaf.name][: len(self)] = state[leaf.name]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, atomically; other threads wait. OSError where that fails.

        The file is an .npz without pickles: `numpy.load(path)` reads it too. What `path` held before stays until
        the new file is complete.
        """
        with self._lock:
            archive.write(path, self._state())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Become the buffer that was saved at `path`: contents, indices and random stream. Takes memory for a copy.

        Raises:
            OSError: where the file cannot be opened.
            ValueError: for a truncated or foreign file, or a buffer made otherwise. This one is then as it was.
        """
        self.load_state_dict(archive.read(path, limit=self.nbytes + (1 << 20)))

    def _state(self) -> dict[str, NDArray[Any]]:
        """The saved arrays, some of them views of the records."""
        return {**self._header(), **self._columns()}

    def _header(self) -> dict[str, NDArray[Any]]:
        """Saved arrays of fixed shapes."""
        numbers = (FORMAT, self.capacity, self.num_envs, self._added)
        header = {name: np.array(number, np.int64) for name, number in zip(HEADER, numbers, strict=True)}
        return {**header, "rng_state": self.rng_state}

    def _columns(self) -> dict[str, NDArray[Any]]:
        """Saved arrays [len(self), ...], by slot."""
        return {leaf.name: self._records[leaf.name][: len(self)] for leaf in self._leaves}

    def _convert(self, columns: tuple[Any, ...], extra: dict[str, Any], n: int, unit: str) -> list[NDArray[Any]]:
        """A call's values as one array [n, ...] a leaf, just as it is stored; raises where they cannot be."""
        if extra.keys() != set(self._extra_names):
            raise KeyError(f"the extra fields are {self._extra_names}; got {list(extra)}")
        values = self._flatten(columns, extra)
        rows = [as_rows(leaf, value, n) for leaf, value in zip(self._leaves, values, strict=True)]
        for leaf, row in zip(self._leaves[: self._n_finite], rows, strict=False):
            finite = np.isfinite(row).all(axis=tuple(range(1, row.ndim)))
            if not finite.all():
                worst = int(finite.argmin())
                raise ValueError(
                    f"{leaf.name} of {unit} {worst} is not finite, after {self._added} transitions: {row[worst]}. "
                    "Mend the environment, or pass check_finite=False to store such numbers"
                )
        return rows

    def _flatten(self, columns: tuple[Any, ...], extra: Mapping[str, Any]) -> Iterator[Any]:
        """Columns and extra fields by leaf."""
        obs, action, reward, next_obs, *flags = columns
        yield from flatten(self.observation_space, obs, "obs")
        yield from flatten(self.action_space, action, "action")
        yield reward
        yield from flatten(self.observation_space, next_obs, "next_obs")
        yield from flags
        yield from (extra[name] for name in self._extra_names)

    def _structure(self, rows: list[Any]) -> dict[str, Any]:
        """The inverse of `_flatten`: columns and extra fields by name."""
        left = iter(rows)
        obs, action = unflatten(self.observation_space, left), unflatten(self.action_space, left)
        reward, next_obs = next(left), unflatten(self.observation_space, left)
        values = (obs, action, reward, next_obs, *left)
        return dict(zip((*COLUMNS, *self._extra_names), values, strict=True))

    def _pack(self, rows: list[NDArray[Any]]) -> ReplaySample:
        """Arrays by leaf, and the indices, as a sample."""
        values = [self._given(row) for row in rows]
        columns = self._structure(values[:-1])
        extra = {name: columns.pop(name) for name in self._extra_names}
        return ReplaySample(**columns, indices=values[-1], extra=extra)

    def _given(self, array: NDArray[Any]) -> Any:
        """A fresh array as the caller gets it."""
        return array if self.device is None else self._torch.from_numpy(array).to(self.device)

    def _unpack(self, out: ReplaySample) -> list[Any]:
        """The inverse of `_pack`, on the same memory."""
        if not isinstance(out, ReplaySample) or out.extra.keys() != set(self._extra_names):
            raise TypeError(f"out must be a ReplaySample with the extra fields {self._extra_names}; got {out!r:.80}")
        rows = [*self._flatten(out[: len(COLUMNS)], out.extra), out.indices]
        if self.device is None:
            return rows
        if self.device.type != "cpu":
            raise ValueError(f"out= is for samples in main memory; this buffer's are on {self.device}")
        return [row.numpy() if hasattr(row, "numpy") else row for row in rows]


def _extra_leaves(extra_fields: Mapping[str, tuple[Any, Iterable[int]]], taken: set[str]) -> list[Leaf]:
    for name, spec in extra_fields.items():
        if not isinstance(name, str) or name in taken:
            raise ValueError(f"an extra field cannot be named {name!r}; these are taken: {sorted(taken)}")
        if not isinstance(spec, tuple) or len(spec) != 2 or not isinstance(spec[1], (tuple, list)):
            raise TypeError(f"the extra field {name!r} must be (dtype, shape), such as (np.float32, ()); got {spec!r}")
    return [make_leaf(name, *spec) for name, spec in extra_fields.items()]


def _check_arrays(state: Mapping[str, Any], want: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    for name, (dtype, shape) in want.items():
        array = np.asarray(state[name])
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape} in the saved buffer; here it is {dtype} {shape}")


def _reserve(capacity: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    try:
        return np.zeros(capacity, dtype)
    except (MemoryError, ValueError, OverflowError):
        raise MemoryError(
            f"no memory for {capacity} transitions of {dtype.itemsize} bytes, {capacity * dtype.itemsize / 2**30:.1f} "
            "GiB: lower the capacity"
        ) from None


def _usable(torch: Any, device: Any) -> Any:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"samples cannot be put on the device {device!r}: {error}") from error
