"""The constants of an environment's class as one structured array: what `self` is in its compiled functions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

__all__ = ["gather", "replaced"]


def gather(namespace: type, but: set[str]) -> np.ndarray:
    """[1], the numbers, bools and arrays among the class attributes; TypeError for those of another kind.

    Names that begin with an underscore, functions and `but` are passed over.
    """
    members = {
        name: value
        for base in reversed(namespace.__mro__[:-1])
        for name, value in vars(base).items()
        if not name.startswith("_") and name not in but
    }
    values = {
        name: _number_or_array(f"{namespace.__name__}.{name}", value)
        for name, value in members.items()
        if not (inspect.isroutine(value) or isinstance(value, (property, type)))
    }
    fields: list[Any] = [(name, value.dtype, value.shape) for name, value in values.items()]
    constants = np.zeros(1, np.dtype(fields or [("_", np.int64)], align=True))
    for name, value in values.items():
        constants[name] = value
    return constants


def replaced(constants: np.ndarray, changes: dict[str, Any], owner: str) -> np.ndarray:
    """A copy with other values; TypeError for names that are not there, ValueError for what does not fit."""
    names = [name for name in constants.dtype.names or () if name != "_"]
    copy = constants.copy()
    for name, value in changes.items():
        if name not in names:
            raise TypeError(f"{owner} has no constant {name!r}; it has {', '.join(names) or 'none'}")
        array, old = _number_or_array(f"{owner}.{name}", value), constants[name][0]
        if array.shape != old.shape or not np.can_cast(array.dtype, old.dtype, "same_kind"):
            raise ValueError(
                f"{owner}.{name} is {array.dtype} {array.shape}; it must be {old.dtype} {old.shape}, as in the class"
            )
        copy[name] = array
    return copy


def _number_or_array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name} is a {type(value).__name__}; constants of an environment are numbers, bools and arrays of them "
            "(a name that begins with an underscore is passed over)"
        )
    if array.ndim == 0:
        return array
    return np.ascontiguousarray(array, np.uint8 if array.dtype == bool else array.dtype)  # Numba nests no bools
