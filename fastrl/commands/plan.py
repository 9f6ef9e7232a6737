"""What a command line, a configuration file and a preset come to: a plan of a run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import fastrl
from fastrl import config
from fastrl.checks import check_int
from fastrl.commands.common import check_environment, read_algorithm
from fastrl.commands.training import RunSettings
from fastrl.flags import UsageError, constructor_arguments, hyperparameter_flags, parse
from fastrl.help import ALGORITHMS, HELP_FLAGS, with_preset
from fastrl.presets import preset

MAY_CHANGE = ("verbose",)  # of the constructor's arguments, in a run that goes on


@dataclass
class RunOptions(RunSettings):
    """How long to train, what to do meanwhile, and where the results go.

    Args:
        out: directory for the results, new or empty; None for runs/ALGORITHM-ENVIRONMENT-N.
        force: let the run in the directory `out` be overwritten.
        resume: directory of a run that was interrupted or killed, to go on with.
        config: a TOML file with settings, such as the config.toml of a run; other options come before it.
        progress: show a progress bar.
        seeds: trainings that differ in the seed alone, from `seed` on; None for one.
        jobs: of these, how many at once; None for one, with `ray` as many as the cluster has cores.
        ray: let these trainings run on a cluster, by Ray.
        address: of the cluster, "auto" or host:port; None for one of this machine alone.
    """

    out: Path | None = None
    force: bool = False
    resume: Path | None = None
    config: Path | None = None
    progress: bool = True
    seeds: int | None = None
    jobs: int | None = None
    ray: bool = False
    address: str | None = None


@dataclass
class Plan:
    """What the command line comes to."""

    algorithm: str
    env_id: str
    options: RunOptions
    arguments: dict[str, Any]  # the constructor's


def make_plan(args: list[str], file: Path | None, start: config.Config | None) -> Plan:
    """What is to be trained, and with which settings: those of `args`, else of `start`, else of the preset."""
    algorithm, env_id, rest = _what_to_train(args, start)
    cls = getattr(fastrl, algorithm.upper())
    defaults = {"seed": 0, **preset(algorithm, env_id)}
    settings: dict[str, Any] = {"total_timesteps": defaults.pop("total_timesteps", RunSettings.total_timesteps)}
    if start is not None and file is not None:
        settings |= config.checked(file, start.run, RunSettings)
        defaults |= _constructor(config.checked(file, start.hyperparameters, hyperparameter_flags(cls, {})), defaults)
    flags = make_dataclass("TrainOptions", [
        ("run", RunOptions, field(default_factory=lambda: RunOptions(**settings))),
        (algorithm, hyperparameter_flags(cls, defaults)),
    ], kw_only=True)  # fmt: skip
    parsed: Any = parse(flags, rest, f"fastrl train {algorithm} {env_id}", f"Train {cls.__name__} on {env_id}.")
    options, arguments = parsed.run, constructor_arguments(getattr(parsed, algorithm), defaults)
    try:
        check_int("total_timesteps", options.total_timesteps)
        check_int("eval_episodes", options.eval_episodes, 0)
        check_int("keep_checkpoints", options.keep_checkpoints, 0)
        if options.checkpoint_every is not None:
            check_int("checkpoint_every", options.checkpoint_every, 0)
        for name in ("seeds", "jobs"):
            if getattr(options, name) is not None:
                check_int(name, getattr(options, name))
    except ValueError as error:
        raise UsageError(str(error)) from error
    _check_seeds(options, arguments["seed"])
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UsageError('--tensorboard needs TensorBoard: pip install "fastrl[tensorboard]"')
    if options.resume is not None:
        kept = constructor_arguments(hyperparameter_flags(cls, defaults)(), defaults)
        _check_unchanged(options, arguments, settings, kept)
    elif options.force and options.out is None:
        raise UsageError("--force needs --out, the directory of the run to overwrite")
    return Plan(algorithm, env_id, options, arguments)


def _check_seeds(options: RunOptions, seed: int | None) -> None:
    """Refuse what several seeds alone can have, or cannot."""
    if options.seeds is None:
        for name in ("jobs", "ray", "address"):
            if getattr(options, name):
                raise UsageError(f"--{name} is of several trainings: how many is said by --seeds")
    elif options.resume is not None:
        raise UsageError("--seeds goes on by itself, with the same command: leave out --resume")
    elif options.force:
        raise UsageError("--seeds overwrites nothing: leave out --force, and name another directory with --out")
    elif seed is None:
        raise UsageError("--seeds needs a first --seed, not None")
    if options.address is not None and not options.ray:
        raise UsageError("--address is that of a cluster, which --ray uses")


def _check_unchanged(
    options: RunOptions, given: dict[str, Any], settings: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Refuse what a run that goes on cannot do."""
    for name, other in (("out", options.out), ("config", options.config), ("force", options.force)):
        if other:
            raise UsageError(f"--resume goes on in its own directory with its own settings: leave out --{name}")
    for name, value in given.items():
        if value != kept[name] and name not in MAY_CHANGE:
            raise UsageError(
                f"{name} is {kept[name]!r} in {options.resume}, not {value!r}: a run that goes on keeps its settings, "
                "but for --total-timesteps, --eval-episodes, --checkpoint-every, --keep-checkpoints, --tensorboard and "
                "--verbose"
            )
    if options.total_timesteps < settings["total_timesteps"]:
        raise UsageError(
            f"{options.resume} is to run for {settings['total_timesteps']:,} steps, not for fewer: begin another with "
            "--out, or end this one by Ctrl-C"
        )


