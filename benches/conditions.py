"""The conditions under which everything here is measured, in one place.

One thread for everything that has threads, unless asked for more; buffers filled and data fresh (`Work.fresh`); calls
warmed up; rounds in which each implementation of a case has its turn, a short one, each round beginning with another;
medians and quartiles. The results carry the versions and the machine.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TURN = 0.02  # seconds that an implementation has in a round, or one call where that takes longer
ROUNDS = (9, 25)
BUDGET = 1.5  # seconds for all rounds of a case, as far as that leaves at least ROUNDS[0]
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
ONE_THREAD = {
    **dict.fromkeys(THREAD_VARIABLES, "1"), "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}  # fmt: skip
LIBRARIES = (
    "numpy", "numba", "torch", "gymnasium", "scipy", "stable_baselines3", "sbx-rl", "rlox", "cpprb", "tianshou",
    "torchrl", "tensordict", "envpool", "quantecon", "rltools", "jax", "gymnax", "pytest-benchmark",
)  # fmt: skip


def limit_threads(threads: int = 1) -> None:
    """Say so to every library that is imported from now on."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")  # TorchRL's, which would tell of each storage
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def threads() -> int:
    """As `limit_threads` was told."""
    return int(os.environ.get(THREAD_VARIABLES[0], "1"))


def versions() -> dict[str, str]:
    """Of the libraries that are installed."""
    import fastrl

    found = {"python": platform.python_version(), "fastrl": fastrl.__version__}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, compiler."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), cpu)
    compiler = shutil.which("cc")
    printed = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout if compiler else "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    version = (printed.splitlines() or ["unknown"])[0]
    return {"cpu": cpu, "cores": cores, "system": platform.system(), "compiler": version}


def conditions(load: float) -> dict[str, Any]:
    """What the results carry; the load is that before anything was measured."""
    return {
        "threads": threads(), "versions": versions(), "machine": machine(), "load": load,
        "turn": TURN, "rounds": ROUNDS,
    }  # fmt: skip


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def calls_a_turn(call: Callable[[], Any], turn: float) -> tuple[int, float]:
    """How many calls fill a turn, and how long that takes, by the shortest of some; one before them warms up."""
    call()
    spent: list[float] = []
    while len(spent) < 5 and sum(spent) < turn:
        start = time.perf_counter()
        call()
        spent.append(time.perf_counter() - start)
    number = max(1, int(turn / min(spent)))
    return number, number * min(spent)


def interleave(
    calls: dict[str, Callable[[], Any]], fresh: Callable[[int], None] = lambda round: None,
    rounds: tuple[int, int] = ROUNDS, turn: float = TURN, seconds: dict[str, Callable[[Any], float]] | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds a call of each, by round.

    Args:
        calls: what has its turns.
        fresh: called before each round, with its number.
        rounds: the fewest and the most; between them as many as `BUDGET` allows.
        turn: seconds of a turn.
        seconds: for calls that have a clock of their own, how to tell the seconds of what they return.
    """
    clocks = seconds or {}
    turns = {name: (1, 0.0) if name in clocks else calls_a_turn(call, turn) for name, call in calls.items()}
    whole, names = sum(took for _, took in turns.values()), list(calls)
    n_rounds = max(rounds[0], min(rounds[1], int(BUDGET / max(whole, 1e-9)))) if not clocks else rounds[0]
    found: dict[str, list[float]] = {name: [] for name in names}
    for round in range(n_rounds):
        fresh(round)
        first = round % len(names)
        for name in names[first:] + names[:first]:
            call, (number, _) = calls[name], turns[name]
            with no_garbage_collection():
                start = time.perf_counter()
                for _ in range(number):
                    result = call()
                took = time.perf_counter() - start
            found[name].append(clocks[name](result) if name in clocks else took / number)
    return found
