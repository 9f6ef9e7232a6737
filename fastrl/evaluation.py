"""How good a model is: the mean return of whole episodes, raw rewards, each environment its fair share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from fastrl.checks import check_int
from fastrl.envs import records
from fastrl.envs.stepper import EnvLike, Step, Stepper, is_made, make_stepper
from fastrl.vec_env import VecEnv

Callback = Callable[[dict[str, Any], dict[str, Any]], Any]
LONGEST = 100_000  # steps of an episode that is not told to end


class Predictor(Protocol):
    """Anything with `predict`, fastrl's or Stable-Baselines3's."""

    def predict(self, observation: Any, /, *, deterministic: bool = ...) -> tuple[Any, Any]:
        """(action, state) for a batch of observations."""


def evaluate_policy(
    model: Predictor, env: EnvLike | Stepper, n_eval_episodes: int = 10, deterministic: bool = True,
    render: bool = False, callback: Callback | None = None, reward_threshold: float | None = None,
    return_episode_rewards: bool = False, warn: bool = True, *, seed: int | None = None,
) -> Any:  # fmt: skip
    """Mean and standard deviation of the undiscounted return over `n_eval_episodes` episodes.

    Vectorised environments share the episodes evenly, so that short ones are not counted more often. An id or
    a callable is run in several copies at once.

    Args:
        model: anything with `predict(obs, deterministic=...)` that takes batches.
        env: an id, an environment, a vector environment, a `VecEnv` or a callable; it is left open unless made here.
        n_eval_episodes: how many episodes.
        deterministic: the likeliest actions, not drawn ones.
        render: show each step; of an id or a callable, one copy is played. An environment that exists needs a
            `render_mode`.
        callback: called with (locals, globals) for each environment at each step; the former has `i`, the
            environment's number, its `reward`, `done` and `info`, and of all `observations`, `actions`, `rewards`,
            `dones`, `infos`, `current_rewards`, `current_lengths`, and `episode_rewards`, `episode_lengths` so far.
        reward_threshold: raise an AssertionError where the mean is not above it.
        return_episode_rewards: return the lists of returns and of lengths instead.
        warn: whether to say that an episode did not end.
        seed: of the first reset; environment i gets seed + i.

    An episode that does not end within 100,000 steps is counted as it stands then, with a warning.

    Returns:
        (mean, std), or (returns, lengths) with `return_episode_rewards`.

    Raises:
        AssertionError: by `reward_threshold`; ValueError, TypeError: for arguments out of range.
    """
    if not callable(getattr(model, "predict", None)):
        raise TypeError(
            f"model is {model!r}; it must have predict(obs, deterministic=...), which returns (actions, state), as "
            "fastrl's models do"
        )
    check_int("n_eval_episodes", n_eval_episodes)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}; it must be a function of (locals, globals)")
    made_here = not is_made(env)
    if render and isinstance(env, str):
        env = partial(gym.make, env, render_mode="human")
    stepper = make_stepper(env, min(n_eval_episodes, 32) if made_here and not render else 1)
    face = VecEnv(stepper)
    show = face.render if render else None
    try:
        with _few_threads(model), _borrowed(stepper, keep_infos=callback is not None):
            results = _play(model, stepper, n_eval_episodes, deterministic, seed, warn, callback, show)
    finally:
        face.close_painter()
        if made_here:
            stepper.close()
    episode_returns, episode_lengths = (list(column) for column in zip(*results, strict=True))
    mean = float(np.mean(episode_returns))
    if reward_threshold is not None and not mean > reward_threshold:
        raise AssertionError(f"the mean return is {mean:.2f}; the threshold is {reward_threshold:.2f}")
    if return_episode_rewards:
        return episode_returns, episode_lengths
    return mean, float(np.std(episode_returns))


@contextmanager
def _borrowed(stepper: Stepper, keep_infos: bool) -> Iterator[None]:
    """Whoever trains in the environments learns that these episodes are not its own."""
    kept, stepper.keep_infos = stepper.keep_infos, keep_infos
    try:
        yield
    finally:
        stepper.keep_infos, stepper.disturbed = kept, True
        stepper.take_finished()


def _few_threads(model: Predictor) -> AbstractContextManager[None]:
    if getattr(model, "policy_name", None) != "MlpPolicy":
        return nullcontext()
    from fastrl.learners.torch import one_thread  # such a model has loaded Torch

    return one_thread(True)


def _play(
    model: Predictor, stepper: Stepper, n_episodes: int, deterministic: bool, seed: int | None, warn: bool,
    callback: Callback | None, show: Callable[[], Any] | None,
) -> list[tuple[float, int]]:  # fmt: skip
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
        if endless.any() and warn:
            warnings.warn(f"an episode was cut after {LONGEST:,} steps: there is no time limit", stacklevel=3)
        if callback is not None:
            _tell(callback, model, stepper, step, action, returns, lengths, results)
        if show is not None:
            show()
        for i in np.flatnonzero(step.terminated | step.truncated | endless):
            if left[i]:
                results.append((float(returns[i]), int(lengths[i])))
                left[i] -= 1
            returns[i], lengths[i] = 0, 0
        obs = step.obs
    return results


def _tell(
    callback: Callback, model: Predictor, stepper: Stepper, step: Step, actions: Any, returns: np.ndarray,
    lengths: np.ndarray, results: list[tuple[float, int]],
) -> None:  # fmt: skip
    """Call back for each environment, with what Stable-Baselines3's users find in `locals`."""
    dones = step.terminated | step.truncated
    told = {
        "model": model, "env": stepper, "n_envs": stepper.num_envs, "actions": actions, "rewards": step.reward,
        "observations": records.as_users_have_them(stepper.observation_space, step.obs), "dones": dones,
        "infos": stepper.infos, "current_rewards": returns, "current_lengths": lengths,
        "episode_rewards": [episode for episode, _ in results], "episode_lengths": [n for _, n in results],
    }  # fmt: skip
    for i in range(stepper.num_envs):
        each = {"i": i, "reward": step.reward[i], "done": dones[i], "info": stepper.infos[i]}
        callback({**told, **each}, globals())
