"""The README's picture: how many times as fast as the usual way, from the results of `pytest benches`."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

from matplotlib.figure import Figure

from benches import charts
from benches.report import Comparison, fastest, widespread
from benches.results import Operation, ResultsError, read
from benches.wording import times

# Operations of the table that most people have a use for, by key; those that the results hold are drawn.
IMPORTANT = ("q-learning", "bellman-sweep", "replay-add", "replay-sample", "gae", "update-ppo", "train*")


def important(operations: list[Operation]) -> list[Comparison]:
    """Each beside the peer that most people use, else the fastest, else the plain loop; all where none is important."""
    chosen = [operation for key in IMPORTANT for operation in operations if fnmatch(operation.key, key)]
    found = [widespread(operation) or fastest(operation) for operation in chosen or operations]
    return [comparison for comparison in found if comparison is not None]


def write(results: Path, picture: Path) -> None:
    """Draw the picture.

    Raises:
        ResultsError: where `results` is no file of results, or has no peer beside ours.
        OSError: where nothing can be written there.
    """
    found = important(read(results).operations)
    if not found:
        raise ResultsError(
            f"{results} has nothing beside fastrl that could be drawn: measure where a peer is installed"
        )
    picture.parent.mkdir(parents=True, exist_ok=True)
    charts.save(draw(found), picture)
    for x in found:
        print(f"{x.operation.title}, {x.case.name}, beside {x.timing.name}: {times(x.ratio.median)}")


def draw(found: list[Comparison]) -> Figure:
    """Horizontal bars on a logarithmic scale, readable in black and white."""
    labels = [f"{x.operation.title}\n{x.case.name}\nbeside {x.timing.name}" for x in found]
    ratios = [x.ratio.median for x in found]
    figure = Figure(figsize=(7, 0.9 + 0.7 * len(found)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(found)), [r - 1 for r in ratios], left=1, color="0.3", height=0.6)
    axes.bar_label(bars, [f"{times(ratio)}×" for ratio in ratios], padding=4)
    axes.set_yticks(range(len(found)), labels=labels)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(0.8, *ratios) * 0.8, max(*ratios, 10) * 4)
    axes.xaxis.set_major_formatter("{x:,g}×")
    axes.set_xlabel("times as fast (logarithmic)")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
