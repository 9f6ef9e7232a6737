"""How data-parallel PPO scales: measured on two ranks, and what a cost model makes of it.

python -m benches.scaling RESULTS.json      measure, three minutes, and print what docs/scaling.md shows
python -m benches.scaling RESULTS.json --report      print it of what was measured before
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from benches.scaling.hosts import Unavailable
from benches.scaling.model import ETHERNET, INFINIBAND, Cost, Measured, errors, fit, grown, speedup
from benches.scaling.runs import Run, measure
from fastrl.files import replacing

SLOW = Run(env_us=1000, n_envs=8, n_steps=64, batch_size=256, n_epochs=4, iterations=4)
QUICK = Run(n_envs=16, n_steps=128, batch_size=256, n_epochs=4, iterations=30)


def both(run: Run) -> list[Run]:
    """On one rank and on two."""
    return [replace(run, ranks=n) for n in (1, 2)]


FIT = [
    *both(replace(SLOW, env_us=0, iterations=20)), *both(replace(SLOW, env_us=200, n_envs=4, iterations=8)),
    *both(replace(SLOW, env_us=0, n_envs=32, iterations=10)), *both(replace(SLOW, env_us=0, width=256, iterations=10)),
    *both(replace(SLOW, env_us=0, batch_size=64, iterations=20)),
    *both(replace(SLOW, env_us=0, batch_size=512, width=128, iterations=10)),
    replace(SLOW, env_us=0, ranks=2, delay_ms=0.0, iterations=20),
    replace(SLOW, env_us=0, ranks=2, delay_ms=1.0, iterations=10),
]  # fmt: skip
HELD_OUT = [
    *both(SLOW), *both(replace(SLOW, env_us=500, n_envs=16)), *both(replace(SLOW, env_us=100, n_steps=128, width=128)),
    *both(replace(SLOW, env_us=0, n_envs=16, batch_size=128, n_epochs=10, iterations=10)),
    *both(replace(SLOW, env_us=50, n_envs=24, width=192, batch_size=192, iterations=10)),
    replace(SLOW, env_us=200, ranks=2, delay_ms=5.0),
]  # fmt: skip
EFFICIENCY = [
    ("an environment of 1 ms, 8 of them", SLOW),
    ("compiled CartPole, 16 of them, 64 units", QUICK),
    ("the same, 128 of them, minibatches of 2,048", replace(QUICK, n_envs=128, batch_size=2048)),
    ('the same, `average="parameters"`', replace(QUICK, n_envs=128, batch_size=2048, average="parameters")),
    ('16 of them, `average="parameters"`', replace(QUICK, average="parameters")),
]


def main(arguments: list[str]) -> None:
    """Measure what is not in the file yet, and print the tables."""
    path = Path(arguments[0])
    known: Measured = []
    if path.exists():
        known = [(Run(**run), seconds) for run, seconds in json.loads(path.read_text())]
    wanted = [*FIT, *HELD_OUT, *(run for _, one in EFFICIENCY for run in both(one))]
    for run in wanted if "--report" not in arguments else []:
        if any(run == other for other, _ in known):
            continue
        try:
            known.append((run, measure(run)))
        except Unavailable as reason:
            print(f"left out: {run} ({reason})", file=sys.stderr)
            continue
        print(known[-1], file=sys.stderr, flush=True)
        with replacing(path) as file:
            file.write(json.dumps([(asdict(run), seconds) for run, seconds in known]).encode())
    measured = dict(known)
    report(measured)


def report(measured: dict[Run, dict[str, float]]) -> None:
    """The tables of docs/scaling.md."""
    print("| environment | one rank, steps/s | two ranks, steps/s | speedup |\n|---|--:|--:|--:|")
    for name, run in EFFICIENCY:
        one, two = (run.n_steps * run.n_envs / measured[r]["iteration"] for r in both(run))
        print(f"| {name} | {one:,.0f} | {two:,.0f} | {two / one:.2f} |")
    cost = fit([(run, measured[run]) for run in FIT if run in measured])
    held_out = [(run, measured[run]) for run in HELD_OUT if run in measured]
    print_fit(cost)
    print("\n| held out | measured, ms | predicted, ms | error |\n|---|--:|--:|--:|")
    for (run, seconds), error in zip(held_out, errors(cost, held_out), strict=True):
        print(f"| {words(run)} | {seconds['iteration'] * 1e3:.1f} | {cost.iteration(run) * 1e3:.1f} | {error:+.0%} |")
    print_predictions(cost)


def words(run: Run) -> str:
    """What is particular to a run."""
    network = "" if run.delay_ms is None else f", two hosts {run.delay_ms:g} ms apart"
    return (
        f"{run.ranks} rank{'s' * (run.ranks > 1)}, {run.n_envs} environments of {run.env_us} µs, {run.n_steps} steps, "
        f"{run.n_epochs} epochs of minibatches of {run.batch_size}, {run.width} units{network}"
    )


def print_fit(cost: Cost) -> None:
    """What was fitted."""
    units = {"row": (1e12, "ps"), "adam": (1e9, "ns"), "byte": (1e9, "ns")}
    print("\n| cost | fitted |\n|---|--:|")
    for name, value in asdict(cost).items():
        factor, unit = units.get(name, (1.0, "ways") if name == "trip" else (1e6, "µs"))
        print(f"| `{name}` | {value * factor:.3g} {unit} |")


def print_predictions(cost: Cost) -> None:
    """What many ranks would do: the same work shared, and as much work for each."""
    shared = replace(SLOW, n_envs=1024, batch_size=32768)
    cases = [
        ("1 ms environments, 1,024 shared", shared, False),
        ("1 ms environments, 8 a rank", SLOW, True),
        ("the same, 1,024 steps a rollout", replace(SLOW, n_steps=1024, batch_size=4096), True),
        ('the same, `average="parameters"`', replace(SLOW, average="parameters"), True),
        ("10 µs environments, 8 a rank", replace(SLOW, env_us=10), True),
    ]
    print("\n| | network | 8 ranks | 64 | 1,024 |\n|---|---|--:|--:|--:|")
    for name, run, weak in cases:
        for network in (ETHERNET, INFINIBAND):
            sizes = (8, 64, 1024)
            runs = grown(run, sizes) if weak else [replace(run, ranks=n) for n in sizes]
            shares = [speedup(cost, r, network, SPREAD) / r.ranks for r in runs]
            print(f"| {name} | {network.name} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


SPREAD = 0.02  # of rollouts, assumed

if __name__ == "__main__":
    main(sys.argv[1:])
