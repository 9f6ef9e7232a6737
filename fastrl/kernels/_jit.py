"""The one place that holds the jit options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """Compile `function` on its first call, without the GIL, and cache the machine code on disk.

    IEEE arithmetic (no fastmath), so that a kernel equals its pure-Python self bit for bit.
    With NUMBA_DISABLE_JIT=1 it is the Python function itself.
    """
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """As `kernel`, for short parts: they are compiled within each kernel that calls them, which takes less time."""
    return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")(function))
