"""The command line of the benches: `python -m benches`. What can only be measured by pytest is not here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from benches import conditions

HELP = """\
benches: what fastrl costs and what its agents learn, beside its peers

usage:
  pytest benches --benchmark-json=RESULTS.json    measure everything; -k quick: a few minutes; -k gae: only that
  python -m benches report RESULTS.json           write RESULTS.md of it: tables of ratios, charts
  python -m benches picture RESULTS.json          draw RESULTS.png of it: how many times as fast, in a few bars
  python -m benches speed OPERATION...            measure operations here and now, and print their tables
  python -m benches learning                      train agents of several libraries, write learning.md
  python -m benches rlhf                          fine-tune tiny language models, write rlhf-results.md
  python -m benches shares                        print where the time of a run goes

Each has more to say with --help."""


@dataclass
class Report:
    """Write a page of tables and charts from the results of pytest benches --benchmark-json=RESULTS.json.

    Args:
        results: the file of results.
        to: the page, by default beside the results; its charts lie in the folder of its name beside it.
    """

    results: Annotated[Positional[Path], arg(metavar="RESULTS.json")]
    to: Path | None = None

    def __call__(self) -> None:
        from benches.report import write

        to = self.to or self.results.with_suffix(".md")
        write(self.results, to)
        print(f"{to}, and its charts in {to.with_suffix('')}")


@dataclass
class Picture:
    """Draw how many times as fast the important operations are as the usual way, from the results of pytest benches.

    Args:
        results: the file of results.
        to: the picture, a PNG, by default beside the results.
    """

    results: Annotated[Positional[Path], arg(metavar="RESULTS.json")]
    to: Path | None = None

    def __call__(self) -> None:
        from benches.picture import write

        write(self.results, self.to or self.results.with_suffix(".png"))


@dataclass
class Speed:
    """Measure operations here and now, ours beside the peers' in interleaved rounds, and print a table of each.

    Args:
        operations: keys of the table in benches/implementations.py; without any, they are listed.
        rounds: in which each implementation has its turn; None for as many as the operation asks for.
        sweeps: measure the sizes of its sweeps too.
        threads: of BLAS, OpenMP, Torch, Numba and Rayon.
    """

    operations: Annotated[Positional[tuple[str, ...]], arg(metavar="OPERATION...")] = ()
    rounds: int | None = None
    sweeps: bool = False
    threads: int = 1

    def __call__(self) -> None:
        from benches.implementations import OPERATIONS
        from fastrl.flags import UsageError, nearest

        for name in self.operations:
            if name not in OPERATIONS:
                known = ", ".join(OPERATIONS)
                raise UsageError(f"unknown operation {name!r}{nearest(name, OPERATIONS)}: there are {known}")
        _at_least_one("threads", self.threads)
        _at_least_one("rounds", 1 if self.rounds is None else self.rounds)
        if not self.operations:
            print("\n".join(f"{key:<30}{operation.title}" for key, operation in OPERATIONS.items()))
            return
        from benches.speed import show

        for name in self.operations:
            show(OPERATIONS[name], self.rounds, self.sweeps)


@dataclass
class Shares:
    """Print where the time of a run of PPO goes: updates, acting, the environment, and so on.

    Args:
        rounds: in which each kind of run has its turn.
    """

    rounds: int = 9

    def __call__(self) -> None:
        _at_least_one("rounds", self.rounds)
        from benches.shares import main

        main(self.rounds)


COMMANDS = {"report": Report, "picture": Picture, "speed": Speed, "shares": Shares}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default the process's own.

    Returns:
        The exit code: 0 fine, 1 failed while running, 2 wrong usage, 130 interrupted. Where it is not 0, one line on
        stderr says why.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    conditions.limit_threads(_threads(args))  # before anything imports NumPy
    try:
        _dispatch(args)
    except SystemExit as stop:  # --help of one command, or names that it does not know
        if isinstance(stop.code, str):
            print(f"benches: {stop.code}", file=sys.stderr)
        return 2 if isinstance(stop.code, str) else stop.code or 0
    except KeyboardInterrupt:
        print("benches: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("FASTRL_TRACEBACK"):
            raise
        plain = isinstance(error, (ValueError, OSError)) or hasattr(error, "code")
        text = str(error) if plain else f"{type(error).__name__}: {error}"
        print(f"benches: {' '.join(text.split())}", file=sys.stderr)
        return getattr(error, "code", 1)
    return 0


def _dispatch(args: list[str]) -> None:
    from fastrl.flags import UsageError, nearest, parse

    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command in ("-h", "--help"):
        print(HELP)
    elif command in COMMANDS:
        options = COMMANDS[command]
        parse(options, rest, f"python -m benches {command}", (options.__doc__ or "").split("\n")[0])()
    elif command == "rlhf":
        from benches.rlhf.command import Rlhf

        parse(Rlhf, rest, "python -m benches rlhf", (Rlhf.__doc__ or "").split("\n")[0])()
    elif command == "learning":
        import tyro

        from benches.learning.command import main as learning

        tyro.cli(learning, prog="python -m benches learning", args=rest)
    else:
        known = (*COMMANDS, "learning", "rlhf")
        raise UsageError(f"unknown command {command!r}{nearest(command, known)}; see python -m benches --help")


def _at_least_one(name: str, value: int) -> None:
    from fastrl.flags import UsageError

    if value < 1:
        raise UsageError(f"--{name} {value}: it must be at least 1")


def _threads(args: list[str]) -> int:
    """What --threads asks for, before it can be looked at properly."""
    words = [word for argument in args for word in argument.split("=", 1)]
    return next((max(1, int(n)) for flag, n in pairwise(words) if flag == "--threads" and n.isdecimal()), 1)


if __name__ == "__main__":
    sys.exit(main())
