"""What the agents need of Gymnasium's spaces: vectors in, actions out, and JSON for the model file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

__all__ = [
    "Spaces",
    "as_batch",
    "bounds",
    "check_action_space",
    "check_observation_space",
    "check_same_spaces",
    "flat_dim",
    "flatten",
    "from_json",
    "image_columns",
    "is_channels_last",
    "is_image",
    "leaves",
    "to_env",
    "to_json",
]

FLOAT32 = np.dtype(np.float32)


class Spaces(NamedTuple):
    """Stands for the environment of a model that was loaded without one."""

    observation_space: gym.Space
    action_space: gym.Space
    num_envs: int
    env_id: str | None


def check_observation_space(space: gym.Space) -> None:
    """Raise a TypeError unless `flatten` can turn observations of `space` into vectors; a ValueError for empty ones."""
    if isinstance(space, Dict) and space.spaces:
        for key, part in space.spaces.items():
            if not isinstance(key, str):
                raise TypeError(f"the observation space {space} has the key {key!r}; keys must be strings")
            check_observation_space(part)
        return
    if not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
        raise TypeError(
            f"the observation space {space} is not supported: agents take Box, Discrete, MultiDiscrete, "
            "MultiBinary, and Dict of these. Wrap the environment in gymnasium.wrappers.FlattenObservation"
        )
    if isinstance(space, MultiDiscrete) and space.nvec.ndim != 1:
        raise TypeError(f"the observation space {space} is not supported: nvec must have one dimension")
    if not flat_dim(space):
        raise ValueError(
            f"the observation space {space} of shape {space.shape} has no number; an agent needs at least one: "
            "where there is nothing to observe, return a constant, with gymnasium.wrappers.TransformObservation"
        )


def check_action_space(space: gym.Space, supported: tuple[type, ...], algorithm: str) -> None:
    """Raise a TypeError unless `space` is one of `supported`; a ValueError where there is nothing to choose."""
    names = ", ".join(kind.__name__ for kind in supported)
    if not isinstance(space, supported):
        raise TypeError(f"{algorithm} takes {names} actions; this environment's action space is {space}")
    if isinstance(space, MultiDiscrete) and space.nvec.ndim != 1:
        raise TypeError(f"the action space {space} is not supported: nvec must have one dimension")
    if isinstance(space, Box) and not np.issubdtype(space.dtype, np.floating):
        raise TypeError(f"{algorithm} takes Box actions of floats; this action space is {space}")
    if not flat_dim(space):
        raise ValueError(
            f"{algorithm} chooses at least one number; the action space {space} of shape {space.shape} has none: give "
            "the environment another, Discrete(1) where there is nothing to choose"
        )


def check_same_spaces(trained: Any, env: Any) -> None:
    """Raise a ValueError unless `env` has the observation and action space of `trained`."""
    for name in ("observation_space", "action_space"):
        expected, found = getattr(trained, name), getattr(env, name)
        if found != expected:
            of = getattr(trained, "env_id", None) or "the model's environment"
            raise ValueError(
                f"the {name} of {of} is {expected}; this environment's is {found}: use one whose spaces are the same"
            )


def leaves(space: gym.Space) -> Iterator[gym.Space]:
    """The parts of a Dict, and of Dicts in it, in their order; of another space itself alone."""
    if isinstance(space, Dict):
        for part in space.spaces.values():
            yield from leaves(part)
    else:
        yield space


def is_image(space: gym.Space) -> bool:
    """Whether `space` is one of images: uint8 with three axes."""
    return isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8


def is_channels_last(space: gym.Space) -> bool:
    """Whether `space` is one of images [height, width, channels]: where the first axis is not the shortest."""
    return is_image(space) and min(space.shape or ()) != (space.shape or (0,))[0]


def image_columns(space: gym.Space) -> list[slice]:
    """Which columns of a flattened observation are images."""
    found, start = [], 0
    for part in leaves(space):
        end = start + flat_dim(part)
        if is_image(part):
            found.append(slice(start, end))
        start = end
    return found


def as_batch(space: gym.Space, obs: Any, name: str = "the observation") -> tuple[Any, bool]:
    """One observation, or a batch of them, as an array [N, *space.shape], and whether it was one; of a Dict a dict.

    Raises a ValueError for another shape and for NaN or infinity, a TypeError for what holds no numbers, a KeyError
    for other keys than those of a Dict.
    """
    if isinstance(space, Dict):
        return _as_dict(space, obs, name)
    try:
        array = np.asarray(obs.detach().cpu() if hasattr(obs, "detach") else obs)
    except ValueError:
        raise ValueError(f"{name} is no array; of env.reset() pass the first of the two results") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {array.dtype}; it must be numbers of {space}")
    shape = space.shape or ()
    single = array.shape == shape
    if not single and (array.shape[1:] != shape or array.ndim != len(shape) + 1):
        raise ValueError(f"{name} has shape {array.shape}; it must be {shape}, or [n, *{shape}] for n of them")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: {array}")
    return (array[None] if single else array), single


def _as_dict(space: Dict, obs: Any, name: str) -> tuple[dict[str, Any], bool]:
    names = obs.dtype.names if isinstance(obs, np.ndarray) else obs if isinstance(obs, Mapping) else None
    if names is None:
        raise TypeError(f"{name} is a {type(obs).__name__}; it must be a dict with the keys {list(space.spaces)}")
    if set(names) != set(space.spaces):
        raise KeyError(f"{name} has the keys {list(names)}; its space has {list(space.spaces)}")
    parts = {key: as_batch(part, obs[key], f"{name}'s {key!r}") for key, part in space.spaces.items()}
    lengths = {key: 1 if single else _length(part) for key, (part, single) in parts.items()}
    singles = {single for _, single in parts.values()}
    if len(singles) > 1 or len(set(lengths.values())) > 1:
        raise ValueError(f"{name} has batches of different lengths: {lengths}")
    return {key: part for key, (part, _) in parts.items()}, singles.pop()


def _length(batch: Any) -> int:
    while isinstance(batch, dict):
        batch = next(iter(batch.values()))
    return len(batch)


def flat_dim(space: gym.Space) -> int:
    """The length of a flattened observation: one-hot for Discrete and MultiDiscrete."""
    return int(gym.spaces.flatdim(space))


def flatten(space: gym.Space, obs: Any, scale_images: bool = True) -> np.ndarray:
    """Observations [N, *space.shape] as float32 [N, flat_dim]; images (uint8, three axes) are scaled to [0, 1].

    Those of a Dict are a dict of arrays, or records with a field for each key: their parts are laid end to end.
    """
    if isinstance(space, Box) and obs.dtype == FLOAT32 and obs.ndim == 2:  # the usual, at a third of the cost
        return obs.astype(FLOAT32)
    if isinstance(space, Dict):
        return np.concatenate([flatten(part, obs[key], scale_images) for key, part in space.spaces.items()], axis=1)
    n = len(obs)
    if isinstance(space, (Discrete, MultiDiscrete)):
        start = np.atleast_1d(space.start)
        nvec = np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec)
        column = obs.reshape(n, -1).astype(np.int64) - start
        if (obs.reshape(n, -1) - start != column).any() or (column < 0).any() or (column >= nvec).any():
            raise ValueError(f"the observation {obs.tolist()} lies outside its space {space}")
        column += np.cumsum(nvec) - nvec
        one_hot = np.zeros((n, int(nvec.sum())), np.float32)
        one_hot[np.arange(n)[:, None], column] = 1
        return one_hot
    flat = obs.reshape(n, -1).astype(np.float32)
    if scale_images and is_image(space):
        flat /= np.float32(255)
    return flat


def bounds(space: gym.Space) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest and the highest action [c] of a Box of float32 vectors, which kernels can keep to; else None."""
    if isinstance(space, Box) and space.dtype == np.float32 and len(space.shape) == 1:
        return space.low.copy(), space.high.copy()
    return None


