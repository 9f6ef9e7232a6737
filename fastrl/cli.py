"""The command line: which command, and what is said where it fails.

Torch is imported only once the command has been found to make sense: help and most errors come at once.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import fastrl
from fastrl.commands.common import describe
from fastrl.flags import UsageError, nearest
from fastrl.help import HELP, HELP_FLAGS

COMMANDS = {  # the module of each, with its `run(args)`
    "train": "train", "eval": "evaluate", "play": "play", "plot": "plot", "presets": "presets", "bench": "bench",
    "export": "export", "tune": "tune", "rlhf": "rlhf", "completion": "completion",
}  # fmt: skip


BROKEN_PIPE = 141  # as shells say of a command that the signal ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's own.

    Returns:
        The exit code: 0 fine, 1 failed while running, 2 wrong usage, 130 interrupted. Where it is not 0, one
        line on stderr says why.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(args))


def guarded(work: Callable[[], int]) -> int:
    """The exit code of `work`, or of the error that ends it and that one line on stderr tells of."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return work()
        except SystemExit as stop:  # --help of one command
            return int(stop.code or 0)
        except BrokenPipeError:  # whoever read the output has seen enough, as head has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more
            return BROKEN_PIPE
        except (Exception, KeyboardInterrupt) as error:
            return _report(error)


def _dispatch(args: list[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command in HELP_FLAGS:
        print(HELP)
    elif command == "--version":
        print(f"fastrl {fastrl.__version__}")
    elif command in COMMANDS:
        importlib.import_module(f"fastrl.commands.{COMMANDS[command]}").run(rest)
    else:
        raise UsageError(f"unknown command {command!r}{nearest(command, COMMANDS)}; see fastrl --help")
    return 0


def _report(error: BaseException) -> int:
    """Print what happened, on one line; returns the exit code."""
    if os.environ.get("FASTRL_TRACEBACK"):
        traceback.print_exception(error)
    interrupted = isinstance(error, KeyboardInterrupt)
    message = "interrupted" if interrupted else " ".join(describe(error).split())
    print(f"fastrl: {message}", file=sys.stderr)
    return 130 if interrupted else getattr(error, "code", 1)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(message))  # Gymnasium colours its warnings for any output
    print(f"fastrl: warning: {' '.join(text.split()).removeprefix('WARN: ')}", file=sys.stderr)
