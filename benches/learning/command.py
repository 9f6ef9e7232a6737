"""Many runs, each in a process of its own, several at a time; what is done already is not done again."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benches.conditions import ONE_THREAD, machine
from benches.jobs import require
from benches.learning import results
from benches.learning.libraries import PACKAGE, options_of, unable
from benches.learning.results import Line
from benches.learning.settings import SETTINGS, Setting
from benches.learning.table import Clock
from benches.learning.words import count
from benches.operation import Missing
from fastrl.flags import nearest

ROOT = Path(__file__).parents[2]
CODE = ("benches", "fastrl", "fastrl_ext", "setup.py")  # under ROOT, what a run depends on
LONGEST = 3600  # seconds of a run, after which something hangs
Answer = Callable[["Job"], Line]


class Job(NamedTuple):
    """One run that is to be done."""

    setting: Setting
    library: str
    seed: int
    steps: int

    def line(self) -> Line:
        """What its line begins with."""
        return {
            "setting": self.setting.key, "library": self.library, "seed": self.seed,
            "digest": results.digest(self.setting, self.library, self.steps), "version": version(self.library),
        }  # fmt: skip


@cache
def version(library: str) -> str:
    """Of the package that a run of `library` depends on, and of what both stand on."""
    package = PACKAGE.get(library, "fastrl")
    if package == "fastrl":
        import fastrl

        return f"fastrl {fastrl.__version__}"
    try:
        return f"{package.replace('_', '-')} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def conditions() -> dict[str, Any]:
    """Of the machine, its software and the moment, for a line."""
    _, *packages = results.SOFTWARE
    here = machine()
    return {
        "python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages},
        "machine": f"{here['cpu']}, {here['cores']} cores, {here['system']}",
        "when": time.strftime("%Y-%m-%dT%H:%M:%S"), "commit": commit(ROOT),
    }  # fmt: skip


def commit(root: Path) -> str:
    """Of the code under `root`, with a "+" where that has changed since; empty where git does not say."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True).stdout

    try:
        head = git("rev-parse", "--short", "HEAD").strip()
        changes = git("--no-optional-locks", "status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changes else "")


def plan(keys: tuple[str, ...], libraries: tuple[str, ...], seeds: int, scale: float) -> tuple[list[Job], list[Line]]:
    """(all runs, each seed's before the next one's; a line for each library that cannot do a setting)."""
    jobs, absent = [], []
    for seed in range(1, seeds + 1):
        for name in keys:
            setting = SETTINGS[name]
            for library in setting.libraries:
                if libraries and library not in libraries:
                    continue
                job = Job(setting, library, seed, max(1, round(options_of(setting, library)[2] * scale)))
                why = unable(setting, library)
                if why is None:
                    jobs.append(job)
                elif seed == 1:
                    absent.append({**job.line(), "seed": None, "absent": why})
    return jobs, absent


def missing(jobs: list[Job], lines: list[Line], retry: bool) -> list[Job]:
    """Those of `jobs` that `lines` do not have; with `retry` those too that failed."""
    done = {known for known, line in results.latest(lines).items() if not (retry and "error" in line)}
    return [job for job in jobs if results.key(job.line()) not in done]


def ask(job: Job) -> Line:
    """Do it in a new process with one thread; what it answers, or the end of what it complained of."""
    asked = json.dumps({"setting": job.setting.key, "library": job.library, "seed": job.seed, "steps": job.steps})
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "benches.learning.run", asked], capture_output=True, text=True, timeout=LONGEST,
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths},
        )  # fmt: skip
        if run.returncode == 0:
            return dict(json.loads(run.stdout.splitlines()[-1]))
        said = run.stderr.strip().splitlines()[-1:] or [f"it ended with code {run.returncode}"]
        return {"error": said[0][:300]}
    except subprocess.TimeoutExpired:
        return {"error": f"it had not ended after {LONGEST:,} s"}
    except (ValueError, IndexError):
        return {"error": f"it answered {run.stdout[-100:]!r}"}


