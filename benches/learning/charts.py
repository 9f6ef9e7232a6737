"""Learning curves, readable in black and white: lines and markers tell libraries apart, grey bands are intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.charts import WIDTH, save
from benches.learning.settings import COMPILED, SB3, TORCH
from benches.learning.statistics import Estimate

STYLES: dict[str, dict[str, Any]] = {
    SB3: dict(color="0.5", linestyle=":", marker="^", linewidth=2),
    TORCH: dict(color="0.3", linestyle="--", marker="s", linewidth=1.4),
    COMPILED: dict(color="black", linestyle="-", marker="o", linewidth=2.2),
}  # the last is drawn over the others


class Curve(NamedTuple):
    """One library's: steps and median seconds at each mark, and what runs scored there."""

    library: str
    steps: np.ndarray
    seconds: np.ndarray
    scores: Estimate


def draw(promised: float, curves: list[Curve], clock: str, path: Path) -> None:
    """A PNG: scores against steps and, below, against seconds of training, logarithmic."""
    figure = Figure(figsize=(WIDTH, 6.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharey=True)
    for axes, of in ((top, "steps"), (bottom, "seconds")):
        for curve in sorted(curves, key=lambda curve: list(STYLES).index(curve.library)):
            _line(axes, curve, getattr(curve, of))
        axes.axhline(promised, color="0.6", linewidth=0.8)
        left = axes.get_yaxis_transform()
        axes.text(0.01, promised, "promised", transform=left, fontsize=9, color="0.4", va="bottom")
        axes.set_ylabel("return")
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    top.set_xlabel("steps")
    top.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    bottom.set_xscale("log")
    bottom.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    bottom.set_xlabel(f"seconds of training, {clock} (logarithmic)")
    handles, labels = top.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False, fontsize=10,
                  handlelength=3.6)  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _line(axes: Axes, curve: Curve, x: np.ndarray) -> None:
    style = STYLES[curve.library]
    axes.fill_between(x, curve.scores.low, curve.scores.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, curve.scores.value, label=curve.library, markersize=5, markevery=2, **style)
