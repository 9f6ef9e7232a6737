"""Learning curves, readable in black and white: lines and markers tell libraries apart, grey bands are intervals."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benches.learning.settings import COMPILED, SB3, TORCH
from benches.learning.statistics import Estimate

STYLES = {COMPILED: ("-", "o", "0"), TORCH: ("--", "s", "0.3"), SB3: (":", "^", "0.45")}


class Curve(NamedTuple):
    """One library's: steps and median seconds at each mark, and what runs scored there."""

    library: str
    steps: np.ndarray
    seconds: np.ndarray
    scores: Estimate


def draw(title: str, promised: float, curves: list[Curve], path: Path) -> None:
    """A PNG: on the left scores against steps, on the right against seconds of training, logarithmic."""
    figure = Figure(figsize=(8, 3.4), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x_of in ((left, "steps"), (right, "seconds")):
        for library, *x, scores in curves:
            style, marker, color = STYLES[library]
            at = x[x_of == "seconds"]
            axes.fill_between(at, scores.low, scores.high, color=color, alpha=0.15, linewidth=0)
            axes.plot(at, scores.value, style, marker=marker, color=color, markersize=3.5, markevery=2,
                      linewidth=1.3, label=library)  # fmt: skip
        axes.axhline(promised, color="0.6", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xlabel("steps")
    left.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:,.0f}k" if x else "0")
    left.set_ylabel("return")
    right.set_xscale("log")
    right.set_xlabel("seconds of training (logarithmic)")
    left.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
