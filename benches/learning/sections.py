"""The page's second part: each setting by itself, with its picture, and the programs of the course."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from benches.learning.charts import Curve, draw
from benches.learning.libraries import options_of
from benches.learning.settings import AGENTS, PRESET, PROGRAM, SAME, SETTINGS, Setting
from benches.learning.statistics import iqm_curve
from benches.learning.table import Cell, Cells, Clock, Row, setting_of
from benches.learning.words import count, heading, interval, named, number, options
from benches.report import table as markdown
from benches.wording import digits, times


def setting(row: Row, page: Path, clock: Clock) -> str:
    """What was trained, its table, its picture."""
    of = setting_of(row)
    present = [cell for x, cell in row.items() if x in AGENTS and cell.runs]
    text = f"## {heading(of)}\n\n{_what(of, present)}"
    if not present:
        return text + "\n\nNo runs."
    rows = [
        [cell.library, interval(cell.final), interval(cell.area),
         f"{np.sum(cell.column('final') >= of.promised)} of {len(cell.runs)}"]
        for cell in present
    ]  # fmt: skip
    text += "\n\n" + markdown(["", "final score", "area", "runs that got it"], rows)
    picture = page.with_suffix("") / f"{of.key}.png"
    draw(of.promised, [_curve(cell, clock) for cell in present], clock, picture)
    return text + f"\n\n![Learning curves of {heading(of)}]({page.stem}/{picture.name})"


def _what(of: Setting, present: list[Cell]) -> str:
    steps = max((round(run["steps"][-1]) for cell in present for run in cell.runs), default=of.steps)
    text = f"{steps:,} steps"
    if of.steps < of.published:
        text += f", cut from the {of.published:,} that go with these hyperparameters"
    text += f"; promised is {number(of.promised)}. {_copies(of.n_envs)}, {options(of.options)}."
    if base := next((x for x in SETTINGS.values() if of.whose == "ours" and x.whose == "published" and
                     (x.algorithm, x.env) == (of.algorithm, of.env)), None):  # fmt: skip
        text += f" Not those published: {', '.join(_unlike(of, SAME, base))}."
    if of.without:
        text += f" Without its {of.without}: fastrl has none, and no library was given it."
    return text


def _copies(n: int) -> str:
    return "1 environment" if n == 1 else f"{n} environments"


def _all_options(of: Setting, library: str) -> dict[str, Any]:
    """Those that a run is given and the algorithm's defaults, in one dict without nesting."""
    values, n_envs, _ = options_of(of, library)
    function = fastrl.q_learning if of.algorithm == "Q-learning" else getattr(fastrl, of.algorithm)
    signature = inspect.signature(function)
    defaults = {name: x.default for name, x in signature.parameters.items() if x.default is not x.empty}
    values = {"net_arch": [64, 64], "activation_fn": "Tanh", **defaults, "n_envs": n_envs, **values}
    return {**values, **(values.pop("policy_kwargs", None) or {})}


def _unlike(of: Setting, library: str, base: Setting) -> dict[str, Any]:
    """What `library` is given for `of`, where it is not what SAME would be given for `base`."""
    ours, theirs = _all_options(of, library), _all_options(base, SAME)
    return {name: value for name, value in ours.items() if value != theirs[name]}


def _curve(cell: Cell, clock: Clock) -> Curve:
    steps, seconds = (np.median(cell.column(name), axis=0) for name in ("steps", clock))
    return Curve(cell.library, steps, seconds, iqm_curve(cell.column("scores")))


def course(table: Cells, clock: Clock) -> str:
    """Seconds to what is promised, the programs of the course beside ours."""
    parts = [
        """## The course's programs

The programs of `benches/classic/` are what a reader of a course types: Gymnasium, NumPy and Torch, no care for speed.
Ours ran with the same hyperparameters, and with the preset, or, where there is none, with the defaults of
`q_learning`. Seconds of training until an evaluation reaches what is
promised, and 100 other episodes confirm it: median (lowest to highest) over the seeds that reached it. "Times as fast"
is of medians over all seeds, where those that did not reach it took for ever."""
    ]
    for row in table.values():
        of = setting_of(row)
        base = _median(row.get(PROGRAM), clock)
        rows = [
            [named(of, cell.library), _range(cell, clock),
             f"{np.sum(np.isfinite(cell.reached(clock)))} of {len(cell.runs)}", _times(cell, base, clock)]
            for cell in row.values() if cell.runs
        ]  # fmt: skip
        if not rows:
            continue
        often = f"looked at {count(of.marks, 'time')} in {of.steps:,} steps"
        parts.append(f"**{of.title}**, promised {number(of.promised)}, {often}:")
        parts.append(markdown(["", "seconds", "seeds", "times as fast"], rows))
        if PRESET in row and (changed := options(_unlike(of, PRESET, of))):
            whose = "`q_learning` by default" if of.algorithm == "Q-learning" else "the preset"
            parts.append(f"Unlike the program, {whose} has {changed}.")
    return "\n\n".join(part for part in parts if part)


def _median(cell: Cell | None, clock: Clock) -> float:
    return float(np.median(cell.reached(clock))) if cell is not None and cell.runs else np.nan


def _range(cell: Cell, clock: Clock) -> str:
    reached = cell.reached(clock)
    reached = reached[np.isfinite(reached)]
    if not len(reached):
        return "–"
    median, low, high = (digits(float(x), 3) for x in (np.median(reached), reached.min(), reached.max()))
    return median if low == high else f"{median} ({low} to {high})"


def _times(cell: Cell, base: float, clock: Clock) -> str:
    median = _median(cell, clock)
    if cell.library == PROGRAM or np.isnan(base) or not np.isfinite(median):
        return "" if cell.library == PROGRAM else "–"
    return times(base / median) if np.isfinite(base) else "the program's median seed never does"
