"""`fastrl tune`: hyperparameters that learn better than those one starts from, found by Optuna."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np

import fastrl
from fastrl import config
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int
from fastrl.commands.common import Failure, check_environment, describe, needed, read_algorithm, returns, writing_to
from fastrl.flags import UsageError, constructor_arguments, hyperparameter_flags, parse
from fastrl.help import HELP_FLAGS, with_preset
from fastrl.presets import preset
from fastrl.tuning import drawn, first_trial

EVAL_SEED = 20_000  # not that of `fastrl train`: what is found is judged there on episodes it was not chosen by
STARTUP = 5  # trials that are drawn at random, and that are never pruned
BEST = "best.toml"
INTERRUPTED = "interrupted"
PATIENCE = 3.0  # seconds for a process to write down that it was interrupted
OF_THE_RUN = ("seed", "verbose", "device")  # and not of what is searched for


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
        jobs: processes that search at once; with more than one, repeating the search does not repeat its result.
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
    jobs: int = 1
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

    @property
    def cls(self) -> Any:
        """The algorithm's class."""
        return getattr(fastrl, self.algorithm.upper())


def run(args: list[str]) -> None:
    """Search as `args` say."""
    algorithm = "ppo" if args and args[0] in HELP_FLAGS else read_algorithm(args, "tune")
    asks = any(word in HELP_FLAGS for word in args[:2])
    if not asks and (len(args) < 2 or args[1].startswith("-")):
        raise UsageError(f"fastrl tune {algorithm} needs an environment next, such as {with_preset(algorithm)[0]}")
    prog = "fastrl tune ALGORITHM ENVIRONMENT"
    options = parse(TuneOptions, ["--help"] if asks else args[2:], prog, "Search for better hyperparameters.")
    _check(options)
    optuna, env_id = _optuna(), check_environment(args[1])
    steps = options.total_timesteps or preset(algorithm, env_id).get("total_timesteps", 100_000)
    place = f"{algorithm}-{env_id.replace('/', '-').replace(':', '-')}"
    directory = options.out or Path("tune") / place
    storage = _url(options.storage or str(directory / "study.db"))
    search = Search(algorithm, env_id, options, steps, storage, options.study or f"{algorithm}-{env_id}")
    try:
        search.make(search.start(), options.seed)
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot use {directory}: {error.strerror or error}") from error
    except Exception as error:
        raise UsageError(describe(error)) from error
    study = _open(optuna, search)
    done = len(_finished(study))
    print(f"Tune {algorithm.upper()} on {env_id}: {options.trials} trials of {steps:,} steps, {done} of them done; "
          f"study {search.name} in {search.storage}", flush=True)  # fmt: skip
    interrupted = _search_all(optuna, search, study)
    _report(study, search, directory, interrupted)


def _check(options: TuneOptions) -> None:
    try:
        for name in ("trials", "seeds", "evaluations", "eval_episodes", "jobs"):
            check_int(name, getattr(options, name))
        check_int("seed", options.seed, 0)
        if options.total_timesteps is not None:
            check_int("total_timesteps", options.total_timesteps)
        if options.timeout is not None and options.timeout <= 0:
            raise ValueError(f"timeout is {options.timeout}; it must be a positive number of seconds")
    except ValueError as error:
        raise UsageError(describe(error)) from error