def to_env(space: gym.Space, action: np.ndarray) -> np.ndarray:
    """Actions [N, n_components], counted from 0, as `space` has them [N, *shape]; those of a Box within its bounds."""
    if isinstance(space, Discrete) and not space.start:
        return action.reshape(-1).astype(space.dtype)
    shaped = action.reshape(-1, *(space.shape or ()))
    if isinstance(space, Box):  # np.clip would take three times as long
        shaped = np.minimum(np.maximum(shaped, space.low), space.high)
    elif isinstance(space, (Discrete, MultiDiscrete)):
        shaped = shaped + space.start
    return shaped.astype(space.dtype)


def to_json(space: gym.Space) -> dict[str, Any]:
    """A description of `space` in JSON's types; `from_json` is its inverse."""
    if isinstance(space, Dict):
        return {"type": "Dict", "spaces": [[key, to_json(part)] for key, part in space.spaces.items()]}
    dtype = str(space.dtype)
    if isinstance(space, Box):
        return {"type": "Box", "low": _bound(space.low), "high": _bound(space.high), "shape": list(space.shape),
                "dtype": dtype}  # fmt: skip
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start), "dtype": dtype}
    if isinstance(space, MultiDiscrete):
        return {"type": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": dtype}
    if isinstance(space, MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    raise TypeError(f"space {space} is not supported")


def from_json(data: dict[str, Any], limit: int | None = None) -> gym.Space:
    """The space that `to_json` described; a ValueError, before it asks memory, for one of over `limit` numbers."""
    kind = data["type"]
    if kind == "Dict":
        return Dict([(key, from_json(part, limit)) for key, part in data["spaces"]])
    if limit is not None:
        sizes = {"Box": "shape", "MultiBinary": "n", "Discrete": "n", "MultiDiscrete": "nvec"}
        numbers = np.asarray(data[sizes[kind]])
        size = sum(numbers.ravel().tolist()) if kind == "MultiDiscrete" else math.prod(numbers.ravel().tolist())
        if (numbers.dtype.kind != "i" and numbers.size) or size > limit or (numbers < 0).any():
            raise ValueError(f"its {kind} is of {size} numbers, which its weights do not have")
    if kind == "Box":
        shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"a Box of {dtype}")
        low, high = (np.broadcast_to(np.asarray(data[k], dtype), shape).copy() for k in ("low", "high"))
        return Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return Discrete(data["n"], start=data["start"], dtype=np.dtype(data["dtype"]).type)
    if kind == "MultiDiscrete":
        return MultiDiscrete(data["nvec"], dtype=np.dtype(data["dtype"]).type, start=data["start"])
    if kind == "MultiBinary":
        return MultiBinary(data["n"])
    raise ValueError(f"unknown space {kind!r}")


def _bound(bound: np.ndarray) -> Any:
    """One number where all are equal: image spaces would otherwise fill the file's header."""
    return bound.flat[0].item() if bound.size and (bound == bound.flat[0]).all() else bound.tolist()
