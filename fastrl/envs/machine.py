"""From an environment's functions to machine code: what may be found on disk, and errors that people can read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.errors import NumbaError

from fastrl.kernels._environment import ACTIONS, OBS, OUTCOME, STATE, STREAM
from fastrl.kernels._jit import native

__all__ = ["compile_function"]


def compile_function(
    name: str, function: Callable[..., Any], constants: np.dtype, action: int, debug: bool
) -> tuple[int, Any]:
    """The address of `function`, an environment's `name`, and what keeps it in memory.

    `constants` is the dtype of `self`; `action` 0 stands for an int, 1 for float32[c], 2 for int64[c].
    Raises TypeError, with file and line, for what Numba does not compile.
    """
    arguments = {
        "reset": types.none(STATE, STREAM),
        "step": OUTCOME(STATE, (ACTIONS[0], ACTIONS[2], ACTIONS[1])[action], STREAM),
        "observe": types.none(STATE, OBS),
    }[name]
    signature = arguments.return_type(numba.from_dtype(constants), *arguments.args)
    try:
        return native(function, signature, _digest(function), debug)
    except NumbaError as error:
        code = function.__code__
        file, line = _place(error, code.co_filename, code.co_firstlineno)
        raise TypeError(
            f"{function.__qualname__} cannot be compiled: {_reason(error, name)} ({file}, line {line})"
        ) from error


def _digest(function: Any) -> str:
    """A digest of what is compiled into `function` from outside it: global numbers, and functions with theirs."""
    digest, seen = hashlib.sha256(), set()

    def add(function: Any) -> None:
        code: CodeType = function.__code__
        if code in seen:
            return
        seen.add(code)
        digest.update(code.co_code + repr([c for c in code.co_consts if not isinstance(c, CodeType)]).encode())
        cells = (cell.cell_contents for cell in function.__closure__ or ())
        outside = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
        for name, value in [*zip(code.co_freevars, cells, strict=True), *outside.items()]:
            values = {name: value}
            if isinstance(value, ModuleType) and value.__name__.split(".")[0] not in ("math", "numpy", "numba"):
                values = {part: getattr(value, part) for part in code.co_names if hasattr(value, part)}
            for part, each in values.items():
                each = getattr(each, "py_func", each)
                if hasattr(each, "__code__"):
                    add(each)
                elif isinstance(each, (bool, int, float, complex, str, tuple, np.ndarray, np.generic)):
                    digest.update(f"{part}={type(each)}".encode() + _bytes(each))

    add(function)
    return digest.hexdigest()


def _bytes(value: Any) -> bytes:
    if isinstance(value, (np.ndarray, np.generic)):
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    return repr(value).encode()


def _place(error: NumbaError, file: str, line: int) -> tuple[str, int]:
    """Where in the sources Numba stopped: the last place that its message names."""
    found = re.findall(r'File "(.*?)", line (\d+)', _plain(error))
    if found:
        return (file if file.endswith(found[-1][0].lstrip(".")) else found[-1][0]), int(found[-1][1])
    return file, getattr(getattr(error, "loc", None), "line", None) or line


def _reason(error: NumbaError, name: str) -> str:
    text = _plain(error)
    if missing := re.search(r"Unknown attribute '(\w+)' of type (?:Record|\[)", text):
        return f"self.{missing[1]} is no constant of the class"
    if re.search(r"return type|cannot convert .* to Tuple|No conversion from .* to (?:Tuple|none)", text, re.I):
        return "it must return (reward, terminated)" if name == "step" else "it must return nothing"
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Failed in", "During", "File", "There are"))]
    return (told[0] if told else type(error).__name__)[:300].rstrip(":. ")


def _plain(error: NumbaError) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))
