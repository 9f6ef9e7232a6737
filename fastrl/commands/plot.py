"""`fastrl plot`: the learning curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastrl.checks import check_int
from fastrl.commands.common import check_output, describe, writing_to
from fastrl.curves import RETURN, Line, lines, read_run
from fastrl.files import replacing
from fastrl.flags import UsageError, parse

ENDINGS = (".png", ".pdf", ".svg")
# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")  # once the colours are used up
NAMES = {RETURN: "mean return, last 100 episodes", "rollout/ep_len_mean": "mean length, last 100 episodes"}


@dataclass
class PlotOptions:
    """Which runs to plot, and how.

    Args:
        runs: directories that `fastrl train` wrote; runs that differ only in their seed make one line.
        out: the picture, .png, .pdf or .svg.
        x: over environment steps, or over seconds.
        y: the column of metrics.csv.
        window: rows in the running mean of each run, of about 200; 1 for none.
        title: above the picture; None for none.
        force: overwrite the picture if it exists.
    """

    runs: Annotated[tyro.conf.Positional[list[Path]], tyro.conf.arg(metavar="RUN...")]
    out: Path = Path("curves.png")
    x: Literal["steps", "time"] = "steps"
    y: str = RETURN
    window: int = 1
    title: str | None = None
    force: bool = False


def run(args: list[str]) -> None:
    """Plot as `args` say."""
    if not args:
        raise UsageError("fastrl plot needs the directories of runs, such as runs/ppo-CartPole-v1-1")
    options = parse(PlotOptions, args, "fastrl plot", "Draw the learning curves of runs; seeds make one line.")
    if not options.runs:
        raise UsageError("fastrl plot needs the directories of runs, such as runs/ppo-CartPole-v1-1")
    try:
        check_int("window", options.window)
    except ValueError as error:
        raise UsageError(describe(error)) from error
    directories = list(dict.fromkeys(options.runs))  # a run that is named twice is no second one
    found = lines([read_run(path) for path in directories], options.y, options.x == "time", options.window)
    check_output(options.out, options.force, ENDINGS)
    with writing_to(options.out.parent):
        draw(found, options)
    for line in found:
        last = f"{line.mean[-1]:.1f} ({line.low[-1]:.1f} to {line.high[-1]:.1f})"
        print(f"{line.label}: {last if len(line.runs) > 1 else f'{line.mean[-1]:.1f}'}, {line.band}")
    print(f"Drawn in {options.out}")


def draw(found: Sequence[Line], options: PlotOptions) -> None:
    """Write the picture, which takes its place whole."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for i, line in enumerate(found):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)]
        marker = "o" if len(line.x) == 1 else ""
        label = f"{line.label} ({line.band})"
        axes.plot(line.x, line.mean, style, color=colour, linewidth=2, marker=marker, label=label)
        if len(line.runs) > 1:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("seconds of training" if options.x == "time" else "environment steps", fontsize=13)
    axes.set_ylabel(NAMES.get(options.y, options.y), fontsize=13)
    axes.tick_params(labelsize=12)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:,g}" if options.x == "time" else "{x:,.0f}")
    axes.grid(color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    if options.title:
        axes.set_title(options.title, fontsize=15)
    # Below the axes, where it hides no curve however many lines there are.
    figure.legend(loc="outside lower left", fontsize=12, frameon=False)
    with replacing(options.out) as file:
        figure.savefig(file, format=options.out.suffix[1:].lower())
