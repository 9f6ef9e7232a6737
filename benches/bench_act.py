"""Acting: `predict` on one observation, and batches as a rollout asks for them, beside Stable-Baselines3.

python -m benches.bench_act       prints medians of interleaved rounds and how many times as long the others take
pytest benches/bench_act.py       the same work under pytest-benchmark; --benchmark-disable: once

One thread, CartPole-v1, two hidden layers of 64 units, as both libraries have by default.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from benches.bench_replay import medians
from fastrl import DQN, PPO

ID = "CartPole-v1"
BATCHES = (1, 8, 16, 64)
LIBRARIES = ("compiled", "torch", "stable_baselines3")
Call = Callable[[], Any]


def installed(library: str) -> bool:
    return library != "stable_baselines3" or importlib.util.find_spec("stable_baselines3") is not None


def ours(algorithm: str, engine: Any, normalize: bool) -> Any:
    """A model that has seen a few hundred steps."""
    options: dict[str, Any] = dict(n_steps=128) if algorithm == "PPO" else dict(learning_starts=100)
    kind: Any = {"PPO": PPO, "DQN": DQN}[algorithm]
    return kind("MlpPolicy", ID, normalize=normalize, engine=engine, seed=0, **options).learn(256)


def theirs(algorithm: str, normalize: bool) -> tuple[Any, Call]:
    """A model of Stable-Baselines3, and what makes its network's observation of a raw one."""
    import stable_baselines3
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env: Any = make_vec_env(ID, seed=0)
    env = VecNormalize(env) if normalize else env
    options: dict[str, Any] = dict(n_steps=128) if algorithm == "PPO" else dict(learning_starts=100)
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", env, device="cpu", seed=0, **options)
    return model.learn(256), env.normalize_obs if normalize else lambda obs: obs


def predict(library: str, algorithm: str, deterministic: bool, normalize: bool) -> Call:
    """`predict` on one observation, float32 [4]."""
    obs = gym.make(ID).reset(seed=0)[0]
    if library != "stable_baselines3":
        model = ours(algorithm, library, normalize)
        return lambda: model.predict(obs, deterministic=deterministic)
    model, seen = theirs(algorithm, normalize)
    return lambda: model.predict(seen(obs), deterministic=deterministic)


def act(library: str, n: int) -> Call:
    """What PPO asks for n observations [n, 4]: drawn actions, their log-probabilities and values, as arrays."""
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((n, 4), np.float32)
    if library != "stable_baselines3":
        model = ours("PPO", library, False)
        noise = model.head.noise(rng, n)
        model.learner.begin()  # as within an iteration
        return lambda: model.learner.act(obs, noise)
    policy = theirs("PPO", False)[0].policy

    def call() -> Any:
        with torch.no_grad():
            action, value, log_prob = policy(torch.as_tensor(obs))
        return action.numpy(), log_prob, value

    return call


PREDICTIONS = {
    f"{algorithm}, {'likeliest' if deterministic else 'drawn'}{', normalised' if normalize else ''}": (
        algorithm, deterministic, normalize,
    )
    for algorithm in ("PPO", "DQN") for deterministic in (True, False) for normalize in (False, True)
}  # fmt: skip


def check_library(library: str) -> None:
    if not installed(library):
        pytest.skip(f"{library} is not installed")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("what", PREDICTIONS)
def test_predict(benchmark: Any, what: str, library: str) -> None:
    check_library(library)
    benchmark.group = f"predict, one observation: {what}"
    action, state = benchmark(predict(library, *PREDICTIONS[what]))
    assert np.shape(action) == () and action in (0, 1) and state is None


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("n", BATCHES)
def test_act(benchmark: Any, n: int, library: str) -> None:
    check_library(library)
    benchmark.group = f"acting, {n} observations"
    assert all(len(result) == n for result in benchmark(act(library, n)))


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    names = [library for library in LIBRARIES if installed(library)]
    titles = {"compiled": "fastrl", "torch": 'engine="torch"', "stable_baselines3": "Stable-Baselines3"}
    rows = {f"predict: {what}": (predict, arguments) for what, arguments in PREDICTIONS.items()}
    rows |= {f"PPO acts, batch of {n}": (act, (n,)) for n in BATCHES}
    print("μs a call, and how many times as long as fastrl's\n")
    print("| |", " | ".join(titles[name] for name in names), "|\n|---|" + "---|" * len(names))
    for title, (make, arguments) in rows.items():
        us = medians({name: make(name, *arguments) for name in names})
        cells = [f"{t:.1f} ({t / us['compiled']:.1f}x)" for t in us.values()]
        print(f"| {title} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
