"""Making environments from compiled functions, by id or as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym

from fastrl.envs.classic import find
from fastrl.envs.compiled import Environment
from fastrl.envs.single import CompiledEnv
from fastrl.envs.vector import CompiledVectorEnv

__all__ = ["make", "make_vec", "register"]


def make(environment: str | Environment, *, debug: bool = False, **constants: Any) -> gym.Env:
    """One environment, with its time limit, as a `gymnasium.Env`.

    Args:
        environment: the id of one that has a compiled twin ("CartPole-v1"), or what `fastrl.envs.environment` made.
        debug: check every index, for environments in the making: several times slower.
        constants: other values for constants of the environment.

    Raises:
        ValueError: for an id without a compiled twin.
        TypeError: for an unknown constant, or a function that cannot be compiled.
    """
    if isinstance(environment, str):
        return gym.make(_registered(environment), debug=debug, **constants)
    env: gym.Env = CompiledEnv(_checked(environment).replace(**constants), debug)
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
    options = dict(debug=debug, **constants)
    if max_episode_steps is not None:
        options["max_episode_steps"] = max_episode_steps
    if isinstance(environment, str):
        made: Any = gym.make_vec(_registered(environment), num_envs, "vector_entry_point", **options)
        return made
    return _vector(environment, num_envs, **options)


def register(id: str, environment: Environment) -> None:
    """Let `gymnasium.make(id)` and `gymnasium.make_vec(id)` make `environment`, with its limit and threshold."""
    gym.register(
        id=id,
        entry_point=partial(_single, _checked(environment)),
        vector_entry_point=partial(_vector, environment),
        max_episode_steps=environment.max_episode_steps or None,
        reward_threshold=environment.reward_threshold,
    )


def entry_point(twin: str, **kwargs: Any) -> CompiledEnv:
    """What `gymnasium.make("fastrl/…")` calls."""
    return _single(_twin(twin), **kwargs)


def vector_entry_point(twin: str, num_envs: int = 1, **kwargs: Any) -> CompiledVectorEnv:
    """What `gymnasium.make_vec("fastrl/…")` calls."""
    return _vector(_twin(twin), num_envs, **kwargs)


def _single(
    environment: Environment, *, render_mode: str | None = None, debug: bool = False, **constants: Any
) -> CompiledEnv:  # fmt: skip
    _check_render_mode(render_mode)
    return CompiledEnv(environment.replace(**constants), debug)


def _vector(
    environment: Environment, num_envs: int = 1, *, max_episode_steps: int | None = None,
    render_mode: str | None = None, debug: bool = False, **constants: Any,
) -> CompiledVectorEnv:  # fmt: skip
    _check_render_mode(render_mode)
    return CompiledVectorEnv(_checked(environment).replace(**constants), num_envs, max_episode_steps, debug)


def _check_render_mode(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(
            f"render_mode is {render_mode!r}; compiled environments do not render: make Gymnasium's own to watch"
        )


def _checked(environment: Any) -> Environment:
    if not isinstance(environment, Environment):
        raise TypeError(f"environment is {environment!r}; it must be an id, or what fastrl.envs.environment made")
    return environment


def _registered(id: str) -> str:
    _twin(id)
    return f"fastrl/{id.removeprefix('fastrl/')}"


def _twin(id: str) -> Environment:
    environment = find(id)
    if environment is None:
        raise ValueError(f"{id} has no compiled twin; gymnasium.make_vec makes Gymnasium's own")
    return environment
