"""The page: every figure and every verdict in it is worked out from the results that it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benches.learning import sections, summary
from benches.learning.results import Line
from benches.learning.settings import COURSE
from benches.learning.table import Cells, Clock, cells, everything, setting_of
from benches.learning.words import count, heading
from fastrl.files import replacing


def write(lines: list[Line], path: Path, scale: float = 1.0, clock: Clock = "processor") -> Path:
    """Write the page to `path` and its pictures into the folder of its name beside it; returns `path`."""
    table, others = cells(lines, scale)
    agents = {key: row for key, row in table.items() if setting_of(row).libraries != COURSE}
    course = {key: row for key, row in table.items() if setting_of(row).libraries == COURSE}
    parts = ["# Learning", _introduction(table, scale)]
    if agents:
        parts += [summary.in_short(agents, clock), summary.worse(agents, clock), summary.scores(agents),
                  summary.speed(agents, clock)]  # fmt: skip
    parts.append(_protocol(table, others, clock))
    parts += [sections.setting(row, path, clock) for row in agents.values()]
    if course:
        parts.append(sections.course(course, clock))
    parts.append(_left_out(table))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(("\n\n".join(part.strip() for part in parts if part.strip()) + "\n").encode())
    return path


def _introduction(table: Cells, scale: float) -> str:
    numbers = [len(cell.runs) for cell in everything(table) if cell.runs]
    seeds = "no runs" if not numbers else f"{count(sum(numbers), 'run')}, {count(min(numbers), 'seed')} of each"
    if numbers and min(numbers) != max(numbers):
        seeds = f"{count(sum(numbers), 'run')}, {min(numbers)} to {count(max(numbers), 'seed')} of each"
    text = f"""What agents learn at equal hyperparameters and equal steps, how soon, and how sure that is. This page is what

```bash
python -m benches learning
```

wrote, after {seeds}. Running it again goes on where it stopped; `--help` shows how to choose settings, seeds and
libraries; `pip install -e ".[bench,peers,box2d]"` installs what it needs."""
    if scale != 1:
        text += f"\n\n**A look, not a result: all steps are multiplied by {scale:g}.**"
    return text


def _protocol(table: Cells, others: int, clock: Clock) -> str:
    runs = [run for cell in everything(table) for run in cell.runs]
    text = """## How it was measured

- Each run is a process of its own with one thread. A first small run, not counted, loads and compiles what is needed.
- At 20 equally spaced marks (50 or 100 in the course's settings), after the first iteration that reaches them, the
  agent plays 20 episodes (100 on the lake) by its likeliest actions in Gymnasium's own environments, and 100 others at
  the end, whose mean is the final score; the first observations are the same for all. The clocks stand still meanwhile.
- IQM is the mean of the middle half of the runs; in brackets its 95 % interval by stratified bootstrap over seeds
  (rliable). A figure without brackets has an interval no wider than itself.
- The area under the curve is the mean of all marks' scores, 0 being what a random policy gets, 1 what is promised.
- Hyperparameters: "published" are RL Zoo's, those of the preset are fastrl's own; all libraries get the same, and what
  is not named is Stable-Baselines3's default.
- The compiled engine plays in fastrl's compiled environments where there are such, the others in Gymnasium's.
"""
    text += _seconds(runs, clock)
    if sections.understated(table):
        text += (
            "- DQN's runs by the compiled engine show the model to the harness after each round, so that marks can be "
            "kept, which takes them off [the fastest path](speed.md): their seconds overstate what the same training "
            "takes without a callback.\n"
        )
    if others:
        text += f"- {count(others, 'run')} in the file are of other options, steps or versions and are not counted.\n"
    return text + _machine(runs)


def _seconds(runs: list[Line], clock: Clock) -> str:
    """Which clock, why, and how far the other is from it."""
    ratios = [run["wall"][-1] / run["processor"][-1] for run in runs if run["processor"] and run["processor"][-1] > 0]
    if not ratios:
        return ""
    apart = f"{np.median(ratios):.2f} times those of the processor (median of {count(len(ratios), 'run')})"
    if clock == "wall":
        return f"- Seconds are those on the wall: {apart}.\n"
    return (
        "- Seconds are those that the processor worked for the run's process: a training of one thread that waits for "
        "nothing takes as many on the wall of a machine that does nothing else. Here runs shared the machine, and "
        f"seconds on the wall were {apart}; `--clock wall` shows them.\n"
    )


def _machine(runs: list[Line]) -> str:
    described = [run["conditions"] for run in runs if "conditions" in run]
    versions = {str(run["version"]) for run in runs}
    versions |= {f"{name} {of[name]}" for of in described for name in ("python", "numpy", "torch", "gymnasium", "numba")}
    loads = [run["load"] for run in runs if "load" in run]
    lines = [
        ("Machine", "; ".join(sorted({of["machine"] for of in described}))), ("Versions", ", ".join(sorted(versions))),
        ("Load", f"{min(loads):.1f} to {max(loads):.1f}" if loads else ""),
        ("Date", " to ".join(sorted({f(of["when"][:10] for of in described) for f in (min, max)})) if described else ""),
    ]  # fmt: skip
    return "".join(f"- {name}: {value}.\n" for name, value in lines if value)


def _left_out(table: Cells) -> str:
    """What is absent, failed or cut."""
    lines = [f"- {heading(cell.setting)}, {cell.library}: absent, {cell.absent}."
             for cell in everything(table) if cell.absent and not cell.runs]  # fmt: skip
    for cell in everything(table):
        lines += [f"- {heading(cell.setting)}, {cell.library}, seed {run['seed']}: failed, {run['error']}"
                  for run in cell.failed]  # fmt: skip
    lines += [f"- {heading(of)}: {of.steps:,} steps of {of.published:,}, to save time."
              for of in map(setting_of, table.values()) if of.steps < of.published]  # fmt: skip
    return "## What is left out or cut\n\n" + ("\n".join(lines) or "Nothing.")
