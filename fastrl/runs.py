"""The directory that a training run leaves: config.json, metrics.csv, model.fastrl and curve.png."""

from __future__ import annotations

import csv
import itertools
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import fastrl

ROWS = 200  # of metrics.csv, about: enough for a curve, whatever the number of iterations


def make_directory(out: Path | None, algorithm: str, env_id: str) -> Path:
    """`out`, or runs/<algorithm>-<environment>-<n> with the first free n; never one that holds anything.

    Raises:
        OSError: where it cannot be made or written to, or is not empty.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise OSError("it is not empty, and nothing is ever overwritten")
        if not os.access(out, os.W_OK):
            raise OSError("Permission denied")
        return out
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    for n in itertools.count(1):
        path = runs / f"{algorithm}-{env_id.replace('/', '-').replace(':', '-')}-{n}"
        try:
            path.mkdir()  # of two runs that start at once only one can make it
            break
        except FileExistsError:
            continue
    return path


def write_config(path: Path, **settings: Any) -> None:
    """Write `settings` and the versions that the run is made with; classes by their names."""
    versions = {"fastrl": fastrl.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "numpy", "gymnasium", "numba")}
    path.write_text(json.dumps({**settings, "versions": versions}, indent=2, default=lambda x: x.__name__) + "\n")


class Metrics:
    """metrics.csv, written as the run goes on: a callback for `learn`.

    Args:
        path: the file.
        total_timesteps: of the run; about `ROWS` rows are spread evenly over it.
    """

    def __init__(self, path: Path, total_timesteps: int) -> None:
        self.path, self.every = path, total_timesteps / ROWS
        self.rows: list[dict[str, float]] = []
        self._columns: list[str] = []
        self._due = 0.0

    def __call__(self, model: Any) -> None:
        """Add a row if one is due."""
        if model.num_timesteps >= self._due:
            self._due = (model.num_timesteps // self.every + 1) * self.every
            self.add(model.metrics)

    def add(self, metrics: dict[str, float]) -> None:
        """Add a row, unless it is there already or empty."""
        if not metrics or metrics in self.rows[-1:]:
            return
        self.rows.append(metrics)
        new = [name for name in metrics if name not in self._columns]
        self._columns += new
        # The mean return exists only once an episode has ended: a new column means a new header.
        with open(self.path, "w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            if new:
                writer.writeheader()
            writer.writerows(self.rows if new else [metrics])


def draw_curve(path: Path, rows: Sequence[dict[str, float]], title: str, returns: Sequence[float] = ()) -> None:
    """Draw the mean return over the steps, and the mean of `returns`, the evaluation's, if there are any."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    steps, means = "time/total_timesteps", "rollout/ep_rew_mean"
    points = np.array([(row[steps], row[means]) for row in rows if means in row]).reshape(-1, 2)
    figure = Figure(figsize=(7, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(*points.T, color="black", linewidth=2, marker="o" if len(points) == 1 else "", label="while training")
    if returns:
        score = f"evaluation: {np.mean(returns):.1f} ± {np.std(returns):.1f}"
        axes.axhline(float(np.mean(returns)), color="0.45", linestyle="--", linewidth=2, label=score)
    axes.legend(fontsize=13, frameon=False)
    axes.set_title(title, fontsize=15)
    axes.set_xlabel("environment steps", fontsize=13)
    axes.set_ylabel("mean return, last 100 episodes", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
