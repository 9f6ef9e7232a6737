"""A page of tables and charts from the results of `pytest benches`; every figure and every verdict comes from them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benches import charts
from benches.results import Case, LeftOut, Operation, Ratio, Results, Timing, ahead, read, rivals
from benches.wording import duration, of_axis, times, where, with_spread
from fastrl.files import replacing

WIDESPREAD = "Stable-Baselines3"  # the peer that most people come from: it has a column of its own


def write(results: Path, page: Path) -> None:
    """Write the page and, in the folder of its name beside it, its charts; each file takes its place whole.

    Raises:
        ResultsError: where `results` is no file of results.
        OSError: where nothing can be written there.
    """
    found = read(results)
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for operation in found.operations:
        if operation.cases:
            charts.save(charts.bars(operation.cases, operation.unit), folder / f"{slug(operation.key)}.png")
        for axis, sweep in operation.sweeps.items():
            charts.save(charts.scaling(axis, sweep, operation.unit), folder / f"{slug(operation.key, axis)}.png")
    with replacing(page) as file:
        file.write(text(found, results.name, folder.name).encode())


def text(results: Results, file: str, folder: str) -> str:
    """The page, of the results in a file of that name, its charts in that folder."""
    parts = [
        "# Benchmarks", introduction(results, file), machine(results), most_important(results),
        where_others_are_ahead(results), "## Operations",
        *(section(operation, results.left_out, folder) for operation in results.operations),
        left_out(results),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


# -- what is compared ------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """Another's time beside ours."""

    operation: Operation
    case: Case
    timing: Timing
    ratio: Ratio


def comparisons(operations: Iterable[Operation]) -> list[Comparison]:
    """Every peer and every plain loop in every case and at every size, where ours is there too."""
    return [
        Comparison(operation, case, timing, ratio)
        for operation in operations
        for case in operation.everything()
        for timing in case.others("peer", "plain")
        if (ratio := case.ratio(timing.name)) is not None
    ]


def fastest(operation: Operation) -> Comparison | None:
    """The fastest peer of the foremost case; where there is none, the fastest plain loop."""
    case = operation.foremost
    timing = next(iter([*case.others("peer"), *case.others("plain")]), None)
    ratio = case.ratio(timing.name) if timing else None
    return Comparison(operation, case, timing, ratio) if timing and ratio else None


def widespread(operation: Operation) -> Comparison | None:
    """The same of Stable-Baselines3, under whatever name it goes."""
    case = operation.foremost
    timing = next((x for x in case.others("peer") if is_widespread(x.name)), None)
    ratio = case.ratio(timing.name) if timing else None
    return Comparison(operation, case, timing, ratio) if timing and ratio else None


def is_widespread(name: str) -> bool:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return letters.startswith(("stablebaselines3", "sb3"))


# -- the page, from top to bottom --------------------------------------------------------------------------------


def introduction(results: Results, file: str) -> str:
    facts = results.conditions
    words = ["pytest benches", f"-k {shlex.quote(str(facts['keyword']))}" if facts.get("keyword") else ""]
    words += [f"--threads {facts['threads']}" if facts.get("threads", 1) != 1 else "", f"--benchmark-json={file}"]
    cases = [case for operation in results.operations for case in operation.everything()]
    rounds = {len(timing.seconds) for case in cases for timing in case.timings.values()}
    number = f"{min(rounds)}" if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
    return f"""\
What each part of fastrl costs, and what others take for the same work on the same data. This page was written by

```bash
{" ".join(word for word in words if word)}
python -m benches report {file}
```

Before anything is timed, its result is compared with an obvious reference on the same input, as far as there is one
(an import has none, a run has taken its steps); what gives another result is [named](#left-out), not timed. Buffers
are filled, data is fresh in each round or drawn anew in each call, and every call is warmed up. All implementations
of a case take turns, {number} rounds of them, each round beginning with another. Times are medians over the rounds. A
ratio is how many times as long as fastrl another takes in the same round: the median over rounds and, in brackets,
the quartiles; above 1 fastrl is faster. It may differ a little from the ratio of the two times. What is compared with
another of ours than "fastrl", tensors with tensors, names that behind "beside".

In charts fastrl is black, and bounds are hatched: a copy of the same bytes, a plain loop in C, or the work's matrix
products by Torch's or NumPy's calls. Only the copy cannot be undercut; the others say what plain code reaches. In
charts over sizes, a ring with a figure marks where another's line crosses ours; the others' lines are ours times their
ratio. Peers are of the versions named here, not always the newest: of Tianshou, the interface of 0.5 is called."""


