"""Where the numbers of a run go: a table on the console, CSV, JSON lines, TensorBoard, or a writer of your own.

The names and keys are Stable-Baselines3's. A writer of your own is a class with `write(values, excluded, step)`.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from fastrl.files import replacing

__all__ = ["CSVOutputFormat", "HumanOutputFormat", "JSONOutputFormat", "KVWriter", "Logger", "TensorBoardOutputFormat",
           "configure", "read_csv"]  # fmt: skip

LONGEST_KEY = 36  # characters in the table
NO_TENSORBOARD = 'TensorBoard is not installed: pip install "fastrl[tensorboard]"'
FORMATS = ("stdout", "log", "csv", "json", "tensorboard")


class KVWriter:
    """One place that numbers are written to."""

    at_least = 0.0  # seconds between two of its rows, where nobody said how often to write

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write what was recorded.

        Args:
            key_values: by key, such as "rollout/ep_rew_mean".
            key_excluded: for the same keys the formats, such as "stdout", that are to leave it out.
            step: environment steps taken so far.
        """
        raise NotImplementedError  # a contract

    def flush(self) -> None:
        """See that what was written can be read."""

    def close(self) -> None:
        """Close what is open."""


def _kept(key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], *names: str) -> dict[str, Any]:
    return {key: value for key, value in key_values.items() if not set(names) & set(key_excluded.get(key, ()))}


class HumanOutputFormat(KVWriter):
    """A table for people: to a text stream, or to the file of that name."""

    at_least = 1.0

    def __init__(self, filename_or_file: str | os.PathLike[str] | TextIO) -> None:
        self._own = not hasattr(filename_or_file, "write")
        self.file: TextIO = open(filename_or_file, "a") if self._own else filename_or_file  # type: ignore[arg-type, assignment]  # noqa: SIM115

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        rows: dict[str, str] = {}
        section = ""
        for key, value in sorted(_kept(key_values, key_excluded, "stdout", "log").items()):
            head, slash, name = key.rpartition("/")
            if slash and head != section:
                section = head
                rows[f"{head}/"] = ""
            shown = f"   {name}" if slash else key
            rows[shown[: LONGEST_KEY - 1] + "…" if len(shown) > LONGEST_KEY else shown] = _number(value)
        if not rows:
            return
        left, right = (max(map(len, column)) for column in (rows.keys(), rows.values()))
        rule = "-" * (left + right + 7)
        lines = [rule, *(f"| {key:<{left}} | {value:<{right}} |" for key, value in rows.items()), rule]
        if self._own:
            print("\n".join(lines), file=self.file, flush=True)
            return
        from tqdm.auto import tqdm  # its `write` leaves a progress bar whole

        tqdm.write("\n".join(lines), file=self.file)
        self.file.flush()

    def close(self) -> None:
        if self._own:
            self.file.close()


def _number(value: Any) -> str:
    return f"{value:<8.3g}".rstrip() if isinstance(value, float) else str(value)


class JSONOutputFormat(KVWriter):
    """One JSON object a line."""

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.file = open(filename, "a")  # noqa: SIM115

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        row = _kept(key_values, key_excluded, "json")
        print(json.dumps(row, default=lambda value: value.item() if hasattr(value, "item") else str(value)),
              file=self.file, flush=True)  # fmt: skip

    def close(self) -> None:
        self.file.close()


