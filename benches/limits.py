"""C loops that do nothing but the work: what a call could cost at best. Compiled where there is a C compiler."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("limits.c")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled loops of limits.c, for this machine's own instructions; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:  # once loaded, a library needs its file no more
        target = Path(folder) / "limits.so"
        subprocess.run([compiler, *flags, "-o", str(target), str(SOURCE)], check=True)
        return ctypes.CDLL(str(target))
