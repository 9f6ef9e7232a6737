"""GAE: one call on fresh float32 arrays [T, N], ours and Stable-Baselines3's.

python -m benches.bench_gae           prints medians of interleaved rounds and their ratios
pytest benches/bench_gae.py           the same work under pytest-benchmark; --benchmark-disable: once
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benches.bench_replay import medians
from fastrl import compute_gae

SHAPES = [(2048, 1), (128, 8), (2048, 16), (128, 64), (2048, 256)]
NAMES = ["fastrl", "stable_baselines3"]


def make(name: str, shape: tuple[int, int]) -> Callable[[], Any]:
    """The call to be timed; both compute the same numbers (tests/test_gae.py compares them)."""
    T, N = shape
    rng = np.random.default_rng(0)
    rewards, values = (rng.standard_normal(shape, np.float32) for _ in range(2))
    last, ends = rng.standard_normal(N, np.float32), rng.random(shape) < 0.01
    if name == "fastrl":
        return lambda: compute_gae(rewards, values, last, ends)
    import torch
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import RolloutBuffer

    torch.set_num_threads(1)
    buffer = RolloutBuffer(T, Box(-1, 1, (1,)), Box(-1, 1, (1,)), gae_lambda=0.95, gamma=0.99, n_envs=N)
    buffer.rewards, buffer.values, buffer.episode_starts = rewards, values, np.roll(ends, 1, 0).astype(np.float32)
    last_values = torch.from_numpy(last)
    return lambda: buffer.compute_returns_and_advantage(last_values, ends[-1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_gae(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    benchmark(make(name, shape))


def main() -> None:
    """Print the table."""
    names = [name for name in NAMES if importlib.util.find_spec(name) is not None]
    print("microseconds a call, and how many times as long as fastrl's\n")
    print("| (T, N) |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    for shape in SHAPES:
        times = medians({name: make(name, shape) for name in names})
        print(f"| {shape} |", " | ".join(f"{t:.1f} ({t / times['fastrl']:.1f}x)" for t in times.values()), "|")


if __name__ == "__main__":
    main()
