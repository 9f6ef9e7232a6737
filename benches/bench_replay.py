"""Replay: one `add` and one `sample`, ours, the peers' and a C loop's, on filled buffers and with fresh indices.

python -m benches.bench_replay        prints medians of interleaved rounds and their ratios
pytest benches/bench_replay.py        the same work under pytest-benchmark; --benchmark-disable: small and once
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import statistics
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from benches.limits import library
from fastrl import ReplayBuffer

WORK = [(4, 64, 100_000), (8, 256, 1_000_000), (376, 256, 100_000)]  # obs size, batch, capacity
CHUNK = 10_000


def columns(obs_size: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """`n` random transitions: obs, action, reward, next_obs, terminated, truncated."""
    obs, next_obs = (rng.standard_normal((n, obs_size), np.float32) for _ in range(2))
    return (
        obs,
        rng.integers(0, 2, n),
        rng.standard_normal(n, np.float32),
        next_obs,
        rng.random(n) < 0.01,
        np.zeros(n, bool),
    )


def ours(obs_size: int, batch: int, capacity: int, device: str | None = None) -> dict[str, Callable[[], Any]]:
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity, Box(-10, 10, (obs_size,), np.float32), Discrete(2), seed=0, device=device)
    for start in range(0, capacity, CHUNK):
        buffer.add_batch(*columns(obs_size, min(CHUNK, capacity - start), rng))
    obs, _, _, next_obs, _, _ = columns(obs_size, 1, rng)
    return {"add": partial(buffer.add, obs, 1, 0.5, next_obs, False, False), "sample": partial(buffer.sample, batch)}


def stable_baselines3(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    from stable_baselines3.common import buffers

    rng = np.random.default_rng(0)
    buffer = buffers.ReplayBuffer(capacity, Box(-10, 10, (obs_size,), np.float32), Discrete(2), device="cpu")
    for start in range(0, capacity, CHUNK):
        rows = slice(start, min(start + CHUNK, capacity))
        obs, action, reward, next_obs, done, _ = columns(obs_size, rows.stop - start, rng)
        buffer.observations[rows, 0], buffer.next_observations[rows, 0] = obs, next_obs
        buffer.actions[rows, 0, 0], buffer.rewards[rows, 0], buffer.dones[rows, 0] = action, reward, done
    buffer.full = True
    obs, action, reward, next_obs, done, _ = columns(obs_size, 1, rng)
    add = partial(buffer.add, obs, next_obs, action, reward, done, [{}])
    return {"add": add, "sample": partial(buffer.sample, batch)}


def rlox(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    import rlox

    rng = np.random.default_rng(0)
    buffer = rlox.ReplayBuffer(capacity, obs_size, 1)
    for start in range(0, capacity, CHUNK):
        obs, action, reward, next_obs, *ends = columns(obs_size, min(CHUNK, capacity - start), rng)
        done, cut = (end.view(np.uint8) for end in ends)
        buffer.push_batch(obs.ravel(), next_obs.ravel(), action.astype(np.float32), reward, done, cut)
    obs, action, _, next_obs, _, _ = columns(obs_size, 1, rng)
    add = partial(buffer.push, obs[0], action.astype(np.float32), 0.5, False, False, next_obs[0])
    seeds = itertools.count()
    return {"add": add, "sample": lambda: buffer.sample(batch, next(seeds))}


def cpprb(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    import cpprb

    rng = np.random.default_rng(0)
    fields = {"obs": {"shape": obs_size}, "act": {"dtype": np.int64}, "rew": {}, "next_obs": {"shape": obs_size},
              "done": {}}  # fmt: skip
    buffer = cpprb.ReplayBuffer(capacity, fields)
    for start in range(0, capacity, CHUNK):
        rows = columns(obs_size, min(CHUNK, capacity - start), rng)
        buffer.add(**dict(zip(fields, rows, strict=False)))
    row = dict(zip(fields, columns(obs_size, 1, rng), strict=False))
    return {"add": partial(buffer.add, **row), "sample": partial(buffer.sample, batch)}


def tianshou(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    from tianshou.data import Batch, ReplayBuffer

    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(capacity)
    names = ("obs", "act", "rew", "obs_next", "terminated", "truncated")
    row = {name: column[0] for name, column in zip(names, columns(obs_size, 1, rng), strict=True)}
    buffer.add(Batch(**row))
    full = dict(zip(names, columns(obs_size, capacity, rng), strict=True))
    buffer.set_batch(Batch(**full, done=full["terminated"] | full["truncated"], info=Batch()))
    buffer._size = capacity
    return {"add": partial(buffer.add, Batch(**row)), "sample": partial(buffer.sample, batch)}


def torchrl(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=batch)
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")

    def rows(n: int) -> TensorDict:
        arrays = columns(obs_size, n, rng)
        return TensorDict({name: torch.from_numpy(x) for name, x in zip(names, arrays, strict=True)}, [n])

    for start in range(0, capacity, CHUNK):
        buffer.extend(rows(min(CHUNK, capacity - start)))
    return {"add": partial(buffer.add, rows(1)[0]), "sample": buffer.sample}


def c_loop(obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    loops = library()
    assert loops is not None
    records = np.random.default_rng(0).integers(0, 1, (capacity, (8 * obs_size + 14 + 7) // 8 * 8), np.uint8)
    obs, next_obs = (np.empty((batch, obs_size), np.float32) for _ in range(2))
    rest = [np.empty(batch, dtype) for dtype in (np.int64, np.float32, np.uint8, np.uint8, np.int64)]
    block, *out = (np.ctypeslib.as_ctypes(array) for array in (records, obs, next_obs, *rest))
    sizes = (ctypes.c_long(n) for n in (records.shape[1], 4 * obs_size, capacity, batch))
    return {"sample": partial(loops.sample, block, *sizes, *out)}


IMPLEMENTATIONS: dict[str, tuple[str, Callable[..., dict[str, Callable[[], Any]]]]] = {
    "fastrl": ("numpy", ours),
    "C loop": ("numpy", c_loop),
    "rlox": ("rlox", rlox),
    "cpprb": ("cpprb", cpprb),
    "fastrl, tensors": ("torch", partial(ours, device="cpu")),
    "stable_baselines3": ("stable_baselines3", stable_baselines3),
    "tianshou": ("tianshou", tianshou),
    "torchrl": ("torchrl", torchrl),
}


def installed(name: str) -> bool:
    return library() is not None if name == "C loop" else importlib.util.find_spec(IMPLEMENTATIONS[name][0]) is not None


def make(name: str, obs_size: int, batch: int, capacity: int) -> dict[str, Callable[[], Any]]:
    """The calls to be timed; Torch gets one thread, for its threads wait for each other longer than a batch takes."""
    if IMPLEMENTATIONS[name][0] != "numpy":
        import torch

        torch.set_num_threads(1)
    return IMPLEMENTATIONS[name][1](obs_size, batch, capacity)


@pytest.mark.parametrize("call", ["add", "sample"])
@pytest.mark.parametrize("work", WORK, ids=str)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_replay(
    benchmark: Any, request: pytest.FixtureRequest, name: str, work: tuple[int, int, int], call: str
) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not here")
    if (name, call) == ("C loop", "add"):
        pytest.skip("the C loop samples only")
    obs_size, batch, capacity = work
    if request.config.getoption("benchmark_disable"):
        capacity = 1000
    benchmark(make(name, obs_size, batch, capacity)[call])


def medians(
    calls: dict[str, Callable[[], Any]], rounds: int = 40, timer: Callable[[], float] = timeit.default_timer,
    turn: float = 0.005,
) -> dict[str, float]:  # fmt: skip
    """Microseconds a call, the median over rounds in which each implementation has its turn, of some seconds."""
    timers = {name: timeit.Timer(call, timer=timer) for name, call in calls.items()}
    for work in timers.values():
        work.timeit(1)  # kernels compile
    number = {name: max(1, int(turn / (work.timeit(20) / 20))) for name, work in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, work in timers.items():
            times[name].append(work.timeit(number[name]) / number[name] * 1e6)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main() -> None:
    names = [name for name in IMPLEMENTATIONS if installed(name)]
    absent = [name for name in IMPLEMENTATIONS if name not in names]
    print("microseconds a call, and how many times as long as fastrl's", f"(absent: {absent})" if absent else "", "\n")
    print("| (obs, batch, capacity) | call |", " | ".join(names), "|")
    print("|---|---|" + "---|" * len(names))
    for work in WORK:
        made = {name: make(name, *work) for name in names}
        for call in ("add", "sample"):
            times = medians({name: made[name][call] for name in names if call in made[name]})
            cells = [f"{times[n]:.2f} ({times[n] / times['fastrl']:.1f}x)" if n in times else "" for n in names]
            print(f"| {work} | {call} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
