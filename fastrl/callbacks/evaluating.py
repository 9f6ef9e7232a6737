"""Evaluations while training goes on, and ends of training that depend on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastrl.callbacks.base import BaseCallback, EventCallback
from fastrl.checks import check_int
from fastrl.envs.stepper import EnvLike, is_made, make_stepper
from fastrl.evaluation import evaluate_policy
from fastrl.files import replacing


class EvalCallback(EventCallback):
    """Evaluates the model every `eval_freq` calls, and keeps the best.

    Args:
        eval_env: what to evaluate in, as `evaluate_policy` takes it.
        callback_on_new_best: called when the mean return is the best so far.
        callback_after_eval: called after each evaluation.
        n_eval_episodes: episodes in each.
        eval_freq: steps of all environments at once: `eval_freq · num_envs` environment steps.
        log_path: a directory for evaluations.npz: `timesteps` [k], `results` and `ep_lengths` [k, n_eval_episodes].
        best_model_save_path: a directory for best_model.fastrl.
        deterministic: the likeliest actions, not drawn ones.
        render: show the episodes, in environments that have a `render_mode`.
        verbose: 1 says what each evaluation gave.
        warn: whether to say that an episode did not end.

    `best_mean_reward` and `last_mean_reward` hold the results; the logger gets eval/mean_reward, eval/mean_ep_length
    and, where the environments' infos say `is_success`, eval/success_rate. However many multiples of `eval_freq` an
    iteration passes, there is one evaluation after it. Of several ranks, the first one evaluates while the others wait.
    """

    each_step = False

    def __init__(
        self, eval_env: EnvLike, callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None, n_eval_episodes: int = 5, eval_freq: int = 10_000,
        log_path: str | os.PathLike[str] | None = None, best_model_save_path: str | os.PathLike[str] | None = None,
        deterministic: bool = True, render: bool = False, verbose: int = 1, warn: bool = True,
    ) -> None:  # fmt: skip
        check_int("n_eval_episodes", n_eval_episodes)
        check_int("eval_freq", eval_freq)
        super().__init__(callback_after_eval, verbose)
        self.callback_on_new_best = callback_on_new_best
        self._adopt(callback_on_new_best)
        self.eval_env = make_stepper(eval_env, 1 if is_made(eval_env) else min(n_eval_episodes, 32))
        self._may_succeed = not hasattr(self.eval_env, "arrays")  # compiled environments have no infos
        self.n_eval_episodes, self.eval_freq, self.deterministic = n_eval_episodes, eval_freq, deterministic
        self.render, self.warn = render, warn
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.evaluations_timesteps: list[int] = []
        self.evaluations_results: list[list[float]] = []
        self.evaluations_length: list[list[int]] = []

    def init_callback(self, model: Any) -> None:
        super().init_callback(model)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(model)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.on_training_start(self.locals, self.globals)

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals(locals_)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.update_locals(locals_)

    def _init_callback(self) -> None:
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None and self.model.ranks.is_first:
                folder.mkdir(parents=True, exist_ok=True)

    def steps_until_due(self) -> int:
        return self._steps_until(self.eval_freq)

    def _on_step(self) -> bool:
        if not self._due(self.eval_freq) or not self.model.ranks.is_first:
            return True
        seed = None if self.eval_env.seeded or self.model.seed is None else self.model.seed
        successes: list[float] = []

        def note(locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
            if locals_["done"] and (success := locals_["info"].get("is_success")) is not None:
                successes.append(float(success))

        returns, lengths = evaluate_policy(
            self.model, self.eval_env, self.n_eval_episodes, self.deterministic, self.render,
            note if self._may_succeed else None, return_episode_rewards=True, warn=self.warn, seed=seed,
        )  # fmt: skip
        self.last_mean_reward = float(np.mean(returns))
        self._keep(returns, lengths)
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        if successes:
            self.logger.record("eval/success_rate", float(np.mean(successes)))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        if self.verbose:
            print(f"Evaluated after {self.num_timesteps:,} steps: {self.last_mean_reward:.2f} ± {np.std(returns):.2f}")
        self.logger.dump(self.num_timesteps)
        going_on = True
        if self.last_mean_reward > self.best_mean_reward:
            self.best_mean_reward = self.last_mean_reward
            if self.best_model_save_path is not None:
                self.model.save(self.best_model_save_path / "best_model.fastrl")
            if self.callback_on_new_best is not None:
                going_on = self.callback_on_new_best.on_step()
        return self._on_event() and going_on

    def _keep(self, returns: list[float], lengths: list[int]) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(returns)
        self.evaluations_length.append(lengths)
        if self.log_path is not None:
            with replacing(self.log_path / "evaluations.npz") as file:
                np.savez(file, timesteps=self.evaluations_timesteps, results=self.evaluations_results,
                         ep_lengths=self.evaluations_length)  # fmt: skip


class StopTrainingOnRewardThreshold(BaseCallback):
    """Ends training once the mean return of an `EvalCallback`, its parent, has reached `reward_threshold`."""

    each_step = False

    def __init__(self, reward_threshold: float, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.reward_threshold = reward_threshold

    def _on_step(self) -> bool:
        going_on = _evaluation(self).best_mean_reward < self.reward_threshold
        if self.verbose and not going_on:
            print(f"Stopping: the mean return reached {self.reward_threshold}")
        return going_on


class StopTrainingOnNoModelImprovement(BaseCallback):
    """Ends training when more than so many evaluations of its parent, an `EvalCallback`, brought nothing better."""

    each_step = False

    def __init__(self, max_no_improvement_evals: int, min_evals: int = 0, verbose: int = 0) -> None:
        check_int("max_no_improvement_evals", max_no_improvement_evals, 0)
        check_int("min_evals", min_evals, 0)
        super().__init__(verbose)
        self.max_no_improvement_evals, self.min_evals = max_no_improvement_evals, min_evals
        self.last_best_mean_reward, self.no_improvement_evals = -np.inf, 0

    def _on_step(self) -> bool:
        best = _evaluation(self).best_mean_reward
        if self.n_calls > self.min_evals:
            self.no_improvement_evals = 0 if best > self.last_best_mean_reward else self.no_improvement_evals + 1
        self.last_best_mean_reward = best
        going_on = self.no_improvement_evals <= self.max_no_improvement_evals
        if self.verbose and not going_on:
            print(f"Stopping: nothing better in {self.no_improvement_evals} evaluations")
        return going_on


class StopTrainingOnMaxEpisodes(BaseCallback):
    """Ends training after `max_episodes` episodes of each environment, counted from where it was first told of."""

    each_step = False

    def __init__(self, max_episodes: int, verbose: int = 0) -> None:
        check_int("max_episodes", max_episodes)
        super().__init__(verbose)
        self.max_episodes, self.n_episodes = max_episodes, 0

    def _on_training_start(self) -> None:
        self._before = self.model.num_episodes - self.n_episodes

    def _on_step(self) -> bool:
        self.n_episodes = self.model.num_episodes - self._before
        going_on = self.n_episodes < self.max_episodes * self.model.total_envs
        if self.verbose and not going_on:
            print(f"Stopping: {self.n_episodes} episodes were played")
        return going_on


def _evaluation(callback: BaseCallback) -> Any:
    parent = callback.parent
    while parent is not None and not isinstance(parent, EvalCallback):  # there may be lists in between
        parent = parent.parent
    if parent is None:
        raise ValueError(
            f"{type(callback).__name__} looks at evaluations: give it to an EvalCallback, as callback_on_new_best or "
            "callback_after_eval"
        )
    return parent
