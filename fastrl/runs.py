"""The directory that a training run leaves, and who may use it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from fastrl import checkpoints
from fastrl.files import remove_unfinished

try:
    import fcntl
except ImportError:  # not of this system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

CONFIG, METRICS, MODEL, CURVE = "config.toml", "metrics.csv", "model.fastrl", "curve.png"
CHECKPOINTS, TENSORBOARD, LOCK, LOG = "checkpoints", "tensorboard", ".lock", "log.txt"


class InUse(Exception):
    """A directory in which another process is training right now."""


def make_directory(out: Path | None, algorithm: str, env_id: str, force: bool = False) -> Path:
    """`out`, or runs/<algorithm>-<environment>-<n> with the first free n; never one that holds anything.

    With `force`, `out` may hold a run: see `clear`.

    Raises:
        OSError: where it cannot be made or written to, or is not empty.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if any(path.name not in (LOCK, LOG) for path in out.iterdir()):
            if not force:
                raise OSError("it is not empty, and nothing is overwritten without --force")
            if not (out / CONFIG).is_file():
                raise OSError(f"it holds no run (there is no {CONFIG}), and --force overwrites nothing else")
        if not os.access(out, os.W_OK | os.X_OK):
            raise OSError("Permission denied")
        return out
    runs = Path("runs")
    runs.mkdir(exist_ok=True)
    for n in itertools.count(1):
        path = runs / f"{algorithm}-{env_id.replace('/', '-').replace(':', '-')}-{n}"
        try:
            path.mkdir()  # of two runs that start at once only one can make it
            break
        except FileExistsError:
            continue
    return path


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """A block in which no other process may train in `directory`; raises InUse where one is doing so.

    The system gives the lock back when the process ends, however that happens. A record lock, unlike one of `flock`,
    is not handed on to workers that the process forks and that may outlive it.
    """
    with open(directory / LOCK, "a") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InUse(f"another process is training in {directory} right now") from None
            except OSError:  # a file system without locks
                pass
        yield


def tidy(directory: Path) -> None:
    """Remove what a process that was killed while writing left half done."""
    remove_unfinished(directory)
    checkpoints.clean(directory / CHECKPOINTS)


def written(directory: Path) -> list[str]:
    """The names of what a run left in `directory`."""
    names = (MODEL, CURVE, METRICS, CONFIG, CHECKPOINTS, TENSORBOARD)
    return [f"{name}/" if (directory / name).is_dir() else name for name in names if (directory / name).exists()]


def clear(directory: Path) -> None:
    """Remove what a run wrote into `directory`, and nothing else."""
    tidy(directory)
    folder = directory / CHECKPOINTS
    for file in checkpoints.find(folder):
        checkpoints.remove(file)
    for path in (directory / TENSORBOARD).glob("**/events.out.tfevents.*"):
        path.unlink()
    for path in (folder, directory / TENSORBOARD):
        with suppress(OSError):  # something of the user's is in it
            path.rmdir()
    for name in (MODEL, CURVE, METRICS, CONFIG):  # the configuration last: until then it is a run
        (directory / name).unlink(missing_ok=True)


def draw_curve(path: Path, rows: Sequence[dict[str, float]], title: str, returns: Sequence[float] = ()) -> None:
    """Draw the mean return over the steps, and the mean of `returns`, the evaluation's, if there are any."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    steps, means = "time/total_timesteps", "rollout/ep_rew_mean"
    points = np.array([(row[steps], row[means]) for row in rows if means in row]).reshape(-1, 2)
    figure = Figure(figsize=(7, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(*points.T, color="black", linewidth=2, marker="o" if len(points) == 1 else "", label="while training")
    if returns:
        score = f"evaluation: {np.mean(returns):.1f} ± {np.std(returns):.1f}"
        axes.axhline(float(np.mean(returns)), color="0.45", linestyle="--", linewidth=2, label=score)
    axes.legend(fontsize=13, frameon=False)
    axes.set_title(title, fontsize=15)
    axes.set_xlabel("environment steps", fontsize=13)
    axes.set_ylabel("mean return, last 100 episodes", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(color="0.88")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
