"""The learning figures: every preset, trained with several seeds and evaluated over 100 fresh episodes each.

    pytest -m slow tests/test_learning.py

runs ten seeds of each row, in as many processes as there are processors, and prints the table of docs/results.md.
FASTRL_SEEDS=2 runs fewer, FASTRL_ENGINE=torch by autograd and in Gymnasium's own environments.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from scipy.stats import trim_mean

from tests.conftest import LEARNING_TABLE

SEEDS = int(os.environ.get("FASTRL_SEEDS", "10"))
ENGINE = os.environ.get("FASTRL_ENGINE", "auto")

# algorithm, environment, the mean return to reach, and how many of the seeds may miss it
FIGURES = [
    ("dqn", "CartPole-v1", 475, 0),
    ("reinforce", "CartPole-v1", 475, 1),
    ("ppo", "CartPole-v1", 475, 0),
    ("ppo", "LunarLander-v3", 200, 1),
    ("ppo", "Pendulum-v1", -200, 1),
    ("ppo", "Acrobot-v1", -100, 0),
]


def within_budget(model) -> bool:
    """DQN has 300 training episodes or 60,000 steps, whichever is later."""
    return model.num_episodes < 300 or model.num_timesteps < 60_000


def train(algorithm: str, env: str, seed: int) -> tuple[float, int, int, float]:
    """(mean return of 100 evaluation episodes, steps, training episodes, seconds of training) of one seed."""
    from fastrl import DQN, PPO, REINFORCE, evaluate_policy
    from fastrl.presets import preset

    options = {**preset(algorithm, env), "engine": ENGINE}
    steps = options.pop("total_timesteps")
    model = {"dqn": DQN, "ppo": PPO, "reinforce": REINFORCE}[algorithm]("MlpPolicy", env, seed=seed, **options)
    start = time.perf_counter()
    model.learn(steps, callback=within_budget if algorithm == "dqn" else None)
    seconds = time.perf_counter() - start
    return evaluate_policy(model, env, 100, seed=10_000 + seed)[0], model.num_timesteps, model.num_episodes, seconds


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "env", "bound", "misses"), FIGURES, ids=lambda x: str(x))
def test_a_preset_learns(algorithm, env, bound, misses, pytestconfig):
    if env == "LunarLander-v3":
        pytest.importorskip("Box2D", reason="LunarLander needs fastrl[box2d]")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        results = list(pool.map(train, [algorithm] * SEEDS, [env] * SEEDS, range(SEEDS)))
    returns, steps, episodes, seconds = (np.array(column) for column in zip(*results, strict=True))
    pytestconfig.stash[LEARNING_TABLE].append(
        f"| {algorithm}, {env} | {steps.max():,} | {np.median(returns):.0f} | {trim_mean(returns, 0.25):.0f} | "
        f"{returns.min():.0f} | {' '.join(f'{r:.0f}' for r in returns)} | {np.median(seconds):.0f} |"
    )
    if algorithm == "dqn":
        assert ((episodes <= 300) | (steps <= 60_004)).all()
    assert (returns < bound).sum() <= misses, returns
