"""metrics.csv: the numbers of a run, written as it goes on, and gone on with after a kill."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from fastrl.files import replacing

ROWS = 200  # about: enough for a curve, whatever the number of iterations
STEPS = "time/total_timesteps"


class Metrics:
    """The rows of a run and their file.

    Args:
        path: the file.
        total_timesteps: of the run; about `ROWS` rows are spread evenly over it.
    """

    def __init__(self, path: Path, total_timesteps: int) -> None:
        self.path, self.every = path, total_timesteps / ROWS
        self.rows: list[dict[str, float]] = []
        self.due = 0.0  # steps at which the next row is
        self._columns: list[str] = []
        self._written, self._torn = 0, False  # rows in the file; whether its last one may be cut short

    def resume(self, rows: Iterable[dict[str, float]], num_timesteps: int) -> None:
        """Go on from the `rows` of an earlier process, but those after `num_timesteps`, and rewrite the file."""
        for row in rows:
            # A row before it was due stands where that process was interrupted.
            if self.due <= row[STEPS] <= num_timesteps:
                self.rows.append(row)
                self._move(row[STEPS])
        self._columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self._rewrite()

    def spread_over(self, total_timesteps: int) -> None:
        """Let the rows to come be about `ROWS` in a run of that many steps."""
        self.every = total_timesteps / ROWS
        if self.rows:
            self._move(self.rows[-1][STEPS])

    def add(self, metrics: dict[str, float]) -> None:
        """Add a row, unless it is empty or there is one of as many steps; `flush` writes it."""
        if metrics and metrics[STEPS] not in (row[STEPS] for row in self.rows[-1:]):
            self.rows.append(metrics)
            self._move(metrics[STEPS])

    def flush(self) -> None:
        """Write the rows that were added.

        Raises:
            OSError: where that fails; a later call writes them too.
        """
        rows = self.rows[self._written :]
        new = {name: None for row in rows for name in row if name not in self._columns}
        # The mean return exists only once an episode has ended: a new column means a new header.
        if new or self._torn:
            self._columns += new
            self._rewrite()
        elif rows:
            self._torn = True
            with open(self.path, "a", newline="") as file:
                file.write(self._lines(rows))
            self._torn, self._written = False, len(self.rows)

    def _move(self, num_timesteps: float) -> None:
        self.due = (num_timesteps // self.every + 1) * self.every

    def _rewrite(self) -> None:
        self._torn = True
        with replacing(self.path, durably=False) as file:
            file.write((",".join(self._columns) + "\r\n" + self._lines(self.rows)).encode())
        self._torn, self._written = False, len(self.rows)

    def _lines(self, rows: list[dict[str, float]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue()


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, but for a last one that a kill cut short; none where there is no file.

    Raises:
        ValueError: for a file that is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    try:
        rows = csv.DictReader(io.StringIO(whole))
        found = [{name: float(value) for name, value in row.items() if value} for row in rows]
    except (TypeError, AttributeError) as error:  # more cells than columns
        raise ValueError(f"{path} is not a table of metrics: {error}") from error
    if any(STEPS not in row for row in found):
        raise ValueError(f"{path} has rows without {STEPS}")
    return found
