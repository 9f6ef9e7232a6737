"""A run from its first step, or from a checkpoint, to its last file: what `fastrl train` does once all is checked."""

from __future__ import annotations

import math
import shlex
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fastrl import checkpoints, runs
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.callbacks import BaseCallback
from fastrl.commands.common import EVAL_SEED, Failure, describe, returns, score, writing_to
from fastrl.logger import configure
from fastrl.metrics import Metrics
from fastrl.ranks import RankLost

CHECKPOINT_EVERY = 100_000  # steps, where nobody said how many
SHARE = 0.01  # of the time that checkpoints may take then
FLUSH_EVERY = 1.0  # seconds between two writes of metrics


@dataclass
class RunSettings:
    """How long to train, and what to do meanwhile.

    Args:
        total_timesteps: environment steps to train for, counted over all copies of the environment.
        eval_episodes: episodes to evaluate the trained agent on; 0 for none.
        checkpoint_every: steps between two checkpoints; None for 100,000, or more where writing them would take over a
            hundredth of the time; 0 for one at the end only.
        keep_checkpoints: how many of the last to keep; 0 to write none.
        tensorboard: write TensorBoard's files too, into the folder tensorboard of the run.
    """

    total_timesteps: int = 100_000
    eval_episodes: int = 100
    checkpoint_every: int | None = None
    keep_checkpoints: int = 3
    tensorboard: bool = False


