"""Other libraries with our parts and with their own: single calls, and runs of Stable-Baselines3.

python -m benches.bench_interop       prints medians of interleaved rounds and their ratios
pytest benches/bench_interop.py       the calls under pytest-benchmark; --benchmark-disable: each once
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from benches.bench_replay import columns, medians

Pair = tuple[Callable[[], Any], Callable[[], Any]]  # ours, theirs
RUNS = {"DQN": 5000, "PPO": 4096}  # steps on CartPole-v1, hyperparameters by default
ROUNDS = 5
CLOCK = time.thread_time  # everything here runs in one thread, and a busy machine then disturbs little


def sb3_modules() -> tuple[ModuleType, ModuleType]:
    """Ours and theirs; both have the same names."""
    from stable_baselines3.common import buffers

    from fastrl.interop import sb3

    return sb3, buffers


def replay(name: str, call: str, obs_size: int, batch: int, capacity: int) -> Pair:
    made = []
    for module in sb3_modules():
        rng = np.random.default_rng(0)
        buffer = getattr(module, name)(capacity, Box(-10, 10, (obs_size,), np.float32), Discrete(2), device="cpu")
        for first in range(0, capacity, 10_000):
            rows = slice(first, min(first + 10_000, capacity))
            obs, action, reward, next_obs, done, _ = columns(obs_size, rows.stop - first, rng)
            buffer.observations[rows, 0], buffer.next_observations[rows, 0] = obs, next_obs
            buffer.actions[rows, 0, 0], buffer.rewards[rows, 0], buffer.dones[rows, 0] = action, reward, done
        buffer.full = True
        obs, action, reward, next_obs, done, _ = columns(obs_size, 1, rng)
        infos = [{"TimeLimit.truncated": False}]
        add = partial(buffer.add, obs, next_obs, action, reward, done, infos)
        made.append(add if call == "add" else partial(buffer.sample, batch))
    return made[0], made[1]


def rollout(n_steps: int, n_envs: int, call: str) -> Pair:
    import torch

    made = []
    for module in sb3_modules():
        rng = np.random.default_rng(0)
        space = Box(-10, 10, (4,), np.float32)
        buffer = module.RolloutBuffer(n_steps, space, Discrete(2), "cpu", 0.95, 0.99, n_envs)
        for _ in range(n_steps):
            obs, action, reward, _, done, _ = columns(4, n_envs, rng)
            value, log_prob = torch.from_numpy(reward.copy()), torch.from_numpy(reward.copy())
            buffer.add(obs, action, reward, done, value, log_prob)
        last, dones = torch.zeros(n_envs), np.zeros(n_envs, bool)
        if call == "advantages":
            made.append(partial(buffer.compute_returns_and_advantage, last, dones))
        else:
            made.append(lambda buffer=buffer: [None for _ in buffer.get(64)])
    return made[0], made[1]


def cleanrl_loop(rewards: Any, values: Any, dones: Any, next_value: Any, next_done: Any) -> Any:
    """The recurrence in Torch's operations on N numbers, as CleanRL's scripts contain it."""
    import torch

    advantages, carry = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        is_last = t == len(rewards) - 1
        live = 1.0 - (next_done if is_last else dones[t + 1])
        following = next_value if is_last else values[t + 1]
        delta = rewards[t] + 0.99 * following * live - values[t]
        advantages[t] = carry = delta + 0.99 * 0.95 * live * carry
    return advantages, advantages + values


def cleanrl_gae(T: int, N: int) -> Pair:
    import torch

    from fastrl.interop.cleanrl import gae

    rewards, values = torch.randn(T, N), torch.randn(T, N)
    arguments = (rewards, values, (torch.rand(T, N) < 0.01).float(), torch.randn(N), torch.zeros(N))
    return partial(gae, *arguments, 0.99, 0.95), partial(cleanrl_loop, *arguments)


def torchrl_gae(name: str, B: int, T: int) -> Pair:
    import torch
    from torchrl.objectives.value import functional

    from fastrl.interop.torchrl import generalized_advantage_estimate

    numbers = [torch.randn(B, T, 1) for _ in range(3)]
    flags = [torch.rand(B, T, 1) < 0.01] * 2
    return (
        partial(generalized_advantage_estimate, 0.99, 0.95, *numbers, *flags),
        partial(getattr(functional, name), 0.99, 0.95, *numbers, *flags),
    )


SB3, TORCHRL = "stable_baselines3", "torchrl"
CALLS: dict[str, tuple[str, Callable[[], Pair]]] = {
    "SB3 ReplayBuffer.add, obs 4": (SB3, partial(replay, "ReplayBuffer", "add", 4, 64, 100_000)),
    "SB3 ReplayBuffer.sample(64), obs 4 of 1e5": (SB3, partial(replay, "ReplayBuffer", "sample", 4, 64, 100_000)),
    "SB3 ReplayBuffer.sample(256), obs 8 of 1e6": (SB3, partial(replay, "ReplayBuffer", "sample", 8, 256, 1_000_000)),
    "SB3 NStepReplayBuffer.sample(64), 3 steps": (SB3, partial(replay, "NStepReplayBuffer", "sample", 4, 64, 100_000)),
    "SB3 RolloutBuffer advantages, (2048, 1)": (SB3, partial(rollout, 2048, 1, "advantages")),
    "SB3 RolloutBuffer.get(64), (2048, 1)": (SB3, partial(rollout, 2048, 1, "get")),
    "CleanRL advantages, (128, 4)": ("torch", partial(cleanrl_gae, 128, 4)),
    "TorchRL advantages, (8, 128, 1)": (TORCHRL, partial(torchrl_gae, "generalized_advantage_estimate", 8, 128)),
    "TorchRL advantages, vectorised, (8, 128, 1)":
        (TORCHRL, partial(torchrl_gae, "vec_generalized_advantage_estimate", 8, 128)),
    "TorchRL advantages, vectorised, (32, 1024, 1)":
        (TORCHRL, partial(torchrl_gae, "vec_generalized_advantage_estimate", 32, 1024)),
}  # fmt: skip


def make(name: str) -> Pair:
    peer, calls = CALLS[name]
    if importlib.util.find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    import torch

    torch.set_num_threads(1)
    ours, theirs = calls()
    ours(), theirs()  # kernels compile in their first call
    return ours, theirs


@pytest.mark.parametrize("whose", ["fastrl", "theirs"])
@pytest.mark.parametrize("name", CALLS)
def test_calls(benchmark: Any, name: str, whose: str) -> None:
    benchmark(make(name)[whose == "theirs"])


def timed(base: type, methods: tuple[str, ...]) -> tuple[type, dict[str, list[float]]]:
    """A subclass, and the seconds of each call of its `methods`."""
    spent: dict[str, list[float]] = {name: [] for name in methods}

    def measure(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()  # CLOCK itself would take as long as `add`
            result = getattr(base, name)(self, *args, **kwargs)
            spent[name].append(time.perf_counter() - began)
            return result

        return method

    return type(base.__name__, (base,), {name: measure(name) for name in methods}), spent


def train(algorithm: str, module: ModuleType) -> tuple[float, float]:
    """Seconds of a run, and of it in the buffer: of each method the median times the number of calls."""
    import stable_baselines3

    if algorithm == "DQN":
        kind, buffer, spent = "replay_buffer_class", *timed(module.ReplayBuffer, ("add", "sample"))
    else:
        methods = ("add", "compute_returns_and_advantage", "_get_samples")
        kind, buffer, spent = "rollout_buffer_class", *timed(module.RolloutBuffer, methods)
    keywords: dict[str, Any] = {kind: buffer, "device": "cpu", "seed": 0}
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", "CartPole-v1", **keywords)
    began = CLOCK()
    model.learn(RUNS[algorithm])
    return CLOCK() - began, sum(statistics.median(calls) * len(calls) for calls in spent.values())


def main() -> None:
    """Print both tables."""
    print("microseconds of processor time a call\n\n| call | fastrl | theirs | ratio |\n|---|---|---|---|")
    for name, (peer, _) in CALLS.items():
        if importlib.util.find_spec(peer) is not None:
            ours, theirs = medians(dict(zip(("ours", "theirs"), make(name), strict=True)), timer=CLOCK).values()
            print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f}x |", flush=True)
    if importlib.util.find_spec(SB3) is None:
        return
    print("\nseconds of processor time of a run on CartPole-v1, and of it in the buffer\n")
    print("| run | steps | fastrl | SB3 | in the buffer, fastrl | SB3 | ratio |\n|---|---|---|---|---|---|---|")
    for algorithm, steps in RUNS.items():
        train(algorithm, sb3_modules()[0])  # what happens once in a process
        rounds = [[train(algorithm, module) for module in sb3_modules()] for _ in range(ROUNDS)]
        (run, buffer), (their_run, their_buffer) = (
            [statistics.median(round_[whose][part] for round_ in rounds) for part in (0, 1)] for whose in (0, 1)
        )
        cells = f"{run:.2f} | {their_run:.2f} | {buffer:.3f} | {their_buffer:.3f} | {their_buffer / buffer:.1f}x"
        print(f"| {algorithm} | {steps} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
