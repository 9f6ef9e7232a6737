"""`fastrl bench`: what fastrl costs on this machine, beside its peers; needs a checkout, where the benches are."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

import fastrl
from fastrl.commands.common import Failure, check_output, needed
from fastrl.flags import UsageError, nearest, parse


@dataclass
class BenchOptions:
    """What to measure.

    Args:
        names: operations, or parts of their names, such as gae; none for all.
        quick: the first case of each operation; --no-quick for all cases, which takes 20 minutes.
        out: where to keep the results, .json, for `python -m benches report`; None for nowhere.
        force: overwrite the results if they exist.
    """

    names: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="NAME")] = field(default_factory=list)
    quick: bool = True
    out: Path | None = None
    force: bool = False


def checkout() -> Path | None:
    """The directory of the sources that this package is imported from, where it is one."""
    root = Path(fastrl.__file__).resolve().parent.parent
    return root if (root / "benches" / "bench_operations.py").is_file() else None


def run(args: list[str]) -> None:
    """Measure what `args` name, and print how many times as long as fastrl others take."""
    options = parse(BenchOptions, args, "fastrl bench", "Measure fastrl beside its peers: the first case of each.")
    root = checkout()
    if root is None:
        raise UsageError(
            "the benches are no part of the installed package: they are in the source distribution and the repository; "
            'unpack one, and there: pip install -e ".[bench]" && fastrl bench'
        )
    for module in ("pytest", "pytest_benchmark"):
        needed(module, "bench")
    if options.out is not None:
        check_output(options.out, options.force, (".json",))
    sys.path.insert(0, str(root))  # the benches are imported from where they lie
    operations = importlib.import_module("benches.implementations").OPERATIONS
    for name in options.names:
        if not any(name in known for known in operations):
            known = ", ".join(operations)
            raise UsageError(f"unknown operation {name!r}{nearest(name, operations)}: there are {known}")
    report, results_of = (importlib.import_module(f"benches.{name}") for name in ("report", "results"))
    with tempfile.TemporaryDirectory() as folder:
        results = options.out.resolve() if options.out else Path(folder) / "results.json"
        _measure(root, options, results)
        try:
            print(report.most_important(results_of.read(results)).replace("<br>", " "))
        except results_of.ResultsError as error:
            raise Failure(f"nothing was measured: {error}") from error
    if options.out is not None:
        print(f"\nThe whole page of it: python -m benches report {options.out}")


def _measure(root: Path, options: BenchOptions, results: Path) -> None:
    """Run pytest over the benches; what it says goes to stderr."""
    parts = ["quick"] if options.quick else []
    if options.names:
        parts.append("(" + " or ".join(options.names) + ")")
    chosen = ["-k", " and ".join(parts)] if parts else []
    command = [sys.executable, "-m", "pytest", "benches", "-q", "--benchmark-columns=median", *chosen]
    code = subprocess.run([*command, f"--benchmark-json={results}"], cwd=root, stdout=sys.stderr).returncode
    if code == 2:
        raise KeyboardInterrupt
    if code:
        raise Failure(f"the benches failed: pytest ended with {code}")
