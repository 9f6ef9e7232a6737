"""The file of results: one line of JSON a run, appended when the run is over, so that nothing done is lost."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benches.learning.libraries import options_of
from benches.learning.settings import Setting

Line = dict[str, Any]


def digest(setting: Setting, library: str, steps: int) -> str:
    """Of all that makes a run what it is, but its seed and the version of the library."""
    options, n_envs, _ = options_of(setting, library)
    what = [setting.algorithm, setting.env, setting.env_options, options, n_envs, steps, setting.marks,
            setting.episodes, setting.until, setting.promised]  # fmt: skip
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def append(path: Path, line: Line) -> None:
    """Add one line, whole: in one write, after the newline that a line cut short would lack, and on the disk."""
    text = json.dumps(line) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Line]:
    """All lines that are whole; none where there is no file."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"setting", "library", "seed", "digest"} <= line.keys():
            lines.append(line)
    return lines


def key(line: Line) -> tuple[Any, ...]:
    """What two lines have in common of which the later one counts."""
    return line["setting"], line["library"], line["seed"], line["digest"], line.get("version")


def latest(lines: Iterable[Line]) -> dict[tuple[Any, ...], Line]:
    """The last line of each run."""
    return {key(line): line for line in lines}
