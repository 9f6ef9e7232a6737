"""`fastrl presets`: the table of hyperparameters to start from, and one row of it as a configuration."""

from __future__ import annotations

from typing import Any

from fastrl.commands.common import read_algorithm
from fastrl.config import Config, text
from fastrl.flags import UsageError, nearest
from fastrl.help import HELP_FLAGS, with_preset
from fastrl.presets import PRESETS, preset

USAGE = """\
usage: fastrl presets [ALGORITHM [ENVIRONMENT]]

Prints the settings that `fastrl train` starts from; of one algorithm and environment as TOML:
  fastrl presets ppo CartPole-v1 > mine.toml
  fastrl train --config mine.toml"""


def run(args: list[str]) -> None:
    """Print what `args` name."""
    if args and args[0] in HELP_FLAGS:
        print(USAGE)
        return
    if any(word.startswith("-") for word in args) or len(args) > 2:
        raise UsageError("fastrl presets takes an algorithm and an environment, and no options")
    algorithm = read_algorithm(args, "presets") if args else None
    if algorithm is None or len(args) < 2:
        print(_table([key for key in PRESETS if algorithm in (None, key[0])]))
        return
    known = {name.lower(): name for name in with_preset(algorithm)}
    env_id = known.get(args[1].lower(), args[1])
    if env_id not in known.values():
        there_are = f"there are those for {', '.join(known.values())}"
        raise UsageError(f"no preset for {algorithm} on {env_id}{nearest(env_id, known.values())}: {there_are}")
    print(text(as_config(algorithm, env_id)), end="")


def as_config(algorithm: str, env_id: str) -> Config:
    """The row of an algorithm and an environment, as `fastrl train --config` takes it."""
    row = preset(algorithm, env_id)
    steps = row.pop("total_timesteps")
    network = row.pop("policy_kwargs", {})
    if "activation_fn" in network:
        network = {**network, "activation_fn": network["activation_fn"].__name__}
    return Config(algorithm, env_id, {"total_timesteps": steps}, {**row, **network})


def _table(keys: list[tuple[str, str]]) -> str:
    rows: list[tuple[str, ...]] = [("algorithm", "environment", "steps", "settings")]
    for algorithm, env_id in keys:
        found = as_config(algorithm, env_id)
        settings = ", ".join(f"{name} {_short(value)}" for name, value in found.hyperparameters.items())
        rows.append((algorithm, env_id, f"{found.run['total_timesteps']:,}", settings))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{algorithm:<{widths[0]}}  {env_id:<{widths[1]}}  {steps:>{widths[2]}}  {settings}"
        for algorithm, env_id, steps, settings in rows
    )


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