class Recorder(BaseCallback):
    """Metrics and checkpoints of a run, between iterations.

    A disk that fills is no reason to end the training: what could not be written is a warning.

    Args:
        directory: the run's.
        metrics: those of the run so far.
        settings: how often.
        num_timesteps: steps taken so far, of which there is a checkpoint already.
    """

    each_step = False

    def __init__(self, directory: Path, metrics: Metrics, settings: RunSettings, num_timesteps: int) -> None:
        super().__init__()
        self.folder, self.metrics, self._keep = directory / runs.CHECKPOINTS, metrics, settings.keep_checkpoints
        self._patient = settings.checkpoint_every is None
        self._every = CHECKPOINT_EVERY if settings.checkpoint_every is None else settings.checkpoint_every
        self._written, self._next = num_timesteps, self._after(num_timesteps)
        self._started, self._flushed, self._spent, self._last = time.perf_counter(), -math.inf, 0.0, 0.0

    def steps_until_due(self) -> int:
        return max(1, math.ceil(min(self.metrics.due, self._next)) - int(self.model.num_timesteps))

    def _on_step(self) -> bool:
        """Add a row, and write a checkpoint, where they are due."""
        if self.num_timesteps >= self.metrics.due:
            self.metrics.add(self.model.metrics)
            if (now := time.perf_counter()) - self._flushed >= FLUSH_EVERY:
                self._flush(now)
        if self.num_timesteps >= self._next:
            self._next, now = self._after(self.num_timesteps), time.perf_counter()
            if not self._patient or self._spent + self._last <= SHARE * (now - self._started):
                self._flush(now)  # a run that goes on from the checkpoint needs the rows before it
                self.model.when_whole(self._write)
        return True

    def _write(self) -> None:
        with _disk_may_be_full(self.folder):
            self.write(self.model)

    def _flush(self, now: float) -> None:
        self._flushed = now
        with _disk_may_be_full(self.metrics.path):
            self.metrics.flush()

    def write(self, model: Any) -> None:
        """Write a checkpoint, unless it is there already. OSError where that fails."""
        if not self._keep or model.num_timesteps == self._written:
            return
        before = time.perf_counter()
        checkpoints.write(model, self.folder, keep=self._keep)
        self._written, self._last = model.num_timesteps, time.perf_counter() - before
        self._spent += self._last

    def _after(self, num_timesteps: int) -> float:
        """When the next checkpoint is due: counted from 0, so that resuming does not shift it."""
        return (num_timesteps // self._every + 1) * self._every if self._every and self._keep else math.inf


def carry_out(
    model: Any, env_id: str, settings: RunSettings, directory: Path, metrics: Metrics, progress_bar: bool
) -> list[float]:
    """Train, or go on training; save whatever comes of it, evaluate, say where everything is; the evaluation's returns.

    Raises:
        Failure: where that failed, or was stopped.
    """
    first, file = model.num_timesteps, directory / runs.MODEL
    title = f"{type(model).__name__} on {env_id}, seed {model.seed}"
    recorder = Recorder(directory, metrics, settings, first)
    if settings.tensorboard:
        console = ["stdout"] if model.verbose else []
        model.set_logger(configure(directory / runs.TENSORBOARD, [*console, "tensorboard"]))
    saved, pressed, reached = False, GracefulInterrupt(), list[float]()
    try:
        with terminated_like_interrupted(), writing_to(directory):
            started = time.perf_counter()
            with pressed:
                failure = _learn(model, settings.total_timesteps - first, recorder, progress_bar)
                seconds, steps = time.perf_counter() - started, model.num_timesteps - first
                pressed.requested |= model.interrupted  # the next one is the second
                if isinstance(failure, RankLost):  # somewhere within an update
                    recorder.metrics.flush()
                    how = resume_command(directory, type(model).__name__, env_id, model.ranks.size)
                    raise Failure(f"{failure}; to go on from the last checkpoint: {how}") from failure
                _save(model, directory, recorder, title, failed=failure is not None)
            if pressed.cut_short:
                raise KeyboardInterrupt
            saved = True
            if failure is not None:
                kept = f"after {model.num_timesteps:,} steps; the model so far is {file}"
                raise Failure(f"{describe(failure)} ({kept})") from failure
            if steps:
                print(f"Trained {steps:,} steps in {seconds:.1f} s, {steps / seconds:,.0f} steps/s", flush=True)
            if settings.eval_episodes:
                reached = returns(model, env_id, settings.eval_episodes, EVAL_SEED)
                print(f"Evaluated: {score(reached)}", flush=True)
                runs.draw_curve(directory / runs.CURVE, metrics.rows, title, reached)
    except KeyboardInterrupt:
        pressed.requested = True
    if pressed.requested:
        kept = f"interrupted after {model.num_timesteps:,} steps; the model so far is {file}"
        how = resume_command(directory, type(model).__name__, env_id, model.ranks.size)
        raise Failure(f"{kept if saved else 'stopped at once'}; to go on: {how}", 130)
    print(f"Files in {directory}: {', '.join(runs.written(directory))}")
    where = ["--env", env_id] if ":" in env_id else []
    print(f"Try next: {shlex.join(['fastrl', 'eval', str(file), *where])}")
    return reached


def resume_command(directory: Path, algorithm: str, env_id: str, ranks: int = 1) -> str:
    """The command line that goes on with a run; a module to import has to be named by the user, not by a file."""
    what = [algorithm.lower(), env_id] if ":" in env_id else []
    words = shlex.join(["fastrl", "train", *what, "--resume", str(directory)])
    return words if ranks == 1 else f"torchrun ... -m {words}"


def _learn(model: Any, left: int, recorder: Recorder, progress_bar: bool) -> Exception | None:
    try:
        if left > 0:
            model.learn(left, callback=recorder, progress_bar=progress_bar, reset_num_timesteps=False)
    except Exception as error:
        return error
    return None


def _save(model: Any, directory: Path, recorder: Recorder, title: str, failed: bool) -> None:
    """Write all that a run leaves, whatever of it can be written; an OSError at the end where something could not.

    The model comes last: the run is complete where it is. What an environment that failed, or an interrupted
    iteration, left is no state to go on from exactly, so there is no checkpoint of it.
    """
    rows = recorder.metrics.rows
    steps: list[Callable[[], None]] = [
        recorder.metrics.flush,
        lambda: runs.draw_curve(directory / runs.CURVE, rows, title),
        lambda: None if failed or model._obs is None else recorder.write(model),
        lambda: model.save(directory / runs.MODEL),
    ]
    recorder.metrics.add(model.metrics)
    problem: OSError | None = None
    for step in steps:
        try:
            step()
        except OSError as error:
            problem = problem or error
    if problem is not None:
        raise problem


@contextmanager
def _disk_may_be_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = error.strerror or error
        warnings.warn(f"cannot write to {path}: {problem}; training goes on without", stacklevel=2)


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """A block in which SIGTERM, which schedulers send before they kill, is the first Ctrl-C; another is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    once = iter([signal.SIGINT])

    def handle(number: int, frame: FrameType | None) -> None:
        for first in once:
            signal.raise_signal(first)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
