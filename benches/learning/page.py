"""The page: every figure and every verdict in it is worked out from the results that it is given."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benches.learning import sections, summary
from benches.learning.comparison import times_as_fast
from benches.learning.evaluation import EPISODES
from benches.learning.results import SOFTWARE, Line, latest
from benches.learning.settings import COMPILED, COURSE, PRESET, SAME, SETTINGS, UNWATCHED
from benches.learning.table import Cells, Clock, cells, everything, setting_of
from benches.learning.words import brief, count, heading, listed, named
from benches.wording import times
from fastrl.files import replacing

RUNS = "results.jsonl"


def write(lines: list[Line], path: Path, scale: float = 1.0, clock: Clock = "processor") -> Path:
    """Write the page to `path`; into the folder of its name beside it its pictures and the runs. Returns `path`."""
    table, others = cells(lines, scale)
    agents = {key: row for key, row in table.items() if setting_of(row).libraries != COURSE}
    course = {key: row for key, row in table.items() if setting_of(row).libraries == COURSE}
    parts = ["# Learning", _introduction(table, path, scale)]
    if agents:
        parts += [summary.in_short(agents, clock), summary.worse(agents, clock), summary.scores(agents),
                  summary.speed(agents, clock)]  # fmt: skip
    parts.append(_protocol(table, others, clock))
    parts += [sections.setting(row, path, clock) for row in agents.values()]
    if course:
        parts.append(sections.course(course, clock))
    parts.append(_left_out(table))
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    with replacing(path.with_suffix("") / RUNS) as file:
        file.write("".join(json.dumps(line) + "\n" for line in latest(lines).values()).encode())
    with replacing(path) as file:
        file.write(("\n\n".join(part.strip() for part in parts if part.strip()) + "\n").encode())
    return path


def _introduction(table: Cells, path: Path, scale: float) -> str:
    numbers = [len(cell.runs) for cell in everything(table) if cell.runs]
    seeds = "no runs" if not numbers else f"{count(sum(numbers), 'run')}, {count(min(numbers), 'seed')} of each"
    if numbers and min(numbers) != max(numbers):
        seeds = f"{count(sum(numbers), 'run')}, {min(numbers)} to {count(max(numbers), 'seed')} of each"
    command, runs = _command(table, max(numbers, default=1), scale), path.with_suffix("") / RUNS
    text = f"""What agents learn at equal hyperparameters and equal steps, how soon, and how sure that is. The page is
made of {seeds}, which

```bash
{command}
```

trains, where `pip install -e ".[bench,peers,box2d]"` has installed what it needs. They are in
[{runs.name}]({path.stem}/{RUNS}); of them this page was written by

```bash
python -m benches learning --no-train --results-file {shlex.quote(str(runs))} --page {shlex.quote(str(path))}
```"""
    if scale != 1:
        text += f"\n\n**A look, not a result: all steps are multiplied by {scale:g}.**"
    return text


def _command(table: Cells, seeds: int, scale: float) -> str:
    """What trains the runs of the table; one that was stopped goes on when it is given again."""
    every = dict.fromkeys(library for row in table.values() for library in setting_of(row).libraries)
    known = {cell.library for cell in everything(table) if cell.runs or cell.absent}
    words = ["python", "-m", "benches", "learning", *(["--seeds", str(seeds)] if seeds != 10 else [])]
    words += [] if set(table) == {key for key, of in SETTINGS.items() if of.default} else ["--settings", *table]
    words += ["--libraries", *(x for x in every if x in known)] if set(every) != known else []
    return shlex.join(words + (["--scale", f"{scale:g}"] if scale != 1 else []))


def _protocol(table: Cells, others: int, clock: Clock) -> str:
    runs = [run for cell in everything(table) for run in cell.runs]
    settings = [setting_of(row) for row in table.values()]
    marks, episodes = (_or(getattr(x, name) for x in settings) for name in ("marks", "episodes"))
    text = f"""## How it was measured

- Each run is a process of its own with one thread. A first small run, not counted, loads and compiles what is needed.
- At equally spaced marks, {marks} of them, after the first iteration that reaches each, the agent plays {episodes}
  episodes by its likeliest actions in Gymnasium's own environments, and {EPISODES} others at the end, whose mean is the
  final score; the first observations are the same for all libraries. The clocks stand still meanwhile.
