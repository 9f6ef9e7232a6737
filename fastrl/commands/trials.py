"""A trial of `fastrl tune`: its settings, and the return that training with them reaches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from fastrl.commands.common import returns
from fastrl.commands.study import finished
from fastrl.flags import constructor_arguments, hyperparameter_flags
from fastrl.presets import preset
from fastrl.tuning import drawn

EVAL_SEED = 20_000  # not that of `fastrl train`: what is found is judged there on episodes it was not chosen by
STARTUP = 5  # trials that are drawn at random, and that are never pruned
OF_THE_RUN = ("seed", "verbose", "device")  # and not of what is searched for


class GivenUp(Exception):
    """A training that does worse than most."""


@dataclass
class TuneOptions:
    """How long to search, by which measure, and where the results go.

    Args:
        trials: trials of the study in all, those of earlier calls among them.
        timeout: seconds after which no new trial begins; None for no limit.
        total_timesteps: environment steps of each training; None for the preset's, or 100,000.
        seeds: trainings of each trial, whose mean counts.
        evaluations: how often a training is evaluated, and may be given up for being worse than most.
        eval_episodes: episodes of an evaluation.
        jobs: trials at once, each in a process, of which more than one do not repeat an earlier search's result; None
            for one, with `ray` as many as the cluster has cores.
        ray: let the trials run on a cluster, by Ray.
        address: of the cluster, "auto" or host:port; None for one of this machine alone.
        seed: of the search, and of the first training of each trial.
        out: directory of the study, which a repeated call goes on with; None for tune/ALGORITHM-ENVIRONMENT.
        storage: where the trials are kept: a file, or a URL that Optuna knows; None for study.db in that directory.
        study: name of the study in the storage; None for ALGORITHM-ENVIRONMENT.
    """

    trials: int = 50
    timeout: float | None = None
    total_timesteps: int | None = None
    seeds: int = 1
    evaluations: int = 5
    eval_episodes: int = 20
    jobs: int | None = None
    ray: bool = False
    address: str | None = None
    seed: int = 0
    out: Path | None = None
    storage: str | None = None
    study: str | None = None


@dataclass
class Search:
    """All that a process needs to take part."""

    algorithm: str
    env_id: str
    options: TuneOptions
    total_timesteps: int
    storage: str
    name: str

    def start(self) -> dict[str, Any]:
        """The settings of the first trial, as options have them."""
        row = preset(self.algorithm, self.env_id)
        row.pop("total_timesteps", None)
        return dict(vars(hyperparameter_flags(self.cls, row)()))

    def make(self, settings: dict[str, Any], seed: int) -> Any:
        """A model of these settings."""
        row = {"policy_kwargs": preset(self.algorithm, self.env_id).get("policy_kwargs")}
        options = hyperparameter_flags(self.cls, row)(**{**settings, "seed": seed, "verbose": 0})
        return self.cls("MlpPolicy", self.env_id, **constructor_arguments(options, row))

    def about(self) -> dict[str, Any]:
        """What all trials of a study have in common."""
        measure = {name: getattr(self.options, name) for name in ("seeds", "evaluations", "eval_episodes")}
        return {"algorithm": self.algorithm, "environment": self.env_id, "total_timesteps": self.total_timesteps,
                **measure}  # fmt: skip

    @property
    def cls(self) -> Any:
        """The algorithm's class."""
        return getattr(fastrl, self.algorithm.upper())


def prepare(optuna: Any, search: Search, study: Any, index: int) -> None:
    """Give a study what draws settings and gives trials up, for one of several processes."""
    # A repeated call goes on with other random numbers than the first began with.
    seed = int(np.random.SeedSequence([search.options.seed, index, len(finished(study))]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)


def settings_of(search: Search, trial: Any) -> dict[str, Any]:
    """What `trial` tries, which it keeps."""
    settings = drawn(trial, search.algorithm, search.start())
    trial.set_user_attr("seed", search.options.seed)
    trial.set_user_attr("settings", {name: value for name, value in settings.items() if name not in OF_THE_RUN})
    return settings


def mean_return(search: Search, settings: dict[str, Any], report: Callable[[float, int], bool]) -> float:
    """The mean return that `settings` reach, over the seeds.

    Args:
        search: what is searched for.
        settings: of the trial.
        report: takes each evaluation and its number, and says whether to give up.

    Raises:
        GivenUp: where it said so.
        ValueError: where a training diverged.
        KeyboardInterrupt: after Ctrl-C, at the end of an iteration.
    """
    models = (search.make(settings, search.options.seed + i) for i in range(search.options.seeds))
    return float(np.mean([_train(search, model, i, report) for i, model in enumerate(models)]))


def _train(search: Search, model: Any, index: int, report: Callable[[float, int], bool]) -> float:
    """Train once, report each evaluation, and return the last one."""
    options, score = search.options, 0.0
    every, seen = search.total_timesteps / options.evaluations, 0

    def look(model: Any) -> None:
        nonlocal score, seen
        due = min(int(model.num_timesteps / every), options.evaluations)
        if due > seen:
            seen = due
            score = float(np.mean(returns(model, search.env_id, options.eval_episodes, EVAL_SEED)))
            if report(score, index * options.evaluations + due):
                raise GivenUp

    try:
        model.learn(search.total_timesteps, callback=look)
    finally:
        if model.interrupted:  # also where the trial is given up just then
            raise KeyboardInterrupt
    return score
