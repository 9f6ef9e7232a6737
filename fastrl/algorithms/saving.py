"""A model to and from one file: what is kept, and how it is checked before anything is made of it."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

import fastrl
from fastrl import spaces
from fastrl.algorithms.options import absent, from_json, to_json
from fastrl.checkpoint import ModelFileError, part, read_model, write_model
from fastrl.envs import records
from fastrl.envs.stepper import EnvLike, Stepper, is_made, make_stepper
from fastrl.learners.optimizers import load_optimizer_tensors, optimizer_tensors
from fastrl.learners.torch import QLearner
from fastrl.networks import make_head
from fastrl.ranks import Ranks

if TYPE_CHECKING:
    from fastrl.algorithms.base import Algorithm

COUNTERS = ("num_timesteps", "num_episodes", "n_updates", "total_timesteps")
GENERATORS = ("rng", "_predict_rng")
MOST = 2**26  # numbers in an observation
SPACES = ("observation_space", "action_space")
NOT_STORED = {"policy", "env", "device", "foreign"}


def hyperparameters(cls: type[Algorithm]) -> list[str]:
    """The names of the constructor's arguments that the model file keeps."""
    return [name for name in inspect.signature(cls).parameters if name not in NOT_STORED]


def save(model: Algorithm, path: str | os.PathLike[str]) -> None:
    """Write `model`: hyperparameters, spaces, weights, optimiser, counters, statistics, random state, episodes.

    Of several ranks the first one writes, and what the others have of their own where it has been gathered.
    """
    if not model.ranks.is_first:
        return
    values = {name: getattr(model, name) for name in hyperparameters(type(model))}
    values |= {"engine": model._wanted_engine, "n_envs": model._copies}
    # A function cannot be written without pickle: it is named as missing, and learning then asks for it.
    functions = [name for name, value in values.items() if callable(value)]
    header: dict[str, Any] = {
        "fastrl": fastrl.__version__,
        "algorithm": type(model).__name__,
        "policy": model.policy_name,
        "hyperparameters": {k: to_json(v) for k, v in values.items() if k not in functions},
        "functions": functions,
        "observation_space": spaces.to_json(model.observation_space),
        "action_space": spaces.to_json(model.action_space),
        "env_id": model.env_id,
        "num_envs": model.num_envs if model.env is None else model.total_envs,
        "counters": {name: getattr(model, name) for name in COUNTERS},
        "episodes": list(model.episodes),
    }
    tensors = {f"policy.{k}": v for k, v in model.policy.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in optimizer_tensors(model.learner.optimizer).items()}
    if isinstance(model.learner, QLearner):
        tensors |= {f"extra.{k}": v for k, v in model.learner.target.state_dict().items()}
    if model.normalizer is not None:
        tensors |= {f"normalizer.{k}": torch.from_numpy(v) for k, v in model.normalizer.state().items()}
    states = [own_state(model)] if model._gathered_at != model.num_timesteps else model._of_ranks
    for rank, (about, arrays) in enumerate(states):  # of rank 0 as of a model that is trained alone
        header |= about if rank == 0 else {}
        tensors |= {k if rank == 0 else f"rank{rank}.{k}": torch.from_numpy(v) for k, v in arrays.items()}
    if model.ranks.size > 1:
        header |= {"n_ranks": model.ranks.size, "ranks": [about for about, _ in states[1:]]}
    write_model(path, header, tensors)


