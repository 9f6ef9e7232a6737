"""What can be measured: an operation, the ways to do it, and the result that each has to give before it is timed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import conditions


class Missing(Exception):
    """The library or program is not here, or cannot do this work; says which and why."""

    kind = "absent"


class NoPart(Missing):
    """It is here, but this case is not one of its own; says which are, or why."""

    kind = "no part"


def identity(result: Any) -> Any:
    return result


def close(result: Any, expected: Any) -> None:
    """Float32's accuracy, after sums over a few thousand numbers."""
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


class Work(NamedTuple):
    """One case, ready to be done by one implementation."""

    call: Callable[[], Any]  # what is timed
    result: Callable[[Any], Any] = identity  # what `call` returned, in the form of the reference
    fresh: Callable[[int], object] | None = None  # new data for a round; None where each call draws anew
    seconds: Callable[[Any], float] | None = None  # of what `call` returned, where it has a clock of its own


class Implementation(NamedTuple):
    """How a library does it. `make` imports the library, and may raise `Missing`."""

    make: Callable[[Any], Work]
    needs: tuple[str, ...] = ()  # modules
    role: str = "peer"  # "ours", "peer", "plain" (as a course would write it), "bound" (the least there is to do)
    why: str = ""  # how a peer is known to differ
    differs: str = ""  # as `why`, where it is timed all the same
    beside: str = ""  # of ours what it is compared with, where that is not "fastrl": what hands out the same


class Operation(NamedTuple):
    """Cases and sweeps hold what `data` takes; the first case is the quick one."""

    title: str
    cases: Mapping[str, Any]
    data: Callable[[Any], Any]
    reference: Callable[[Any], Any]
    implementations: Mapping[str, Implementation]  # "fastrl" first
    compare: Callable[[Any, Any], None] = close  # result, expected; raises AssertionError
    sweeps: Mapping[str, Mapping[int, Any]] = {}  # axis ("batch", "horizon", …): sizes
    unit: str = "call"
    per: Callable[[Any], float] = lambda case: 1  # units in a call
    operations: Callable[[Any], float] | None = None  # floating-point operations of a call, where they are the bound
    rounds: tuple[int, int] = conditions.ROUNDS
    note: str = ""  # what a reader has to know of it, for the page

    def groups(self) -> dict[str, tuple[str | None, int | None, Any]]:
        """Name of each case and of each size of the sweeps: (axis, size, case)."""
        found: dict[str, tuple[str | None, int | None, Any]] = {x: (None, None, case) for x, case in self.cases.items()}
        for axis, sizes in self.sweeps.items():
            found |= {f"{axis} {size:,}": (axis, size, case) for size, case in sizes.items()}
        return found


def absent(implementation: Implementation) -> str:
    """Which module is not there; empty if all are."""
    for module in implementation.needs:
        try:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed"
        except ImportError:
            return f"{module} is not installed"
    return ""


class Group:
    """Every implementation of one case, on the same data; each is checked before any is timed.

    `left_out` says of the others (kind, why): "absent", "no part", "computes something else" or "failed", which ours
    raises instead.
    """

    def __init__(self, operation: Operation, case: Any) -> None:
        self.operation = operation
        self.works: dict[str, Work] = {}
        self.left_out: dict[str, tuple[str, str]] = {}
        self._rounds: dict[str, list[float]] | None = None
        self._data = operation.data(case)
        expected = operation.reference(self._data)
        for name, implementation in operation.implementations.items():
            self._build(name, implementation, expected)

    def _build(self, name: str, implementation: Implementation, expected: Any) -> None:
        if reason := absent(implementation):
            self.left_out[name] = "absent", reason
            return
        try:
            work = implementation.make(self._data)
            if implementation.role != "bound" and not implementation.differs:
                self.operation.compare(work.result(work.call()), expected)
        except Missing as error:
            self.left_out[name] = error.kind, str(error)
        except ImportError as error:
            if implementation.role == "ours":
                raise
            self.left_out[name] = Missing.kind, str(error)
        except AssertionError as error:
            if implementation.role == "ours":
                raise
            self.left_out[name] = "computes something else", implementation.why or first_line(error)
        except Exception as error:
            if implementation.role == "ours":
                raise
            self.left_out[name] = "failed", f"{type(error).__name__}: {first_line(error)}"
        else:
            self.works[name] = work

    def seconds(self) -> dict[str, list[float]]:
        """Seconds a call of each, by round; measured once."""
        if self._rounds is None:
            self._rounds = conditions.interleave(
                {name: work.call for name, work in self.works.items()}, self._fresh, self.operation.rounds,
                seconds={name: work.seconds for name, work in self.works.items() if work.seconds},
            )  # fmt: skip
        return self._rounds

    def _fresh(self, round: int) -> None:
        for work in self.works.values():
            if work.fresh is not None:
                work.fresh(round)


def first_line(error: BaseException) -> str:
    """The first line of its text that says something; of two arrays that differ, by how much they do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("Max absolute difference")), lines[0] if lines else "")[:200]


def checked_first(run: Callable[[], Any]) -> Callable[[], Any]:
    """`run`, whose first result is handed out twice: where runs take long, the one that is checked is a round too."""

    def results() -> Iterator[Any]:
        first = run()
        yield from (first, first)
        while True:
            yield run()

    return partial(next, results())
