"""Prioritised replay: `sample`, and `sample` followed by `update_priorities` of what was drawn; ours and the peers'.

python -m benches.bench_prioritized        prints medians of interleaved rounds and their ratios
pytest benches/bench_prioritized.py        the same work under pytest-benchmark; --benchmark-disable: small and once
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from benches.bench_replay import CHUNK, WORK, columns, medians
from fastrl import PrioritizedReplayBuffer

ALPHA, BETA = 0.6, 0.4
Calls = dict[str, Callable[[], Any]]


def chunks(obs_size: int, capacity: int) -> Iterator[tuple[slice, tuple[np.ndarray, ...], np.ndarray]]:
    """What fills a buffer: rows, their transitions and their priorities."""
    rng = np.random.default_rng(0)
    for start in range(0, capacity, CHUNK):
        n = min(CHUNK, capacity - start)
        yield slice(start, start + n), columns(obs_size, n, rng), priorities(n, rng)


def priorities(n: int, rng: np.random.Generator) -> np.ndarray:
    return (np.abs(rng.standard_normal(n)) + 1e-3).astype(np.float32)


def fresh(batch: int) -> Iterator[np.ndarray]:
    """Priorities for a batch, again and again others."""
    rng = np.random.default_rng(1)
    return cycle([priorities(batch, rng) for _ in range(64)])


def ours(obs_size: int, batch: int, capacity: int) -> Calls:
    buffer = PrioritizedReplayBuffer(capacity, Box(-10, 10, (obs_size,), np.float32), Discrete(2), alpha=ALPHA, seed=0)
    for rows, transitions, told in chunks(obs_size, capacity):
        buffer.add_batch(*transitions)
        buffer.update_priorities(np.arange(rows.start, rows.stop), told)
    new = fresh(batch)

    def pair() -> None:
        buffer.update_priorities(buffer.sample(batch, BETA).indices, next(new))

    return {"sample": lambda: buffer.sample(batch, BETA), "sample, update": pair}


def cpprb(obs_size: int, batch: int, capacity: int) -> Calls:
    from cpprb import PrioritizedReplayBuffer

    flag = {"dtype": np.bool_}
    obs = {"shape": obs_size, "dtype": np.float32}
    fields = {"obs": obs, "act": {"dtype": np.int64}, "rew": {}, "next_obs": obs, "terminated": flag, "truncated": flag}
    buffer = PrioritizedReplayBuffer(capacity, fields, alpha=ALPHA)
    for _, transitions, told in chunks(obs_size, capacity):
        buffer.add(**dict(zip(fields, transitions, strict=True)), priorities=told)
    new = fresh(batch)

    def pair() -> None:
        buffer.update_priorities(buffer.sample(batch, BETA)["indexes"], next(new))

    return {"sample": lambda: buffer.sample(batch, BETA), "sample, update": pair}


def tianshou(obs_size: int, batch: int, capacity: int) -> Calls:
    from tianshou.data import Batch, PrioritizedReplayBuffer

    buffer = PrioritizedReplayBuffer(capacity, alpha=ALPHA, beta=BETA)
    parts = [(transitions, told) for _, transitions, told in chunks(obs_size, capacity)]
    whole = [np.concatenate(column) for column in zip(*(transitions for transitions, _ in parts), strict=True)]
    names = ("obs", "act", "rew", "obs_next", "terminated", "truncated")
    buffer.add(Batch({name: column[0] for name, column in zip(names, whole, strict=True)}, info={}))
    named = dict(zip(names, whole, strict=True))
    buffer.set_batch(Batch(named, done=whole[4] | whole[5], info=Batch(), policy=Batch()))
    buffer._size = capacity
    buffer.update_weight(np.arange(capacity), np.concatenate([told for _, told in parts]))
    new = fresh(batch)

    def pair() -> None:
        buffer.update_weight(buffer.sample(batch)[1], next(new))

    return {"sample": lambda: buffer.sample(batch), "sample, update": pair}


def torchrl(obs_size: int, batch: int, capacity: int) -> Calls:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, PrioritizedReplayBuffer

    torch.set_num_threads(1)
    storage = LazyTensorStorage(capacity)
    buffer = PrioritizedReplayBuffer(alpha=ALPHA, beta=BETA, storage=storage, batch_size=batch)
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    for rows, transitions, told in chunks(obs_size, capacity):
        tensors = {name: torch.from_numpy(column) for name, column in zip(names, transitions, strict=True)}
        buffer.extend(TensorDict(tensors, batch_size=[len(told)]))
        buffer.update_priority(torch.arange(rows.start, rows.stop), torch.from_numpy(told))
    new = cycle([torch.from_numpy(next(made)) for made in [fresh(batch)] for _ in range(64)])

    def pair() -> None:
        buffer.update_priority(buffer.sample(return_info=True)[1]["index"], next(new))

    return {"sample": lambda: buffer.sample(return_info=True), "sample, update": pair}


IMPLEMENTATIONS: dict[str, tuple[str, Callable[[int, int, int], Calls]]] = {
    "fastrl": ("numpy", ours),
    "cpprb": ("cpprb", cpprb),
    "tianshou": ("tianshou", tianshou),
    "torchrl": ("torchrl._torchrl", torchrl),  # its trees, which only the right version of Torch can load
}


def installed(name: str) -> bool:
    try:
        importlib.import_module(IMPLEMENTATIONS[name][0])
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("call", ["sample", "sample, update"])
@pytest.mark.parametrize("work", WORK, ids=str)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_prioritized(
    benchmark: Any, request: pytest.FixtureRequest, name: str, work: tuple[int, int, int], call: str
) -> None:
    if not installed(name):
        pytest.skip(f"{IMPLEMENTATIONS[name][0]} cannot be imported")
    obs_size, batch, capacity = work
    if request.config.getoption("benchmark_disable"):
        capacity = 1000
    benchmark(IMPLEMENTATIONS[name][1](obs_size, batch, capacity)[call])


def main() -> None:
    names = [name for name in IMPLEMENTATIONS if installed(name)]
    print("microseconds a call, and how many times as long as fastrl's\n")
    print("| (obs, batch, capacity) | call |", " | ".join(names), "|")
    print("|---|---|" + "---|" * len(names))
    for work in WORK:
        made = {name: IMPLEMENTATIONS[name][1](*work) for name in names}
        for call in ("sample", "sample, update"):
            times = medians({name: made[name][call] for name in names})
            cells = [f"{times[name]:.1f} ({times[name] / times['fastrl']:.1f}x)" for name in names]
            print(f"| {work} | {call} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
