"""Operations of the table, timed here and now: a row a case, a column an implementation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from benches.operation import Group, Operation
from benches.results import Case, Timing
from benches.wording import duration, times

WIDTH = 18  # of a column, or its name where that is longer


def show(operation: Operation, rounds: int | None = None, sweeps: bool = False) -> None:
    """Print the table of an operation, each row once it is measured, and below it who is not there, and why.

    Args:
        operation: what to measure.
        rounds: in which each implementation has its turn; None for as many as the operation asks for.
        sweeps: the sizes of its sweeps too.
    """
    if rounds is not None:
        operation = operation._replace(rounds=(rounds, rounds))
    names = list(operation.implementations)
    print(f"{operation.title}: time per {operation.unit}, and how many times as long as ours; medians of rounds\n")
    print(_row(["", *names], names))
    print("|" + "---|" * (len(names) + 1))
    left_out: dict[tuple[str, str, str], list[str]] = {}
    for name, (axis, size, case) in operation.groups().items():
        if axis is None or sweeps:
            group = Group(operation, case)
            found = measured(group, name, axis, size, case)
            print(_row([name, *(_cell(found, each) for each in names)], names), flush=True)
            for each, reason in group.left_out.items():
                left_out.setdefault((each, *reason), []).append(name)
    print()
    for (each, kind, why), cases in left_out.items():
        print(f"{each}, {kind} in {', '.join(cases)}: {why}")


def measured(group: Group, name: str, axis: str | None, size: float | None, case: object) -> Case:
    """What the implementations of a group take, in the form of the results."""
    operation = group.operation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        seconds = group.seconds()
    timings = {
        each: Timing(each, of.role, tuple(seconds[each]), operation.per(case), None, of.beside)
        for each, of in operation.implementations.items() if each in seconds
    }
    return Case(name, False, axis, size, timings)


def _cell(case: Case, name: str) -> str:
    if name not in case.timings:
        return "–"
    timing, ratio = case.timings[name], case.ratio(name)
    return duration(timing.time) + (f" ({times(ratio.median)}x)" if ratio and timing is not case.ours else "")


def _row(cells: Iterable[str], names: list[str]) -> str:
    widths = [WIDTH, *(max(WIDTH, len(name)) for name in names)]
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
