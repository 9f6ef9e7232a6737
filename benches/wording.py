"""How figures are written: on the page, in charts and in the terminal."""

from __future__ import annotations

import math

from benches.results import Ahead, Ratio

UNITS = (("s", 1.0), ("ms", 1e-3), ("μs", 1e-6), ("ns", 1e-9))


def duration(seconds: float) -> str:
    """Three digits, in the unit that fits: "1.62 μs", "204 ms"."""
    unit, size = next((unit for unit in UNITS if seconds >= 0.9995 * unit[1]), UNITS[-1])
    return f"{digits(seconds / size, 3)} {unit}"


def digits(value: float, n: int) -> str:
    """At least `n` significant digits, those before the point all of them: "0.0123", "1.62", "20,300"."""
    if value == 0:
        return "0"
    before = math.floor(math.log10(abs(value))) + 1
    before = math.floor(math.log10(round(abs(value), max(0, n - before)) or abs(value))) + 1  # 9.996 is 10.0
    return f"{value:,.{max(0, n - before)}f}"


def times(ratio: float) -> str:
    """Two digits, more next to 1, so that what is not even does not look even: "295", "1.62", "0.997"."""
    if 0.995 <= ratio < 1.005:
        return f"{ratio:.3f}"
    return digits(ratio, 3 if 1 <= ratio < 2 else 2)


def with_spread(ratio: Ratio) -> str:
    """The median and, in brackets, the quartiles; of a single round there are none."""
    if ratio.rounds == 1:
        return times(ratio.median)
    return f"{times(ratio.median)} ({times(ratio.low)}–{times(ratio.high)})"


def about(size: float) -> str:
    """Two significant digits, the rest noughts: "3,100"."""
    power = 10 ** (math.floor(math.log10(size)) - 1)
    return f"{round(size / power) * power:,.0f}" if size >= 10 else digits(size, 2)


def of_axis(axis: str, size: str) -> str:
    """A size in words: "3,100 environments", "a batch of 64"."""
    return f"{size} {axis}" if axis.endswith("s") else f"a {axis} of {size}"


def where(axis: str, stretches: list[Ahead]) -> str:
    """Where another is faster: "from about 3,100 environments on"."""
    return " and ".join(_stretch(axis, x) for x in stretches)


def _stretch(axis: str, stretch: Ahead) -> str:
    start, end = (None if x is None else about(x) for x in stretch)
    if start is not None and end is not None:
        return f"from {of_axis(axis, f'about {start} to {end}')}"
    if start is not None:
        return f"from {of_axis(axis, f'about {start}')} on"
    return f"up to {of_axis(axis, f'about {end}')}" if end is not None else "throughout"
