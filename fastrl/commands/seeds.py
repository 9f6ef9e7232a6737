"""`fastrl train --seeds N`: trainings that differ in the seed alone, in processes here or on a cluster by Ray."""

from __future__ import annotations

import csv
import io
import os
import time
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from fastrl import config, runs
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.commands.common import Failure, describe, joined, score, writing_to
from fastrl.commands.plan import Plan, to_config
from fastrl.commands.seed_run import SETTINGS, Job, Outcome, Process, RunLost, carry_out, environment, finished
from fastrl.commands.training import terminated_like_interrupted
from fastrl.files import remove_unfinished, replacing
from fastrl.flags import UsageError

SUMMARY = "seeds.csv"
RETRIES = 10  # of a run that was lost with its node


def train(plan: Plan, command: str) -> None:
    """Train with each seed as `plan` says, but for the seeds that are done.

    Raises:
        Failure: where a run failed, after all others, or where they were interrupted.
    """
    options, first = plan.options, plan.arguments["seed"]
    assert options.seeds is not None
    place = f"{plan.algorithm}-{plan.env_id.replace('/', '-').replace(':', '-')}-seeds"
    directory = options.out or Path("runs") / place
    with ExitStack() as held:
        ray = joined(held, options.address, options.jobs) if options.ray else None
        _claim(held, directory, plan, command)
        settings = (str(directory.absolute()), options.total_timesteps, options.eval_episodes)
        jobs = [Job(plan.algorithm, plan.env_id, seed, *settings, os.getcwd(), environment())
                for seed in range(first, first + options.seeds)]  # fmt: skip
        done = {job.seed: found for job in jobs if (found := finished(job))}
        left = [job for job in jobs if job.seed not in done]
        at_once = options.jobs or (len(jobs) if ray else 1)
        where = "by Ray" if ray else f"{at_once} at once"
        print(f"Train {plan.algorithm.upper()} on {plan.env_id} with {options.seeds} seeds from {first} on, {where}: "
              f"{options.total_timesteps:,} steps each; {len(done)} of them done", flush=True)  # fmt: skip
        device, pressed = str(plan.arguments["device"]), GracefulInterrupt()
        outcomes = _by_ray(ray, left, at_once, device, pressed) if ray else _locally(left, at_once, pressed)
        try:
            with terminated_like_interrupted(), writing_to(directory), pressed, closing(outcomes):
                _write(directory / SUMMARY, done)
                for found in outcomes:
                    if found.error is None or not pressed.requested:
                        done[found.seed] = found
                        _tell(found, len(done), len(jobs))
                        _write(directory / SUMMARY, done)
        except KeyboardInterrupt:
            pressed.requested = True
    _report(directory, done, jobs, pressed.requested, command)


def _claim(held: ExitStack, directory: Path, plan: Plan, command: str) -> None:
    """Take the directory, new or of these very settings."""
    wanted, file = to_config(plan, command), directory / SETTINGS
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held.enter_context(runs.locked(directory))
        remove_unfinished(directory)
        if not file.is_file():
            runs.make_directory(directory, plan.algorithm, plan.env_id)
            config.write(file, wanted)
    except runs.InUse as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        raise UsageError(f"cannot use {directory} as a directory: {why}") from error
    there, here = (_flat(config.read(file)), _flat(config.parse(config.text(wanted), file)))
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UsageError(f"{name} is {there.get(name)!r} in {file}, not {here.get(name)!r}: runs that go on keep "
                             "their settings; name another directory with --out")  # fmt: skip


def _flat(found: config.Config) -> dict[str, Any]:
    return {"algorithm": found.algorithm, "environment": found.environment, **found.run, **found.hyperparameters}


