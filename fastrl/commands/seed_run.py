"""One run of `fastrl train --seeds`: `fastrl train` or `fastrl train --resume` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import fastrl
from fastrl import checkpoints, runs
from fastrl.files import replacing

SETTINGS, RESULT = "seeds.toml", "result.json"  # of all runs, in the directory above; of each, once it is complete
INTERRUPTED = 130  # exit code
PATIENCE = 60.0  # seconds for a process that was left behind by a killed one to be gone
START = "import sys; sys.path[:1] = [] if sys.argv[1] in sys.path[1:] else [sys.argv[1]]; \
from fastrl.commands.seed_run import main; main(sys.argv[2])"
OF_THE_DRIVER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FASTRL_TRACEBACK")  # what Ray changes, or does not hand on


@dataclass(frozen=True)
class Job:
    """Which run, in words that another process understands."""

    algorithm: str
    env_id: str
    seed: int
    parent: str  # the directory of all seeds, absolute
    total_timesteps: int
    eval_episodes: int
    cwd: str
    environment: dict[str, str | None]

    @property
    def folder(self) -> Path:
        """The directory of the run."""
        return Path(self.parent) / f"seed-{self.seed}"


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    steps: int = 0
    returns: list[float] = field(default_factory=list)
    seconds: float = 0.0
    error: str | None = None
    lost: bool = False  # its process was ended from outside


class RunLost(RuntimeError):
    """The process of a run was ended from outside, as with its machine: another may go on."""


def environment() -> dict[str, str | None]:
    """Of this process, what a run should have wherever it runs."""
    return {name: os.environ.get(name) for name in OF_THE_DRIVER}


def finished(job: Job) -> Outcome | None:
    """What the run came to, where it is complete."""
    try:
        found = Outcome(**json.loads((job.folder / RESULT).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    whole = (job.folder / runs.MODEL).is_file() and found.steps >= job.total_timesteps
    return found if whole and len(found.returns) == job.eval_episodes else None


class Process:
    """The process of a run, which ends with this one however that ends. Its output goes to log.txt of the run.

    It does not hear a terminal's Ctrl-C: `interrupt` hands that on, once for each.
    """

    def __init__(self, job: Job) -> None:
        self.job, self._started, self._interrupted = job, time.perf_counter(), False
        for folder in (job.parent, job.cwd):
            if not Path(folder).is_dir():
                raise FileNotFoundError(f"{folder} is not a directory of this machine: all machines must share it")
        job.folder.mkdir(exist_ok=True)
        variables = {**os.environ, **{k: v for k, v in job.environment.items() if v is not None}}
        for name in (name for name, value in job.environment.items() if value is None):
            variables.pop(name, None)
        words = [sys.executable, "-c", START, str(Path(fastrl.__file__).parents[1]), json.dumps(asdict(job))]
        with open(job.folder / runs.LOG, "ab") as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=job.cwd, env=variables, start_new_session=True
            )

    def poll(self) -> Outcome | None:
        """What the run came to, once its process has ended."""
        code = self._process.poll()
        if code is None:
            return None
        assert self._process.stdin is not None
        self._process.stdin.close()
        seconds = time.perf_counter() - self._started
        found = finished(self.job) if code == 0 else None
        lost = (code < 0 or code == INTERRUPTED) and not self._interrupted
        return found or Outcome(self.job.seed, seconds=seconds, error=self._why(code), lost=lost)

    def interrupt(self) -> None:
        """Ctrl-C, for this process alone."""
        self._interrupted = True
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it now, with all that it started, and wait for that."""
        if self._process.poll() is None:
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
        self._process.wait()

    def _why(self, code: int) -> str:
        with open(self.job.folder / runs.LOG, "rb") as log:
            log.seek(self._start)
            lines = log.read().decode(errors="replace").splitlines()
        said = [line.removeprefix("fastrl: ") for line in lines if line.startswith("fastrl: ")]
        how = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        return said[-1] if said and code > 0 else f"{how}; see {self.job.folder / runs.LOG}"


def carry_out(job: Job) -> Outcome:
    """The run from wherever it stands to its end, in a task of Ray, which is cancelled as by Ctrl-C.

    Raises:
        RunLost: so that Ray begins another task.
    """
    process, found = Process(job), None
    try:
        while found is None:
            try:
                time.sleep(0.05)
                found = process.poll()
            except KeyboardInterrupt:
                process.interrupt()
        if found.lost:
            raise RunLost(found.error)
        return found
    finally:
        process.kill()


def main(text: str) -> None:
    """The process of a run."""
    from fastrl.cli import guarded

    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "pthread_sigmask"):  # Ray blocks it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    job = Job(**json.loads(text))
    sys.exit(guarded(lambda: _run(job)))


def _end_with_parent() -> None:
    """Wait until nobody holds the other end of stdin, and end this process with all that it started."""
    while os.read(0, 1):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _run(job: Job) -> int:
    from fastrl.commands import train
    from fastrl.commands.common import EVAL_SEED, load_agent, returns

    started, folder, what = time.perf_counter(), job.folder, [job.algorithm, job.env_id]
    _wait_until_free(folder)
    if _goes_on(job):
        args = [*what, "--resume", str(folder)]
    else:
        settings = str(Path(job.parent) / SETTINGS)
        args = [*what, "--config", settings, "--seed", str(job.seed), "--out", str(folder)]
    reached = train.run([*args, "--no-progress"])
    steps = train.steps_of_model(folder)
    assert steps is not None
    if not reached and job.eval_episodes:  # it was complete, but for this
        reached = returns(load_agent(folder, job.env_id)[0], job.env_id, job.eval_episodes, EVAL_SEED)
    found = Outcome(job.seed, steps, [float(value) for value in reached or ()], time.perf_counter() - started)
    with replacing(folder / RESULT) as file:
        file.write(json.dumps(asdict(found)).encode())
    return 0


def _wait_until_free(folder: Path) -> None:
    """The process of a driver that was killed takes a moment to follow it."""
    last = time.monotonic() + PATIENCE
    while True:
        try:
            with runs.locked(folder):
                return
        except runs.InUse:
            if time.monotonic() > last:
                raise
            time.sleep(0.2)


def _goes_on(job: Job) -> bool:
    """Whether there is a run to go on with; what was begun and cannot be gone on from is removed."""
    from fastrl.commands import train

    with runs.locked(job.folder):
        runs.tidy(job.folder)
        if not (job.folder / runs.CONFIG).is_file():
            return False
        steps = train.steps_of_model(job.folder)
        if steps is None or steps >= job.total_timesteps or checkpoints.find(job.folder / runs.CHECKPOINTS):
            return True
        runs.clear(job.folder)
    return False
