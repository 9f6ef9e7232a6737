"""The page: every figure and every verdict in it is worked out from the results that it is given."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benches.learning import statistics as stats
from benches.learning.charts import Curve, draw
from benches.learning.results import Line
from benches.learning.settings import COMPILED, COURSE, PROGRAM, SB3, TORCH, Setting
from benches.learning.statistics import Estimate
from benches.learning.table import Cell, Cells, cells

OURS = (COMPILED, TORCH)


def write(lines: list[Line], path: Path, scale: float = 1.0) -> Path:
    """Write the page to `path` and its pictures into the folder of its name beside it; returns `path`."""
    table, others = cells(lines, scale)
    agents = {key: row for key, row in table.items() if not _is_course(row)}
    course = {key: row for key, row in table.items() if _is_course(row)}
    parts = [_head(table, scale, others)]
    if agents:
        parts += [_short(agents), _together(agents), *(_setting(row, path) for row in agents.values())]
    if course:
        parts.append(_course(course))
    parts.append(_left_out(table))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
    return path


def _is_course(row: dict[str, Cell]) -> bool:
    return next(iter(row.values())).setting.libraries == COURSE


def _all(table: Cells) -> Iterable[Cell]:
    return (cell for row in table.values() for cell in row.values())


def _scores(cell: Cell) -> np.ndarray:
    return cell.setting.normalized(cell.column("final"))


def _areas(cell: Cell) -> np.ndarray:
    """Mean of the normalised scores at all marks: the area under the curve."""
    return cell.setting.normalized(cell.column("scores")).mean(axis=1)


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 10 else f"{x:.2f}"


def _interval(x: Estimate, digits: str = "") -> str:
    one = (lambda v: format(v, digits)) if digits else _number
    return f"{one(x.value)} ({one(x.low)} to {one(x.high)})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _name(setting: Setting) -> str:
    return f"{setting.title} ({setting.whose})"


def _head(table: Cells, scale: float, others: int) -> str:
    runs = [run for cell in _all(table) for run in cell.runs]
    seeds = [len(cell.runs) for cell in _all(table) if cell.runs]
    many = f"{min(seeds)}" if seeds and min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}" if seeds else "no"
    versions = sorted({str(run["version"]) for run in runs})
    base = sorted({" ".join((name, str(run["conditions"][name]))) for run in runs if "conditions" in run
                   for name in ("python", "numpy", "torch", "gymnasium", "numba")})  # fmt: skip
    machines = sorted({run["conditions"]["machine"] for run in runs if "conditions" in run})
    loads = [run["load"] for run in runs if "load" in run]
    text = f"""# Learning

What agents learn at equal hyperparameters and equal steps, how soon, and how sure that is. This page is what

```
python -m benches.learning
```

wrote, after {len(runs):,} runs, {many} seeds of each. `--help` shows how to choose settings, seeds and libraries;
running it again goes on where it stopped (`pip install -e ".[bench,peers,box2d]"`).

- Each run is a process of its own with one thread. A first small run, not counted, loads and compiles what is needed.
- At 20 equally spaced marks, after the first iteration that reaches them, the agent plays 20 episodes by its likeliest
  actions in Gymnasium's own environments, after the last one 100 others; the first observations are the same for all.
  The clocks stand still meanwhile.
