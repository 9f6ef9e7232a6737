"""The checks of arguments, and the errors, that several modules share; each says what was wrong and what is right."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def diverged(what: Any = "the loss or its gradient is not finite") -> ValueError:
    """The error of a training whose numbers are not finite any more."""
    return ValueError(f"the training has diverged: {what}. Lower the learning rate, or normalise")


def check_int(name: str, value: Any, minimum: int = 1) -> None:
    """Raise unless `value` is an int of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}; it must be an int of at least {minimum}")
    if value < minimum:
        raise ValueError(f"{name} is {value}; it must be at least {minimum}")


def check_number(name: str, value: Any, low: float = 0.0, high: float = float("inf")) -> None:
    """Raise unless `value` is a number in [low, high]."""
    bounded = high < sys.float_info.max
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        kind = f"in [{low}, {high}]" if bounded else f"of at least {low}"
        raise TypeError(f"{name} is {value!r}; it must be a number {kind}")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must {f'lie in [{low}, {high}]' if bounded else f'be at least {low}'}")
