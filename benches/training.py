"""Whole training runs at equal hyperparameters: ours beside each peer's, steps/s.

python -m benches.training                             every row, every library that is here; see --help
python -m benches.training --rows ppo-sb3 --libraries fastrl stable_baselines3 --rounds 3
python -m benches.training --rows --solve-seeds 10     seconds for a CartPole-v1 that is solved
python -m benches.training --rows --curve-seeds 10     training returns at 10,000, 20,000, … steps

Each library trains in a process of its own with one thread. Rounds are interleaved: in each, every library has its
turn with a fresh model; the table holds medians. The first call in a process, where libraries compile, is a short
run that is not counted; its seconds are in the table. `benches.peers` says where the peers come from.

In the benchmark suite runs are shorter, those of slow libraries most: a step of CartPole or Pendulum costs what it cost
at first, but theirs have not learnt yet. Of LunarLander, and of DQN, all take the same steps; `NOTE` has the numbers. A
run has no exact result: what is checked is that it took the steps that it was asked for, as the library counts them,
and where these are all the steps of its row that it learnt, by a score well above that of random actions. The run that
is checked is the first of the three rounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import weakref
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benches import conditions
from benches.jobs import Job
from benches.learning import SOLVED, Run
from benches.operation import Implementation, Missing, NoPart, Operation, Work, checked_first
from benches.peers import PEERS
from benches.rows import ROWS, SB3, SOLVE, Row

SLOW = (SB3, "sbx", "rlox", "cleanrl")


class Library:
    """A process in which one library trains; `first` is the seconds of its first call.

    `missing` says why it cannot do the job, if so.

    Raises:
        RuntimeError: where it could and fails, then or later.
    """

    def __init__(self, name: str, job: Job, steps: int, engine: str, python: str) -> None:
        asked = json.dumps({"peer": name, "job": job._asdict(), "steps": steps, "engine": engine})
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.name = name
        self.process = subprocess.Popen(
            [python, "-m", "benches.peers", asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, cwd=root, env={**os.environ, **conditions.ONE_THREAD, "PYTHONPATH": paths},
        )  # fmt: skip
        self.close = weakref.finalize(self, end, self.process)  # when nobody needs it, and in any case at the exit
        answer = self._answer()
        self.missing, self.first = answer.get("missing"), answer.get("first", float("nan"))

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"failed": f"its process ended with code {self.process.wait()}"}
        if "failed" in answer:
            raise RuntimeError(f"{self.name}: {answer['failed']}")
        return answer

    def ask(self, wanted: str, seed: int) -> Any:
        """What `benches.peers.main` answers: "speed" or "curve" is wanted."""
        assert self.process.stdin is not None
        print(wanted, seed, file=self.process.stdin, flush=True)
        return self._answer()


def end(process: subprocess.Popen[str]) -> None:
    """A process that waits ends with its input; one that works is killed."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start(names: list[str], job: Job, slow_steps: int, engine: str, python: str) -> dict[str, Library]:
    """The libraries that are here, warm; says what is not, and what fails, unless that is ours."""
    libraries = {}
    for name in names:
        steps = slow_steps if name in SLOW else job.steps
        try:
            library = Library(name, job, steps, engine, sys.executable if name == "fastrl" else python)
        except RuntimeError as error:
            if name == "fastrl":
                raise
            print(f"failed: {error}", file=sys.stderr, flush=True)
            continue
        if library.missing:
            print(f"skipped: {name}: {library.missing}", file=sys.stderr, flush=True)
            library.close()
        else:
            libraries[name] = library
    return libraries


def interleaved(libraries: dict[str, Library], wanted: str, seeds: range) -> dict[str, list[Any]]:
    """Answers of each library, which have their turns with every seed; the processes are ended."""
    answers: dict[str, list[Any]] = {name: [] for name in libraries}
    for seed in seeds:
        for name, library in libraries.items():
            answers[name].append(library.ask(wanted, seed))
    for library in libraries.values():
        library.close()
    return answers


