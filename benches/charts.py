"""The charts of a report: greys, hatches, line styles and markers, so that paper and any eye will do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benches.results import Case, Timing, crossings
from benches.wording import about, duration
from fastrl.files import replacing

WIDTH, DPI = 5.0, 144  # 720 pixels, in which 10 points are 20 pixels: letters that a phone can shrink
BARS: dict[str, dict[str, Any]] = {
    "ours": {"facecolor": "black"},
    "peer": {"facecolor": "0.6"},
    "plain": {"facecolor": "0.85", "hatch": "...."},
    "bound": {"facecolor": "white", "hatch": "////"},
}
ROLES = {"ours": "ours", "peer": "peers", "plain": "plain Python", "bound": "bounds"}
LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (2, 1)))
MARKERS = "s^DvXP<>*"
GREYS = ("0.25", "0.45", "0.6")


def save(figure: Figure, path: Path) -> None:
    """Write the PNG beside `path`, then put it in its place."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def bars(cases: list[Case], unit: str) -> Figure:
    """Time a unit of everything that was measured: one group of bars a case, the fastest first."""
    rows = sum(len(case.timings) + 1.3 for case in cases)
    figure = Figure(figsize=(WIDTH, 0.27 * rows + 1.1), layout="constrained")
    axes = figure.subplots()
    place, names = 0.0, {}
    everything = [timing.time for case in cases for timing in case.timings.values()]
    low, high = min(everything) / 2, max(everything)
    for case in cases:
        title = axes.annotate(case.name, (0.02, place), xycoords=("figure fraction", "data"), va="center")
        title.set(fontweight="bold", in_layout=False)
        for timing in sorted(case.timings.values(), key=lambda timing: timing.time):
            place += 1
            axes.barh(place, timing.time - low, left=low, height=0.72, edgecolor="black", linewidth=0.8, **_bar(timing))
            axes.text(timing.time, place, f" {duration(timing.time)}", va="center", fontsize=9)
            names[place] = timing.name
        place += 1.3
    axes.set_yticks(list(names), labels=list(names.values()), fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(place - 0.6, -0.6)
    axes.set_xscale("log")
    axes.set_xlim(low, high * (high / low) ** 0.28)  # room for the last figure
    _durations(axes.xaxis)
    axes.set_xlabel(f"time per {unit} (logarithmic)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    _legend_of_roles(figure, {timing.role for case in cases for timing in case.timings.values()})
    return figure


def scaling(axis: str, sweep: list[Case], unit: str) -> Figure:
    """Time a unit over the sizes of a sweep, both logarithmic; rings where a peer's line crosses ours.

    Others are drawn as far from ours as their ratio says: what is between lines is what tables say, in noise too.
    """
    names = list(dict.fromkeys(name for case in sweep for name in case.timings))
    figure = Figure(figsize=(WIDTH, 3.6 + 0.22 * math.ceil(len(names) / 2)), layout="constrained")
    axes = figure.subplots()
    lines, markers, greys = cycle(LINES), cycle(MARKERS), cycle(GREYS)
    base = {case.size: case.ours.time for case in sweep if case.ours is not None and case.size is not None}
    for name in names:
        shown = [case for case in sweep if name in case.timings]
        x, y, role = (
            [case.size or 1.0 for case in shown],
            [_height(case, name) for case in shown],
            shown[0].timings[name].role,
        )
        if any(case.ours is not None and case.ours.name == name for case in sweep):
            axes.plot(x, y, color="black", linewidth=2.6, marker="o", markersize=6, label=name, zorder=3)
        elif role == "bound":
            axes.plot(x, y, color="0.6", linewidth=1, linestyle=":", marker=next(markers), markersize=4, label=name)
        else:
            style: Any = dict(color=next(greys), linestyle=next(lines), marker=next(markers))
            axes.plot(x, y, linewidth=1.4, markersize=5, label=name, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    theirs = dict.fromkeys(timing.name for case in sweep for timing in case.others("peer", "plain"))
    beside_ours = [name for name in theirs if all(case.beside(name) is case.ours for case in sweep)]
    _rings(axes, base, [x for name in beside_ours for x in crossings(sweep, name)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _durations(axes.yaxis)
    axes.set_xlabel(f"{axis} (logarithmic)")
    axes.set_ylabel(f"time per {unit} (logarithmic)")
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, handlelength=3.6)
    return figure


def _height(case: Case, name: str) -> float:
    ratio, beside = case.ratio(name), case.beside(name)
    return beside.time * ratio.median if beside and ratio else case.timings[name].time


def _rings(axes: Axes, base: dict[float, float], places: Iterable[float]) -> None:
    """On our line at each place, with its figure; figures that would meet hang one below the other."""
    sizes, last, below = sorted(base), 0.0, 0
    near = (sizes[-1] / sizes[0]) ** 0.12 if sizes else 1.0
    for place in sorted(places):
        left, right = next((a, b) for a, b in pairwise(sizes) if a <= place <= b)
        height = base[left] * (base[right] / base[left]) ** (math.log(place / left) / math.log(right / left))
        below = below + 1 if place < last * near else 0
        last = place
        axes.plot(place, height, marker="o", markersize=15, color="black", fillstyle="none", markeredgewidth=1.6)
        axes.annotate(
            about(place), (place, height), textcoords="offset points", xytext=(0, -12 - 11 * below),
            ha="center", va="top", fontsize=10, fontweight="bold",
        )  # fmt: skip


def _bar(timing: Timing) -> dict[str, Any]:
    return BARS.get(timing.role, BARS["peer"])


def _durations(axis: Any) -> None:
    axis.set_major_locator(LogLocator(numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds).replace(".00", "").replace(".0", "")))
    axis.set_minor_formatter(NullFormatter())


def _legend_of_roles(figure: Figure, roles: set[str]) -> None:
    from matplotlib.patches import Patch

    keys = [Patch(edgecolor="black", label=ROLES[role], **BARS[role]) for role in ROLES if role in roles]
    figure.legend(handles=keys, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
