"""Making environments from compiled functions, by id or as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym

from fastrl.envs.classic import find
from fastrl.envs.compiled import Environment
from fastrl.envs.registration import TWINS, is_registered
from fastrl.envs.single import CompiledEnv
from fastrl.envs.vector import CompiledVectorEnv

__all__ = ["make", "make_vec", "register"]


def make(environment: str | Environment, *, debug: bool = False, **constants: Any) -> gym.Env:
    """One environment, with its time limit, as a `gymnasium.Env`.

    Args:
        environment: the id of one that has a compiled twin ("CartPole-v1"), or what `fastrl.envs.environment` made.
        debug: check every index, for environments in the making: a tenth slower.
        constants: other values for constants of the environment; of FrozenLake and its like, Gymnasium's arguments.

    Raises:
        ValueError: for an id without a compiled twin.
        TypeError: for an unknown constant, or a function that cannot be compiled.
    """
    if isinstance(environment, str):
        return gym.make(_known(environment), debug=debug, **constants)
    env: gym.Env = entry_point(environment, debug=debug, **constants)
    limit = environment.max_episode_steps
    return gym.wrappers.TimeLimit(env, limit) if limit else env


def make_vec(
    environment: str | Environment, num_envs: int = 1, *, max_episode_steps: int | None = None, debug: bool = False,
    **constants: Any,
) -> CompiledVectorEnv:  # fmt: skip
    """`num_envs` environments as a `gymnasium.vector.VectorEnv`.

    Args:
        environment, debug, constants: as for `make`.
        num_envs: N.
        max_episode_steps: episodes are truncated then; 0: never; by default the environment's own number.

    Raises:
        ValueError, TypeError: as `make`, and for numbers out of range.
    """
    if not isinstance(environment, str):
        return vector_entry_point(environment, num_envs, max_episode_steps, debug=debug, **constants)
    options: dict[str, Any] = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
    made: Any = gym.make_vec(
        _known(environment), num_envs, "vector_entry_point", debug=debug, **options, **constants
    )  # fmt: skip
    return made


def register(id: str, environment: Environment) -> None:
    """Let `gymnasium.make(id)` and `gymnasium.make_vec(id)` make `environment`, with its limit and threshold."""
    gym.register(
        id=id,
        entry_point=partial(entry_point, _described(environment)),
        vector_entry_point=partial(vector_entry_point, environment),
        max_episode_steps=environment.max_episode_steps or None,
        reward_threshold=environment.reward_threshold,
    )


def entry_point(
    environment: str | Environment, *, render_mode: str | None = None, debug: bool = False, **constants: Any
) -> CompiledEnv:
    """What `gymnasium.make` calls; the time limit is its own part."""
    _check_render_mode(render_mode)
    return CompiledEnv(_described(environment, **constants), debug)


def vector_entry_point(
    environment: str | Environment, num_envs: int = 1, max_episode_steps: int | None = None, *,
    render_mode: str | None = None, debug: bool = False, **constants: Any,
) -> CompiledVectorEnv:  # fmt: skip
    """What `gymnasium.make_vec` calls."""
    _check_render_mode(render_mode)
    return CompiledVectorEnv(_described(environment, **constants), num_envs, max_episode_steps, debug)


def _described(environment: Any, **constants: Any) -> Environment:
    if isinstance(environment, Environment):
        return environment.replace(**constants)
    if not isinstance(environment, str):
        raise TypeError(f"environment is {environment!r}; it must be an id, or what fastrl.envs.environment made")
    found = find(environment, **constants)
    if found is None:
        raise ValueError(f"{environment} has no compiled twin; gymnasium.make_vec makes Gymnasium's own")
    return found


def _known(id: str) -> str:
    """The id in Gymnasium's registry of the twin of `id`, or `id` where `register` made it known."""
    if is_registered(id):
        return id
    if (name := id.removeprefix("fastrl/")) not in TWINS:
        raise ValueError(f"{id} has no compiled twin; those that have one are {', '.join(TWINS)}")
    return f"fastrl/{name}"


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode is {render_mode!r}; compiled environments do not render: watch Gymnasium's own")
