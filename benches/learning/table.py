"""Results as the page wants them: the runs that count, by setting and library."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from benches.learning.libraries import options_of
from benches.learning.results import Line, digest, latest
from benches.learning.settings import SETTINGS, Setting
from benches.learning.statistics import Estimate, iqm

Clock = Literal["wall", "processor"]
CLOCKS = get_args(Clock)


@dataclass
class Cell:
    """All that is known of one library in one setting; runs by seed."""

    setting: Setting
    library: str
    runs: list[Line] = field(default_factory=list)
    failed: list[Line] = field(default_factory=list)
    absent: str | None = None

    def column(self, name: str) -> np.ndarray:
        """float64[runs, ...] of what each run's line has under `name`."""
        return np.array([run[name] for run in self.runs], float)

    @property
    def scores(self) -> np.ndarray:
        """float64[runs], normalised, of the last evaluation."""
        return self.setting.normalized(self.column("final"))

    @property
    def areas(self) -> np.ndarray:
        """float64[runs], the mean of the normalised scores at all marks: the area under the learning curve."""
        return self.setting.normalized(self.column("scores")).mean(axis=1)

    @cached_property
    def final(self) -> Estimate:
        """The IQM of the last evaluations' returns."""
        return iqm(self.column("final"))

    @cached_property
    def area(self) -> Estimate:
        """The IQM of the areas."""
        return iqm(self.areas)

    def seconds(self, clock: Clock) -> np.ndarray:
        """float64[runs], of training all steps."""
        return self.column(clock)[:, -1]

    def arrival(self, clock: Clock) -> np.ndarray:
        """float64[runs], seconds until a mark at which the evaluation reached what is promised; infinite without."""
        there = self.column("scores") >= self.setting.promised
        seconds = self.column(clock)[np.arange(len(there)), there.argmax(axis=1)]
        return np.where(there.any(axis=1), seconds, np.inf)

    def reached(self, clock: Clock) -> np.ndarray:
        """float64[runs], seconds until what is promised was reached and confirmed; infinite where it was not."""
        return np.array([run["reached"][CLOCKS.index(clock)] if "reached" in run else np.inf for run in self.runs])


Row = dict[str, Cell]  # by library
Cells = dict[str, Row]  # by setting


def everything(table: Cells) -> Iterable[Cell]:
    """Its cells, in order."""
    return (cell for row in table.values() for cell in row.values())


def setting_of(row: Row) -> Setting:
    """That of all its cells."""
    return next(iter(row.values())).setting


def cells(lines: list[Line], scale: float) -> tuple[Cells, int]:
    """(all that counts, how many runs do not: of other options or steps, or of an earlier version).

    Of several versions of a library the one counts that ran last.
    """
    found: Cells = {}
    versions: dict[tuple[str, str], Any] = {}
    current: list[Line] = []
    others = 0
    wanted = {
        (key, library): digest(setting, library, max(1, round(options_of(setting, library)[2] * scale)))
        for key, setting in SETTINGS.items() for library in setting.libraries
    }  # fmt: skip
    for line in latest(lines).values():
        of = (line["setting"], line["library"])
        if line["digest"] != wanted.get(of):
            others += line["seed"] is not None
            continue
        current.append(line)
    for line in lines:  # in the order in which they were written
        of = (line["setting"], line["library"])
        if line["digest"] == wanted.get(of) and line["seed"] is not None:
            versions[of] = line.get("version")
    for line in sorted(current, key=lambda line: (line["seed"] is not None, line["seed"] or 0)):
        of = key, library = line["setting"], line["library"]
        cell = found.setdefault(key, {}).setdefault(library, Cell(SETTINGS[key], library))
        if line["seed"] is None:
            cell.absent = line["absent"]
        elif line.get("version") != versions[of]:
            others += 1
        else:
            (cell.failed if "error" in line else cell.runs).append(line)
    order = {key: i for i, key in enumerate(SETTINGS)}
    ordered = {key: found[key] for key in sorted(found, key=order.__getitem__)}
    return {key: {x: row[x] for x in SETTINGS[key].libraries if x in row} for key, row in ordered.items()}, others
