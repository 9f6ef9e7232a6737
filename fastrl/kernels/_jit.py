"""The one place that holds the jit options."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.np.linalg
from numba.core.caching import CompileResultCacheImpl, FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


# Numba knows only whether a function's own file has changed. What it calls lies in others: all of them count.
_SOURCES = sorted(Path(__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:12]


_LOCATORS = CompileResultCacheImpl._locator_classes
_UserProvided: Any = next(c for c in _LOCATORS if "UserProvided" in c.__name__)  # versions name it differently


class _Folder(_UserProvided):
    """The folder that NUMBA_CACHE_DIR names, also where nothing can be written to it any more.

    Numba would pass it over then, and compile in every process what lies there.
    """

    def ensure_cache_path(self) -> None:
        if not Path(self.get_cache_path()).is_dir():
            super().ensure_cache_path()


class _Files(CompileResultCacheImpl):
    @property
    def filename_base(self) -> str:
        return f"{super().filename_base}.{_DIGEST}"


_Files._locator_classes = [_Folder, *_LOCATORS]


class _Cache(FunctionCache):
    _impl_class = _Files

    def save_overload(self, *compiled: Any) -> None:
        with contextlib.suppress(OSError):  # a read-only folder, or a full disk: it runs as well
            super().save_overload(*compiled)


def _import_without_scipy() -> None:
    """Import what Numba imports before its first function runs, but SciPy, which takes 0.1 s, a fifth of a start.

    Numba wants to know whether there is a BLAS to call. SciPy lies there, and where a function calls it Numba imports
    it by itself.
    """
    before = numba.np.linalg.ensure_blas
    numba.np.linalg.ensure_blas = lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        numba.np.linalg.ensure_blas = before


_import_without_scipy()


class _Compiling:
    lock, threads, collects = threading.Lock(), 0, False


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector, which would take an eighth of the time that compiling takes."""
    with _Compiling.lock:
        if _Compiling.threads == 0:
            _Compiling.collects = gc.isenabled()
            gc.disable()
        _Compiling.threads += 1
    try:
        yield
    finally:
        with _Compiling.lock:
            _Compiling.threads -= 1
            if _Compiling.threads == 0 and _Compiling.collects:
                gc.enable()


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Keep Ctrl-C until the block is over: LLVM calls Python by ctypes, where a KeyboardInterrupt would be lost."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield  # only the main thread is interrupted
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _cached(function: F, **options: Any) -> F:
    options["no_cfunc_wrapper"] = True  # nobody takes their addresses
    compiled: Any = numba.njit(nogil=True, error_model="numpy", **options)(function)
    if compiled is not function:  # as it is with NUMBA_DISABLE_JIT=1
        compiled._cache = _Cache(function)
        compiled.compile = _interrupted_later()(_no_collection()(compiled.compile))
    return cast(F, compiled)


def kernel(function: F) -> F:
    """Compile `function` on its first call, without the GIL, and cache the machine code on disk.

    IEEE arithmetic (no fastmath), so that a kernel equals its pure-Python self bit for bit.
    With NUMBA_DISABLE_JIT=1 it is the Python function itself.
    """
    return _cached(function)


def bare(function: F) -> F:
    """As `kernel`, for functions that allocate nothing: they do not count references to the arrays they are given.

    Numba counts them atomically, 5 ns a time, wherever an array is taken out of a tuple, sliced or handed on.
    """
    return _cached(function, _nrt=False)


def inlined(function: F) -> F:
    """As `kernel`, for short parts: they are compiled within each kernel that calls them, which takes less time."""
    return _cached(function, inline="always")


def native(function: Callable[..., Any], signature: Any, variant: str, checked: bool) -> tuple[int, Any]:
    """The address of `function` compiled for `signature`, and the dispatcher that keeps it in memory.

    `variant` tells versions of the same source apart in the cache on disk: Numba knows a function by its signature,
    its bytecode and the time its file was changed, not by the values it read elsewhere. `checked`: indices are
    checked, and a division by zero raises.
    """

    class Cache(FunctionCache):
        def _index_key(self, *about: Any) -> Any:
            return (*super()._index_key(*about), variant, checked, numba.config.BOUNDSCHECK)  # type: ignore[attr-defined]

    model: Any = "python" if checked else "numpy"
    dispatcher: Any = numba.njit(nogil=True, error_model=model, boundscheck=checked or None)(function)
    with contextlib.suppress(RuntimeError):  # of what was typed at a prompt: there is no file to see changes by
        dispatcher._cache = Cache(function)
    dispatcher.compile(signature)
    (compiled,) = dispatcher.overloads.values()
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name), dispatcher
