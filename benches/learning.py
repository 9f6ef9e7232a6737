"""What a run has learnt, and when: evaluation, learning curves, time until an environment is solved.

The models are ours or any with Stable-Baselines3's `predict`, `num_timesteps` and recent episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EPISODES = 100  # of an evaluation
SOLVED = 475.0
PROMISING = 150.0  # mean return of the last 20 training episodes from which evaluations begin


class Run(NamedTuple):
    """One run: steps taken, seconds on the wall, seconds of processor time, mean return of the learnt policy."""

    steps: int
    seconds: float
    processor: float
    score: float | None = None


Watch = Callable[[Any], bool]  # is shown the model now and then; training ends where it returns False
Train = Callable[[int, int, Watch | None], Run]  # seed, steps


def evaluate(model: Any, env_id: str, seed: int = 10_000) -> float:
    """Mean return of the likeliest actions: one episode in each of 100 of Gymnasium's own environments."""
    import gymnasium

    envs = gymnasium.make_vec(env_id, EPISODES, vectorization_mode="sync")
    obs, _ = envs.reset(seed=seed)
    running, returns = np.ones(EPISODES, bool), np.zeros(EPISODES)
    while running.any():
        obs, reward, terminated, truncated, _ = envs.step(model.predict(obs, deterministic=True)[0])
        returns += reward * running
        running &= ~(terminated | truncated)
    envs.close()
    return float(returns.mean())


def recent_returns(model: Any) -> list[float]:
    """Returns of the last episodes of a run, at most 100 of them."""
    if hasattr(model, "ep_info_buffer"):
        return [episode["r"] for episode in model.ep_info_buffer]
    return [episode_return for episode_return, _ in model.episodes]


def curve(train: Train, seed: int, steps: int, env_id: str, every: int = 10_000) -> list[float]:
    """Mean return of the last 100 training episodes at `every`, 2 `every`, … steps."""
    points: list[float] = []

    def watch(model: Any) -> bool:
        while len(points) < min(model.num_timesteps, steps) // every:
            points.append(float(np.mean(recent_returns(model))))
        return True

    train(seed, steps, watch)
    return points


def solve(train: Train, seed: int, steps: int, env_id: str, every: int = 2048) -> Run:
    """The run up to the first evaluation that is at least 475; infinitely long where none is.

    From the first promising training episodes on there is an evaluation every `every` steps. Its time is not
    counted: the policy had been learnt before. To stop at the first that is good enough picks a lucky moment, for
    each library alike.
    """
    due, evaluating, processor, score = every, 0.0, 0.0, 0.0

    def watch(model: Any) -> bool:
        nonlocal due, evaluating, processor, score
        if model.num_timesteps < due:
            return True
        recent = recent_returns(model)[-20:]
        if len(recent) < 20 or np.mean(recent) < PROMISING:
            return True
        due = model.num_timesteps + every
        wall, cpu = time.perf_counter(), time.process_time()
        score = evaluate(model, env_id)
        evaluating, processor = evaluating + time.perf_counter() - wall, processor + time.process_time() - cpu
        return score < SOLVED

    run = train(seed, steps, watch)
    if score < SOLVED:
        return Run(run.steps, float("inf"), float("inf"), score)
    return Run(run.steps, run.seconds - evaluating, run.processor - processor, score)