def own_state(model: Algorithm) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What each rank has of its own: random state and episodes; as JSON, and as arrays."""
    about = {
        "random": {name: getattr(model, name).bit_generator.state for name in GENERATORS},
        "env_seed": model._env_seed,
        "env_state": model._env_state if model._loaded or model.env is None else model.env.state(),
    }
    arrays: dict[str, np.ndarray] = {}
    if model.normalizer is not None:
        arrays["normalizer.returns"] = model.normalizer.returns.copy()
    if model._obs is not None:
        rows = np.ascontiguousarray(model._obs)
        arrays["obs"] = rows.view(np.uint8).reshape(len(rows), -1) if rows.dtype.names else rows
    return about, arrays


def load(
    cls: type[Any], path: str | os.PathLike[str], env: EnvLike | Stepper | None, policy: nn.Module | None, device: str,
    replaced: dict[str, Any],
) -> Any:  # fmt: skip
    """The model of a file; see `Algorithm.load`."""
    header, tensors = read_model(path)
    if header.get("algorithm") != cls.__name__:
        raise ModelFileError(f"{path} holds a {header.get('algorithm')}: use {header.get('algorithm')}.load")
    replaced = _as_here(replaced)
    may_change = [name for name in hyperparameters(cls) if name != "normalize"]
    unknown = set(replaced) - set(may_change) - set(SPACES)
    if unknown:
        raise TypeError(f"{sorted(unknown)} cannot be replaced in a {cls.__name__}; these can: {may_change}")
    if header.get("policy") == "custom" and policy is None:
        raise ModelFileError(f"{path} was made with a module of your own: {cls.__name__}.load(..., policy=module)")
    if env is not None:
        n_envs = replaced.get("n_envs", 1 if is_made(env) else _number_of_copies(header))
        engine = replaced.get("engine", header.get("hyperparameters", {}).get("engine"))
        own = n_envs if is_made(env) or not cls.data_parallel else Ranks.here().share("n_envs", n_envs)
        env = make_stepper(env, own, engine != "torch")
        replaced = {**replaced, "n_envs": n_envs}
    try:
        return _restore(cls, header, tensors, env, policy, device, replaced)
    except ModelFileError:
        raise
    except Exception as error:  # a file may hold anything, and each way of failing on it is this one error
        raise ModelFileError(f"{path} cannot be restored: {error}") from error


def _restore(
    cls: type[Any], header: dict[str, Any], tensors: dict[str, torch.Tensor], env: Stepper | None,
    policy: nn.Module | None, device: str, replaced: dict[str, Any],
) -> Any:  # fmt: skip
    own = spaces.Spaces(
        spaces.from_json(header["observation_space"], MOST), spaces.from_json(header["action_space"], MOST),
        header["num_envs"], header["env_id"],
    )  # fmt: skip
    values = {k: from_json(v) for k, v in header["hyperparameters"].items()}
    for name in header["functions"]:  # stands in until the function is passed again
        values[name] = MissingFunction(name)
    if isinstance(given := replaced.get("policy_kwargs"), dict):  # what the file could not hold, or in place of it
        replaced = {**replaced, "policy_kwargs": {**(values["policy_kwargs"] or {}), **given}}
    values |= replaced
    if missing := absent(values["policy_kwargs"]):
        option, what = missing
        raise ModelFileError(
            f"policy_kwargs had {option}={what}, which no model file can hold: "
            f"load(..., policy_kwargs=dict({option}=...))"
        )
    spaces.check_same_spaces(own, env or own)
    spaces.check_same_spaces(own, own._replace(**{name: values.pop(name) for name in SPACES if name in values}))
    weights = part(tensors, "policy")
    if policy is None:
        _check_widths(values["policy_kwargs"], header["policy"], own, weights)
    model = cls(header["policy"] if policy is None else policy, env or own, device=device, **values)
    expected, found = ({k: tuple(v.shape) for k, v in d.items()} for d in (model.policy.state_dict(), weights))
    if found != expected:
        raise ModelFileError(f"the file's weights are {found}; the policy's are {expected}")
    load_optimizer_tensors(model.learner.optimizer, part(tensors, "optimizer"))
    if model.normalizer is not None:
        model.normalizer.load({k: v.numpy() for k, v in part(tensors, "normalizer").items()})
    if isinstance(model.learner, QLearner):
        model.learner.target.load_state_dict(part(tensors, "extra"))
    for name in COUNTERS:
        setattr(model, name, int(header["counters"][name]))
    model.episodes.extend((float(r), int(n)) for r, n in header["episodes"])
    _restore_own(model, header, tensors, "seed" not in replaced)
    model.policy.load_state_dict(weights)  # last: a module of the user's stays as it was if anything else failed
    return model


def _restore_own(model: Algorithm, header: dict[str, Any], tensors: dict[str, torch.Tensor], random: bool) -> None:
    """Give `model` the random state, if `random`, and the episodes that its rank has left in the file.

    Where other ranks than now have left it, episodes begin anew, with streams that follow from rank 0's.
    """
    ranks = model.ranks
    states = [header, *header.get("ranks", [])]
    same = len(states) == header.get("n_ranks", 1) == ranks.size
    own, at = (states[ranks.rank] if same else header), f"rank{ranks.rank}." if same and ranks.rank else ""
    if random:
        for name in GENERATORS:
            getattr(model, name).bit_generator.state = own["random"][name]
        model._env_seed = own["env_seed"]
    model._loaded, model._env_state = True, own["env_state"] if same else None
    if not same and random:
        model._branch(int(model.rng.integers(2**63)))
    returns, obs = tensors.get(f"{at}normalizer.returns"), tensors.get(f"{at}obs")
    if at and returns is not None and model.normalizer is not None and len(returns) == model.num_envs:
        model.normalizer.returns[:] = returns.numpy()
    if same and obs is not None and obs.shape[0] == model.num_envs:
        rows, dtype = obs.numpy().copy(), records.layout(model.observation_space)[0]
        model._obs = rows.view(dtype)[:, 0] if dtype.names else rows


def _as_here(replaced: dict[str, Any]) -> dict[str, Any]:
    """What Stable-Baselines3's users replace, by the names of hyperparameters."""
    rest = dict(replaced)
    if "lr_schedule" in rest:
        rest = {"learning_rate": rest.pop("lr_schedule"), **rest}
    return rest


class MissingFunction:
    """Stands for a schedule that was a function, which a file cannot hold."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, remaining: float) -> float:
        raise ValueError(f"{self.name} was a function, which no model file can hold: load(..., {self.name}=function)")


def _number_of_copies(header: dict[str, Any]) -> int:
    n = header.get("hyperparameters", {}).get("n_envs")
    if n not in (1, header.get("num_envs")):
        raise ModelFileError(f"the file speaks of {n} copies of its environment and of {header.get('num_envs')}")
    return int(n)


def _check_widths(options: Any, policy: str, own: Any, weights: dict[str, torch.Tensor]) -> None:
    """Refuse sizes that the weights do not have, before memory is asked for them."""
    arch = (options or {}).get("net_arch") or []
    groups = arch if isinstance(arch, list) and any(isinstance(part, dict) for part in arch) else [arch]
    widths: set[int] = set()
    for group in groups:
        lists = group.values() if isinstance(group, dict) else [group if isinstance(group, list) else [group]]
        widths |= {n for sizes in lists for n in sizes}
    extractor_options = (options or {}).get("features_extractor_kwargs") or {}
    widths |= {extractor_options[name] for name in ("features_dim", "cnn_output_dim") if name in extractor_options}
    widths.add(make_head(own.action_space).n_params)
    if policy == "MlpPolicy" and "features_extractor_class" not in (options or {}):
        widths.add(spaces.flat_dim(own.observation_space))
    missing = widths - {n for tensor in weights.values() for n in tensor.shape}
    if missing:
        raise ModelFileError(f"the file speaks of layers of {sorted(missing)} units, which its weights do not have")