- IQM is the mean of the middle half of the seeds; in brackets its 95 % interval by stratified bootstrap (rliable).
- Hyperparameters: "published" are RL Zoo's, "ours" are fastrl's presets; both libraries get the same.
- The compiled engine plays in fastrl's compiled environments where there are such, the others in Gymnasium's.
"""
    if scale != 1:
        text += f"- **A look, not a result: all steps are multiplied by {scale:g}.**\n"
    if others:
        text += f"- {others} runs in the file are of other options, steps or versions and are not counted.\n"
    if runs:
        text += f"\n{'; '.join(versions)}; {', '.join(base)}. {'; '.join(machines)}"
        text += f", load {min(loads):.1f} to {max(loads):.1f}." if loads else "."
    return text


class Comparison:
    """One of ours beside Stable-Baselines3 in one setting: final scores and areas under the curve."""

    def __init__(self, ours: Cell, theirs: Cell) -> None:
        self.setting, self.library = ours.setting, ours.library
        self.final = stats.iqm(ours.column("final")), stats.iqm(theirs.column("final"))
        self.area = stats.iqm(_areas(ours)), stats.iqm(_areas(theirs))
        self.verdict, self.efficiency = stats.verdict(*self.final), stats.verdict(*self.area)
        self.enough = min(len(ours.runs), len(theirs.runs)) > 1


def _comparisons(row: dict[str, Cell]) -> list[Comparison]:
    theirs = row.get(SB3)
    if theirs is None or not theirs.runs:
        return []
    return [Comparison(row[x], theirs) for x in OURS if x in row and row[x].runs]


def _short(table: Cells) -> str:
    """Who is ahead where, in words."""
    found = [c for row in table.values() for c in _comparisons(row) if c.enough]
    if not found:
        return f"## In short\n\nNothing can be compared: no setting has two seeds of both fastrl and {SB3}."
    text = "## In short\n\n"
    for library in OURS:
        of = [c for c in found if c.library == library]
        if not of:
            continue
        text += f"**{library}**, beside {SB3} in {len(of)} settings:\n\n"
        for what, kind in (("final scores", "verdict"), ("area under the learning curve", "efficiency")):
            for verdict, words in (("ahead", "is ahead"), ("behind", "is behind"), ("overlap", "intervals overlap")):
                names = [_name(c.setting) for c in of if getattr(c, kind) == verdict]
                text += f"- {what}: {words} in {_listed(names)}.\n" if names else ""
        text += "\n"
    worse = _worse(found)
    return text + "### Where fastrl is worse\n\n" + (worse or "Nowhere: no figure of fastrl's is below.")


def _worse(found: list[Comparison]) -> str:
    lines = []
    for c in found:
        for what, (ours, theirs), verdict, digits in (
            ("final score", c.final, c.verdict, ""), ("area under the curve", c.area, c.efficiency, ".2f"),
        ):  # fmt: skip
            if ours.value < theirs.value:
                sure = "the intervals overlap" if verdict == "overlap" else "the intervals do not overlap"
                lines.append((verdict == "overlap", f"- {_name(c.setting)}, {c.library}: {what} "
                              f"{_interval(ours, digits)}, {SB3} {_interval(theirs, digits)}; {sure}."))  # fmt: skip
    return "\n".join(text for _, text in sorted(lines, key=lambda line: line[0]))


def _together(table: Cells) -> str:
    """All settings at once, with normalised scores, and the probability of improvement."""
    rows = [row for row in table.values() if all(x in row and row[x].runs for x in (*OURS, SB3))]
    if not rows:
        return ""
    libraries = (*OURS, SB3)
    n = min(len(row[x].runs) for row in rows for x in libraries)
    text = (
        f"## All settings together\n\nThe {len(rows)} settings that all three have, {n} seeds of each; 0 is a random "
        "policy's score, 1 what is promised.\n\n| | IQM | area under the curve |\n|---|---|---|\n"
    )
    finals = {x: np.stack([_scores(row[x])[:n] for row in rows], axis=1) for x in libraries}
    areas = {x: np.stack([_areas(row[x])[:n] for row in rows], axis=1) for x in libraries}
    for x in libraries:
        text += f"| {x} | {_interval(stats.iqm(finals[x]), '.3f')} | {_interval(stats.iqm(areas[x]), '.3f')} |\n"
    text += f"\nThe probability that a run is better than one of {SB3}, ties counting half:\n\n"
    text += "| | by its final score | by its area |\n|---|---|---|\n"
    for x in OURS:
        final, area = stats.improvement(finals[x], finals[SB3]), stats.improvement(areas[x], areas[SB3])
        text += f"| {x} | {_interval(final, '.2f')} | {_interval(area, '.2f')} |\n"
    return text


def _setting(row: dict[str, Cell], page: Path) -> str:
    """One setting: its table, its verdicts, its picture."""
    setting = next(iter(row.values())).setting
    present = [cell for cell in row.values() if cell.runs]
    text = f"## {setting.title}, {setting.whose} hyperparameters\n\n"
    steps = max((round(run["steps"][-1]) for cell in present for run in cell.runs), default=setting.steps)
    text += f"{steps:,} steps"
    if setting.steps < setting.published:
        text += f", where the hyperparameters were published for {setting.published:,}"
    text += f"; promised: {_number(setting.promised)}.\n\n"
    if not present:
        return text + "No runs."
    text += "| | final IQM | runs that got it | s | s of processor |\n|---|---|---|---|---|\n"
    for cell in present:
        final = cell.column("final")
        wall, processor = (np.median(cell.column(name)[:, -1]) for name in ("wall", "processor"))
        text += (f"| {cell.library} | {_interval(stats.iqm(final))} "
                 f"| {np.sum(final >= setting.promised)} of {len(final)} "
                 f"| {_number(float(wall))} | {_number(float(processor))} |\n")  # fmt: skip
    text += "\n" + " ".join(filter(None, (_sentence(c) for c in _comparisons(row))))
    file = page.with_suffix("") / f"{setting.key}.png"
    draw(f"{setting.title}, {setting.whose} hyperparameters: IQM, 95 % intervals", setting.promised,
         [_curve(cell) for cell in present], file)  # fmt: skip
    return text + f"\n\n![Learning curves of {setting.title}, {setting.whose}]({page.stem}/{file.name})"


def _curve(cell: Cell) -> Curve:
    steps, seconds = (np.median(cell.column(name), axis=0) for name in ("steps", "wall"))
    return Curve(cell.library, steps, seconds, stats.iqm_curve(cell.column("scores")))


def _sentence(c: Comparison) -> str:
    if not c.enough:
        return f"One seed says nothing of {c.library} beside {SB3}."
    words = {"ahead": f"is ahead of {SB3}", "behind": f"is behind {SB3}", "overlap": f"and {SB3} overlap"}
    said = words[c.verdict] + ("" if c.verdict == "overlap" else ": the intervals of final scores do not overlap")
    area = f"{_interval(c.area[0], '.2f')} beside {_interval(c.area[1], '.2f')}"
    how = {"ahead": "ahead", "behind": "behind", "overlap": "overlapping"}[c.efficiency]
    return f"{c.library} {said}; area under the curve {area}, {how}."


def _course(table: Cells) -> str:
    """Seconds to what is promised, the programs of the course beside ours."""
    text = """## The course's programs