def machine(results: Results) -> str:
    facts = results.conditions
    described = ", ".join(f"{value} {key}" if key == "cores" else str(value) for key, value in _items(facts, "machine"))
    versions = ", ".join(f"{name} {version}" for name, version in _items(facts, "versions"))
    lines = [
        ("Machine", described), ("Threads", facts.get("threads")), ("Load", _rounded(facts.get("load"))),
        ("Date", results.date.split(".")[0].replace("T", " ")), ("Commit", results.commit), ("Versions", versions),
    ]  # fmt: skip
    return "\n".join(f"- {name}: {value}" for name, value in lines if value not in (None, ""))


def _rounded(value: object) -> object:
    return f"{value:.1f}" if isinstance(value, float) else value


def _items(facts: dict[str, object], key: str) -> list[tuple[str, object]]:
    value = facts.get(key)
    return list(value.items()) if isinstance(value, dict) else []


def most_important(results: Results) -> str:
    """One line an operation."""
    both = [(operation, fastest(operation), widespread(operation)) for operation in results.operations]
    with_sb3 = any(sb3 for _, _, sb3 in both)
    rule = "Of each operation its first case, and the peer that is fastest there, or the plain loop without peers"
    rule += f"; beside it {WIDESPREAD}." if with_sb3 else "."
    rule += " The figure is how many times as long as fastrl it takes."
    head = ["operation", "fastrl", "fastest peer"] + ([WIDESPREAD] if with_sb3 else [])
    rows = []
    for operation, near, sb3 in both:
        ours = operation.foremost.ours
        row = [
            f"[{operation.title}](#{slug(operation.title)})<br>{operation.foremost.name}",
            duration(ours.time) if ours else "–",
            f"{near.timing.name}<br>{_with_base(near)}" if near else "–",
        ]  # fmt: skip
        rows.append(row + ([_with_base(sb3) if sb3 else "–"] if with_sb3 else []))
    return f"## The most important ratios\n\n{rule}\n\n{table(head, rows)}"


def _with_base(x: Comparison) -> str:
    """The ratio, and to which of ours where that is not "fastrl"."""
    return with_spread(x.ratio) + _beside(x.case, x.timing)


def where_others_are_ahead(results: Results) -> str:
    """Every case in which a peer takes less time than ours, the worst first."""
    title, every = "## Where a peer is ahead", comparisons(results.operations)
    losses = sorted((x for x in every if x.ratio.median < 1), key=lambda x: x.ratio.median)
    if not every:
        return f"{title}\n\nNothing can be said: no peer was timed beside fastrl."
    if not losses:
        return f"{title}\n\nNowhere (comparisons: {len(every):,})."
    rows = [
        [f"[{x.operation.title}](#{slug(x.operation.title)})<br>{x.case.name}", called(x.case, x.timing),
         with_spread(x.ratio) + (", even within the spread" if x.ratio.high >= 1 else "")]
        for x in losses
    ]  # fmt: skip
    count = f"In {len(losses):,} of {len(every):,} comparisons another takes less time than fastrl, the worst first."
    return f"{title}\n\n{count}\n\n{table(['operation', 'who', 'of our time'], rows)}"


def section(operation: Operation, left: list[LeftOut], folder: str) -> str:
    parts = [f"### {operation.title}", operation.note]
    if operation.cases:
        picture = f"{folder}/{slug(operation.key)}.png"
        alt = f"{operation.title}: time per {operation.unit}"
        parts += [f"![{alt}]({picture})", times_table(operation), bounds(operation)]
    for axis, sweep in operation.sweeps.items():
        picture = f"{folder}/{slug(operation.key, axis)}.png"
        alt = f"{operation.title}: time per {operation.unit} over {axis}"
        parts += [f"![{alt}]({picture})", crossing(axis, sweep), sweep_table(operation, axis, sweep)]
    whose = [x for x in left if x.title == operation.title and x.kind != "no part"]
    missing = dict.fromkeys(f"{x.implementation} ({x.kind})" for x in whose)
    if missing:
        parts.append(f"[Left out](#left-out): {', '.join(missing)}.")
    return "\n\n".join(part for part in parts if part)


