"""What starting costs: import, the first call with an empty JIT cache, and with a warm one.

python -m benches.cold_start
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

IMPORT = "import fastrl, sys; assert 'torch' not in sys.modules"
EVERY_NAME = "from fastrl import TabularMDP, compute_gae, q_learning, ReplayBuffer"
FIRST_CALL = """
import time
from fastrl import q_learning
start = time.perf_counter()
q_learning("FrozenLake-v1", 100, seed=0)
print(time.perf_counter() - start)
"""
FIRST_STEPS = """
import time, torch
start = time.perf_counter()
from fastrl import {algorithm}
{algorithm}("MlpPolicy", {env}, {options}, engine="{engine}", seed=0).learn(64)
print(time.perf_counter() - start)
"""


def first_steps(algorithm: str, engine: str, env: str = '"CartPole-v1"') -> str:
    options = "n_steps=64" if algorithm == "PPO" else "learning_starts=32"
    return FIRST_STEPS.format(algorithm=algorithm, env=env, options=options, engine=engine)


RUNS = {  # engine and environment
    "compiled": ("compiled",),
    "compiled, on Gymnasium's own CartPole": ("compiled", '__import__("gymnasium").make("CartPole-v1")'),
    "by Torch": ("torch",),
}


def seconds(code: str, cache: str, timed_inside: bool) -> float:
    """Of one fresh process, whole or as it printed itself."""
    whole = "import time; s = time.perf_counter()\n" + code + "\nprint(time.perf_counter() - s)"
    source = code if timed_inside else whole
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    out = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=True)
    return float(out.stdout)


def main() -> None:
    """Print the table."""
    rows = [
        ("`import fastrl`", IMPORT, False),
        ("`from fastrl import TabularMDP, compute_gae, q_learning, ReplayBuffer`", EVERY_NAME, False),
        ("first `q_learning` call, after its import", FIRST_CALL, True),
    ]
    for algorithm in ("PPO", "DQN"):
        for how, run in RUNS.items():
            title = f"first 64 steps of {algorithm} and an update, {how}, after Torch's import"
            rows.append((title, first_steps(algorithm, *run), True))
    print("| | empty JIT cache, s | warm, s (median of 5) |\n|---|---|---|")
    for name, code, timed_inside in rows:
        with tempfile.TemporaryDirectory() as cache:
            empty = seconds(code, cache, timed_inside)
            warm = statistics.median(seconds(code, cache, timed_inside) for _ in range(5))
        print(f"| {name} | {empty:.2f} | {warm:.2f} |")


if __name__ == "__main__":
    main()
