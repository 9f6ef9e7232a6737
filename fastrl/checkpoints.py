"""Checkpoints in a folder: a model and its replay buffer, written whole, the last few kept, the newest that loads.

A checkpoint is `<prefix>_<steps>_steps.fastrl`, beside it `<prefix>_replay_buffer_<steps>_steps.npz` for an algorithm
that has a replay buffer. The buffer is written first and removed last, so a model file that is there has its buffer,
whenever the process ends.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastrl.files import remove_unfinished

PREFIX = "model"
Loaded = TypeVar("Loaded")


def write(
    model: Any, folder: Path, prefix: str = PREFIX, *, replay_buffer: bool = True, keep: int | None = None
) -> Path:
    """Write a checkpoint of `model`, named by its steps, and remove all but the last `keep` up to it; None keeps all.

    Raises:
        OSError: where it cannot be written. Those before it are then all there, and nothing of it is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{prefix}_{model.num_timesteps}_steps.fastrl"
    buffer = buffer_of(file)
    try:
        if replay_buffer and hasattr(model, "replay_buffer"):
            file.unlink(missing_ok=True)  # of another run: it must not find the buffer of this one
            model.save_replay_buffer(buffer)
        model.save(file)
    except BaseException:
        if not file.exists():
            buffer.unlink(missing_ok=True)
        raise
    if keep is not None:
        # Those of more steps are another run's, or damaged: no reason to remove what was just written.
        for old in [path for path in find(folder, prefix) if steps_of(path) <= model.num_timesteps][keep:]:
            remove(old)
    return file


def find(folder: Path, prefix: str = PREFIX) -> list[Path]:
    """The model files of the checkpoints in `folder`, the newest first; none where there is no folder."""
    pattern = re.compile(re.escape(prefix) + r"_\d+_steps\.fastrl")
    files = [path for path in folder.glob("*.fastrl") if pattern.fullmatch(path.name)]
    return sorted(files, key=steps_of, reverse=True)


def load_newest(folder: Path, load: Callable[[Path], Loaded], prefix: str = PREFIX) -> Loaded | None:
    """What `load` makes of the newest checkpoint that it can load, with a warning for each that it cannot.

    Returns None where `folder` holds no checkpoint.

    Raises:
        ValueError: where there are some, and none can be loaded.
    """
    files = find(folder, prefix)
    for file in files:
        try:
            return load(file)
        except (OSError, ValueError) as error:
            warnings.warn(f"a checkpoint that cannot be used: {error}", stacklevel=2)
    if files:
        raise ValueError(f"none of the {len(files)} checkpoints in {folder} can be loaded")
    return None


def load(algorithm: type, file: Path, **arguments: Any) -> Any:
    """`algorithm.load(file, **arguments)`, with its replay buffer where it has one.

    Raises:
        OSError, ValueError: where either file is missing, damaged or of another model.
    """
    model = algorithm.load(file, **arguments)  # type: ignore[attr-defined]
    if hasattr(model, "replay_buffer"):
        model.load_replay_buffer(buffer_of(file))
    return model


def clean(folder: Path, prefix: str = PREFIX) -> None:
    """Remove what a process that was killed while saving left in `folder`: no other may be writing there."""
    remove_unfinished(folder)
    whole = {buffer_of(file) for file in find(folder, prefix)}
    pattern = re.compile(re.escape(prefix) + r"_replay_buffer_\d+_steps\.npz")
    for buffer in folder.glob("*.npz"):
        if pattern.fullmatch(buffer.name) and buffer not in whole:
            buffer.unlink()


def remove(file: Path) -> None:
    """Remove a checkpoint; `file` is its model."""
    file.unlink(missing_ok=True)
    buffer_of(file).unlink(missing_ok=True)


def steps_of(file: Path) -> int:
    """How many steps the model of a checkpoint had taken."""
    return int(file.stem.split("_")[-2])


def buffer_of(file: Path) -> Path:
    """The file of the replay buffer beside a model file."""
    prefix, steps, _ = file.stem.rsplit("_", 2)
    return file.with_name(f"{prefix}_replay_buffer_{steps}_steps.npz")