def _optuna() -> Any:
    optuna = needed("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _url(storage: str) -> str:
    return storage if "://" in storage else f"sqlite:///{storage}"


def _open(optuna: Any, search: Search) -> Any:
    """The study, made or found again; a UsageError where it is of something else, or there is no getting at it."""
    try:
        study = optuna.create_study(
            storage=search.storage, study_name=search.name, load_if_exists=True, direction="maximize"
        )
        measure = {name: getattr(search.options, name) for name in ("seeds", "evaluations", "eval_episodes")}
        about = {"algorithm": search.algorithm, "environment": search.env_id,
                 "total_timesteps": search.total_timesteps, **measure}  # fmt: skip
        for key, value in about.items():
            if study.user_attrs.get(key, value) != value:
                raise UsageError(f"study {search.name} in {search.storage} is of {key} {study.user_attrs[key]}, not "
                                 f"{value}: name another with --study")  # fmt: skip
            study.set_user_attr(key, value)
    except UsageError:
        raise
    except Exception as error:  # of SQLAlchemy, of a driver, of Optuna
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"cannot use the storage {search.storage}: {reason}") from error
    if not _finished(study) and not any(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
        study.enqueue_trial(first_trial(search.algorithm, search.start()))
    return study


def _finished(study: Any) -> list[Any]:
    """The trials that came to an end, good or bad, but for those that Ctrl-C cut short."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs]


def _search_all(optuna: Any, search: Search, study: Any) -> bool:
    """Search with as many processes as asked for; returns whether that was interrupted."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_take_part, args=(search, i)) for i in range(1, search.options.jobs)]
    ended = False
    try:
        for process in others:
            _start(process)
        interrupted = _search(optuna, search, study, 0)
        ended = not interrupted
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for process in others:
            _end(process, at_once=not ended)
    if ended and any(process.exitcode for process in others):
        print("fastrl: not all processes of the search came to its end; what they tried is kept", file=sys.stderr)
    return interrupted


def _start(process: Any) -> None:
    """Start a process that is deaf to Ctrl-C until `_take_part` listens: its imports could not be left silently."""
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(process: Any, at_once: bool) -> None:
    """Wait for the end of a process; where that is wanted at once, it may still write down what it was trying."""
    if process.pid is not None:
        if at_once:
            process.join(PATIENCE)  # Ctrl-C in a terminal has reached it too; a second one would not let it finish
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
                process.join(PATIENCE)
                process.terminate()
        process.join()


def _take_part(search: Search, index: int) -> None:
    """Another process of the search."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until the search looks after it: no import can be left
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        optuna = _optuna()
        _search(optuna, search, optuna.load_study(storage=search.storage, study_name=search.name), index)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"fastrl: process {index} of the search: {describe(error)}")


def _search(optuna: Any, search: Search, study: Any, index: int) -> bool:
    """Try settings until there are enough trials, or the time is up; returns whether Ctrl-C came before.

    The loop is not Optuna's, in the middle of whose bookkeeping Ctrl-C would end it.
    """
    options, states, started = search.options, optuna.trial.TrialState, time.monotonic()
    # A repeated call goes on with other random numbers than the first began with.
    seed = int(np.random.SeedSequence([options.seed, index, len(_finished(study))]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    with GracefulInterrupt() as pressed:
        while len(_finished(study)) < options.trials and not pressed.requested:
            if options.timeout is not None and time.monotonic() - started >= options.timeout:
                break
            trial, value, state = study.ask(), None, states.FAIL
            try:
                value, state = _objective(optuna, search, trial), states.COMPLETE
            except optuna.TrialPruned:
                state = states.PRUNED
            except ValueError as error:  # it diverged
                trial.set_user_attr("error", describe(error))
            except KeyboardInterrupt:
                pressed.requested = True
                trial.set_user_attr(INTERRUPTED, True)
                study.enqueue_trial(trial.params)  # its turn comes again
            finally:
                told = study.tell(trial, value, state)
            _tell(study, told)
    return pressed.requested


def _objective(optuna: Any, search: Search, trial: Any) -> float:
    """The mean return that the settings of `trial` reach, over the seeds."""
    settings = drawn(trial, search.algorithm, search.start())
    trial.set_user_attr("settings", {name: value for name, value in settings.items() if name not in OF_THE_RUN})
    models = (search.make(settings, search.options.seed + i) for i in range(search.options.seeds))
    return float(np.mean([_train(optuna, search, trial, model, i) for i, model in enumerate(models)]))


def _train(optuna: Any, search: Search, trial: Any, model: Any, index: int) -> float:
    """Train once, report each evaluation, and return the last one."""
    options, score = search.options, 0.0
    every, seen = search.total_timesteps / options.evaluations, 0

    def look(model: Any) -> None:
        nonlocal score, seen
        due = min(int(model.num_timesteps / every), options.evaluations)
        if due > seen:
            seen = due
            score = float(np.mean(returns(model, search.env_id, options.eval_episodes, EVAL_SEED)))
            trial.report(score, index * options.evaluations + due)
            if trial.should_prune():
                raise optuna.TrialPruned

    try:
        model.learn(search.total_timesteps, callback=look)
    finally:
        if model.interrupted:  # also where the trial is given up just then
            raise KeyboardInterrupt
    return score


def _tell(study: Any, trial: Any) -> None:
    """A line for each trial, on stderr."""
    state, best = trial.state.name.lower(), _best(study)
    value = f"{trial.value:.1f}" if trial.value is not None else ""
    failed = f"failed: {trial.user_attrs.get('error', INTERRUPTED)}"
    what = {"complete": value, "pruned": f"given up at {value}"}.get(state, failed)
    so_far = f"; best {best[0].value:.1f}, of trial {best[0].number}" if best else ""
    print(f"Trial {trial.number}: {what}{so_far}", file=sys.stderr, flush=True)


def _best(study: Any) -> list[Any]:
    """The complete trials, the best first."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def _report(study: Any, search: Search, directory: Path, interrupted: bool) -> None:
    """Write the best settings, and print the best trials."""
    best, finished = _best(study), _finished(study)
    again = f"study {search.name} in {search.storage} goes on with the same command"
    if best:
        print(_table(best[:5], search))
        file = directory / BEST
        found = config.Config(
            search.algorithm, search.env_id, {"total_timesteps": search.total_timesteps},
            {**best[0].user_attrs["settings"], "seed": search.options.seed},
        )  # fmt: skip
        with writing_to(directory):
            config.write(file, found)
        print(f"The best of {len(finished)} trials is in {file}\nTry next: fastrl train --config {file}")
    if interrupted:
        raise Failure(f"interrupted after {len(finished)} trials; {again}", 130)
    if not best:
        raise Failure(f"none of {len(finished)} trials came to an end; {again}")


def _table(trials: list[Any], search: Search) -> str:
    """Trials with what they have other than the first of the study."""
    start = search.start()
    lines = [f"{'trial':>5}  {'return':>8}  settings other than those that the search starts from"]
    for trial in trials:
        settings = trial.user_attrs["settings"]
        other = {name: value for name, value in settings.items() if value != start.get(name)}
        words = ", ".join(f"{name} {' '.join(map(str, v)) if isinstance(v, list) else v}" for name, v in other.items())
        lines.append(f"{trial.number:>5}  {trial.value:>8.1f}  {words or 'none'}")
    return "\n".join(lines)
