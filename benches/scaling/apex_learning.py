"""Does Ape-X learn as well as DQN in one process? The same hyperparameters, steps and seeds, as a Markdown table.

    python -m benches.scaling.apex_learning --seeds 5
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from fastrl.distributed import apex
from fastrl.presets import preset

# LunarLander's are those of RL Zoo, as the preset of Acrobot, with the double Q-learning and the windows of the paper:
# prioritised replay without them chases its own overestimates there.
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": preset("dqn", "CartPole-v1"),
    "LunarLander-v3": {**preset("dqn", "Acrobot-v1"), "double_q": True, "n_steps": 3},
}
EPISODES = 100  # of the evaluation, deterministic


def train(env_id: str, seed: int, actors: int) -> dict[str, Any]:
    """One run; `actors` 0 is DQN in this process. Mean return of the last training episodes and of the evaluation."""
    settings = dict(SETTINGS[env_id])
    total, start = settings.pop("total_timesteps"), time.perf_counter()
    model = fastrl.DQN("MlpPolicy", env_id, seed=seed, **settings)
    if actors:
        apex(model, total, actors=actors)
    else:
        model.learn(total)
    seconds = time.perf_counter() - start
    mean, _ = fastrl.evaluate_policy(model, env_id, EPISODES, seed=10_000 + seed)
    return {"env": env_id, "seed": seed, "actors": actors, "return": float(mean), "updates": model.n_updates,
            "lost": model.metrics.get("train/lost_steps", 0), "seconds": seconds}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| environment | how | median | mean | worst | by seed | s a seed |", "|---|---|---|---|---|---|---|"]
    for env_id in SETTINGS:
        for actors in sorted({row["actors"] for row in rows}):
            found = [row for row in rows if (row["env"], row["actors"]) == (env_id, actors)]
            if found:
                returns, seconds = np.array([row["return"] for row in found]), [row["seconds"] for row in found]
                how = f"Ape-X, {actors} actors" if actors else "DQN"
                lines.append(
                    f"| {env_id} | {how} | {np.median(returns):.1f} | {returns.mean():.1f} | {returns.min():.1f} | "
                    f"{', '.join(f'{x:.0f}' for x in returns)} | {np.mean(seconds):.0f} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--env", choices=SETTINGS, action="append", help="may be given again; both by default")
    parser.add_argument("--out", type=Path, help="file of JSON lines for the single runs")
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    rows = []
    for env_id in options.env or SETTINGS:
        for seed in range(options.seeds):
            for actors in (0, options.actors):
                rows.append(train(env_id, seed, actors))
                print(json.dumps(rows[-1]), flush=True)
                if options.out:
                    options.out.open("a").write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