class CSVOutputFormat(KVWriter):
    """Comma-separated values; a key that comes later adds a column, for which the file is written anew."""

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        self.path = Path(filename)
        self.columns: list[str] = []
        self.file = open(self.path, "w", newline="")  # noqa: SIM115

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        row = _kept(key_values, key_excluded, "csv")
        new = [key for key in row if key not in self.columns]
        if new:
            self.file.close()
            rows = read_csv(self.path)
            self.columns += new
            writer = csv.DictWriter(text := io.StringIO(newline=""), self.columns)
            writer.writeheader()
            writer.writerows(rows)
            with replacing(self.path) as whole:
                whole.write(text.getvalue().encode())
            self.file = open(self.path, "a", newline="")  # noqa: SIM115
        csv.DictWriter(self.file, self.columns).writerow(row)
        self.file.flush()

    def close(self) -> None:
        self.file.close()


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, by column."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class TensorBoardOutputFormat(KVWriter):
    """TensorBoard's event files in `folder`: numbers, as scalars; texts and arrays are left out.

    Raises:
        ImportError: without TensorBoard, naming what to install.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(NO_TENSORBOARD) from error
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self.writer = EventFileWriter(os.fspath(folder))

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        values = _kept(key_values, key_excluded, "tensorboard")
        scalars = [self._summary.Value(tag=key, simple_value=float(value)) for key, value in values.items()
                   if getattr(value, "shape", ()) == () and not isinstance(value, str)]  # fmt: skip
        self.writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars)))

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Logger:
    """Gathers numbers by key, and writes them to every output when they are dumped.

    Args:
        folder: where the files of its outputs are; None for none.
        output_formats: the writers.
    """

    def __init__(self, folder: str | None, output_formats: Sequence[KVWriter] = ()) -> None:
        self.dir, self.output_formats = folder, list(output_formats)
        self.name_to_value: dict[str, Any] = {}
        self.name_to_excluded: dict[str, tuple[str, ...]] = {}
        self._counts: dict[str, int] = {}
        # For each output what it has not written yet, and when it wrote last.
        self._held: list[tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = [({}, {}) for _ in self.output_formats]
        self._written: dict[int, float] = {}

    def record(self, key: str, value: Any, exclude: str | Sequence[str] | None = None) -> None:
        """Set the value of `key` in the next dump, except in the formats that `exclude` names."""
        self.name_to_value[key] = value
        self.name_to_excluded[key] = (exclude,) if isinstance(exclude, str) else tuple(exclude or ())

    def record_mean(self, key: str, value: float | None, exclude: str | Sequence[str] | None = None) -> None:
        """The same for the mean of all values that are recorded so until the next dump; None counts as none."""
        if value is None:
            return
        n = self._counts.get(key, 0)
        self._counts[key] = n + 1
        self.record(key, (self.name_to_value[key] * n + value) / (n + 1) if n else value, exclude)

    def dump(self, step: int = 0, patient: bool = False) -> None:
        """Write what was recorded, and forget it.

        Args:
            step: environment steps taken so far.
            patient: outputs that had a row less than their `at_least` seconds ago write the values with a later one.
        """
        now = time.monotonic()
        for i, (output, (values, excluded)) in enumerate(zip(self.output_formats, self._held, strict=True)):
            values.update(self.name_to_value)
            excluded.update(self.name_to_excluded)
            if not patient or i not in self._written or now - self._written[i] >= output.at_least:
                self._written[i] = now
                output.write(values, excluded, step)
                values.clear()
                excluded.clear()
        for recorded in (self.name_to_value, self.name_to_excluded, self._counts):
            recorded.clear()

    def release(self, step: int = 0) -> None:
        """Write what outputs have held back until a later dump, as if that were now."""
        for output, (values, excluded) in zip(self.output_formats, self._held, strict=True):
            if values:
                output.write(values, excluded, step)
                values.clear()
                excluded.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> Logger:
        """A copied model tells nothing: the outputs, files among them, are those of the first."""
        return Logger(self.dir)

    def log(self, *args: Any) -> None:
        """Print to the outputs for people."""
        for output in self.output_formats:
            if isinstance(output, HumanOutputFormat):
                print(*args, file=output.file, flush=True)

    info = warn = error = debug = log

    def get_dir(self) -> str | None:
        """The folder."""
        return self.dir

    def close(self) -> None:
        """Close every output."""
        for output in self.output_formats:
            with contextlib.suppress(ValueError):  # closed already
                output.close()


def configure(folder: str | os.PathLike[str] | None = None, format_strings: Sequence[str] = ("stdout",)) -> Logger:
    """A logger that writes to the console ("stdout") and to files in `folder`.

    Args:
        folder: made if missing; None where no format needs it.
        format_strings: "stdout" (a table), "log" (the same in log.txt), "csv" (progress.csv), "json" (progress.json),
            "tensorboard" (event files).

    Raises:
        ValueError: for an unknown format, or one that needs a folder without one.
        ImportError: for "tensorboard" where it is not installed.
    """
    unknown = [name for name in format_strings if name not in FORMATS]
    if unknown:
        raise ValueError(f"there is no format {unknown[0]!r}; there are {', '.join(FORMATS)}")
    if folder is None and set(format_strings) - {"stdout"}:
        raise ValueError(f"the formats {', '.join(format_strings)} write files: give the folder that they go to")
    if "tensorboard" in format_strings and importlib.util.find_spec("tensorboard") is None:
        raise ImportError(NO_TENSORBOARD)  # before a folder is made
    place = Path("." if folder is None else folder)
    place.mkdir(parents=True, exist_ok=True)
    make = {
        "stdout": lambda: HumanOutputFormat(sys.stdout),
        "log": lambda: HumanOutputFormat(place / "log.txt"),
        "csv": lambda: CSVOutputFormat(place / "progress.csv"),
        "json": lambda: JSONOutputFormat(place / "progress.json"),
        "tensorboard": lambda: TensorBoardOutputFormat(place),
    }
    return Logger(None if folder is None else os.fspath(folder), [make[name]() for name in format_strings])
