"""Records in a memory-mapped file that survives a crash."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import struct
import warnings
import weakref
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import fcntl
except ImportError:  # not on Windows, which refuses to open a mapped file for writing anyway
    fcntl = None  # type: ignore[assignment]

MAGIC = b"fastrl replay 1\n"
BLOCK = 1 << 16  # bytes; a multiple of the page sizes of all machines
LAYOUT = struct.Struct("<16sII")  # magic, bytes of the JSON behind, its CRC
PROGRESS = struct.Struct("<Q4q4Q")  # the fields of `Progress`, and behind them their CRC
LIMIT = 1 << 62  # of transitions
PARTS = 64  # in which a lap around the ring is announced


class Progress(NamedTuple):
    """How far the file can be trusted: the transitions max(first, dirty - capacity) … added - 1 are whole."""

    version: int  # counts the writings of this; the last one is valid
    first: int  # the oldest transition that earlier crashes have spared
    added: int  # at the last flush
    dirty: int  # no transition from this one on has been written
    ragged: int
    rng_state: tuple[int, ...] = (0, 0, 0, 0)


class RecordFile:
    """A file of `capacity` records, and what is known of them. One at a time may have it open.

    In blocks of 64 KiB: what the records are; two copies of `Progress`, written in turn, so that one is always
    whole; the records. Before a record is overwritten, `announce` has made known that it may be torn.

    Raises:
        OSError: a file that cannot be opened, or is open elsewhere; too little space, and then no file is left.
        ValueError: a file that is something else, truncated, or of other records.
    """

    def __init__(self, path: str | os.PathLike[str], dtype: np.dtype[Any], capacity: int, num_envs: int) -> None:
        self.path, self.capacity = Path(path), capacity
        size = 3 * BLOCK + capacity * dtype.itemsize
        layout = _layout(dtype, capacity, num_envs)
        self._created = not self.path.exists()
        self._file = open(self.path, "x+b" if self._created else "r+b")  # noqa: SIM115 - it stays open
        weakref.finalize(self, self._file.close)
        try:
            _lock(self._file, self.path)
            if self._created:
                _allocate(self._file, size, self.path)
                self._map = mmap.mmap(self._file.fileno(), size)
                self._map[: len(layout)] = layout
                self.progress = Progress(0, 0, 0, 0, 0)
                self._set()
                self._map.flush()
            else:
                _check(self._file, layout, size, self.path)
                self._map = mmap.mmap(self._file.fileno(), size)
                self.progress = self._recover()
        except BaseException:
            self.abandon()
            raise
        if hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # where the file exceeds the memory, reading ahead is of no use
        self.records = np.frombuffer(self._map, dtype, capacity, 3 * BLOCK)

    @property
    def closed(self) -> bool:
        return self._file.closed

    def announce(self, end: int) -> int:
        """Make known that transitions before `end` may be written, and some more, before which no call is needed."""
        if self.closed:
            raise ValueError(f"the buffer at {self.path} is closed: nothing can be added")
        self._set(dirty=max(end + self.capacity // PARTS, self.capacity))
        return self.progress.dirty

    def flush(self, first: int, added: int, ragged: bool, rng_state: NDArray[np.uint64]) -> None:
        """Make durable what was written."""
        if self.closed:
            raise ValueError(f"the buffer at {self.path} is closed")
        self._map.flush()
        self._set(first=first, added=added, dirty=added, ragged=int(ragged), rng_state=tuple(rng_state.tolist()))

    def close(self) -> None:
        """Let others open the file. The records can still be read."""
        if not self.closed:
            _unlock(self._file)
            self._file.close()

    def abandon(self) -> None:
        """Close it where no buffer came of it, and leave no file that was not there before."""
        self.close()
        if self._created:
            self.path.unlink()

    def _set(self, **changes: Any) -> None:
        """Write the progress in place of the older of its copies, durably."""
        progress = self.progress._replace(version=self.progress.version + 1, **changes)
        packed = PROGRESS.pack(*progress[:-1], *progress.rng_state)
        start = BLOCK * (1 + progress.version % 2)
        self._map[start : start + len(packed) + 4] = packed + zlib.crc32(packed).to_bytes(4, "little")
        self._map.flush(start, BLOCK)
        self.progress = progress

    def _recover(self) -> Progress:
        """The last progress; what a crash has torn is left out, with a warning."""
        found = []
        for start in (BLOCK, 2 * BLOCK):
            packed = self._map[start : start + PROGRESS.size]
            if zlib.crc32(packed).to_bytes(4, "little") == self._map[start + PROGRESS.size : start + PROGRESS.size + 4]:
                version, first, added, dirty, ragged, *rng_state = PROGRESS.unpack(packed)
                found.append(Progress(version, first, added, dirty, ragged, tuple(rng_state)))
        if not found:
            raise ValueError(f"{self.path} is damaged: neither copy of its progress is whole")
        last = max(found)
        possible = 0 <= last.first <= last.added <= last.dirty < LIMIT and last.ragged in (0, 1)
        if not possible or last.version >= LIMIT:
            raise ValueError(f"{self.path} is damaged: its progress cannot be: {last}")
        oldest = max(last.first, last.added - self.capacity, 0)
        first = max(oldest, min(last.dirty - self.capacity, last.added))
        if last.dirty > last.added:
            warnings.warn(
                f"{self.path} was not closed after its last flush(): the transitions added since then, at most "
                f"{last.dirty - last.added}, are lost, and {first - oldest} older ones, which they may have "
                "overwritten, are dropped",
                stacklevel=4,
            )
        return last._replace(first=first if first > last.added - self.capacity else 0)


def _layout(dtype: np.dtype[Any], capacity: int, num_envs: int) -> bytes:
    """The first block of the file: what must be equal for a buffer to open it."""
    fields = [
        [name, part.base.str, list(part.shape), offset] for name, (part, offset, *_) in (dtype.fields or {}).items()
    ]
    content = json.dumps({"capacity": capacity, "num_envs": num_envs, "record": fields}).encode()
    if LAYOUT.size + len(content) > BLOCK:
        raise ValueError(f"{len(fields)} fields are too many for a file")
    return LAYOUT.pack(MAGIC, len(content), zlib.crc32(content)) + content


def _check(file: IO[bytes], layout: bytes, size: int, path: Path) -> None:
    """ValueError unless the file is a whole one of this layout."""
    head = file.read(BLOCK)
    content = b""
    if len(head) >= LAYOUT.size and head[:16] == MAGIC:
        _, length, crc = LAYOUT.unpack(head[: LAYOUT.size])
        content = head[LAYOUT.size : LAYOUT.size + length]
    if not content or zlib.crc32(content) != crc:
        version = " of another version" if head.startswith(MAGIC[:14]) and head[:16] != MAGIC else ""
        raise ValueError(f"{path} is not a replay buffer's file{version}: choose another path, or delete it")
    if content != layout[LAYOUT.size :]:
        theirs, ours = _parse(content), json.loads(layout[LAYOUT.size :])
        if theirs is None:
            raise ValueError(f"{path} is damaged: it does not say what its records are")
        name = next((name for name in ours if theirs.get(name) != ours[name]), "layout")
        raise ValueError(f"{path} was made with {name} {theirs.get(name)}; this buffer has {ours.get(name)}")
    if (found := os.fstat(file.fileno()).st_size) != size:
        raise ValueError(f"{path} has {found} bytes where {size} make it whole: it was truncated")


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lock(file: IO[bytes], path: Path) -> None:
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "another buffer has this file open; close that one first"
            raise BlockingIOError(errno.EAGAIN, message, str(path)) from error


def _unlock(file: IO[bytes]) -> None:
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)  # the mapping keeps a copy of the descriptor, and with it the lock


def _allocate(file: IO[bytes], size: int, path: Path) -> None:
    """Give the file all its bytes now, for a disk that is full later would end the process."""
    free = shutil.disk_usage(path.parent).free
    try:
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
            file.flush()
    except OSError as error:
        message = f"{error.strerror}: the buffer needs {size} bytes, {free} are free; lower the capacity"
        raise OSError(error.errno, message, str(path)) from error
