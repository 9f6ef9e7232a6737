"""Optimisers: made of their classes, Adam as quickly as can be, and their state as tensors for the model file."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

ADAM_EPS = 1e-8  # Torch's own
SOME_RATE = 1e-3  # until the first step, which sets it
NUMBER = ".number"


class _Adam(torch.optim.Adam):
    """Adam, made without what its constructor loads for torch.compile, which takes longer than all the rest."""

    add_param_group = getattr(torch.optim.Optimizer.add_param_group, "__wrapped__", torch.optim.Adam.add_param_group)


def make_adam(parameters: list[nn.Parameter], eps: float, device: torch.device) -> torch.optim.Adam:
    """An ordinary Adam, fused where it can be; `TorchLearner.descend` sets its learning rate."""
    optimizer: torch.optim.Adam = _Adam(parameters, lr=0.0, eps=eps, fused=device.type in ("cpu", "cuda"))
    optimizer.__class__ = torch.optim.Adam
    optimizer._patch_step_function()  # what the constructor does with the class that it finds
    return optimizer


def make_optimizer(
    module: nn.Module, kind: type[torch.optim.Optimizer], options: dict[str, Any] | None, adam_eps: float,
    device: torch.device,
) -> torch.optim.Optimizer:  # fmt: skip
    """An optimiser of the parameters of `module`, on `device`; Adam has `adam_eps` unless there are `options`.

    Raises:
        ValueError: for an optimiser that takes no plain step down a gradient, or not these options.
    """
    module.to(device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if kind is torch.optim.Adam and not options:
        return make_adam(parameters, adam_eps if options is None else ADAM_EPS, device)
    if issubclass(kind, (torch.optim.LBFGS, torch.optim.SparseAdam)):
        raise ValueError(f"optimizer_class is {kind.__name__}, which takes other steps than one down each gradient")
    arguments = dict(options or {})
    if kind is torch.optim.Adam and not arguments.keys() & {"fused", "foreach", "capturable", "differentiable"}:
        arguments["fused"] = device.type in ("cpu", "cuda")
    try:
        return kind(parameters, **{"lr": SOME_RATE, **arguments})
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(f"{kind.__name__} cannot be made with optimizer_kwargs={options}: {error}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The state of every parameter as "<parameter>.<name>"; numbers as tensors "<parameter>.<name>.number".

    Raises:
        ValueError: where the optimiser keeps anything else.
    """
    found: dict[str, torch.Tensor] = {}
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"{i}.{key}"] = value
            elif isinstance(value, (bool, int, float)):
                found[f"{i}.{key}{NUMBER}"] = torch.tensor(value, dtype=torch.float64 if type(value) is float else None)
            elif value is not None:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key}, a {type(value).__name__}; a model file holds tensors and "
                    "numbers"
                )
    return found


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`.

    Raises:
        ValueError: where a moment of Adam's has not its parameter's shape, or there is no such parameter; nothing is
            changed then.
    """
    state: dict[int, dict[str, torch.Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    if not set(state) <= set(range(len(parameters))):
        raise ValueError(f"the optimiser's state is of the parameters {sorted(state)}; there are {len(parameters)}")
    if type(optimizer) is not torch.optim.Adam or optimizer.defaults["amsgrad"]:
        _load_any(optimizer, state)
        return
    for i, entry in state.items():
        shapes = {key: tensor.shape for key, tensor in entry.items()}
        moment = parameters[i].shape
        if shapes != {"step": torch.Size(), "exp_avg": moment, "exp_avg_sq": moment}:
            raise ValueError(f"the optimiser's state {shapes} does not fit parameter {i}, {moment}")
    for i, entry in state.items():
        p, step = parameters[i], entry["step"]
        counted = step.to(p.device if optimizer.defaults["fused"] else "cpu", torch.float32, copy=True)
        own = {key: entry[key].to(p.device, p.dtype, copy=True) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[p] = {"step": counted, **own}


def _load_any(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, torch.Tensor]]) -> None:
    entries = {
        i: {key.removesuffix(NUMBER): x.item() if key.endswith(NUMBER) else x for key, x in entry.items()}
        for i, entry in state.items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