The programs of `benches/classic/` are what a reader of a course types: Gymnasium, NumPy and Torch, no care for speed.
Ours ran with the same hyperparameters, and with the preset. Seconds of training until an evaluation reaches what is
promised, and 100 other episodes confirm it: median (lowest to highest) over the seeds that reached it. "Times as fast"
is of medians over all seeds, where those that did not reach it took for ever.
"""
    for row in table.values():
        setting = next(iter(row.values())).setting
        base = float(np.median(row[PROGRAM].reached)) if PROGRAM in row and row[PROGRAM].runs else np.nan
        text += f"\n**{setting.title}**, promised {_number(setting.promised)}:\n\n"
        text += "| | s | seeds | times as fast |\n|---|---|---|---|\n"
        for cell in row.values():
            if not cell.runs:
                continue
            reached = cell.reached[np.isfinite(cell.reached)]
            median = float(np.median(cell.reached))
            seconds = "–"
            if len(reached):
                seconds = f"{np.median(reached):.3g} ({reached.min():.3g} to {reached.max():.3g})"
            times = "" if cell.library == PROGRAM else "–"
            if cell.library != PROGRAM and np.isfinite(median) and base > 0:
                times = f"{base / median:,.0f}" if np.isfinite(base) else "the program's median seed does not reach it"
            text += f"| {cell.library} | {seconds} | {len(reached)} of {len(cell.runs)} | {times} |\n"
    return text


def _left_out(table: Cells) -> str:
    """What is absent, failed or cut."""
    lines = [f"- {_name(cell.setting)}, {cell.library}: absent, {cell.absent}."
             for cell in _all(table) if cell.absent and not cell.runs]  # fmt: skip
    for cell in _all(table):
        lines += [f"- {_name(cell.setting)}, {cell.library}, seed {run['seed']}: failed: {run['error']}"
                  for run in cell.failed]  # fmt: skip
    lines += [
        f"- {_name(setting)}: {setting.steps:,} steps of {setting.published:,}, to save time."
        for setting in (next(iter(row.values())).setting for row in table.values()) if setting.steps < setting.published
    ]  # fmt: skip
    return "## What is left out or cut\n\n" + ("\n".join(lines) or "Nothing.")
