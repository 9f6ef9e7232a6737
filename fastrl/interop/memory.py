"""Steps of several environments as records, read and written as the arrays that other libraries keep."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Dict, Discrete
from numpy.typing import NDArray

from fastrl.buffers.layout import Leaf, as_rows, leaves, make_leaf, record_dtype
from fastrl_ext.table import Table


def observation_leaves(space: Space[Any], name: str) -> list[Leaf]:
    """The fields of an observation: `name`, or "name/key" for each key of a Dict space. A Discrete one is [1]."""
    parts = {name: space}
    if isinstance(space, Dict):
        parts = {f"{name}/{key}": part for key, part in space.spaces.items()}
    fields = []
    for part_name, part in parts.items():
        found = leaves(part, part_name)
        if [leaf.name for leaf in found] != [part_name]:
            raise TypeError(f"{part_name} is of the space {part}; it must be an array's, not a Dict or Tuple in a Dict")
        fields.append(make_leaf(part_name, part.dtype, (1,) if isinstance(part, Discrete) else part.shape))
    return fields


def action_leaf(space: Space[Any], dtype: Any) -> Leaf:
    """The field "actions", flattened: [1] for a Discrete action."""
    if len(leaves(space, "actions")) != 1 or isinstance(space, Dict):
        raise TypeError(
            f"actions are of the space {space}; they must be of Box, Discrete, MultiBinary or MultiDiscrete"
        )
    return make_leaf("actions", dtype, (math.prod(space.shape or ()),))


class Memory:
    """`n_steps` steps of `n_envs` environments, a record each, in one block of memory.

    Args:
        fields: of a record.
        n_steps: rows of records; an index is step * n_envs + environment.
        n_envs: records in one row.
        n_finite: how many leading fields must be finite where they hold floats.
        masked: what is taken of the last field but one is 0 where the last one is 1, which is not handed out.

    Raises:
        MemoryError: where there is not so much memory.
    """

    def __init__(self, fields: list[Leaf], n_steps: int, n_envs: int, n_finite: int = 0, masked: bool = False) -> None:
        dtype = record_dtype(fields)
        try:
            records = np.zeros(n_steps * n_envs, dtype)
        except (MemoryError, ValueError, OverflowError):
            size = n_steps * n_envs * dtype.itemsize / 2**30
            raise MemoryError(f"no memory for {n_steps * n_envs} records, {size:.1f} GiB: lower buffer_size") from None
        self.__setstate__((fields, (n_steps, n_envs), n_finite, masked, records))

    def only(self, *names: str, masked: bool = False) -> Memory:
        """The same records, of which just these fields are written and taken. Their order is that of `names`."""
        fields = {leaf.name: leaf for leaf in self._fields}
        n_finite = sum(leaf.name in names for leaf in self._fields[: self._n_finite])
        part = Memory.__new__(Memory)
        part.__setstate__(([fields[name] for name in names], self._shape, n_finite, masked, self._records))
        return part

    def __getstate__(self) -> tuple[Any, ...]:
        return self._fields, self._shape, self._n_finite, self._masked, self._records

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._fields, self._shape, self._n_finite, self._masked, self._records = state
        records = self._records[[leaf.name for leaf in self._fields]]
        self._table = Table(records, self._shape[1], self._n_finite, self._masked)
        self.take = self._table.take  # new arrays [B, *shape] of each field, at indices int64 [B]; or IndexError

    def column(self, name: str) -> Any:
        """A field as a view [n_steps, n_envs, *shape], or a dict of those named "name/key".

        AttributeError where there are none.
        """
        views = {}
        for leaf in self._fields:
            if leaf.name.partition("/")[0] == name:
                views[leaf.name.partition("/")[2]] = self._records[leaf.name].reshape(*self._shape, *leaf.shape)
        if not views:
            raise AttributeError(f"there is no column {name!r}; the fields are {[leaf.name for leaf in self._fields]}")
        return views.get("", views)

    def put(self, step: int, values: tuple[Any, ...]) -> None:
        """Write one step: for each field a value [n_envs, *shape].

        Arrays of just the field's dtype are copied as they are; others are cast where the kind of number stays the
        same. Actions and single numbers may come in any shape of so many numbers; with one environment the leading
        axis may be left out.

        Raises:
            ValueError: a wrong shape, a number outside the field's range, NaN or infinity where it must be finite.
            TypeError: a dtype that has no safe cast, or an object array.
        """
        first = step * self._shape[1]
        if not self._table.put(first, values):
            rows = [self._convert(leaf, value) for leaf, value in zip(self._fields, values, strict=True)]
            for leaf, row in zip(self._fields[: self._n_finite], rows, strict=False):
                self._check_finite(leaf.name, row)
            for leaf, row in zip(self._fields, rows, strict=True):
                self._records[leaf.name][first : first + len(row)] = row

    @contextlib.contextmanager
    def unchanged_on_error(self, step: int) -> Iterator[None]:
        """Whatever fails within, the records of `step` are then as they were."""
        rows = self._records[step * self._shape[1] : (step + 1) * self._shape[1]]
        before = rows.copy()
        try:
            yield
        except BaseException:
            rows[...] = before
            raise

    def _convert(self, leaf: Leaf, value: Any) -> NDArray[Any]:
        shape = (self._shape[1], *leaf.shape)
        loose = leaf.name == "actions" or math.prod(leaf.shape) == 1
        if loose and math.prod(np.shape(value)) == math.prod(shape):
            value = value.reshape(shape) if hasattr(value, "reshape") else np.reshape(value, shape)
        return as_rows(leaf, value, self._shape[1])

    def _check_finite(self, name: str, row: NDArray[Any]) -> None:
        finite = np.isfinite(row).reshape(len(row), -1).all(axis=1)
        if not finite.all():
            worst = int(finite.argmin())
            raise ValueError(
                f"{name} of environment {worst} is not finite: {row[worst]}. Mend the environment, or pass "
                "check_finite=False to store such numbers"
            )

    def by_environment(self, target: Memory) -> None:
        """Copy all records to `target`, one row of n_envs * n_steps: the first environment's in order, first."""
        steps = self._records.reshape(self._shape)
        target._records.reshape(self._shape[::-1])[...] = steps.T


class Column:
    """A column of a buffer's memory as its attribute. Assigning to it writes into the records."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, buffer: Any, owner: type) -> Any:
        return self if buffer is None else buffer._column(self._name)

    def __set__(self, buffer: Any, value: Any) -> None:
        column = buffer._column(self._name)
        if isinstance(column, dict):
            for key, view in column.items():
                view[...] = value[key]
        else:
            column[...] = value


def as_tensors(arrays: Iterable[NDArray[Any]], device: Any) -> list[Any]:
    """Arrays that nobody else holds, as tensors on the Torch device.

    On the CPU each begins on a cache line, as Torch's own do and what `take` makes: where a tensor does not, matrix
    products round otherwise.
    """
    tensors = [*map(sys.modules["torch"].from_numpy, arrays)]
    if device.type != "cpu":
        return [tensor.to(device) for tensor in tensors]
    return [tensor.clone() if tensor.data_ptr() % 64 else tensor for tensor in tensors]
