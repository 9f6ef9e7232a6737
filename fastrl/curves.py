"""Learning curves of several runs: which belong to one line, and how far their mean can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrl import config, metrics, runs
from fastrl.flags import UsageError, nearest

POINTS = 200  # of a line
RESAMPLES = 2_000
FEW = 3  # runs, below which there is no interval: the band is the lowest and the highest
STEPS, ELAPSED, SPEED, RETURN = metrics.STEPS, "time/time_elapsed", "time/fps", "rollout/ep_rew_mean"
SEED = 0  # of the bootstrap: the same runs give the same picture


class Run(NamedTuple):
    """What a run's directory says of it."""

    directory: Path
    settings: dict[str, Any]  # of everything but the seed and what does not change what is learnt
    rows: list[dict[str, float]]


class Line(NamedTuple):
    """The mean of the runs of one kind: `mean` [P] at `x` [P], with a band from `low` to `high`."""

    label: str
    runs: list[Run]
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def band(self) -> str:
        """What the band is."""
        if len(self.runs) == 1:
            return "1 run"
        return f"{len(self.runs)} runs, " + ("lowest to highest" if len(self.runs) < FEW else "95 % interval")


def read_run(directory: Path) -> Run:
    """The run of a directory.

    Raises:
        UsageError: where it is none, or its metrics are missing, empty or damaged.
    """
    if not directory.is_dir():
        raise UsageError(f"no run at {directory}: there is no such directory")
    found, file = config.read(directory / runs.CONFIG), directory / runs.METRICS
    if not file.is_file():
        raise UsageError(f"{file} is missing: the run has not begun, or is not one of fastrl train")
    try:
        rows = metrics.read(file)
    except ValueError as error:
        raise UsageError(f"{file} is damaged: {error}") from error
    if not rows:
        raise UsageError(f"{file} has no rows yet")
    unimportant = {"seed", "verbose", "device", "tensorboard_log"}
    settings = {name: value for name, value in found.hyperparameters.items() if name not in unimportant}
    return Run(directory, {"algorithm": found.algorithm, "environment": found.environment, **settings}, rows)


def lines(found: Sequence[Run], y: str, over_time: bool, window: int) -> list[Line]:
    """A line for all runs of the same settings, in the order of the first of each.

    A line spans what all of its runs have; between their rows it is interpolated.

    Args:
        found: runs of any algorithms and environments.
        y: the column of the metrics.
        over_time: over seconds, not environment steps.
        window: rows in the running mean of each run; 1 for none.

    Raises:
        UsageError: where a run has no such column, or shares no span with the others of its line.
    """
    groups: list[list[Run]] = []
    for run in found:
        same = next((group for group in groups if group[0].settings == run.settings), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    labels = _labels([group[0].settings for group in groups])
    return [_line(label, group, y, over_time, window) for label, group in zip(labels, groups, strict=True)]


def _line(label: str, group: list[Run], y: str, over_time: bool, window: int) -> Line:
    curves = [_curve(run, y, over_time, window) for run in group]
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if first > last:
        raise UsageError(f"{group[0].directory} and others of its settings have no steps in common: plot them apart")
    x = np.linspace(first, last, POINTS) if first < last else np.array([first])
    values = np.stack([np.interp(x, *curve) for curve in curves])
    return Line(label, group, x, values.mean(0), *interval(values))


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low [P], high [P]) around the mean of runs [n, P]: the lowest and the highest of fewer than three runs.

    Of more, the bootstrap's 95 % of the mean by percentiles, where whole runs are drawn: Efron 1979.
    """
    n = len(values)
    if n < FEW:
        return values.min(0), values.max(0)
    drawn = np.random.default_rng(SEED).multinomial(n, np.full(n, 1 / n), RESAMPLES)  # how often each run
    low, high = np.percentile(drawn @ values / n, [2.5, 97.5], axis=0)
    return low, high


def _curve(run: Run, y: str, over_time: bool, window: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in run.rows if y in row]
    if not rows:
        known = dict.fromkeys(name for row in run.rows for name in row)
        why = "no episode has ended" if y == RETURN else f"there are {', '.join(known)}"
        raise UsageError(f"{run.directory / 'metrics.csv'} has no {y}{nearest(y, known)}: {why}")
    x = _seconds(run, rows) if over_time else np.array([row[STEPS] for row in rows])
    values = np.array([row[y] for row in rows])
    if window > 1:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        end = np.arange(1, len(values) + 1)
        begin = np.maximum(end - window, 0)
        values = (sums[end] - sums[begin]) / (end - begin)
    order = np.argsort(x, kind="stable")
    return x[order], values[order]


def _seconds(run: Run, rows: list[dict[str, float]]) -> np.ndarray:
    """Of training; a process that went on with the run counted from 0 again."""
    found, before, last = [], 0.0, 0.0
    for row in rows:
        if ELAPSED in row:
            elapsed = row[ELAPSED]
        elif row.get(SPEED, 0.0) > 0:
            elapsed = row[STEPS] / row[SPEED]
        else:
            raise UsageError(f"{run.directory / 'metrics.csv'} has no times: leave out --x time")
        before, last = before + (last if elapsed < last else 0.0), elapsed
        found.append(before + elapsed)
    return np.array(found)


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """Algorithm and environment, and of those that have both in common the settings that differ."""
    labels = []
    for own in settings:
        kin = [s for s in settings if all(s[key] == own[key] for key in ("algorithm", "environment"))]
        differing = [key for key in own if any(s.get(key) != own[key] for s in kin)]
        details = ", ".join(f"{key} {_short(own[key])}" for key in differing)
        labels.append(f"{own['algorithm'].upper()} on {own['environment']}" + (f", {details}" if details else ""))
    return labels


def _short(value: Any) -> str:
    return " ".join(map(_short, value)) if isinstance(value, list) else str(value)
