"""The file of results: one line of JSON a run, appended when the run is over, so that nothing done is lost."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benches.learning.libraries import options_of
from benches.learning.settings import Setting

Line = dict[str, Any]
SOFTWARE = ("python", "numpy", "torch", "gymnasium", "numba")
DESCRIBED = {*SOFTWARE, "machine", "when"}  # in the conditions of a run; the earliest lines have no commit


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
    """All lines that are `whole`, in order; none where there is no file."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and whole(line):
            lines.append(line)
    return lines


def whole(line: Line) -> bool:
    """Whether a line says which run it is, and why it is absent, or what went wrong, or all that came of it."""
    if not all(isinstance(line.get(name), str) for name in ("setting", "library", "digest")):
        return False
    if not isinstance(line.get("version", ""), str) or not _described(line.get("conditions", {})):
        return False
    if line.get("seed", 0) is None:
        return isinstance(line.get("absent"), str)
    if type(line.get("seed")) is not int or not all(_number(line[x]) for x in ("took", "first", "load") if x in line):
        return False
    if "error" in line:
        return isinstance(line["error"], str)
    steps, *others = (line.get(name) for name in ("steps", "scores", "wall", "processor"))
    return (
        _numbers(steps) and all(_numbers(x) and len(x) == len(steps) for x in others) and _number(line.get("final"))
        and ("reached" not in line or (_numbers(line["reached"]) and len(line["reached"]) == 2))
    )  # fmt: skip


def _number(x: Any) -> bool:
    return type(x) in (int, float) and abs(x) <= sys.float_info.max


def _numbers(x: Any) -> bool:
    return isinstance(x, list) and len(x) > 0 and all(map(_number, x))


def _described(x: Any) -> bool:
    if not isinstance(x, dict) or not all(isinstance(text, str) for text in x.values()):
        return False
    return not x or x.keys() >= DESCRIBED


def key(line: Line) -> tuple[Any, ...]:
    """What two lines have in common of which the later one counts."""
    return line["setting"], line["library"], line["seed"], line["digest"], line.get("version")


def latest(lines: Iterable[Line]) -> dict[tuple[Any, ...], Line]:
    """The last line of each run."""
    return {key(line): line for line in lines}
