"""Stepping environments: compiled ones inside a kernel and as a vector environment, beside Gymnasium's and EnvPool.

python -m benches.bench_envs       prints medians of interleaved rounds and their ratios
pytest benches/bench_envs.py       the same work under pytest-benchmark; --benchmark-disable: small and once
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from fastrl.envs import make_vec
from fastrl.kernels._jit import kernel
from fastrl.kernels.environment import observe, reset, row, step
from fastrl.kernels.sampling import integer

IDS = ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Pendulum-v1", "FrozenLake-v1"]


@kernel
def random_steps(
    env: np.ndarray, states: np.ndarray, rngs: np.ndarray, lengths: np.ndarray, max_episode_steps: int, n_actions: int,
    obs: np.ndarray, n_steps: int,
) -> int:  # fmt: skip
    """Random actions, resets and observations, all in here; returns how many episodes ended."""
    ended = 0
    for _ in range(n_steps):
        for i in range(len(states)):
            _, over = step(env, row(states, i), integer(row(rngs, i), n_actions), row(rngs, i))
            lengths[i] += 1
            if over or lengths[i] == max_episode_steps:
                reset(env, row(states, i), row(rngs, i))
                lengths[i] = 0
                ended += 1
            observe(env, row(states, i), row(obs, i))
    return ended


def in_a_kernel(id: str, num_envs: int) -> Callable[[int], Any]:
    envs = make_vec(id, num_envs)
    envs.reset(seed=0)
    obs, n_actions = np.empty((num_envs, envs.environment.obs_size), np.float32), int(envs.environment.nvec[0])
    limit = envs.max_episode_steps
    return lambda n: random_steps(envs.handle, envs.states, envs.rngs, envs.lengths, limit, n_actions, obs, n)


def stepped(envs: Any, space: gym.Space) -> Callable[[int], None]:
    """`n` steps with random actions that were drawn before."""
    space.seed(0)
    actions = [space.sample() for _ in range(64)]

    def run(n: int) -> None:
        for t in range(n):
            envs.step(actions[t % 64])

    return run


def compiled(id: str, num_envs: int) -> Callable[[int], None]:
    envs = make_vec(id, num_envs)
    envs.reset(seed=0)
    return stepped(envs, envs.action_space)


def gymnasium(id: str, num_envs: int) -> Callable[[int], None]:
    """Gymnasium's own: vectorised where it has that (CartPole), else one after the other."""
    envs = gym.make_vec(id, num_envs)
    envs.reset(seed=0)
    return stepped(envs, envs.action_space)


def envpool(id: str, num_envs: int) -> Callable[[int], None]:
    envs = importlib.import_module("envpool").make_gymnasium(id, num_envs=num_envs, num_threads=1)
    envs.reset()
    space: Any = gym.vector.utils.batch_space(envs.action_space, num_envs)
    space.seed(0)
    actions = [np.asarray(space.sample()) for _ in range(64)]

    def run(n: int) -> None:
        for t in range(n):
            envs.step(actions[t % 64])

    return run


MAKERS: dict[str, Callable[[str, int], Callable[[int], Any]]] = {
    "in a kernel": in_a_kernel,
    "vector environment": compiled,
    "Gymnasium": gymnasium,
    "EnvPool": envpool,
}


def offered(maker: str, id: str) -> bool:
    if maker == "in a kernel":
        return "Continuous" not in id and "Pendulum" not in id  # whose random actions this kernel does not draw
    return maker != "EnvPool" or importlib.util.find_spec("envpool") is not None


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("maker", MAKERS)
def test_steps(benchmark: Any, request: pytest.FixtureRequest, maker: str, id: str) -> None:
    if not offered(maker, id):
        pytest.skip(f"{maker} does not step {id} here")
    benchmark.group = f"{id}, 64 environments"
    benchmark(MAKERS[maker](id, 64), 5 if request.config.getoption("benchmark_disable") else 100)


def rates(id: str, num_envs: int, rounds: int = 7, turn: float = 0.1) -> dict[str, float]:
    """Steps per second over all environments: medians over rounds in which each has its turn."""
    runs = {name: maker(id, num_envs) for name, maker in MAKERS.items() if offered(name, id)}
    number = {}
    for name, run in runs.items():
        run(2)
        start = time.perf_counter()
        run(5)
        number[name] = max(5, int(5 * turn / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(number[name])
            times[name].append(time.perf_counter() - start)
    return {name: num_envs * number[name] / statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print the table."""
    print("Millions of steps per second, one thread; in brackets, times Gymnasium's\n")
    print("| environment | environments |", " | ".join(MAKERS), "|\n|---|---|" + "---|" * len(MAKERS))
    for id in IDS:
        for num_envs in (8, 64, 1024) if id == "CartPole-v1" else (64,):
            rate = rates(id, num_envs)
            cells = [
                f"{rate[name] / 1e6:.2f} ({rate[name] / rate['Gymnasium']:.1f})" if name in rate else "–"
                for name in MAKERS
            ]
            print(f"| {id} | {num_envs} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
