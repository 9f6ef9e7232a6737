"""From an environment's functions to machine code: what may be found on disk, and errors that people can read."""

from __future__ import annotations

import dis
import hashlib
import os
import re
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import numba
import numpy as np
from numba import types

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
    code = function.__code__
    try:
        _check_self(code, set(constants.names or ()))
        return native(function, signature, _digest(function), debug)
    except Exception as error:  # Numba's own errors, and what escapes from it for code that it does not foresee
        file, line = _place(error, code)
        where = f"({file}, line {line})"
        raise TypeError(f"{function.__qualname__} cannot be compiled: {_reason(error, name)} {where}") from error


class _Misuse(Exception):
    """What Numba would let pass, or not explain: (reason, line)."""


def _check_self(code: CodeType, constants: set[str]) -> None:
    before: Any = None
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        at: Any = getattr(instruction, "positions", None)  # from Python 3.11 on
        line = (at.lineno if at else instruction.starts_line) or line
        loaded = before.argval if before is not None and before.opname.startswith("LOAD_FAST") else ""
        of_self = (loaded[-1] if isinstance(loaded, tuple) else loaded) == code.co_varnames[0]
        if of_self and instruction.opname == "STORE_ATTR":
            raise _Misuse(f"self.{instruction.argval} is a constant; what changes must be kept in state", line)
        if of_self and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval not in constants:
            raise _Misuse(f"self.{instruction.argval} is no constant of the class", line)
        before = instruction


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
        names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        outside = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
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


def _place(error: Exception, code: CodeType) -> tuple[str, int]:
    """Where in the sources Numba stopped: the last place that its message names."""
    if isinstance(error, _Misuse):
        return code.co_filename, error.args[1]
    found = re.findall(r'File "(.*?)", line (\d+)', _plain(error))
    if found:
        return os.path.abspath(found[-1][0]), int(found[-1][1])
    return code.co_filename, getattr(getattr(error, "loc", None), "line", None) or code.co_firstlineno


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, _Misuse):
        return str(error.args[0])
    text = _plain(error)
    if helper := re.search(r"Untyped global name '(\w+)'.*\n?.*<class 'function'>", text):
        return f"{helper[1]} is a Python function: decorate it with numba.njit"
    if re.search(r"No conversion from .* to (?:Tuple|UniTuple|none)", text):
        return "it must return (reward, terminated)" if name == "step" else "it must return nothing"
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Failed in", "During", "File", "There are"))]
    first = told[0] if told else type(error).__name__
    if first.endswith("found for signature:") and (call := next((s for s in told if s.startswith(">>>")), "")):
        first = f"there is no {call[4:]}"
    return first[:300].rstrip(":. ")


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", str(error))
