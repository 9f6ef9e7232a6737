"""Files that are replaced whole."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


@contextmanager
def replacing(path: Path, durably: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` if the block ends well; the old or the new one always stands, whole.

    Missing directories above it are made. Of a link, the file that it leads to is replaced. Without `durably` that
    holds where the process ends, but not where the system does; it is faster.

    Raises:
        OSError: where `path` is a directory or a device, before anything is written.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; it must be the path of a file, such as {path / 'model'}")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is no ordinary file, and cannot be replaced by one")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if durably:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the files that `replacing` left in `folder` when its process was killed; nobody may be writing there."""
    for path in folder.glob(".*.tmp"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)
