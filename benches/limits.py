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
    with tempfile.TemporaryDirectory() as folder:  # once loaded, a library needs its file no more
        loops, target = Path(folder) / "limits.o", Path(folder) / "limits.so"
        flags = ["-O3", "-march=native", "-ffast-math", "-fPIC", "-c"]
        subprocess.run([compiler, *flags, "-o", str(loops), str(SOURCE)], check=True)
        # Linked with -ffast-math, it would have the whole process round subnormal numbers to 0.
        subprocess.run([compiler, "-shared", "-o", str(target), str(loops)], check=True)
        return ctypes.CDLL(str(target))
