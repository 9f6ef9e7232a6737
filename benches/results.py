"""The results of `pytest benches --benchmark-json=RESULTS.json`, read, checked, and compared round by round."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple


class ResultsError(ValueError):
    """A file that holds no results of these benchmarks; says what is wrong with it."""

    code = 2


class Timing(NamedTuple):
    """One implementation of one case: seconds a call in each interleaved round."""

    name: str
    role: str  # "ours", "peer", "plain" or "bound"
    seconds: tuple[float, ...]
    per: float  # units in a call
    operations: float | None  # floating-point operations of a call
    beside: str = ""  # of ours what it is compared with, where that is not `Case.ours`

    @property
    def time(self) -> float:
        """Seconds a unit, the median over rounds."""
        return statistics.median(self.seconds) / self.per

    @property
    def gflops(self) -> float | None:
        """Billions of floating-point operations a second."""
        return None if self.operations is None else self.operations / statistics.median(self.seconds) / 1e9


class Ratio(NamedTuple):
    """A median over rounds, and its quartiles."""

    median: float
    low: float
    high: float
    rounds: int = 0  # of which it is; 0 if nobody asks


class Case(NamedTuple):
    """What was measured of one case, or of one size of a sweep; `timings` by name."""

    name: str
    quick: bool
    axis: str | None
    size: float | None
    timings: dict[str, Timing]

    @property
    def ours(self) -> Timing | None:
        """What the others are compared with: "fastrl", or the first of ours where that is not there."""
        ours = [timing for timing in self.timings.values() if timing.role == "ours"]
        return next((timing for timing in ours if timing.name == "fastrl"), ours[0] if ours else None)

    def beside(self, name: str) -> Timing | None:
        """Which of ours it is compared with."""
        timing = self.timings.get(name)
        return self.timings.get(timing.beside, self.ours) if timing else self.ours

    def ratio(self, name: str, base: str | None = None) -> Ratio | None:
        """How many times as long as `base`, by default `beside`, it takes in the same round; None without both."""
        beside = self.beside(name) if base is None else self.timings.get(base)
        if beside is None or name not in self.timings:
            return None
        pairs = zip(self.timings[name].seconds, beside.seconds, strict=False)  # a run may stop within a round
        ratios = [one / other for one, other in pairs]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return Ratio(statistics.median(ratios), low, high, len(ratios))

    def others(self, *roles: str) -> list[Timing]:
        """All of these roles but the one that is compared with, the fastest first."""
        found = [x for x in self.timings.values() if x.role in roles and x is not self.ours]
        return sorted(found, key=lambda timing: timing.time)


class Operation(NamedTuple):
    """What was measured of one operation."""

    key: str
    title: str
    unit: str
    cases: list[Case]
    sweeps: dict[str, list[Case]]  # by axis; sizes ascend
    note: str = ""  # what a reader has to know of it

    def everything(self) -> Iterator[Case]:
        yield from self.cases
        for sweep in self.sweeps.values():
            yield from sweep

    @property
    def foremost(self) -> Case:
        """The quick case, or the first of what is there."""
        every = list(self.everything())
        return next((case for case in self.cases if case.quick), every[0])


class LeftOut(NamedTuple):
    """What was not timed, and why. `kind`: "absent", "computes something else" or "failed"."""

    title: str
    case: str
    implementation: str
    kind: str
    why: str


class Results(NamedTuple):
    operations: list[Operation]
    left_out: list[LeftOut]
    conditions: dict[str, Any]
    date: str  # ISO
    commit: str
    foreign: int  # benchmarks in the file that are not of these operations


def read(path: Path) -> Results:
    """The results in a file of pytest-benchmark.

    Raises:
        ResultsError: where there is no such file, or it holds something else; one line that says what.
    """
    data = _parsed(path)
    benchmarks = data.get("benchmarks")
    if not isinstance(benchmarks, list):
        raise ResultsError(f"{path} is not of pytest-benchmark: it has no list of benchmarks; {HOW}")
    own = [x for x in benchmarks if isinstance(x, dict) and "operation" in (x.get("extra_info") or {})]
    if not own:
        raise ResultsError(f"{path} holds {len(benchmarks)} benchmarks, none of them of these operations; {HOW}")
    operations: dict[str, Operation] = {}
    for benchmark in own:
        _add(operations, benchmark, path)
    for operation in operations.values():
        for sweep in operation.sweeps.values():
            sweep.sort(key=lambda case: case.size or 0.0)
    extra, commit = data.get("fastrl") or {}, data.get("commit_info") or {}
    try:
        left_out = [
            LeftOut(str(x["title"]), str(x["case"]), str(x["implementation"]), str(x["kind"]), str(x["why"]))
            for x in extra.get("left_out", [])
        ]
        conditions = dict(extra.get("conditions") or {})
        revision = str(commit.get("id") or "")[:10] + (", with changes" if commit.get("dirty") else "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} says wrongly what was left out, or how it was measured: {error!r}; {HOW}") from None
    return Results(
        list(operations.values()), left_out, conditions, str(data.get("datetime", "")), revision,
        len(benchmarks) - len(own),
    )  # fmt: skip


HOW = "make one by pytest benches --benchmark-json=RESULTS.json"


def _parsed(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror or error}; {HOW}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise ResultsError(f"{path} is not JSON: {error}; {HOW}") from None
    if not isinstance(data, dict):
        raise ResultsError(f"{path} is not of pytest-benchmark: it holds no object; {HOW}")
    return data


def _add(operations: dict[str, Operation], benchmark: dict[str, Any], path: Path) -> None:
    info, name = benchmark["extra_info"], benchmark.get("fullname") or benchmark.get("name")
    try:
        flops, size = info.get("operations"), info.get("size")
        timing = Timing(
            str(info["implementation"]), str(info["role"]), tuple(float(x) for x in info["seconds"]),
            float(info.get("per") or 1), None if flops is None else float(flops), str(info.get("beside") or ""),
        )  # fmt: skip
        axis = info.get("axis")
        case = Case(str(info["case"]), bool(info.get("quick")), axis, None if size is None else float(size), {})
        key, title, unit = str(info["operation"]), str(info["title"]), str(info.get("unit") or "call")
        note = str(info.get("note") or "")
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path}: {name} is not as these benchmarks write it: {error!r}; {HOW}") from None
    if not timing.seconds or not all(math.isfinite(x) and x > 0 for x in timing.seconds):
        raise ResultsError(f"{path}: {name} has no seconds of its rounds, or such as no clock shows; {HOW}")
    if axis is not None and not (case.size is not None and math.isfinite(case.size) and case.size > 0):
        raise ResultsError(f"{path}: {name} is of a sweep over {axis}, but has no size above 0; {HOW}")
    operation = operations.setdefault(key, Operation(key, title, unit, [], {}, note))
    cases = operation.cases if axis is None else operation.sweeps.setdefault(str(axis), [])
    known = next((x for x in cases if x.name == case.name), None)
    if known is None:
        cases.append(case)
        known = case
    known.timings[timing.name] = timing


class Ahead(NamedTuple):
    """Sizes of a sweep between which another is faster; None where that is the end of what was measured."""

    start: float | None
    end: float | None


def ahead(sweep: list[Case], name: str) -> list[Ahead]:
    """Where `name` is faster than ours, its ends interpolated between neighbouring sizes on logarithmic scales."""
    points = [(case.size or 1.0, ratio.median) for case in sweep if (ratio := case.ratio(name)) is not None]
    found: list[Ahead] = []
    start: float | None = None
    inside = bool(points) and points[0][1] < 1
    for (left, before), (right, after) in pairwise(points):
        if (before < 1) != (after < 1):
            share = math.log(before) / (math.log(before) - math.log(after))
            crossing = left * (right / left) ** share
            if inside:
                found.append(Ahead(start, crossing))
            start, inside = crossing, not inside
    return [*found, Ahead(start, None)] if inside else found


def crossings(sweep: list[Case], name: str) -> list[float]:
    """Sizes at which it and ours take equally long."""
    return sorted({x for stretch in ahead(sweep, name) for x in stretch if x is not None})


def rivals(sweep: list[Case]) -> list[str]:
    """Who may be ahead in a sweep: peers and plain loops; of ours what is faster by a tenth at one size at least."""
    if not any(case.ours for case in sweep):
        return []
    found = {}
    for case in sweep:
        for name, timing in case.timings.items():
            ratio = case.ratio(name)
            if timing.role in ("peer", "plain") or (timing.role == "ours" and ratio and ratio.median < 0.9):
                found[name] = timing
    return list(found)
