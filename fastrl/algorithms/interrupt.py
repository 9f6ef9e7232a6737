"""Ctrl-C as a request: the first ends a run at its next safe point, the second at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class GracefulInterrupt:
    """A context in which the first SIGINT sets `requested`, and the next one raises KeyboardInterrupt.

    A KeyboardInterrupt from elsewhere, a callback or an environment's worker, ends the block where it is: that
    is a request too, and `cut_short` says so.
    """

    def __init__(self) -> None:
        self.requested = self.cut_short = self._insisted = False

    def __enter__(self) -> GracefulInterrupt:
        self._previous: Any = None
        # Python allows signal handlers in the main thread only; elsewhere Ctrl-C keeps its meaning.
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._insisted = True
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if isinstance(error, KeyboardInterrupt) and not self._insisted:
            self.requested = self.cut_short = True
            return True
        return False
