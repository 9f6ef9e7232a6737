"""A trainer to and from one file: weights that are trained, optimiser, counters, coefficient, random state."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import torch

import fastrl
from fastrl.checkpoint import ModelFileError, part, read_model, write_model
from fastrl.learners.optimizers import load_optimizer_tensors, optimizer_tensors
from fastrl.rlhf.settings import Settings

if TYPE_CHECKING:
    from fastrl.rlhf.trainer import RLHFTrainer

COUNTERS = ("num_responses", "n_updates", "total_responses", "_n_prompts")
KIND = "RLHFTrainer"


def save(trainer: RLHFTrainer, path: str | os.PathLike[str]) -> None:
    """See `RLHFTrainer.save`."""
    values, parameters = dataclasses.asdict(trainer.settings), {id(p) for p in trainer.parameters}
    if parameters != {id(p) for module in trainer.trained.values() for p in module.parameters() if p.requires_grad}:
        raise ValueError("the policy's parameters are others than were trained (were its adapters merged?)")
    header = {
        "fastrl": fastrl.__version__, "algorithm": KIND,
        "settings": {k: v for k, v in values.items() if not callable(v)},
        "functions": [k for k, v in values.items() if callable(v)],
        "counters": {name: getattr(trainer, name) for name in COUNTERS},
        "kl_coef": trainer.kl.beta, "order": trainer._order, "random": trainer.rng.bit_generator.state,
        "reference": _fingerprint(trainer),
    }  # fmt: skip
    tensors = {f"{name}.{key}": x for name, module in trainer.trained.items() for key, x in _trained(module).items()}
    tensors |= {f"optimizer.{key}": x for key, x in optimizer_tensors(trainer.optimizer).items()}
    tensors["generator.state"] = trainer.generator.get_state()
    write_model(path, header, tensors)


def load(cls: type[Any], path: str | os.PathLike[str], models: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """See `RLHFTrainer.load`."""
    header, tensors = read_model(path)
    if header.get("algorithm") != KIND:
        raise ModelFileError(f"{path} holds a {header.get('algorithm')}, which no RLHFTrainer can go on with")
    missing = set(header.get("functions", ())) - set(options)
    if missing:
        name = min(missing)
        raise ValueError(f"{name} was a function, which no model file can hold: load(..., {name}=function)")
    names = {field.name for field in dataclasses.fields(Settings)}
    try:
        kept = {name: value for name, value in header["settings"].items() if name in names}
    except (KeyError, AttributeError) as error:
        raise ModelFileError(f"{path} has no settings") from error
    if options.get("algorithm", kept.get("algorithm")) != kept.get("algorithm"):
        raise ValueError(f"{path} is of {kept.get('algorithm')}, and cannot go on as {options['algorithm']}")
    trainer = cls(*models, **{**kept, **options})
    try:
        _restore(trainer, header, tensors)
    except Exception as error:  # a file may hold anything, and each way of failing on it is this one error
        raise ModelFileError(f"{path} cannot be restored: {error}") from error
    return trainer


def _restore(trainer: RLHFTrainer, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """What the file says; weights last, which are the caller's and stay as they are where anything fails."""
    copies = []
    for name, module in trainer.trained.items():
        own, found = _trained(module), part(tensors, name)
        shapes, expected = ({key: tuple(x.shape) for key, x in d.items()} for d in (found, own))
        if keys := [key for key in shapes | expected if shapes.get(key) != expected.get(key)]:
            key, hint = keys[0], ", adapters (pass lora= as then?)" if any("lora" in key for key in keys) else ""
            raise ModelFileError(
                f"{len(keys)} weights of the {name} are others{hint}, such as {key}, of shape {shapes.get(key)} in the "
                f"file and {expected.get(key)} here"
            )
        copies += [(own[key], found[key]) for key in own]
    if not math.isclose(float(header["reference"]), _fingerprint(trainer), rel_tol=1e-6):
        raise ModelFileError("the reference is another one: pass ref_policy=, or the policy as it was before training")
    load_optimizer_tensors(trainer.optimizer, part(tensors, "optimizer"))
    for name in COUNTERS:
        setattr(trainer, name, int(header["counters"][name]))
    trainer.kl.beta, trainer._order = float(header["kl_coef"]), [int(i) for i in header["order"]]
    trainer.rng.bit_generator.state = header["random"]
    trainer.generator.set_state(tensors["generator.state"])
    for ours, theirs in copies:
        ours.copy_(theirs)


def _fingerprint(trainer: RLHFTrainer) -> float:
    """Of the reference's weights: those of the policy that are not trained, where it is the reference itself."""
    model, frozen = trainer.ref_policy or trainer.policy, trainer.ref_policy is None
    chosen = (p for p in model.parameters() if not (frozen and p.requires_grad))
    return float(sum(p.detach().double().abs().sum() for p in chosen))


def _trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes: of a model with adapters these alone."""
    return {key: p.detach() for key, p in module.named_parameters() if p.requires_grad}
