"""What stands around the iterations of a run: how it begins, what it tells of itself, and whether it has diverged."""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box
from tqdm.auto import tqdm

from fastrl.callbacks import as_callback
from fastrl.checks import check_int, diverged
from fastrl.envs import records
from fastrl.envs.stepper import Step
from fastrl.logger import Logger, configure

if TYPE_CHECKING:
    from fastrl.algorithms.base import Algorithm

SHARE = 0.003  # of the time that writing metrics may take where nobody said how often


class Stopped(Exception):
    """A callback ended the training in the middle of an iteration."""


def check_training(metrics: dict[str, float]) -> None:
    """Raise a ValueError where a number is not finite."""
    worst = {name: value for name, value in metrics.items() if not np.isfinite(value)}
    if worst:
        raise diverged(worst)


class Run:
    """One call of `learn`: its arguments, checked before anything is changed, and what is told while it lasts.

    A context around the iterations, which ends quietly where a callback ended the training within one.
    """

    def __init__(
        self, model: Algorithm, total_timesteps: Any, callback: Any, log_interval: int | None, progress_bar: bool
    ) -> None:
        if isinstance(total_timesteps, (float, np.floating)) and float(total_timesteps).is_integer():
            total_timesteps = int(total_timesteps)  # 1e5 is welcome
        check_int("total_timesteps", total_timesteps)
        if log_interval is not None:
            check_int("log_interval", log_interval)
        self.callback = as_callback(callback)
        if model.env is None:
            raise ValueError("this model was loaded without an environment; pass env= to load, or call set_env")
        self._model, self._total, self._every, self._shows_bar = model, total_timesteps, log_interval, progress_bar
        self.iterations, self.elapsed, self._spent, self._logged = 0, 0.0, 0.0, 0
        self._stopped = False  # by a callback, in the middle of an iteration

    def begin(self, reset: bool, tb_log_name: str | None) -> None:
        """Set the counters, and go on with the episodes of the last run, those of a file, or new ones."""
        model = self._model
        assert model.env is not None
        model.interrupted, model._run = False, self
        if reset:
            model.num_timesteps = model.num_episodes = 0
            model.episodes.clear()
        model.total_timesteps = model.num_timesteps + self._total
        if not model._logger_is_given:
            model.logger.close()
            model.logger = make_logger(model, tb_log_name or type(model).__name__, reset)
        if model._loaded and not reset:
            obs = model.env.restore(model._env_state)
            if obs is None or model._obs is None or not np.array_equal(obs, model._obs):
                model._obs = None
        if model._obs is None or reset or model.env.disturbed:
            model._new_episodes()
        model.env.disturbed = False
        model._loaded = False
        self._first = self._seen = model.num_timesteps
        self._first_episode = model.num_episodes

    def __enter__(self) -> Run:
        model = self._model
        assert model.env is not None
        self.callback.init_callback(model)
        self.callback.on_training_start({"self": model, "total_timesteps": model.total_timesteps}, {})
        model.env.keep_infos = self.callback.each_step
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=model.total_timesteps, initial=model.num_timesteps, unit="step",
            disable=not (self._shows_bar and model.ranks.is_first),
        )
        self._closing = ExitStack()
        if self._shows_bar or model.verbose:
            self._closing.enter_context(_compiling_is_told())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        model, stopped = self._model, isinstance(error, Stopped)
        if error is None or stopped:
            if self._every is None and self.iterations:
                self._log_last()
            self.callback.on_training_end()
        if model.env is not None:
            model.env.keep_infos = False
        for output in model.logger.output_formats:
            output.flush()
        self._bar.close()
        self._closing.close()
        del self._bar, self._closing  # so that the model can be copied
        return stopped

    def before_iteration(self) -> None:
        """Tell that experience is going to be gathered; from new episodes where a callback has disturbed the last."""
        model = self._model
        assert model.env is not None
        if model._obs is None or model.env.disturbed:
            model._new_episodes()
            model.env.disturbed = False
        self.callback.on_rollout_start()

    @property
    def patience(self) -> int:
        """How many steps may pass until somebody has to look at the model."""
        if self._model.logs_by_episode and self._every and self._model.logger.output_formats:
            return 1
        return self.callback.steps_until_due()

    def after_step(self, action: np.ndarray, step: Step) -> None:
        """Tell of a step of all environments; raises Stopped where that ends the training."""
        model = self._model
        assert model.env is not None
        done = step.terminated | step.truncated
        self.callback.update_locals({
            "rewards": step.reward, "dones": done, "infos": model.env.infos,
            "new_obs": records.as_users_have_them(model.observation_space, step.obs),
            "actions": action if isinstance(model.action_space, Box) else model._env_action(action),
        })  # fmt: skip
        model.learner.end()  # a callback may do anything to the weights
        going_on = self.callback.on_step()
        if model.learner.begin() is not None:
            model.set_engine(model._wanted_engine)
        if not going_on:
            if model.ranks.size == 1:
                raise Stopped
            self._stopped = True  # others are in the middle of the iteration, too
        if model.env.disturbed or model._obs is None:
            raise ValueError(
                "a callback has reset or stepped the environments in the middle of a rollout: evaluate in others, and "
                "change environment or seed between two calls of learn"
            )

    def after_iteration(self) -> bool:
        """Look at the model, show what is to be shown, and return whether to go on."""
        model, bar = self._model, self._bar
        self.iterations, self.elapsed = self.iterations + 1, time.perf_counter() - self._started
        shown = bar.update(min(model.num_timesteps, model.total_timesteps) - bar.n)
        if model.episodes and (shown or model.num_timesteps >= model.total_timesteps):
            bar.set_postfix(mean_return=f"{np.mean(model.episodes, axis=0)[0]:.1f}")
        going_on = not self._stopped
        if not self.callback.each_step:
            steps = (model.num_timesteps - self._seen) // model.total_envs
            self._seen += steps * model.total_envs
            going_on = self.callback.on_step(steps)
        if model.logger.output_formats and self._is_due():
            self._log()
        return going_on

    def _is_due(self) -> bool:
        if self._every is None:
            return self._logged == 0 or self._spent <= SHARE * self.elapsed
        count = self._model.num_episodes - self._first_episode if self._model.logs_by_episode else self.iterations
        due, self._logged = count // self._every > self._logged // self._every, count
        return due

    def _log(self) -> None:
        """Write the metrics."""
        model, before = self._model, time.perf_counter()
        for key, value in model.metrics.items():
            model.logger.record(key, value, "tensorboard" if key == "time/total_timesteps" else None)
        model.logger.dump(model.num_timesteps, patient=self._every is None)
        self._logged = self.iterations if self._every is None else self._logged
        self._spent += time.perf_counter() - before

    def _log_last(self) -> None:
        """Write the metrics of the last iteration, and what outputs have held back."""
        if self.iterations > self._logged:
            self._log()
        self._model.logger.release(self._model.num_timesteps)

    @property
    def fps(self) -> float:
        """Steps a second so far."""
        return (self._model.num_timesteps - self._first) / self.elapsed if self.elapsed else 0.0


