"""Whole training runs at equal hyperparameters: ours and Stable-Baselines3's, steps/s on one thread.

python -m benches.bench_train         prints medians of interleaved rounds and their ratios
pytest benches/bench_train.py         the same work under pytest-benchmark; --benchmark-disable: small and once
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from typing import Any

import pytest

ZOO = dict(n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8)
WORK: dict[str, tuple[str, int, dict[str, Any], int]] = {  # algorithm, environments, hyperparameters, steps
    "PPO CartPole-v1, SB3's defaults": ("PPO", 1, {}, 8192),
    "PPO CartPole-v1, RL Zoo's setting": ("PPO", 8, ZOO, 16_384),
    "DQN CartPole-v1, [128, 128], an update a step": (
        "DQN", 1, dict(train_freq=1, batch_size=64, policy_kwargs=dict(net_arch=[128, 128])), 3000,
    ),
}  # fmt: skip
NAMES = ["fastrl", "stable_baselines3"]


def train(name: str, work: str, steps: int | None = None) -> float:
    """Steps per second of one run; construction is not timed."""
    import torch

    torch.set_num_threads(1)
    algorithm, n_envs, options, total = WORK[work]
    total = steps or total
    if name == "fastrl":
        import fastrl

        model = getattr(fastrl, algorithm)("MlpPolicy", "CartPole-v1", n_envs=n_envs, seed=0, **options)
    else:
        import stable_baselines3
        from stable_baselines3.common.env_util import make_vec_env

        env = make_vec_env("CartPole-v1", n_envs=n_envs)
        model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, seed=0, device="cpu", **options)
    start = time.perf_counter()
    model.learn(total)
    return model.num_timesteps / (time.perf_counter() - start)


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("name", NAMES)
def test_train(benchmark: Any, request: pytest.FixtureRequest, name: str, work: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    steps = 200 if request.config.getoption("benchmark_disable") else None
    benchmark.pedantic(train, (name, work, steps), rounds=3, warmup_rounds=1)


def medians(work: str, rounds: int = 3) -> dict[str, float]:
    """Steps per second of each that is installed, the median over rounds in which each has its turn."""
    names = [name for name in NAMES if importlib.util.find_spec(name) is not None]
    for name in names:
        train(name, work, 500)
    speeds = {name: [] for name in names}  # type: dict[str, list[float]]
    for _ in range(rounds):
        for name in names:
            speeds[name].append(train(name, work))
    return {name: statistics.median(values) for name, values in speeds.items()}


def main() -> None:
    """Print the table."""
    print("| steps/s | fastrl | stable_baselines3 | ratio |\n|---|---|---|---|")
    for work in WORK:
        speed = medians(work)
        ours, theirs = speed["fastrl"], speed.get("stable_baselines3")
        rest = "not installed | |" if theirs is None else f"{theirs:,.0f} | {ours / theirs:.2f} |"
        print(f"| {work} | {ours:,.0f} | {rest}", flush=True)


if __name__ == "__main__":
    main()