def _locally(jobs: list[Job], at_once: int, pressed: GracefulInterrupt) -> Generator[Outcome, None, None]:
    """Run in processes of this machine; the first Ctrl-C is handed on to them, the next ends them."""
    waiting, running, told = deque(jobs), list[Process](), False
    try:
        while waiting or running:
            if pressed.requested and not told:
                told = True
                waiting.clear()
                for process in running:
                    process.interrupt()
            while waiting and len(running) < at_once:
                running.append(Process(waiting.popleft()))
            for process in list(running):
                if (found := process.poll()) is not None:
                    running.remove(process)
                    yield found
            time.sleep(0.05)
    finally:
        for process in running:
            process.kill()


def _by_ray(
    ray: Any, jobs: list[Job], at_once: int, device: str, pressed: GracefulInterrupt
) -> Generator[Outcome, None, None]:  # fmt: skip
    """Run as tasks of Ray, which starts another where one was lost with its node; Ctrl-C as in `_locally`."""
    gpus, lost = int(device.startswith("cuda")), [RunLost]
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=lost)(carry_out)
    waiting, running, told = deque(jobs), dict[Any, Job](), False
    try:
        while waiting or running:
            if pressed.requested and not told:
                told = True
                waiting.clear()
                for ref in running:
                    ray.cancel(ref)
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                running[task.remote(job)] = job
            for ref in ray.wait(list(running), timeout=0.2)[0] if running else ():
                job = running.pop(ref)
                try:
                    found = ray.get(ref)
                except Exception as error:  # of Ray, or of the start of the process
                    found = Outcome(job.seed, error=describe(getattr(error, "cause", None) or error))
                yield found
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _tell(found: Outcome, number: int, of: int) -> None:
    what = f"failed: {found.error}"
    if found.error is None:
        what = f"{score(found.returns) if found.returns else f'{found.steps:,} steps'}, {found.seconds:.1f} s"
    print(f"Seed {found.seed}: {what} ({number} of {of})", flush=True)


def _write(path: Path, done: dict[int, Outcome]) -> None:
    """The table as a file, of all digits."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["seed", "steps", "episodes", "mean", "std", "error"])
    for _, found in sorted(done.items()):
        mean, std = (np.mean(found.returns), np.std(found.returns)) if found.returns else ("", "")
        rows.writerow([found.seed, found.steps, len(found.returns), mean, std, found.error or ""])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _report(directory: Path, done: dict[int, Outcome], jobs: list[Job], interrupted: bool, command: str) -> None:
    """Print what the seeds came to, and what is to be done about those that came to nothing."""
    good = [found for _, found in sorted(done.items()) if found.error is None]
    failed = [found for _, found in sorted(done.items()) if found.error is not None]
    if good:
        print(_table(good))
        print(f"Files in {directory}: {SUMMARY}, {', '.join(f'seed-{found.seed}/' for found in good)}")
    if interrupted:
        raise Failure(f"interrupted with {len(good)} of {len(jobs)} seeds done; to go on: {command}", 130)
    if failed:
        reasons = "; ".join(f"seed {found.seed}: {found.error}" for found in failed)
        raise Failure(f"{len(failed)} of {len(jobs)} seeds failed ({reasons}); to try them again: {command}")
    print(f"Try next: fastrl plot {' '.join(str(directory / f'seed-{found.seed}') for found in good)}")


def _table(good: list[Outcome]) -> str:
    lines = [f"{'seed':>6}  {'steps':>12}  {'return':>10}  deviation over episodes"]
    for found in good:
        mean, deviation = ("", "") if not found.returns else (
            f"{np.mean(found.returns):.1f}", f"{np.std(found.returns):.1f}")  # fmt: skip
        lines.append(f"{found.seed:>6}  {found.steps:>12,}  {mean:>10}  {deviation:>9}")
    means = [float(np.mean(found.returns)) for found in good if found.returns]
    if means:
        spread = f" ± {np.std(means, ddof=1):.1f}" if len(means) > 1 else ""
        lines.append(f"mean over {len(means)} seeds: {np.mean(means):.1f}{spread}")
    return "\n".join(lines)
