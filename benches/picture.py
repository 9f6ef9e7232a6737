"""The README's picture: how many times as fast each part is as the usual way, measured here and now.

    python -m benches.picture [docs/speed.png]
"""

from __future__ import annotations

import statistics
import sys

import gymnasium as gym
from matplotlib.figure import Figure

from benches import bench_gae, bench_replay, bench_tabular, bench_train
from benches.learning import Run


def ratios() -> dict[str, float]:
    """What each part is compared with, and how many times as fast it is."""
    found = {}
    lake = gym.make("FrozenLake-v1", is_slippery=False)
    loops = {name: lambda loop=loop: loop(lake, 10_000, 0) for name, loop in bench_tabular.LOOPS.items()}
    steps = {name: loop() for name, loop in loops.items()}
    took = bench_tabular.seconds(loops, rounds=3)
    speed = {name: steps[name] / took[name] for name in loops}
    found["Q-learning, FrozenLake\nbeside a Python loop"] = speed["fastrl"] / speed["python"]

    mdp = bench_tabular.model("random, 100,000 states")
    calls = {name: solver(mdp, "modified_policy_iteration") for name, solver in bench_tabular.SOLVERS.items()}
    took = bench_tabular.seconds(calls, rounds=5)
    found["policy iteration, 100,000 states\nbeside QuantEcon"] = took["quantecon"] / took["fastrl"]

    names = ["fastrl", "stable_baselines3"]
    made = {name: bench_replay.make(name, 8, 256, 1_000_000) for name in names}
    for call, what in (("add", "replay buffer, add"), ("sample", "replay buffer, sample 256")):
        us = bench_replay.medians({name: made[name][call] for name in names})
        found[f"{what}\nbeside Stable-Baselines3"] = us[names[1]] / us["fastrl"]

    us = bench_replay.medians({name: bench_gae.make(name, bench_gae.rollout((128, 8))) for name in names})
    found["GAE, 128 steps of 8 environments\nbeside Stable-Baselines3"] = us[names[1]] / us["fastrl"]

    row = bench_train.ROWS["ppo-sb3"]
    libraries = bench_train.start(names, row.work, row.slow_steps, "auto", sys.executable)
    runs = {name: [Run(*a) for a in x] for name, x in bench_train.interleaved(libraries, "speed", range(1, 4)).items()}
    sps = {name: statistics.median(run.steps / run.seconds for run in x) for name, x in runs.items()}
    found["PPO, the whole run\nbeside Stable-Baselines3"] = sps["fastrl"] / sps[names[1]]
    return found


def draw(found: dict[str, float], path: str) -> None:
    """Horizontal bars on a logarithmic scale, readable in black and white."""
    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(found), list(found.values()), color="0.3", height=0.6)
    axes.bar_label(bars, [f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×" for ratio in found.values()], padding=4)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.8, max(found.values()) * 4)
    axes.set_xlabel("times as fast, on one core (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measure, print and draw."""
    found = ratios()
    for what, ratio in found.items():
        print(f"{what.replace(chr(10), ', ')}: {ratio:.1f}")
    draw(found, sys.argv[1] if len(sys.argv) > 1 else "docs/speed.png")


if __name__ == "__main__":
    main()
