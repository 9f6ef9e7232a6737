"""What `fastrl tune` searches: a range or a list of choices for each hyperparameter, and settings drawn from them.

The spaces follow those of RL Baselines3 Zoo. Each also holds the settings that the search starts from, a preset's or
the constructor's: they are the first trial.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Settings = dict[str, Any]  # of the constructor, as options have them: net_arch and activation_fn for policy_kwargs


class Log(NamedTuple):
    """Numbers between two bounds, on a logarithmic scale."""

    low: float
    high: float


class Linear(NamedTuple):
    """Numbers between two bounds."""

    low: float
    high: float


Space = dict[str, "Log | Linear | list[Any]"]

_NETWORK: Space = {
    "net_arch": [[32, 32], [64, 64], [128, 128], [256, 256]],
    "activation_fn": ["Tanh", "ReLU"],
    "normalize": [False, True],
}
_GAMMAS = [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
_CLIPS = [None, 0.5, 1.0, 2.0, 5.0, 10.0]

SPACES: dict[str, Space] = {
    "ppo": {
        "learning_rate": Log(1e-5, 1e-2),
        "n_envs": [4, 8, 16],
        "n_steps": [16, 32, 64, 128, 256, 512, 1024],
        "batch_size": [32, 64, 128, 256, 512],
        "n_epochs": [1, 4, 10, 20],
        "gamma": _GAMMAS,
        "gae_lambda": [0.8, 0.9, 0.92, 0.95, 0.98, 0.99, 1.0],
        "clip_range": [0.1, 0.2, 0.3, 0.4],
        "ent_coef": [0.0, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1],
        "vf_coef": Linear(0.1, 1.0),
        "max_grad_norm": [0.3, 0.5, 0.7, 1.0, 2.0, 5.0],
        **_NETWORK,
    },
    "dqn": {
        "learning_rate": Log(1e-5, 1e-2),
        "batch_size": [32, 64, 128, 256],
        "buffer_size": [10_000, 50_000, 100_000],
        "learning_starts": [0, 1_000, 5_000],
        "train_freq": [1, 4, 8, 16],
        "gradient_steps": [-1, 1, 4, 8],
        "target_update_interval": [4, 50, 250, 1_000, 5_000, 10_000],
        "tau": [0.005, 0.01, 0.05, 1.0],
        "gamma": _GAMMAS,
        "exploration_fraction": Linear(0.02, 0.5),
        "exploration_final_eps": Linear(0.01, 0.2),
        "double_q": [False, True],
        "n_steps": [1, 3, 5],
        **_NETWORK,
    },
    "reinforce": {
        "learning_rate": Log(1e-4, 3e-2),
        "n_envs": [4, 8, 16],
        "n_episodes": [4, 8, 16, 32],
        "gamma": _GAMMAS,
        "baseline": [False, True],
        "normalize_returns": [False, True],
        "ent_coef": [0.0, 1e-4, 1e-3, 1e-2],
        "max_grad_norm": _CLIPS,
        **_NETWORK,
    },
}
SCHEDULE = "learning_rate_schedule"  # drawn beside the learning rate; together they are one setting
LINEAR = "lin_"


def drawn(trial: Any, algorithm: str, start: Settings) -> Settings:
    """`start` with what a trial of Optuna draws in place of all that is searched."""
    space = _with_start(algorithm, start)
    found = {name: _draw(trial, name, where) for name, where in space.items()}
    if found.pop(SCHEDULE) == "linear":
        found["learning_rate"] = f"{LINEAR}{found['learning_rate']}"
    settings = {**start, **found}
    if algorithm == "ppo":  # no rollout has more rows to put in a minibatch
        settings["batch_size"] = min(settings["batch_size"], settings["n_steps"] * settings["n_envs"])
    return settings


def first_trial(algorithm: str, start: Settings) -> dict[str, Any]:
    """The parameters with which `drawn` gives `start` itself."""
    rate, schedule = _rate(start["learning_rate"])
    values = {**start, "learning_rate": rate, SCHEDULE: schedule}
    return {name: _key(values[name]) for name in _with_start(algorithm, start)}


def _with_start(algorithm: str, start: Settings) -> Space:
    """The space of `algorithm`, widened to hold `start`."""
    rate, _ = _rate(start["learning_rate"])
    widened: Space = {SCHEDULE: ["constant", "linear"]}
    for name, where in SPACES[algorithm].items():
        value = rate if name == "learning_rate" else start[name]
        if isinstance(where, list):
            widened[name] = where if value in where else [*where, value]
        else:
            widened[name] = type(where)(min(where.low, value), max(where.high, value))
    return widened


def _draw(trial: Any, name: str, where: Log | Linear | list[Any]) -> Any:
    if isinstance(where, list):
        chosen = trial.suggest_categorical(name, [_key(value) for value in where])
        return next(value for value in where if _key(value) == chosen)
    number = trial.suggest_float(name, *where, log=isinstance(where, Log))
    return float(f"{number:.3g}")  # as one would write it


def _key(value: Any) -> Any:
    """`value` as Optuna stores a choice: lists as words."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _rate(rate: float | str) -> tuple[float, str]:
    """The number of a learning rate, and how it falls."""
    if isinstance(rate, str):
        return float(rate.removeprefix(LINEAR)), "linear"
    return rate, "constant"
