"""Named arrays in one file: an uncompressed .npz, which `numpy.load` reads too. Nothing is ever unpickled."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fastrl.files import replacing


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write `arrays` to `path`, atomically and without copies in memory. OSError where that fails."""
    with replacing(Path(path)) as file, zipfile.ZipFile(file, "w") as members:
        for name, array in arrays.items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read(path: str | os.PathLike[str], limit: int) -> dict[str, NDArray[Any]]:
    """What `write` wrote.

    Raises:
        OSError: where the file cannot be opened.
        ValueError: for a truncated, damaged or foreign file, or one of more than `limit` bytes.
    """
    with open(path, "rb") as file:
        try:
            return _read_members(file, limit)
        except Exception as error:  # foreign bytes fail in many ways, and each of them is this one error
            raise ValueError(f"{path} is not a whole file of a replay buffer: {error}") from error


def _read_members(file: IO[bytes], limit: int) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(file) as members:
        size = sum(info.file_size for info in members.infolist())
        if size > limit:
            raise ValueError(f"it unpacks to {size} bytes where at most {limit} make sense")
        arrays = {}
        for info in members.infolist():
            with members.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays
