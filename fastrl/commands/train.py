"""`fastrl train`: what to train, from the command line, a configuration file or the directory of an earlier run."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import fastrl
from fastrl import checkpoints, config, metrics, runs
from fastrl.commands import ranked
from fastrl.commands.common import describe
from fastrl.commands.plan import MAY_CHANGE, Plan, make_plan, path_after, to_config
from fastrl.commands.training import RunSettings, carry_out, resume_command
from fastrl.distributed.joining import Group, launched
from fastrl.flags import UsageError
from fastrl.help import HELP_FLAGS, TRAIN_HELP
from fastrl.presets import PRESETS
from fastrl.ranks import RankLost


def run(args: list[str]) -> list[float]:
    """Train as `args` say; the returns of the evaluation, if there was one."""
    if not args or args[0] in HELP_FLAGS:
        print(TRAIN_HELP)
        return []
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # read by tqdm when it is imported: keeps logs short
    try:
        several = launched()
    except ValueError as error:
        raise UsageError(str(error)) from error
    return ranked.run(args, _train) if several else _train(args, None)


def _train(args: list[str], ranks: Group | None) -> list[float]:
    resumed, file = path_after("--resume", args), path_after("--config", args)
    return _begin(args, file, ranks) if resumed is None else _resume(resumed, args, ranks)


def _begin(args: list[str], file: Path | None, ranks: Group | None) -> list[float]:
    start = None if file is None else config.read(file)
    plan = make_plan(args, file, start)
    options, what = plan.options, _what(plan)
    if plan.arguments["seed"] is None:
        plan.arguments["seed"] = secrets.randbits(31)  # fresh, but known: the run may have to begin anew
    ranked.check(ranks, plan)
    model = _make(plan, ranks)
    if options.seeds is not None:
        from fastrl.commands import seeds

        seeds.train(plan, shlex.join(["fastrl", "train", *args]))
        return []
    with contextlib.ExitStack() as held:
        try:
            directory = runs.make_directory(options.out, plan.algorithm, plan.env_id, options.force)
            held.enter_context(runs.locked(directory))
            if options.force:
                runs.clear(directory)
            ranked.remember(ranks, directory)
            config.write(directory / runs.CONFIG, to_config(plan, shlex.join(["fastrl", "train", *args])))
        except runs.InUse as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            why = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
            raise UsageError(f"cannot use {options.out or 'runs'} as a directory: {why}") from error
        source = f"as {file} says" if file else "from its preset"
        if not file and (plan.algorithm, plan.env_id) not in PRESETS:
            source = "for which there is no preset"
        print(f"{what}{_over(ranks)}, {source}: {options.total_timesteps:,} steps, seed {model.seed}", flush=True)
        rows = metrics.Metrics(directory / runs.METRICS, options.total_timesteps)
        return carry_out(model, plan.env_id, options, directory, rows, options.progress)


def _resume(directory: Path, args: list[str], ranks: Group | None) -> list[float]:
    if not (directory / runs.CONFIG).is_file():
        raise UsageError(f"{directory} holds no run: there is no {directory / runs.CONFIG}")
    file = directory / runs.CONFIG
    start = config.read(file)
    plan = make_plan(args, file, start)
    ranked.check(ranks, plan)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(runs.locked(directory))
            runs.tidy(directory)
        except runs.InUse as error:
            raise UsageError(str(error)) from error
        except OSError as error:
            raise UsageError(f"cannot use {directory}: {error.strerror or error}") from error
        total, done = plan.options.total_timesteps, steps_of_model(directory)
        if done is not None and done >= total:
            print(f"{directory} is complete: {done:,} of {total:,} steps. To train it longer: "
                  f"{resume_command(directory, plan.algorithm, plan.env_id)} --total-timesteps N")  # fmt: skip
            return []
        model = _newest(plan, directory, ranks)
        if model is None and done is not None:
            raise UsageError(f"{directory} has a model but no checkpoint to go on from; --out {directory} --force "
                             "trains from the beginning")  # fmt: skip
        model = model or _make(plan, ranks)
        rows = metrics.Metrics(directory / runs.METRICS, _total(file, start))
        try:
            rows.resume(metrics.read(rows.path), model.num_timesteps)
            rows.spread_over(total)
            if total != _total(file, start):
                config.write(file, to_config(plan, start.command))
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot use {directory}: {describe(error)}") from error
        _warn_of_versions(start)
        what = f"{_what(plan)}{_over(ranks)}"
        print(f"{what}, on from {model.num_timesteps:,} steps: {total:,} steps, seed {model.seed}", flush=True)
        return carry_out(model, plan.env_id, plan.options, directory, rows, plan.options.progress)


def _what(plan: Plan) -> str:
    return f"Train {plan.algorithm.upper()} on {plan.env_id}"


def _over(ranks: Group | None) -> str:
    return "" if ranks is None else f" over {ranks.size} ranks"


def _make(plan: Plan, ranks: Group | None) -> Any:
    cls = getattr(fastrl, plan.algorithm.upper())
    try:
        return ranked.together(ranks, plan, lambda: cls("MlpPolicy", plan.env_id, **plan.arguments))
    except RankLost:
        raise
    except Exception as error:
        raise UsageError(describe(error)) from error


def _newest(plan: Plan, directory: Path, ranks: Group | None) -> Any:
    """The model of the newest checkpoint, or None where there is none."""
    cls, replaced = getattr(fastrl, plan.algorithm.upper()), {name: plan.arguments[name] for name in MAY_CHANGE}
    arguments = {"env": plan.env_id, "device": plan.arguments["device"], **replaced}
    try:
        found = checkpoints.load_newest(
            directory / runs.CHECKPOINTS, lambda file: (file, checkpoints.load(cls, file, **arguments))
        )
        return found and ranked.together(ranks, plan, lambda: found[1], found[0])
    except RankLost:
        raise
    except Exception as error:
        raise UsageError(describe(error)) from error


def steps_of_model(directory: Path) -> int | None:
    """How many steps the final model had taken; None where there is none. One that cannot be read is not replaced."""
    from fastrl.checkpoint import read_model

    file = directory / runs.MODEL
    if not os.path.lexists(file):
        return None
    try:
        return int(read_model(file)[0]["counters"]["num_timesteps"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"{file} does not say how many steps it has taken") from error
    except (OSError, ValueError) as error:
        raise UsageError(describe(error)) from error


def _total(file: Path, start: config.Config) -> int:
    return int(config.checked(file, start.run, RunSettings).get("total_timesteps", RunSettings.total_timesteps))


def _warn_of_versions(start: config.Config) -> None:
    changed = [f"{name} {start.versions[name]} ({now} now)" for name, now in config.versions().items()
               if start.versions.get(name, now) != now]  # fmt: skip
    if changed:
        warnings.warn(f"the run was begun with {', '.join(changed)}: it may not go on as it would have", stacklevel=2)