def speed_table(
    rows: list[str], names: list[str], rounds: int, full: bool, engine: str, clock: str, python: str
) -> None:
    """Print steps/s."""
    print("| work | library | steps/s | lowest – highest | first call, s | return | fastrl is x |")
    print("|---|---|---|---|---|---|---|")
    for key in rows:
        row = ROWS[key]
        wanted = [name for name in ("fastrl", *row.peers) if name in names]
        libraries = start(wanted, row.job, row.job.steps if full else row.slow_steps, engine, python)
        ours = float("nan")
        for name, answers in interleaved(libraries, "speed", range(1, rounds + 1)).items():
            runs = [Run(*answer) for answer in answers]
            speeds = [run.steps / (run.seconds if clock == "wall" else run.processor) for run in runs]
            speed, scores = statistics.median(speeds), [run.score for run in runs if run.score is not None]
            ours = speed if name == "fastrl" else ours
            times = "" if name == "fastrl" or np.isnan(ours) else f"{ours / speed:.2f}"
            score = f"{statistics.median(scores):.1f}" if scores else ""
            title = row.title + (f", {row.job.env_threads} threads" if row.job.env_threads > 1 else "")
            print(f"| {title} | {name} | {speed:,.0f} | {min(speeds):,.0f} – {max(speeds):,.0f} "
                  f"| {libraries[name].first:.2f} | {score} | {times} |", flush=True)  # fmt: skip


def solve_table(names: list[str], seeds: int, engine: str, python: str) -> None:
    """Print the seconds of `learn` for a budget of steps that is enough, and what each seed has learnt by then."""
    libraries = start([name for name in ("fastrl", SB3) if name in names], SOLVE, SOLVE.steps, engine, python)
    print(f"\n| PPO CartPole-v1, {SOLVE.steps:,} steps | median, s | lowest – highest | worst return | at least 475 |")
    print("|---|---|---|---|---|")
    for name, answers in interleaved(libraries, "speed", range(seeds)).items():
        runs = [Run(*answer) for answer in answers]
        seconds, scores = sorted(run.seconds for run in runs), [run.score or 0.0 for run in runs]
        print(f"| {name} | {statistics.median(seconds):.2f} | {seconds[0]:.2f} – {seconds[-1]:.2f} | {min(scores):.0f} "
              f"| {sum(score >= SOLVED for score in scores)} of {seeds} |", flush=True)  # fmt: skip