- IQM, the interquartile mean, is the mean of the runs that are left without the lowest quarter and the highest
  quarter of them, each quarter rounded down: of ten runs the middle six. In brackets is its 95 % interval by stratified
  bootstrap over seeds (rliable); where both ends read like the figure, it stands alone.
- What is promised is the score that a setting's section names: where it counts as learnt.
- The area under the curve is the mean of all marks' scores, 0 being what a random policy gets, 1 what is promised.
- Hyperparameters: "published" are RL Zoo's, those of the preset are fastrl's own; all libraries get the same, and what
  is not named is Stable-Baselines3's default.
- The compiled engine plays in fastrl's compiled environments where there are such, the others in Gymnasium's; all
  libraries train in environments that render nothing.
"""
    text += _seconds(runs, clock)
    text += _watched(table, clock)
    if others:
        text += f"- {count(others, 'run')} in the file are of other options, steps or versions and are not counted.\n"
    return text + _machine(runs)


def _or(numbers: Iterable[int]) -> str:
    return " or ".join(str(n) for n in sorted(set(numbers)))


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


def _watched(table: Cells, clock: Clock) -> str:
    """What being shown to the harness costs DQN."""
    if not any(x in row and row[x].runs for row in table.values() for x in (COMPILED, SAME, PRESET)
               if setting_of(row).algorithm == "DQN"):  # fmt: skip
        return ""
    text = (
        "- DQN's runs by the compiled engine show the model to the harness after each round, so that marks can be "
        "kept, which takes them off their fastest path: the page understates how fast they are."
    )
    pairs = [(row[UNWATCHED], row[COMPILED]) for row in table.values() if UNWATCHED in row and COMPILED in row]
    ratios = {brief(a.setting): ratio.median for a, b in pairs if (ratio := times_as_fast(a, b, clock)) is not None}
    if ratios:
        said = listed([f"{times(ratio)} times ({name})" for name, ratio in ratios.items()])
        text += f" Without a callback the same training is {said} as fast, medians over seeds."
    return text + "\n"


def _machine(runs: list[Line]) -> str:
    described = [run["conditions"] for run in runs if run.get("conditions")]
    versions = {run["version"] for run in runs if "version" in run}
    versions |= {f"{name} {of[name]}" for of in described for name in SOFTWARE}
    days = sorted(of["when"][:10] for of in described)
    loads = [run["load"] for run in runs if "load" in run]
    lines = [
        ("Machine", "; ".join(sorted({of["machine"] for of in described}))), ("Versions", ", ".join(sorted(versions))),
        ("Commits", _commits(described)),
        ("Load", f"{min(loads):.1f} to {max(loads):.1f}" if loads else ""),
        ("Date", " to ".join(dict.fromkeys([*days[:1], *days[-1:]]))),
    ]  # fmt: skip
    return "".join(f"- {name}: {value}.\n" for name, value in lines if value)


def _commits(described: list[dict[str, Any]]) -> str:
    """Of fastrl and these benches, by which the runs were made."""
    runs = Counter(of.get("commit") or "not recorded" for of in described)
    text = ", ".join(f"{commit} ({count(n, 'run')})" for commit, n in runs.items())
    return text + ("; + is with changes" if any(commit.endswith("+") for commit in runs) else "")


def _left_out(table: Cells) -> str:
    """What is absent, failed or cut."""
    lines = [f"- {heading(cell.setting)}, {named(cell.setting, cell.library)}: absent, {cell.absent}."
             for cell in everything(table) if cell.absent and not cell.runs]  # fmt: skip
    for cell in everything(table):
        whose = f"{heading(cell.setting)}, {named(cell.setting, cell.library)}"
        lines += [f"- {whose}, seed {run['seed']}: failed, {run['error']}" for run in cell.failed]
    lines += [f"- {heading(of)}: {of.steps:,} steps of {of.published:,}, to save time."
              for of in map(setting_of, table.values()) if of.steps < of.published]  # fmt: skip
    lines += [f"- {heading(of)}: without its {of.without}." for of in map(setting_of, table.values()) if of.without]
    return "## What is left out or cut\n\n" + ("\n".join(lines) or "Nothing.")
