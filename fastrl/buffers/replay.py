"""Experience replay in one block of records, for any of Gymnasium's array spaces. Torch is not needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box
from numpy.typing import NDArray

from fastrl.buffers.layout import Leaf, as_rows, flatten, leaves, make_leaf, record_dtype, stored, unflatten
from fastrl.buffers.recordfile import RecordFile
from fastrl.buffers.state import BESIDE, SavedRing
from fastrl.checks import check_int, check_number
from fastrl_ext.random import RandomStream
from fastrl_ext.ring import COLUMNS
from fastrl_ext.store import LONGEST_STACK

__all__ = ["ReplayBuffer", "ReplaySample"]

LONGEST_SPAN = 2**31 - 1  # steps, as a C int holds them


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
    discount: Any = None  # [B] float32 γ^m where n_step > 1: what the value of next_obs counts


class ReplayBuffer(SavedRing):
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
        n_step: n > 1 makes a drawn transition span m ≤ n steps: `reward` is R = Σ_{k<m} γ^k r_{t+k}, `discount` is
            γ^m, and `next_obs`, `terminated` and `truncated` are those of the last step (Sutton and Barto 2018,
            eq. 7.1). Spans stop at the end of an episode and at what was added last. They are made when drawn, so
            that no transition waits to be stored. The environments must then be added in step: see `add_batch`.
        gamma: γ, the discount of one step; used where n_step > 1.
        share_next_obs: keep each observation once. Where `next_obs` is the next transition's `obs`, byte for byte, it
            is read from there; others, at the end of an episode, are kept beside the records.
        frame_stack: k > 1 says that observations are stacks [k, ...] of frames, newest last, and keeps each frame
            once; `share_next_obs` is then implied. What a stack does not have in common with those before it, or its
            own oldest frame or zeros in front, is kept beside the records.
        path: keep the records in this file, which may be larger than the machine's memory: a new one, or one that a
            buffer of the same capacity, spaces and extra fields has left, which then goes on, random stream and all.
            After a crash it holds what had been added before the last `flush`, less what was being overwritten; a
            warning tells how much that is. Not together with `share_next_obs` or `frame_stack`.

    Raises:
        ValueError: a capacity below 1 or below `num_envs`, an n_step outside [1, 2^31), a gamma outside [0, 1], an
            unusable device, seed or name of an extra field, options that do not combine, or a file of other records.
        TypeError: an unsupported space or dtype, or arguments that are no numbers where numbers are meant.
        MemoryError: a capacity that this machine cannot hold.
        OSError: a file that cannot be opened, that another buffer has open, or for which there is no space.
    """

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
        n_step: int = 1,
        gamma: float = 0.99,
        share_next_obs: bool = False,
        frame_stack: int = 1,
        path: str | os.PathLike[str] | None = None,
    ) -> None:
        check_int("num_envs", num_envs)
        check_int("capacity", capacity)
        check_int("n_step", n_step)
        if n_step > LONGEST_SPAN:
            raise ValueError(f"n_step is {n_step}; it must be at most {LONGEST_SPAN}")
        check_number("gamma", gamma, 0, 1)
        check_int("frame_stack", frame_stack)
        if frame_stack > 1:
            _check_stacks(observation_space, frame_stack)
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
        self.n_step, self.gamma, self.frame_stack = n_step, float(gamma), frame_stack
        self.share_next_obs = bool(share_next_obs) or frame_stack > 1
        if path is not None and self.share_next_obs:
            raise ValueError(f"path and {self._in_step()} do not combine: what lies beside the records has no file")
        dtype = record_dtype(stored(self._leaves, self.share_next_obs, frame_stack))
        RandomStream(seed)  # raises before there is a file
        file = RecordFile(path, dtype, capacity, num_envs) if path is not None else None
        records = _reserve(capacity + (frame_stack - 1) * num_envs, dtype) if file is None else file.records
        try:
            if file is not None and file.progress.ragged and n_step > 1:
                raise ValueError(
                    f"{file.path} was not filled by all {num_envs} environments in step; {self._in_step()} needs that"
                )
            super().__init__(
                records, self._leaves, capacity, num_envs, seed, self._n_finite,
                ReplaySample if device is None else None, n_step, self.gamma, frame_stack, file,
            )  # fmt: skip
            if file is not None and any(file.progress.rng_state):
                self.rng_state = np.array(file.progress.rng_state, np.uint64)
        except BaseException:
            if file is not None:
                file.abandon()
            raise

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

        Of more than `capacity` the last ones stay. With `n_step`, `share_next_obs` or `frame_stack`, n is a multiple
        of `num_envs`, and the rows are time-major: one transition of each environment, in their order, then the next
        one of each. Raises as `add` does, and ValueError for another number of rows.
        """
        shape = tuple(np.shape(reward))
        if len(shape) != 1:
            raise ValueError(f"reward has the shape {shape}; add_batch takes n transitions at once, rewards (n,)")
        if shape[0] % self.num_envs and (option := self._in_step()):
            raise ValueError(
                f"add_batch got {shape[0]} rows; with {option} it takes a multiple of num_envs, {self.num_envs}: the "
                "transitions of all environments at one time, then those of the next"
            )
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

        The transition with the index i, as `sample` and `gather` count them, lies in row i % capacity, or, where a
        file has lost some, in this order. With `frame_stack` it is a copy, and there is no "obs"; with
        `share_next_obs` there is no "next_obs".
        "obs", "action", "reward", "next_obs", "terminated", "truncated" or an extra field; KeyError for others.
        """
        missing = ("obs", "next_obs")[self.frame_stack == 1 :] if self.share_next_obs else ()
        if name in missing:
            raise KeyError(f"{name!r} is no column in a buffer with {self._in_step()}: see gather and recent")
        with self._lock:
            size, added, slots = len(self), self._added, len(self._records)
            if size in (added, slots):
                records = self._records[:size]
            else:
                numbers = np.arange(added - size, added)
                records = self._records[numbers[np.argsort(numbers % self.capacity)] % slots]
        records.flags.writeable = False
        kept = set(self._records.dtype.names or ())
        columns = self._structure([records[leaf.name] if leaf.name in kept else None for leaf in self._leaves])
        if name not in columns:
            raise KeyError(f"no column {name!r}; there are {[key for key in columns if key not in missing]}")
        return columns[name]

    def end_episodes(self) -> None:
        """Mark the newest transition of each environment as truncated, unless it is terminated.

        For a loop that abandons its running episodes: windows over several steps then do not run into the next.
        ValueError where the file is closed.
        """
        with self._lock:
            if self._file is not None and self._file.closed:
                raise ValueError(f"the buffer at {self._file.path} is closed: nothing in it can be changed")
            newest = (self._added - 1 - np.arange(min(self.num_envs, len(self)))) % len(self._records)
            self._records["truncated"][newest] |= ~self._records["terminated"][newest]

    def flush(self) -> None:
        """Make durable, in the file at `path`, what was added so far; others wait. ValueError without a file."""
        if self._file is None:
            raise ValueError("flush() is for a buffer with path=...; see save() for others")
        with self._lock:
            self._restart(self._first, self._added, self._ragged)

    def close(self) -> None:
        """`flush`, and let others open the file; nothing can be added any more. Without a file nothing happens."""
        if self._file is None:
            return
        with self._lock:
            if not self._file.closed:
                self._restart(self._first, self._added, self._ragged)
                self._file.close()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the full buffer occupies: of its records, and of observations kept beside them."""
        return self._records.nbytes + self._beside

    def _in_step(self) -> str:
        """The option for which all environments must add in their turn; empty where there is none."""
        if self.frame_stack > 1:
            return f"frame_stack {self.frame_stack}"
        return "share_next_obs" if self.share_next_obs else f"n_step {self.n_step}" if self.n_step > 1 else ""

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
        """Arrays by leaf, the indices, and the discounts where there are any, as a sample."""
        values = [self._given(row) for row in rows]
        columns = self._structure(values[: len(self._leaves)])
        extra = {name: columns.pop(name) for name in self._extra_names}
        indices, discount = (*values[len(self._leaves) :], None)[:2]
        return ReplaySample(**columns, indices=indices, extra=extra, discount=discount)

    def _given(self, array: NDArray[Any]) -> Any:
        """A fresh array as the caller gets it."""
        return array if self.device is None else self._torch.from_numpy(array).to(self.device)

    def _unpack(self, out: ReplaySample) -> list[Any]:
        """The inverse of `_pack`, on the same memory."""
        if not isinstance(out, ReplaySample) or out.extra.keys() != set(self._extra_names):
            raise TypeError(f"out must be a ReplaySample with the extra fields {self._extra_names}; got {out!r:.80}")
        rows = [*self._flatten(out[: len(COLUMNS)], out.extra), out.indices, out.discount]
        if self.device is None:
            return rows
        if self.device.type != "cpu":
            raise ValueError(f"out= is for samples in main memory; this buffer's are on {self.device}")
        return [row.numpy() if hasattr(row, "numpy") else row for row in rows]


def _check_stacks(space: Space[Any], frame_stack: int) -> None:
    if frame_stack > LONGEST_STACK:
        raise ValueError(f"frame_stack is {frame_stack}; it must be at most {LONGEST_STACK}")
    if not isinstance(space, Box) or space.shape[:1] != (frame_stack,):
        raise ValueError(
            f"frame_stack is {frame_stack}, for which observations must be a Box of shape ({frame_stack}, ...), newest "
            f"frame last; got {space}"
        )


def _extra_leaves(extra_fields: Mapping[str, tuple[Any, Iterable[int]]], taken: set[str]) -> list[Leaf]:
    for name, spec in extra_fields.items():
        if not isinstance(name, str) or name in taken or name.startswith(BESIDE):
            raise ValueError(f"an extra field cannot be named {name!r}; these are taken: {sorted(taken)}")
        if not isinstance(spec, tuple) or len(spec) != 2 or not isinstance(spec[1], (tuple, list)):
            raise TypeError(f"the extra field {name!r} must be (dtype, shape), such as (np.float32, ()); got {spec!r}")
    return [make_leaf(name, *spec) for name, spec in extra_fields.items()]


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