def learning_curves(names: list[str], seeds: int, engine: str, python: str) -> dict[str, np.ndarray]:
    """Training returns [seeds, marks] of each library, SB3's defaults on CartPole-v1; prints means and deviations."""
    job = ROWS["ppo-sb3"].job
    libraries = start([name for name in ("fastrl", SB3) if name in names], job, job.steps, engine, python)
    curves = {name: np.array(answers) for name, answers in interleaved(libraries, "curve", range(seeds)).items()}
    print(f"\n| steps, mean return of the last 100 episodes, {seeds} seeds | {' | '.join(curves)} |")
    print("|---|" + "---|" * len(curves))
    for mark in range(job.steps // 10_000):
        cells = [f"{points[:, mark].mean():.1f} ± {points[:, mark].std():.1f}" for points in curves.values()]
        print(f"| {10_000 * (mark + 1):,} | {' | '.join(cells)} |", flush=True)
    return curves


def main(
    rows: tuple[str, ...] = tuple(ROWS), libraries: tuple[str, ...] = tuple(PEERS), rounds: int = 5,
    full: bool = False, engine: str = "auto", clock: Literal["wall", "processor"] = "wall",
    python: str = sys.executable, solve_seeds: int = 0, curve_seeds: int = 0,
) -> None:  # fmt: skip
    """Print the tables.

    Args:
        rows: of the table of speeds.
        libraries: to run.
        rounds: of which the table has the median.
        full: give the slow peers all the steps of a row, not just enough for a speed.
        engine: of fastrl, where it has a choice.
        clock: "processor" is disturbed less on a busy machine; not for the rows on two cores.
        python: the interpreter that runs the peers.
        solve_seeds: seeds of the table of seconds for a CartPole-v1 that is solved.
        curve_seeds: seeds of the learning curves.
    """
    for given, known in ((rows, ROWS), (libraries, PEERS)):
        if unknown := set(given) - set(known):
            raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    print(f"load of the machine: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    if rows:
        speed_table(list(rows), list(libraries), rounds, full, engine, clock, python)
    if solve_seeds:
        solve_table(list(libraries), solve_seeds, engine, python)
    if curve_seeds:
        learning_curves(list(libraries), curve_seeds, engine, python)


# In the benchmark suite.

NAMES = {
    "fastrl": "fastrl", SB3: "Stable-Baselines3", "sbx": "SBX", "rlox": "rlox", "cleanrl": "CleanRL",
    "purejaxrl": "PureJaxRL", "rltools": "RLtools",
}  # fmt: skip


class Asked(NamedTuple):
    """A run, and the steps that were asked for."""

    run: Run
    steps: int


def train(name: str, row: Row) -> Work:
    """A fresh model and another seed a call, in a process that ends when the work is forgotten; seconds a step."""
    if name not in ("fastrl", *row.peers):
        raise NoPart("measured in: " + "; ".join(each.title for each in ROWS.values() if name in each.peers))
    steps, seeds = row.suite[name in SLOW], count(1)
    job = row.job._replace(env_threads=conditions.threads())
    library = Library(name, job, steps, "auto", sys.executable)
    if library.missing:
        raise Missing(library.missing)

    def call() -> Asked:
        return Asked(Run(*library.ask("speed", next(seeds))), steps)

    return Work(checked_first(call), seconds=lambda asked: asked.run.seconds / asked.run.steps)


def has_trained(asked: Asked, row: Row) -> None:
    """The steps asked for, but for a part of an iteration; and if those are all of the job's, it has learnt."""
    run, options = asked.run, row.job.options
    rollout = options.get("train_freq", 4) if row.job.algorithm == "DQN" else options.get("n_steps", 2048)
    assert abs(run.steps - asked.steps) < row.job.n_envs * rollout, f"{run.steps} steps, not {asked.steps}"
    if row.learnt is not None and run.score is not None and asked.steps >= row.job.steps:
        assert run.score >= row.learnt, f"its return is {run.score:.0f} after {run.steps} steps, not {row.learnt}"


def no_program(library: str, row: Row) -> Work:
    raise Missing(f"no program that trains by {library} at these hyperparameters is written here; its parts are timed")


def steps_of(row: Row) -> str:
    """The steps of each library's run in the suite, in words."""
    of: dict[int, list[str]] = {}
    for name in ("fastrl", *row.peers):
        of.setdefault(row.suite[name in SLOW], []).append(NAMES[name])
    return f"{row.title}: " + ", ".join(f"{steps:,} ({', '.join(names)})" for steps, names in of.items())


NOTE = (
    "The speed of a slow library is that of a shorter run, which has not learnt yet. Steps a run: "
    + "; ".join(map(steps_of, ROWS.values())) + "."
)  # fmt: skip
TRAINING = Operation(
    "Training", {row.title: row for row in ROWS.values()}, lambda row: row, lambda row: row,
    {
        **{NAMES[x]: Implementation(partial(train, x), role="ours" if x == "fastrl" else "peer") for x in PEERS},
        "Tianshou": Implementation(partial(no_program, "Tianshou")),
        "TorchRL": Implementation(partial(no_program, "TorchRL")),
    },
    has_trained, unit="step", rounds=(3, 3), note=NOTE,
)  # fmt: skip

if __name__ == "__main__":
    import tyro

    tyro.cli(main)
