"""Tables: dynamic programming beside QuantEcon's DiscreteDP, Q-learning beside the plain Python loop.

python -m benches.bench_tabular       prints medians of interleaved rounds and their ratios
pytest benches/bench_tabular.py       the same work under pytest-benchmark; --benchmark-disable: small and once
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import timeit
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse

from fastrl import TabularMDP, q_learning

MODELS = ["FrozenLake8x8-v1", "Taxi-v4", "random, 100,000 states"]
METHODS = ["value_iteration", "modified_policy_iteration"]
EPSILON = 1e-6  # QuantEcon's: both return V within EPSILON / 2
LAKES = {"not slippery": False, "slippery": True}


def model(name: str, n_states: int = 100_000) -> TabularMDP:
    """γ = 0.99; the random one has 4 actions with 3 successors each."""
    if name in ("FrozenLake8x8-v1", "Taxi-v4"):
        return TabularMDP.from_env(name)
    rng, shape = np.random.default_rng(0), (n_states, 4, 3)
    shares = rng.dirichlet(np.ones(3), shape[:2])
    return TabularMDP.from_successors(rng.integers(n_states, size=shape), shares, rng.normal(size=shape[:2]))


def fastrl(mdp: TabularMDP, method: str) -> Callable[[], np.ndarray]:
    return lambda: getattr(mdp, method)(tol=EPSILON / 2).V


def quantecon(mdp: TabularMDP, method: str) -> Callable[[], np.ndarray]:
    """The same solved by DiscreteDP in its sparse form, with the end of an episode, if any, as one more state."""
    from quantecon.markov import DiscreteDP

    table, n, n_actions = mdp.transitions, mdp.n_states, mdp.n_actions
    indptr, next_state, probability, rewards = *table[2:5], mdp.expected_reward.ravel()
    if (next_state == n).any():
        indptr = np.append(indptr, len(next_state) + 1 + np.arange(n_actions))
        next_state = np.append(next_state, np.full(n_actions, n))
        probability = np.append(probability, np.ones(n_actions))
        rewards, n = np.append(rewards, np.zeros(n_actions)), n + 1
    matrix = scipy.sparse.csr_matrix((probability, next_state, indptr), (n * n_actions, n))
    problem = DiscreteDP(rewards, matrix, mdp.gamma, *np.divmod(np.arange(n * n_actions), n_actions))
    return lambda: problem.solve(method, epsilon=EPSILON, max_iter=10**6).v[: mdp.n_states]


SOLVERS = {"fastrl": fastrl, "quantecon": quantecon}


def compiled_loop(env: gym.Env, episodes: int, seed: int) -> int:
    return int(q_learning(env, episodes, seed=seed).lengths.sum())


def python_loop(env: gym.Env, episodes: int, seed: int) -> int:
    """Q-learning as courses write it, with the defaults of `q_learning`; returns the number of steps."""
    alpha, gamma, epsilon = 0.1, 0.99, 1.0
    n_actions, rng, steps = int(env.action_space.n), np.random.default_rng(seed), 0  # type: ignore[attr-defined]
    Q = np.zeros((int(env.observation_space.n), n_actions))  # type: ignore[attr-defined]
    for episode in range(episodes):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        done = False
        while not done:
            action = int(rng.integers(n_actions)) if rng.random() < epsilon else int(np.argmax(Q[state]))
            next_state, reward, terminated, truncated, _ = env.step(action)
            target = reward + gamma * (0 if terminated else np.max(Q[next_state]))
            Q[state, action] += alpha * (target - Q[state, action])
            state, done, steps = next_state, terminated or truncated, steps + 1
        epsilon = max(0.01, epsilon * 0.9995)
    return steps


LOOPS = {"fastrl": compiled_loop, "python": python_loop}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers(benchmark: Any, request: pytest.FixtureRequest, solver: str, name: str, method: str) -> None:
    if importlib.util.find_spec(solver) is None:
        pytest.skip(f"{solver} is not installed")
    small = request.config.getoption("benchmark_disable")
    benchmark.group = f"{method}, {name}"
    benchmark(SOLVERS[solver](model(name, 1000 if small else 100_000), method))


@pytest.mark.parametrize("lake", LAKES)
@pytest.mark.parametrize("loop", LOOPS)
def test_q_learning(benchmark: Any, request: pytest.FixtureRequest, loop: str, lake: str) -> None:
    env = gym.make("FrozenLake-v1", is_slippery=LAKES[lake])
    benchmark.group = f"q_learning, {lake}"
    benchmark(LOOPS[loop], env, 100 if request.config.getoption("benchmark_disable") else 10_000, 0)


def seconds(calls: dict[str, Callable[[], Any]], rounds: int = 9, turn: float = 0.05) -> dict[str, float]:
    """Of a call, the median over rounds in which each implementation has its turn of at least so many seconds."""
    timers = {name: timeit.Timer(call) for name, call in calls.items()}
    number = {name: max(1, math.ceil(turn / timer.timeit(1))) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(number[name]) / number[name])
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Print the tables."""
    names = [name for name in SOLVERS if importlib.util.find_spec(name) is not None]
    print(f"Milliseconds for V within {EPSILON / 2} of V*, and the error really made\n")
    print("| model | method |", " | ".join(names), "| times as fast |\n|---|---|" + "---|" * (len(names) + 1))
    for name in MODELS:
        mdp = model(name)
        best = mdp.value_iteration(tol=1e-11).V
        for method in METHODS:
            calls = {solver: SOLVERS[solver](mdp, method) for solver in names}
            errors = {solver: abs(call() - best).max() for solver, call in calls.items()}
            times = seconds(calls)
            cells = [f"{times[solver] * 1e3:.2f} ({errors[solver]:.0e})" for solver in names]
            print(
                f"| {name} | {method} |", " | ".join(cells), f"| {times[names[-1]] / times['fastrl']:.1f} |", flush=True
            )
    print("\nQ-learning, steps per second over 10,000 episodes of FrozenLake-v1\n")
    print("| lake |", " | ".join(LOOPS), "| times as fast |\n|---|---|---|---|")
    for lake, slippery in LAKES.items():
        env = gym.make("FrozenLake-v1", is_slippery=slippery)
        steps = {name: loop(env, 10_000, 0) for name, loop in LOOPS.items()}
        took = seconds({name: partial(loop, env, 10_000, 0) for name, loop in LOOPS.items()})
        speed = {name: steps[name] / took[name] for name in LOOPS}
        cells = [f"{rate:,.0f}" for rate in speed.values()]
        print(f"| {lake} |", " | ".join(cells), f"| {speed['fastrl'] / speed['python']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