def work(jobs: list[Job], n: int, answer: Answer) -> Iterator[tuple[Job, Line]]:
    """Do `jobs`, `n` at a time; each with its line as soon as it is there."""

    def timed(job: Job) -> tuple[Job, Line]:
        described, began = conditions(), time.perf_counter()  # before it: of the code that it begins with
        line = answer(job)
        return job, {**job.line(), **line, "took": time.perf_counter() - began, "conditions": described}

    pool = ThreadPoolExecutor(n)
    try:
        futures: list[Future[tuple[Job, Line]]] = [pool.submit(timed, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def time_left(jobs: list[Job], lines: list[Line], n: int) -> tuple[float, int]:
    """(seconds until `jobs` are done, by what such runs took; how many of them nothing is known of)."""
    took: dict[tuple[str, str, str], list[float]] = {}
    for line in lines:
        if "took" in line and "error" not in line:
            took.setdefault((line["setting"], line["library"], line["digest"]), []).append(line["took"])
    known = {of: sum(seconds) / len(seconds) for of, seconds in took.items()}
    each = [known.get((j.setting.key, j.library, results.digest(j.setting, j.library, j.steps))) for j in jobs]
    return sum(seconds for seconds in each if seconds is not None) / n, each.count(None)


def probes(jobs: list[Job]) -> tuple[list[Job], Callable[[list[Line]], float]]:
    """(short runs, one for each kind of `jobs`; what makes the processor seconds of all `jobs` of their lines)."""
    kinds = {(job.setting.key, job.library): job for job in jobs}
    short = [job._replace(seed=0, steps=max(1, job.steps // 20)) for job in kinds.values()]

    def total(lines: list[Line]) -> float:
        took = {(line["setting"], line["library"]): line for line in lines if "wall" in line}
        seconds = 0.0
        for job in jobs:
            if (line := took.get((job.setting.key, job.library))) is not None:
                in_training = line["wall"][-1]
                seconds += in_training * job.steps / max(line["steps"][-1], 1) + (line["took"] - in_training)
        return seconds

    return short, total


def main(
    results_file: Path = Path("learning.jsonl"), seeds: int = 10, settings: tuple[str, ...] = (),
    libraries: tuple[str, ...] = (), everything: bool = False, jobs: int = os.cpu_count() or 1, scale: float = 1.0,
    page: Path | None = None, clock: Clock = "processor", retry: bool = False, estimate: bool = False,
    train: bool = True,
) -> None:  # fmt: skip
    """Train what is not in the file of results yet, and write the page from it.

    Args:
        results_file: one line of JSON a run; running again goes on with what is missing.
        seeds: 1 to this.
        settings: keys of `benches/learning/settings.py`; those of the default run if none are named.
        libraries: some of these, each in quotes: "fastrl, compiled", "fastrl, Torch", "Stable-Baselines3",
            "fastrl, compiled, without a callback", "the course's program", "fastrl, the same", "fastrl, preset"; all if
            none are named.
        everything: the settings too that are not part of the default run.
        jobs: processes at a time, of one thread each.
        scale: of the steps, for a quick look; such runs are kept apart from whole ones.
        page: the Markdown file to write, by default beside the file of results; its pictures, and the results that it
            is made of, lie in a folder of its name beside it.
        clock: what seconds on the page are: those that the processor worked for a run, or those on the wall, which
            on a machine that does other things too say more of those.
        retry: do again what failed.
        estimate: only measure how fast each library trains here, and print how long the runs that are missing take.
        train: with --no-train, only write the page.
    """
    if unknown := set(settings) - set(SETTINGS):
        raise SystemExit(f"unknown: {_nearest(unknown, SETTINGS)}; there are {', '.join(SETTINGS)}")
    every = {library: None for setting in SETTINGS.values() for library in setting.libraries}
    if unknown := set(libraries) - set(every):
        known = ", ".join(f'"{library}"' for library in every)
        raise SystemExit(f"unknown: {_nearest(unknown, every)}; there are, in quotes, {known}")
    for name, value in {"jobs": jobs, "seeds": seeds, "scale": scale}.items():
        if value <= 0:
            raise SystemExit(f"--{name} {value}: it must be positive")
    if not estimate:
        try:
            require("rliable")
        except Missing as why:
            raise SystemExit(f"the page is not written: {why}; pip install -e '.[bench]'") from None
    page = page or results_file.with_suffix(".md")
    keys = settings or tuple(key for key, setting in SETTINGS.items() if setting.default or everything)
    wanted, absent = plan(keys, libraries, seeds, scale)
    todo = missing(wanted, results.read(results_file), retry)
    if estimate:
        print_estimate(todo, jobs)
        return
    if train:
        known = results.latest(results.read(results_file))
        for line in absent:
            if results.key(line) not in known:
                results.append(results_file, line)
        do(todo, results_file, jobs)
    from benches.learning.page import write

    print(f"wrote {write(results.read(results_file), page, scale, clock)}")


def _nearest(unknown: set[str], known: Iterable[str]) -> str:
    return ", ".join(name + nearest(name, known) for name in sorted(unknown))


def do(todo: list[Job], path: Path, n: int) -> None:
    """Train, append and tell how it goes on."""
    print(f"{count(len(todo), 'run')}, {n} at a time, into {path}", flush=True)
    lines, waiting = results.read(path), {results.key(job.line()): job for job in todo}
    for i, (job, line) in enumerate(work(todo, n, ask), 1):
        results.append(path, line)
        lines.append(line)
        del waiting[results.key(line)]
        seconds, unknown = time_left(list(waiting.values()), lines, n)
        more = f" and {count(unknown, 'run')} of unknown length" if unknown else ""
        said = line.get("error") or f"{line['final']:.1f} in {line['wall'][-1]:.1f} s"
        print(f"[{i}/{len(todo)}] {job.setting.key}, {job.library}, seed {job.seed}: {said} "
              f"({line['took']:.0f} s in all); {seconds / 60:.0f} min{more} to go", flush=True)  # fmt: skip


def print_estimate(todo: list[Job], n: int) -> None:
    """Train a twentieth of each kind of run, and print what all of `todo` would take."""
    short, total = probes(todo)
    lines = []
    for job, line in work(short, n, ask):
        lines.append(line)
        rate = f"{line['steps'][-1] / line['wall'][-1]:,.0f} steps/s" if "wall" in line else line["error"]
        print(f"{job.setting.key}, {job.library}: {rate}", flush=True)
    print(f"{count(len(todo), 'run')}: about {total(lines) / n / 60:.0f} min, {n} at a time")
