"""Intervals and verdicts over runs, by rliable: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the
statistical precipice". Scores are float arrays [runs, tasks], or [runs, marks] of one task; runs are seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import trim_mean

REPS = 2000  # bootstrap samples
SEED = 0


class Estimate(NamedTuple):
    """A figure and its 95 % interval; the interval of a single run is that run."""

    value: Any
    low: Any
    high: Any

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals have a point in common."""
        return bool(self.low <= other.high and other.low <= self.high)


def iqm(scores: np.ndarray) -> Estimate:
    """Mean of all scores [runs] or [runs, tasks] but the lowest and the highest quarter, each rounded down.

    Resampled within each task.
    """
    from rliable.metrics import aggregate_iqm

    matrix = scores.reshape(len(scores), -1)
    return _estimate({"x": matrix}, lambda x: np.array([aggregate_iqm(x)]))[0]


def iqm_curve(scores: np.ndarray) -> Estimate:
    """The IQM over runs at each of the marks, of scores [runs, marks]; arrays [marks]."""
    value, low, high = zip(*_estimate({"x": scores[:, None]}, lambda x: trim_mean(x[:, 0], 0.25, axis=0)), strict=True)
    return Estimate(np.array(value), np.array(low), np.array(high))


def improvement(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """The probability that a run of `ours` is better than one of `theirs`, ties counting half; mean over tasks."""
    from rliable.metrics import probability_of_improvement

    return _estimate({"x": (ours, theirs)}, lambda x, y: np.array([probability_of_improvement(x, y)]))[0]


def _estimate(scores: dict[str, Any], measure: Callable[..., np.ndarray]) -> list[Estimate]:
    from rliable.library import get_interval_estimates

    before = np.random.get_state()  # noqa: NPY002 - it draws from NumPy's global stream, whatever it is handed
    np.random.seed(SEED)  # noqa: NPY002
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            points, intervals = get_interval_estimates(scores, measure, reps=REPS)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    figures = zip(points["x"], *intervals["x"], strict=True)
    return [Estimate(float(x), float(low), float(high)) for x, low, high in figures]


def verdict(ours: Estimate, theirs: Estimate) -> str:
    """"ahead", "behind" or "overlap", of `ours`; more is better."""
    if ours.overlaps(theirs):
        return "overlap"
    return "ahead" if ours.low > theirs.high else "behind"
