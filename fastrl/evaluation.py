"""How good a model is: the mean return of whole episodes, raw rewards, each environment its fair share."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from fastrl.checks import check_int
from fastrl.envs import records
from fastrl.envs.stepper import EnvLike, Stepper, make_stepper

LONGEST = 100_000  # steps of an episode that is not told to end


class Predictor(Protocol):
    """Anything with `predict`, fastrl's or Stable-Baselines3's."""

    def predict(self, observation: Any, /, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """(action, state) for a batch of observations."""


def evaluate_policy(
    model: Predictor, env: EnvLike | Stepper, n_eval_episodes: int = 100, deterministic: bool = True,
    return_episode_rewards: bool = False, *, seed: int | None = None,
) -> Any:  # fmt: skip
    """Mean and standard deviation of the undiscounted return over `n_eval_episodes` episodes.

    Vectorised environments share the episodes evenly, so that short ones are not counted more often. An id or
    a callable is run in several copies at once.

    Args:
        model: anything with `predict(obs, deterministic=...)` that takes batches.
        env: an id, an environment, a vector environment or a callable; it is left open unless made here.
        n_eval_episodes: how many episodes.
        deterministic: the likeliest actions, not drawn ones.
        return_episode_rewards: return the lists of returns and of lengths instead.
        seed: of the first reset; environment i gets seed + i.

    An episode that does not end within 100,000 steps is counted as it stands then, with a warning.

    Returns:
        (mean, std), or (returns, lengths) with `return_episode_rewards`.
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(
            f"model is {model!r}; it must have predict(obs, deterministic=...), which returns (actions, state), as "
            "fastrl's models do"
        )
    check_int("n_eval_episodes", n_eval_episodes)
    made_here = not isinstance(env, (gym.Env, VectorEnv, Stepper))
    stepper = make_stepper(env, min(n_eval_episodes, 32) if made_here else 1)
    with _few_threads(model):
        results = _play(model, stepper, n_eval_episodes, deterministic, seed)
    if made_here:
        stepper.close()
    episode_returns, episode_lengths = (list(column) for column in zip(*results, strict=True))
    if return_episode_rewards:
        return episode_returns, episode_lengths
    return float(np.mean(episode_returns)), float(np.std(episode_returns))


def _few_threads(model: Predictor) -> AbstractContextManager[None]:
    if getattr(model, "policy_name", None) != "MlpPolicy":
        return nullcontext()
    from fastrl.learners.torch import one_thread  # such a model has loaded Torch

    return one_thread(True)


def _play(
    model: Predictor, stepper: Stepper, n_episodes: int, deterministic: bool, seed: int | None
) -> list[tuple[float, int]]:
    """(return, length) of `n_episodes` episodes."""
    # Environment i plays the i-th share of the episodes; what it plays beyond that does not count.
    shares = [(n_episodes + i) // stepper.num_envs for i in range(stepper.num_envs)]
    left = np.array(shares)
    results: list[tuple[float, int]] = []
    returns, lengths = np.zeros(stepper.num_envs), np.zeros(stepper.num_envs, np.int64)
    obs = stepper.reset(seed)
    while left.any():
        shown = records.as_users_have_them(stepper.observation_space, obs)
        action, _ = model.predict(shown, deterministic=deterministic)
        step = stepper.step(np.asarray(action))
        returns += step.reward
        lengths += step.valid
        endless = lengths >= LONGEST
        if endless.any():
            warnings.warn(f"an episode was cut after {LONGEST:,} steps: there is no time limit", stacklevel=3)
        for i in np.flatnonzero(step.terminated | step.truncated | endless):
            if left[i]:
                results.append((float(returns[i]), int(lengths[i])))
                left[i] -= 1
            returns[i], lengths[i] = 0, 0
        obs = step.obs
    return results