def times_table(operation: Operation) -> str:
    flops = any(timing.operations for case in operation.cases for timing in case.timings.values())
    head = ["", f"per {operation.unit}", "times as long"] + (["GFLOP/s"] if flops else [])
    rows = []
    for case in operation.cases:
        rows.append([f"**{case.name}**"] + [""] * (len(head) - 1))
        for timing in sorted(case.timings.values(), key=lambda timing: timing.time):
            ratio = None if timing is case.ours else case.ratio(timing.name)
            name = f"{timing.name} (bound)" if timing.role == "bound" else called(case, timing)
            row = [name, duration(timing.time), with_spread(ratio) if ratio else "–"]
            rows.append(row + ([f"{timing.gflops:,.3g}" if timing.gflops else "–"] if flops else []))
    return table(head, rows)


def bounds(operation: Operation) -> str:
    """How far ours is from each lower bound."""
    far: dict[str, list[str]] = {}
    for case in operation.cases:
        for timing in case.others("bound"):
            ratio = case.ratio(case.ours.name, timing.name) if case.ours else None
            if ratio is not None:
                far.setdefault(timing.name, []).append(f"{times(ratio.median)} at {case.name}")
    lines = [f"- {name}: {'; '.join(cases)}" for name, cases in far.items()]
    return "fastrl takes, as a multiple of what bounds it:\n\n" + "\n".join(lines) if lines else ""


def crossing(axis: str, sweep: list[Case]) -> str:
    """Where others are faster, in a sentence each."""
    sizes = [case.size for case in sweep if case.size is not None]
    span = of_axis(axis, f"{min(sizes):,.0f} to {max(sizes):,.0f}")
    found = {name: ahead(sweep, name) for name in rivals(sweep)}
    said = [
        f"{name} is faster than {beside.name} {where(axis, stretches)}." for name, stretches in found.items()
        if stretches and (beside := sweep[0].beside(name))
    ]  # fmt: skip
    if not said and found:
        said = [f"None of them is faster than fastrl at {span}."]
    return " ".join(said)


def sweep_table(operation: Operation, axis: str, sweep: list[Case]) -> str:
    rows = []
    for case in sweep:
        near = next(iter(case.others("peer", "plain")), None)
        ratio = case.ratio(near.name) if near else None
        rows.append([
            f"{case.size:,.0f}", duration(case.ours.time) if case.ours else "–", called(case, near) if near else "–",
            with_spread(ratio) if ratio else "–",
        ])  # fmt: skip
    return table([axis, f"fastrl, per {operation.unit}", "the fastest other", "times as long"], rows)


def left_out(results: Results) -> str:
    """What was not timed, and why."""
    parts = ["## Left out"]
    for kind in dict.fromkeys([*KINDS, *(x.kind for x in results.left_out)]):
        lines: dict[tuple[str, str], dict[str, list[str]]] = {}
        for x in results.left_out:
            if x.kind == kind:
                lines.setdefault((x.implementation, x.why), {}).setdefault(x.title, []).append(x.case)
        if lines:
            listed = "\n".join(_left_out_line(*key, of) for key, of in lines.items())
            parts.append(f"{KINDS.get(kind, kind)}:\n\n{listed}")
    if results.foreign:
        parts.append(f"Other benchmarks in the file, not of these operations: {results.foreign}.")
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "Nothing: everything there is was timed."])


KINDS = {
    "absent": "Not there to be timed",
    "no part": "With no part in some cases",
    "computes something else": "Computes something else, and was therefore not timed",
    "failed": "Failed",
}


MANY = 3  # cases or operations, beyond which they are counted, not named


def _left_out_line(name: str, why: str, of: dict[str, list[str]]) -> str:
    titles = [f"{title}, {_some(list(dict.fromkeys(names)), 'cases', ' and ')}" for title, names in of.items()]
    return f"- **{name}**, {_some(titles, 'operations', '; ')}: {why}"


def _some(names: list[str], noun: str, between: str) -> str:
    return between.join(names) if len(names) <= MANY else f"{len(names)} {noun}"


def called(case: Case, timing: Timing) -> str:
    """Its name, and with which of ours it is compared where that is not "fastrl"."""
    return timing.name + _beside(case, timing)


def _beside(case: Case, timing: Timing) -> str:
    beside = case.beside(timing.name)
    return "" if beside is case.ours or beside is None else f" (beside {beside.name})"


# -- Markdown ----------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def slug(*words: str) -> str:
    """Of a heading the id that Markdown gives it; also for names of files."""
    return "-".join(re.sub(r"[^\w\s-]", "", word.lower()).strip().replace(" ", "-") for word in words)
