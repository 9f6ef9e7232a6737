"""Numbers that change while training: a constant, "lin_0.001", or a function of the remaining progress."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np

from fastrl.checks import check_number

Schedule = float | str | Callable[[float], float]

__all__ = ["Schedule", "check_schedule", "schedule_value"]


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise unless `schedule` is one, and begins at a number that is not negative."""
    if not callable(schedule):
        check_number(name, schedule_value(name, schedule, 1.0), 0, sys.float_info.max)


def schedule_value(name: str, schedule: Schedule, remaining: float) -> float:
    """The value of `schedule` when `remaining` of the training is left (1 at the start, 0 at the end).

    "lin_x" is x · remaining, as in RL Zoo's hyperparameter files.

    Raises:
        ValueError: for a string of another form; TypeError for anything else.
    """
    if isinstance(schedule, str):
        head, _, number = schedule.partition("_")
        try:
            if head != "lin":
                raise ValueError
            return float(number) * remaining
        except ValueError:
            raise ValueError(f'{name} is {schedule!r}; a schedule in words is "lin_0.001", linear to 0') from None
    if callable(schedule):
        value = float(schedule(remaining))
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} gave {value} with {remaining:.0%} of the training left; it must not be negative")
        return value
    if isinstance(schedule, (int, float, np.number)) and not isinstance(schedule, bool):
        return float(schedule)
    raise TypeError(f"{name} is a {type(schedule).__name__}; it must be a number, 'lin_0.001' or a function")