def metrics(model: Algorithm) -> dict[str, float]:
    """See `Algorithm.metrics`."""
    found: dict[str, float] = {"time/total_timesteps": model.num_timesteps, "time/episodes": model.num_episodes}
    if model._run is not None:
        run = model._run
        found |= {"time/fps": run.fps, "time/iterations": run.iterations, "time/time_elapsed": run.elapsed}
    if model.episodes:
        found["rollout/ep_rew_mean"], found["rollout/ep_len_mean"] = map(float, np.mean(model.episodes, axis=0))
    found |= {f"train/{key}": value for key, value in model._train_metrics.items()}
    return {**found, **model._describe(), "train/n_updates": model.n_updates}


def make_logger(model: Algorithm, name: str, reset: bool) -> Logger:
    """What `verbose` and `tensorboard_log` ask for; the latter's folders are numbered, as in Stable-Baselines3."""
    if not model.ranks.is_first:
        return configure(None, [])
    formats = ["stdout"] if model.verbose else []
    if model.tensorboard_log is None:
        return configure(None, formats)
    parent = Path(model.tensorboard_log)
    found = (re.fullmatch(re.escape(name) + r"_(\d+)", path.name) for path in parent.glob("*"))
    last = max((int(match[1]) for match in found if match), default=0)
    folder = parent / f"{name}_{last + 1 if reset else max(last, 1)}"
    logger = configure(folder, [*formats, "tensorboard"])
    if model.verbose:
        print(f"Logging to {folder}")
    return logger


@contextmanager
def _compiling_is_told() -> Iterator[None]:
    """Say it once where kernels are compiled, as at the first run of an installation: nothing else moves meanwhile."""
    from numba.core import event

    told = itertools.count()

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            if next(told) == 0:
                tqdm.write("Compiling kernels, once: ten seconds or so; they are kept for later runs.", file=sys.stderr)

        def on_end(self, event: Any) -> None: ...

    with event.install_listener("numba:compile", Listener()):
        yield
