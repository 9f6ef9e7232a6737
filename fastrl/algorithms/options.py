"""Hyperparameters in JSON's types, for the model file: classes by name, and what cannot be written as missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fastrl import extractors

# What a dict of one key stands for; a dict of the user's own that looks like one is not written.
MARKS = {"activation", "optimizer", "extractor", "tuple", "missing"}


class Missing:
    """Stands for an option that a model file cannot hold."""

    def __init__(self, what: str) -> None:
        self.what = what


def to_json(value: Any) -> Any:
    """`value` in JSON's types; `from_json` is the inverse, but for what can only be named."""
    if isinstance(value, dict):
        if (len(value) == 1 and set(value) <= MARKS) or not all(isinstance(key, str) for key in value):
            return {"missing": repr(value)}
        return {key: to_json(v) for key, v in value.items()}
    if isinstance(value, type):
        for mark in ("activation", "optimizer", "extractor"):
            if _named(mark, value.__name__) is value:
                return {mark: value.__name__}
        return {"missing": f"the class {value.__name__}"}
    if isinstance(value, tuple):
        return {"tuple": [to_json(v) for v in value]}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Missing):
        return {"missing": value.what}
    return value if value is None or isinstance(value, (bool, int, float, str)) else {"missing": repr(value)}


def from_json(value: Any) -> Any:
    """What `to_json` wrote; `Missing` for what it could only name. ValueError for the name of no such class."""
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1 or not set(value) <= MARKS:
        return {key: from_json(v) for key, v in value.items()}
    ((mark, content),) = value.items()
    if mark == "missing":
        return Missing(str(content))
    if mark == "tuple":
        return tuple(from_json(v) for v in content)
    found = _named(mark, content)
    if found is None:
        raise ValueError(f"there is no {mark} {content!r}")
    return found


def absent(policy_kwargs: dict[str, Any] | None) -> tuple[str, str] | None:
    """The first option that is, or holds, something `Missing`, and what that was."""
    for name, value in (policy_kwargs or {}).items():
        for part in _parts(value):
            if isinstance(part, Missing):
                return name, part.what
    return None


def _parts(value: Any) -> Any:
    yield value
    if isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part)


def _named(mark: str, name: Any) -> Any:
    """The class of that name in Torch's public modules, or of our extractors; None where there is none."""
    home, base = {
        "activation": (nn, nn.Module), "optimizer": (torch.optim, torch.optim.Optimizer),
        "extractor": (extractors, extractors.BaseFeaturesExtractor),
    }[mark]  # fmt: skip
    found = getattr(home, name, None) if isinstance(name, str) else None
    return found if isinstance(found, type) and issubclass(found, base) else None
