"""What stands around the iterations of a run: how it begins, what it tells of itself, and whether it has diverged."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from fastrl.checks import check_int, diverged

if TYPE_CHECKING:
    from fastrl.algorithms.base import Algorithm


def check_arguments(model: Algorithm, total_timesteps: Any, callback: Any) -> int:
    """`total_timesteps` of `learn` as an int; raises for what cannot be, before anything is changed."""
    if total_timesteps == int(total_timesteps):
        total_timesteps = int(total_timesteps)  # 1e5 is welcome
    check_int("total_timesteps", total_timesteps)
    if callback is not None and not callable(callback):
        raise TypeError(f"callback is {callback!r}; it must be a function of the model")
    if model.env is None:
        raise ValueError("this model was loaded without an environment; pass env= to load, or call set_env")
    return int(total_timesteps)


def begin(model: Algorithm, total_timesteps: int, reset: bool) -> None:
    """Set the counters, and go on with the episodes of the last run, those of a file, or new ones."""
    assert model.env is not None
    model.interrupted = False
    if reset:
        model.num_timesteps = model.num_episodes = 0
        model.episodes.clear()
    model.total_timesteps = model.num_timesteps + total_timesteps
    if model._loaded and not reset:
        obs = model.env.restore(model._env_state)
        if obs is None or model._obs is None or not np.array_equal(obs, model._obs):
            model._obs = None
    if model._obs is None or reset or model.env.disturbed:
        model._new_episodes()
    model.env.disturbed = False
    model._loaded = False


def check_training(metrics: dict[str, float]) -> None:
    """Raise a ValueError where a number is not finite."""
    worst = {name: value for name, value in metrics.items() if not np.isfinite(value)}
    if worst:
        raise diverged(worst)


class Progress:
    """A context around the iterations of one run; `update` is called after each."""

    def __init__(self, model: Algorithm, progress_bar: bool) -> None:
        self._model, self._first_step = model, model.num_timesteps
        self._started, self._printed = time.perf_counter(), 0.0
        self._bar = tqdm(
            total=model.total_timesteps, initial=model.num_timesteps, unit="step", disable=not progress_bar
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self) -> None:
        """Look at the model after an iteration, and show what is to be shown."""
        model, bar, elapsed = self._model, self._bar, time.perf_counter() - self._started
        model._fps = (model.num_timesteps - self._first_step) / elapsed
        shown = bar.update(min(model.num_timesteps, model.total_timesteps) - bar.n)
        if model.episodes and (shown or model.num_timesteps >= model.total_timesteps):
            bar.set_postfix(mean_return=f"{model.metrics['rollout/ep_rew_mean']:.1f}")
        if model.verbose and elapsed - self._printed >= 1:
            self._printed = elapsed
            tqdm.write("  ".join(f"{key.split('/')[1]} {value:.4g}" for key, value in model.metrics.items()))


def metrics(model: Algorithm) -> dict[str, float]:
    """See `Algorithm.metrics`."""
    found: dict[str, float] = {
        "time/total_timesteps": model.num_timesteps, "time/episodes": model.num_episodes, "time/fps": model._fps,
    }  # fmt: skip
    if model.episodes:
        found["rollout/ep_rew_mean"], found["rollout/ep_len_mean"] = map(float, np.mean(model.episodes, axis=0))
    found |= {f"train/{key}": value for key, value in model._train_metrics.items()}
    return {**found, "train/n_updates": model.n_updates}
