"""`fastrl tune`: hyperparameters that learn better than those one starts from, found by Optuna."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastrl import config
from fastrl.checks import check_int
from fastrl.commands.common import Failure, check_environment, describe, joined, read_algorithm, writing_to
from fastrl.commands.study import best, finished, import_optuna, open_study
from fastrl.commands.trials import Search, TuneOptions
from fastrl.commands.tune_local import search_locally
from fastrl.commands.tune_ray import search_by_ray
from fastrl.flags import UsageError, parse
from fastrl.help import HELP_FLAGS, with_preset
from fastrl.presets import preset
from fastrl.tuning import first_trial

BEST = "best.toml"


def run(args: list[str]) -> None:
    """Search as `args` say."""
    algorithm = "ppo" if args and args[0] in HELP_FLAGS else read_algorithm(args, "tune")
    asks = any(word in HELP_FLAGS for word in args[:2])
    if not asks and (len(args) < 2 or args[1].startswith("-")):
        raise UsageError(f"fastrl tune {algorithm} needs an environment next, such as {with_preset(algorithm)[0]}")
    prog = "fastrl tune ALGORITHM ENVIRONMENT"
    options = parse(TuneOptions, ["--help"] if asks else args[2:], prog, "Search for better hyperparameters.")
    _check(options)
    optuna, env_id = import_optuna(), check_environment(args[1])
    steps = options.total_timesteps or preset(algorithm, env_id).get("total_timesteps", 100_000)
    place = f"{algorithm}-{env_id.replace('/', '-').replace(':', '-')}"
    directory = options.out or Path("tune") / place
    storage = _url(options.storage or str(directory / "study.db"))
    search = Search(algorithm, env_id, options, steps, storage, options.study or f"{algorithm}-{env_id}")
    with ExitStack() as held:
        try:
            search.make(search.start(), options.seed)
        except Exception as error:
            raise UsageError(describe(error)) from error
        ray = joined(held, options.address, options.jobs) if options.ray else None
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot use {directory}: {error.strerror or error}") from error
        study = open_study(optuna, storage, search.name, search.about(), first_trial(algorithm, search.start()))
        done = len(finished(study))
        print(f"Tune {algorithm.upper()} on {env_id}: {options.trials} trials of {steps:,} steps, {done} of them done; "
              f"study {search.name} in {storage}", flush=True)  # fmt: skip
        interrupted = search_by_ray(ray, optuna, search, study) if ray else search_locally(optuna, search, study)
    _report(study, search, directory, interrupted)


def _check(options: TuneOptions) -> None:
    try:
        for name in ("trials", "seeds", "evaluations", "eval_episodes", "jobs", "total_timesteps"):
            if getattr(options, name) is not None:
                check_int(name, getattr(options, name))
        check_int("seed", options.seed, 0)
        if options.timeout is not None and options.timeout <= 0:
            raise ValueError(f"timeout is {options.timeout}; it must be a positive number of seconds")
    except ValueError as error:
        raise UsageError(describe(error)) from error
    if options.address is not None and not options.ray:
        raise UsageError("--address is that of a cluster, which --ray uses")


def _url(storage: str) -> str:
    return storage if "://" in storage else f"sqlite:///{storage}"


def _report(study: Any, search: Search, directory: Path, interrupted: bool) -> None:
    """Write the best settings, and print the best trials."""
    good, ended = best(study), finished(study)
    again = f"study {search.name} in {search.storage} goes on with the same command"
    if good:
        print(_table(good[:5], search))
        file = directory / BEST
        found = config.Config(
            search.algorithm, search.env_id, {"total_timesteps": search.total_timesteps},
            {**good[0].user_attrs["settings"], "seed": good[0].user_attrs.get("seed", search.options.seed)},
        )  # fmt: skip
        with writing_to(directory):
            config.write(file, found)
        print(f"The best of {len(ended)} trials is in {file}\nTry next: fastrl train --config {file}")
    if interrupted:
        raise Failure(f"interrupted after {len(ended)} trials; {again}", 130)
    if not good:
        raise Failure(f"none of {len(ended)} trials came to an end; {again}")


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
