"""Ours beside Stable-Baselines3: by score, by the area under the curve and by time, in one setting and in all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from benches.learning import statistics as stats
from benches.learning.settings import AGENTS, COMPILED, SB3, TORCH
from benches.learning.statistics import Estimate
from benches.learning.table import Cell, Cells, Clock, Row
from benches.results import Ratio

OURS = (COMPILED, TORCH)
FEW = 5  # seeds, of fewer of which an interval is too narrow
MEASURES = {"final": "final score", "area": "area under the curve"}


class Comparison:
    """One of ours beside Stable-Baselines3 in one setting."""

    def __init__(self, ours: Cell, theirs: Cell) -> None:
        self.ours, self.theirs, self.setting, self.library = ours, theirs, ours.setting, ours.library
        self.enough = min(len(ours.runs), len(theirs.runs)) > 1

    def pair(self, measure: str) -> tuple[Estimate, Estimate]:
        """Our figure and theirs; `measure` is one of MEASURES."""
        return getattr(self.ours, measure), getattr(self.theirs, measure)

    def verdict(self, measure: str) -> str:
        """Of ours: "ahead", "behind" or "overlap"."""
        return stats.verdict(*self.pair(measure))


def comparisons(row: Row) -> dict[str, Comparison]:
    """By library of ours; none where either has no run."""
    theirs = row.get(SB3)
    if theirs is None or not theirs.runs:
        return {}
    return {x: Comparison(row[x], theirs) for x in OURS if x in row and row[x].runs}


def times_as_fast(ours: Cell, theirs: Cell, clock: Clock) -> Ratio | None:
    """Their seconds of training over ours, of the seeds that both have, which ran next to each other; None of none."""
    mine, others = ({run["seed"]: s for run, s in zip(x.runs, x.seconds(clock), strict=True)} for x in (ours, theirs))
    ratios = [others[seed] / mine[seed] for seed in mine if seed in others]
    return Ratio(*np.quantile(ratios, (0.5, 0.25, 0.75))) if ratios else None


class Together:
    """The settings that all libraries with any runs have, `seeds` runs of each."""

    def __init__(self, table: Cells) -> None:
        present = {x: None for row in table.values() for x, cell in row.items() if cell.runs}
        self.libraries = [x for x in AGENTS if x in present]
        self.rows = [row for row in table.values() if all(x in row and row[x].runs for x in self.libraries)]
        self.seeds = min((len(row[x].runs) for row in self.rows for x in self.libraries), default=0)

    def _matrix(self, library: str, of: Callable[[Cell], np.ndarray]) -> np.ndarray:
        return np.stack([of(row[library])[: self.seeds] for row in self.rows], axis=1)

    @cached_property
    def _matrices(self) -> dict[str, dict[str, np.ndarray]]:
        of: dict[str, Callable[[Cell], np.ndarray]] = {"final": lambda x: x.scores, "area": lambda x: x.areas}
        return {measure: {x: self._matrix(x, of[measure]) for x in self.libraries} for measure in MEASURES}

    def iqm(self, library: str, measure: str) -> Estimate:
        """Of the normalised scores, or areas, of all runs in all settings."""
        return stats.iqm(self._matrices[measure][library])

    def improvement(self, library: str, measure: str) -> Estimate:
        """How likely a run of `library` is better than one of Stable-Baselines3, on average over the settings."""
        return stats.improvement(self._matrices[measure][library], self._matrices[measure][SB3])
