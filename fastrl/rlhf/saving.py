"""A trainer to and from one file: weights that are trained, optimiser, counters, coefficient, random state."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import torch

import fastrl
from fastrl.checkpoint import ModelFileError, part, read_model, write_model
from fastrl.learners.optimizers import load_optimizer_tensors, optimizer_tensors
from fastrl.rlhf.settings import Settings

if TYPE_CHECKING:
    from fastrl.rlhf.trainer import RLHFTrainer

COUNTERS = ("num_responses", "n_updates", "total_responses")
KIND = "RLHFTrainer"


def save(trainer: RLHFTrainer, path: str | os.PathLike[str]) -> None:
    """See `RLHFTrainer.save`."""
    values = dataclasses.asdict(trainer.settings)
    header = {
        "fastrl": fastrl.__version__, "algorithm": KIND,
        "settings": {k: v for k, v in values.items() if not callable(v)},
        "functions": [k for k, v in values.items() if callable(v)],
        "counters": {name: getattr(trainer, name) for name in COUNTERS},
        "kl_coef": trainer.kl.beta, "order": trainer._order, "random": trainer.rng.bit_generator.state,
    }  # fmt: skip
    tensors = {f"{name}.{key}": x for name, module in trainer.trained.items() for key, x in _trained(module).items()}
    tensors |= {f"optimizer.{key}": x for key, x in optimizer_tensors(trainer.optimizer).items()}
    tensors["generator.state"] = trainer.generator.get_state()
    write_model(path, header, tensors)


def load(cls: type[Any], path: str | os.PathLike[str], models: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """See `RLHFTrainer.load`."""
    header, tensors = read_model(path)
    if header.get("algorithm") != KIND:
        raise ModelFileError(f"{path} holds a {header.get('algorithm')}: use {header.get('algorithm')}.load")
    names = {field.name for field in dataclasses.fields(Settings)}
    missing = set(header["functions"]) - set(options)
    if missing:
        name = min(missing)
        raise ValueError(f"{name} was a function, which no model file can hold: load(..., {name}=function)")
    kept = {name: value for name, value in header["settings"].items() if name in names}
    trainer = cls(*models, **{**kept, **options})
    for name, module in trainer.trained.items():
        own, found = _trained(module), part(tensors, name)
        shapes, expected = ({key: tuple(x.shape) for key, x in d.items()} for d in (found, own))
        if shapes != expected:
            keys = [key for key in shapes | expected if shapes.get(key) != expected.get(key)]
            differing = {key: (shapes.get(key), expected.get(key)) for key in keys}
            raise ModelFileError(f"{path} has other weights of the {name} (shape in the file, here): {differing}")
        with torch.no_grad():
            for key, x in own.items():
                x.copy_(found[key])
    load_optimizer_tensors(trainer.optimizer, part(tensors, "optimizer"))
    for name in COUNTERS:
        setattr(trainer, name, int(header["counters"][name]))
    trainer.kl.beta, trainer._order = float(header["kl_coef"]), [int(i) for i in header["order"]]
    trainer.rng.bit_generator.state = header["random"]
    trainer.generator.set_state(tensors["generator.state"])
    return trainer


def _trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that training changes: of a model with adapters these alone."""
    return {key: p.detach() for key, p in module.named_parameters() if p.requires_grad}
