"""The saved state of a replay buffer: named arrays, checked before they are taken over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastrl.buffers import archive
from fastrl.buffers.layout import Leaf
from fastrl_ext.random import RandomStream
from fastrl_ext.ring import Ring

FORMAT = 1
HEADER = ("format", "capacity", "num_envs", "first", "added", "ragged")  # int64 scalars
LINKS = ("_next", "_older")  # fields of a record: where its frames lie, if not in records
BESIDE = "_beside/"  # before the name of a field: those frames

Arrays = dict[str, NDArray[Any]]


class SavedRing(Ring):
    """A ring that can be saved, and become one that was."""

    _fixed: tuple[str, ...] = ("format", "capacity", "num_envs")  # in a saved state just as in the buffer that loads it
    _reserved: tuple[str, ...] = (*HEADER, "rng_state", *LINKS)  # names of saved arrays that are no fields
    _leaves: list[Leaf]
    frame_stack: int

    def state_dict(self) -> Arrays:
        """All that `load_state_dict` needs to go on exactly from here, as new arrays of numbers."""
        with self._lock:
            return {name: np.array(array) for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Become the buffer whose `state_dict` this is. ValueError, and no change, where it was made otherwise."""
        self._check_state(state)
        with self._lock:
            self._restore(state)

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
        whole = sum(leaf.dtype.itemsize * int(np.prod(leaf.shape)) for leaf in self._leaves)
        at_most = len(self._records) * (whole + self._records.itemsize + 64) + (1 << 20)
        self.load_state_dict(archive.read(path, limit=at_most))

    @property
    def rng_state(self) -> NDArray[np.uint64]:
        """The state of the random stream, uint64 [4]; assigning one resumes from there."""
        return self._rng.state

    @rng_state.setter
    def rng_state(self, state: NDArray[np.uint64]) -> None:
        self._rng.state = state

    def _state(self) -> Arrays:
        """The saved arrays, some of them views of the records."""
        return {**self._header(), **self._columns()}

    def _header(self) -> Arrays:
        """Saved arrays of fixed shapes."""
        numbers = (FORMAT, self.capacity, self.num_envs, self._first, self._added, self._ragged)
        header = {name: np.array(number, np.int64) for name, number in zip(HEADER, numbers, strict=True)}
        return {**header, "rng_state": self.rng_state}

    def _columns(self) -> Arrays:
        """Saved arrays [n, ...]: of the records by slot, and of the frames beside them."""
        size = min(self._added, len(self._records))
        names = self._names()
        columns = {name: self._records[name][:size] for name in names}
        if LINKS[0] in names:
            *links, frames = self._frames_beside(size)
            columns |= {name: link for name, link in zip(LINKS, links, strict=True) if name in names}
            columns |= {BESIDE + name: array for name, array in zip(names, frames, strict=False)}
        return columns

    def _names(self) -> tuple[str, ...]:
        return self._records.dtype.names or ()

    def _in_step(self) -> str:
        """The option for which all environments must add in their turn; empty where there is none."""
        raise NotImplementedError

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
        if not 0 <= state["first"] <= state["added"] < 1 << 62:
            raise ValueError(f"the saved buffer has added {state['added']} transitions; that cannot be")
        if state["ragged"] and (option := self._in_step()):
            raise ValueError(
                f"the saved buffer was not filled by all {self.num_envs} environments in step; {option} needs that"
            )
        names = header.keys() | columns.keys()
        if state.keys() != names:
            raise ValueError(f"the saved buffer has the arrays {sorted(state)}, this one {sorted(names)}")
        added, kept = int(state["added"]), self._names()
        for name, array in columns.items():
            if not name.startswith(BESIDE):
                size = min(added, len(self._records) if name in kept else self.capacity)
                _check_arrays(state, {name: (array.dtype, (size, *array.shape[1:]))})
        if LINKS[0] in kept:
            total = self._check_links(state, added)
            beside = {name: array for name, array in columns.items() if name.startswith(BESIDE)}
            _check_arrays(state, {name: (array.dtype, (total, *array.shape[1:])) for name, array in beside.items()})
        RandomStream(0).state = state["rng_state"]

    def _check_links(self, state: Mapping[str, NDArray[Any]], added: int) -> int:
        """How many frames lie beside the records."""
        own, stack, slots = state["_next"], self.frame_stack, len(self._records)
        older = state["_older"] if stack > 1 else np.zeros_like(own)
        slot = np.arange(len(own))
        place = slot if added <= slots else (slot - added) % slots  # in the order of adding
        good = np.isin(own, [0, 1, stack]) & ((own > 0) | (place + self.num_envs < len(own)))
        within = (added > slots) | (-older % stack <= place // self.num_envs)  # those of a full ring may be overwritten
        good &= (older == stack - 1) | ((older <= 0) & (older > -2 * stack) & within)
        if not good.all():
            worst = int(good.argmin())
            raise ValueError(f"record {worst} of the saved buffer refers to observations that are not there")
        return int(own.sum(dtype=np.int64) + np.maximum(older, 0).sum(dtype=np.int64))

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        names = self._names()
        if LINKS[0] in names:
            links = [np.ascontiguousarray(state[name]) for name in LINKS if name in names]
            frames = [np.ascontiguousarray(state[BESIDE + name]) for name in names if BESIDE + name in state]
            self._set_frames_beside(links[0], links[-1], frames)
        if self._file is not None:
            self._restart(0, 0, False)
        for name in names:
            if name not in LINKS:
                self._records[name][: len(state[name])] = state[name]
        self.rng_state = state["rng_state"]
        self._restart(int(state["first"]), int(state["added"]), bool(state["ragged"]))


def _check_arrays(state: Mapping[str, Any], want: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    for name, (dtype, shape) in want.items():
        array = np.asarray(state[name])
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape} in the saved buffer; here it is {dtype} {shape}")
