"""A model's weights out and in, its seed, and its environments in the shape of Stable-Baselines3's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastrl.checkpoint import part, read_model
from fastrl.checks import check_int
from fastrl.learners.optimizers import load_optimizer_tensors, optimizer_tensors
from fastrl.learners.torch import QLearner

if TYPE_CHECKING:
    from fastrl.algorithms.base import Algorithm

IN_FILE = {"policy": "policy", "optimizer": "optimizer", "target": "extra"}


def reseed(model: Algorithm, seed: int | None) -> None:
    """See `Algorithm.set_random_seed`."""
    if seed is not None:
        check_int("seed", seed, 0)
    model._seed(seed)
    model._obs, model._gathered_at = None, -1
    if model.env is not None:
        model.env.seeded = False


def get(model: Algorithm) -> dict[str, dict[str, torch.Tensor]]:
    """See `Algorithm.get_parameters`."""
    held = {"policy": model.policy.state_dict(), "optimizer": optimizer_tensors(model.learner.optimizer)}
    if isinstance(model.learner, QLearner):
        held["target"] = model.learner.target.state_dict()
    return {name: {key: tensor.detach().clone() for key, tensor in held[name].items()} for name in held}


def take(model: Algorithm, given: str | os.PathLike[str] | Mapping[str, Any], exact: bool) -> None:
    """See `Algorithm.set_parameters`."""
    own = get(model)
    if not isinstance(given, Mapping):
        _, tensors = read_model(given)
        given = {name: part(tensors, IN_FILE[name]) for name in own}
    unknown, missing = sorted(set(given) - set(own)), sorted(set(own) - set(given))
    if unknown or (exact and missing):
        raise ValueError(
            f"the parameters of a {type(model).__name__} are {sorted(own)}; unknown: {unknown}, missing: {missing}"
            + ("" if unknown else ". Pass exact_match=False to leave those as they are")
        )
    given = {name: _tensors(name, held) for name, held in given.items()}
    for name, held in given.items():
        if name == "optimizer":  # what it has not begun to keep, it checks itself
            _check_shapes(name, own[name], {key: held[key] for key in held.keys() & own[name].keys()})
        else:
            _check_names(name, own[name], held, exact)
            _check_shapes(name, own[name], held)
    if "optimizer" in given and (given["optimizer"] or exact):
        load_optimizer_tensors(model.learner.optimizer, given["optimizer"])
    if "policy" in given:
        model.policy.load_state_dict(given["policy"], strict=exact)
    if "target" in given and isinstance(model.learner, QLearner):
        model.learner.target.load_state_dict(given["target"], strict=exact)


def _tensors(name: str, held: Any) -> dict[str, torch.Tensor]:
    if not isinstance(held, Mapping):
        raise TypeError(f"the parameters of the {name} are a {type(held).__name__}; they must be a dict of tensors")
    for key, x in held.items():
        if not isinstance(x, (torch.Tensor, np.ndarray, np.number)):
            raise TypeError(f"{name}[{key!r}] is a {type(x).__name__}; it must be a tensor or an array of NumPy")
    return {key: torch.as_tensor(x) for key, x in held.items()}


def _check_names(name: str, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], exact: bool) -> None:
    unknown, missing = sorted(set(given) - set(own)), sorted(set(own) - set(given))
    if unknown or (exact and missing):
        raise ValueError(f"the weights of the {name} are {sorted(own)}; unknown: {unknown}, missing: {missing}")


def _check_shapes(name: str, own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> None:
    for key, tensor in given.items():
        if tuple(tensor.shape) != tuple(own[key].shape):
            raise ValueError(f"{name}[{key!r}] has shape {tuple(tensor.shape)}; it must be {tuple(own[key].shape)}")
