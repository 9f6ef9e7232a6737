"""Gymnasium's spaces from how Stable-Baselines3's files describe them in words, beside the pickles that hold them."""

from __future__ import annotations

import math
import re
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

__all__ = ["NotTold", "read_space"]

MOST = 2**26  # numbers in an observation
NUMBER = r"[-+]?(?:inf|nan|\d+\.?\d*(?:e[-+]?\d+)?)"
BOUND = rf"(?:{NUMBER}|\[[^()]*\])"
PART = re.compile(
    rf"'(?P<key>[^']*)': (?:Box\((?P<low>{BOUND}), (?P<high>{BOUND}), \((?P<shape>[\d, ]*)\), (?P<dtype>\w+)\)"
    r"|Discrete\((?P<n>\d+)(?:, start=(?P<start>-?\d+))?\)"
    r"|MultiDiscrete\((?P<nvec>\[[\d ]+\])\)|MultiBinary\((?P<bits>\d+)\))(?:, |$)"
)


class NotTold(ValueError):
    """The words do not say what the space is."""


def read_space(told: Any) -> gym.Space:
    """The space of an entry of the file's JSON.

    Raises:
        NotTold: where the words leave something open.
    """
    try:
        return _read(told, re.search(r"(\w+)'>$", told[":type:"]).group(1))  # type: ignore[union-attr]
    except NotTold:
        raise
    except Exception as error:  # a file may hold anything
        raise NotTold(f"{type(error).__name__}: {error}") from error


def _read(told: dict[str, Any], kind: str) -> gym.Space:
    if kind == "Discrete":
        return Discrete(int(told["n"]), start=int(told.get("start", 0)))
    if kind == "MultiDiscrete":
        start = _numbers(told["start"], np.int64) if "start" in told else None
        return MultiDiscrete(_numbers(told["nvec"], np.int64), start=start)
    if kind == "MultiBinary":
        return MultiBinary(_shape(told["n"]) if isinstance(told["n"], list) else int(told["n"]))
    if kind == "Box":
        return _box(told.get("low_repr"), told.get("high_repr"), told["low"], told["high"], told["_shape"], told)
    if kind == "Dict":
        return _parts(str(told["spaces"]))
    raise NotTold(f"a {kind} space")


def _box(low_short: Any, high_short: Any, low: Any, high: Any, shape: Any, told: dict[str, Any]) -> Box:
    dtype = np.dtype(str(told["dtype"]))
    sizes = _shape(shape)
    lowest, highest = (
        np.broadcast_to(end.reshape(sizes) if end.size > 1 else end, sizes).copy()
        for end in (_bound(low_short, low, dtype), _bound(high_short, high, dtype))
    )
    return Box(lowest, highest, sizes, dtype.type)


def _bound(short: Any, whole: Any, dtype: np.dtype[Any]) -> np.ndarray:
    if re.fullmatch(NUMBER, str(short)):
        return np.array(float(short)).astype(dtype)
    return _numbers(whole, dtype)


def _numbers(text: Any, dtype: Any) -> np.ndarray:
    numbers = np.array([float(number) for number in re.findall(NUMBER, str(text))]).astype(dtype)
    if "..." not in str(text):
        return numbers
    if dtype != np.uint8 or len(set(numbers.tolist())) != 1:
        raise NotTold("bounds that are written in part")
    return numbers[0]  # images have one


def _shape(sizes: Any) -> tuple[int, ...]:
    found = tuple(int(size) for size in (re.findall(r"\d+", sizes) if isinstance(sizes, str) else sizes))
    if math.prod(found) > MOST:
        raise NotTold(f"a shape of {found}")
    return found


def _parts(text: str) -> Dict:
    inside = re.sub(r"^OrderedDict\(|\)$", "", text) if text.startswith("OrderedDict") else text
    inside = inside.strip().removeprefix("{").removesuffix("}")
    parts: dict[str, gym.Space] = {}
    while inside:
        found = PART.match(inside)
        if found is None:
            raise NotTold(f"{inside[:40]} in a Dict")
        parts[found["key"]] = _part(found)
        inside = inside[found.end() :]
    return Dict(list(parts.items()))


def _part(found: re.Match[str]) -> gym.Space:
    if found["n"]:
        return Discrete(int(found["n"]), start=int(found["start"] or 0))
    if found["nvec"]:
        return MultiDiscrete(_numbers(found["nvec"], np.int64))
    if found["bits"]:
        return MultiBinary(int(found["bits"]))
    return _box(found["low"], found["high"], found["low"], found["high"], found["shape"], {"dtype": found["dtype"]})