def _what_to_train(args: list[str], start: config.Config | None) -> tuple[str, str, list[str]]:
    """The algorithm, the environment, and the options after them."""
    named = list(args[: next((i for i, word in enumerate(args[:2]) if word.startswith("-")), 2)])
    rest = args[len(named) :]
    if not named and start is None:
        raise UsageError(f"the algorithm comes first, not {args[0]}: there are {', '.join(ALGORITHMS)}")
    algorithm = read_algorithm(named or [start.algorithm], "train")  # type: ignore[union-attr]
    if start is not None and algorithm != start.algorithm.lower():
        raise UsageError(f"the settings are those of {start.algorithm}, not of {algorithm}")
    if len(named) == 2:
        env_id = check_environment(named[1])
        if start is not None and path_after("--resume", args) and env_id != start.environment:
            raise UsageError(f"the run is on {start.environment}, not on {env_id}")
    elif start is not None:
        if ":" in start.environment:  # naming a module is for the user, not for a file
            raise UsageError(
                f"the environment is {start.environment}, a module to import: if you trust it, name it on the command "
                f"line, fastrl train {algorithm} {start.environment} ..."
            )
        env_id = check_environment(start.environment)
    elif any(word in HELP_FLAGS for word in rest[:1]):
        env_id = "ENVIRONMENT"
    else:
        raise UsageError(f"fastrl train {algorithm} needs an environment next, such as {with_preset(algorithm)[0]}")
    return algorithm, env_id, rest


def path_after(flag: str, args: Sequence[str]) -> Path | None:
    """The value of an option that decides what the others default to."""
    for i, word in enumerate(args):
        if word.startswith(f"{flag}="):
            return Path(word.removeprefix(f"{flag}="))
        if word == flag:
            if i + 1 == len(args):
                raise UsageError(f"{flag} needs a path next")
            return Path(args[i + 1])
    return None


def _constructor(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Values of a file as the constructor takes them; the network's go into `policy_kwargs`."""
    from fastrl.networks import ACTIVATIONS

    network = {name: values.pop(name) for name in ("net_arch", "activation_fn") if name in values}
    if "activation_fn" in network:
        network["activation_fn"] = ACTIVATIONS[network["activation_fn"]]
    return {**values, "policy_kwargs": {**(defaults.get("policy_kwargs") or {}), **network}}


def to_config(plan: Plan, command: str) -> config.Config:
    arguments = dict(plan.arguments)
    network = arguments.pop("policy_kwargs")
    arguments |= {"net_arch": network["net_arch"], "activation_fn": network["activation_fn"].__name__}
    settings = {f.name: getattr(plan.options, f.name) for f in fields(RunSettings)}
    return config.Config(plan.algorithm, plan.env_id, settings, arguments, command, config.versions())
