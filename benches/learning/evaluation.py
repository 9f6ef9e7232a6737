"""What a run has learnt, and when: evaluation and learning curves.

The models are ours or any with Stable-Baselines3's `predict`, `num_timesteps` and recent episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

EPISODES = 100  # of an evaluation
SOLVED = 475.0


class Run(NamedTuple):
    """One run: steps taken, seconds on the wall, seconds of processor time, mean return of the learnt policy."""

    steps: int
    seconds: float
    processor: float
    score: float | None = None


Watch = Callable[[Any], bool]  # is shown the model now and then; training ends where it returns False
Train = Callable[[int, int, Watch | None], Run]  # seed, steps


def evaluate(
    model: Any, env_id: str, seed: int = 10_000, episodes: int = EPISODES, options: dict[str, Any] | None = None
) -> float:
    """Mean return of the likeliest actions: one episode in each of `episodes` of Gymnasium's own environments.

    Environment i is reset with `seed` + i, so that all models meet the same first observations. `options` are those
    of `gymnasium.make`. The environments whose episode has ended are stepped no more.
    """
    import gymnasium

    envs = [gymnasium.make(env_id, disable_env_checker=True, **(options or {})) for _ in range(episodes)]
    obs = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    returns, running = np.zeros(episodes), list(range(episodes))
    while running:
        actions = model.predict(np.stack([obs[i] for i in running]), deterministic=True)[0]
        going_on = []
        for i, action in zip(running, actions, strict=True):
            obs[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            if not (terminated or truncated):
                going_on.append(i)
        running = going_on
    for env in envs:
        env.close()
    return float(returns.mean())


def recent_returns(model: Any) -> list[float]:
    """Returns of the last episodes of a run, at most 100 of them."""
    if hasattr(model, "ep_info_buffer"):
        return [episode["r"] for episode in model.ep_info_buffer]
    return [episode_return for episode_return, _ in model.episodes]


def curve(train: Train, seed: int, steps: int, every: int = 10_000) -> list[float]:
    """Mean return of the last 100 training episodes at `every`, 2 `every`, … steps."""
    points: list[float] = []

    def watch(model: Any) -> bool:
        while len(points) < min(model.num_timesteps, steps) // every:
            points.append(float(np.mean(recent_returns(model))))
        return True

    train(seed, steps, watch)
    return points
