"""Which modules kernels can run: their layers, or the reason why not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from fastrl.kernels.activations import CODES, IDENTITY
from fastrl.kernels.mlp import Layer
from fastrl.networks import ActorCritic, CategoricalHead, Head, QNetwork

# What the kernels compute: each class exactly, with these settings.
SETTINGS: dict[str, dict[str, float]] = {
    "LeakyReLU": dict(negative_slope=0.01), "ELU": dict(alpha=1.0), "Softplus": dict(beta=1.0, threshold=20.0),
}  # fmt: skip
ACTIVATIONS: dict[type[nn.Module], tuple[int, dict[str, float]]] = {
    getattr(nn, name): (code, SETTINGS.get(name, {})) for name, code in CODES.items()
}
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
ADAM = dict(betas=(0.9, 0.999), weight_decay=0, amsgrad=False, maximize=False)


class Plan(NamedTuple):
    """A module as kernels see it.

    Attributes:
        layers: those of the trunk first, then the policy's (or Q's), then the value's.
        head: int64 [3 + c]: the layer of the action parameters, that of the value, the offset of log_std or −1, and
            the number of choices of each component of the action, none for Box actions.
        value_only: offset of the parameters that the value alone depends on; they are the last.
    """

    layers: list[Layer]
    head: list[int]
    value_only: int


class Refused(ValueError):
    """Kernels cannot run a module; the message says why."""


def plan_of(module: nn.Module, head: Head | None = None, trained: bool = True) -> Plan | str:
    """The plan of an actor-critic with `head`, or without one of a Q-network; a reason where there is none.

    That is `ActorCritic`, `QNetwork` (or a subclass with the same `forward`) or for Q a plain `nn.Sequential`, of
    Linear layers with activations in between, in float32 on the CPU, none of them shared, all `trained` or none.
    """
    try:
        offsets = _offsets(module, trained)
        return _q_plan(module, offsets) if head is None else _actor_critic_plan(module, head, offsets)
    except Refused as reason:
        return str(reason)


def refusal(optimizer: torch.optim.Optimizer, module: nn.Module) -> str | None:
    """Why kernels cannot take the place of `optimizer`, if so."""
    if type(optimizer) is not torch.optim.Adam:
        return f"its optimiser is a {type(optimizer).__name__}, not torch.optim.Adam"
    own, parameters = optimizer.param_groups[0]["params"], list(module.parameters())
    if len(optimizer.param_groups) != 1 or list(map(id, own)) != list(map(id, parameters)):
        return "its optimiser's parameters are not the module's, in one group"
    for name, value in ADAM.items():
        if optimizer.param_groups[0][name] != value:
            return f"its optimiser's {name} is {optimizer.param_groups[0][name]}, not {value}"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "its optimiser has hooks"
    return None


def _offsets(module: nn.Module, trained: bool) -> dict[int, int]:
    """Where each parameter, by its id, begins in the flat vector."""
    for m in module.modules():
        if any(getattr(m, name) for name in MODULE_HOOKS):
            raise Refused(f"a {type(m).__name__} of it has hooks")
    offsets: dict[int, int] = {}
    pointers, size = set(), 0
    for name, p in module.named_parameters(remove_duplicate=False):
        if id(p) in offsets or p.data_ptr() in pointers:
            raise Refused(f"{name} is shared by two layers")
        if type(p) is not nn.Parameter or any(getattr(p, hooks) for hooks in TENSOR_HOOKS):
            raise Refused(f"{name} is a {type(p).__name__}" + (" with hooks" if type(p) is nn.Parameter else ""))
        if p.device.type != "cpu" or p.dtype != torch.float32:
            raise Refused(f"{name} is {p.dtype} on {p.device}, not torch.float32 on the CPU")
        if p.requires_grad != trained:
            raise Refused(f"{name} is not trained (requires_grad is False)")
        pointers.add(p.data_ptr())
        offsets[id(p)], size = size, size + p.numel()
    return offsets


def _q_plan(module: nn.Module, offsets: dict[int, int]) -> Plan:
    chain = module if type(module) is nn.Sequential else module.q if _is_ours(module, QNetwork) else None
    if chain is None:
        raise Refused(_foreign(module, "QNetwork or a plain nn.Sequential"))
    layers: list[Layer] = []
    last = _append(layers, chain, -1, offsets)
    _check_complete(module, layers, [], offsets)
    return Plan(layers, [last, last, -1, layers[last].n_out], sum(p.numel() for p in module.parameters()))


def _actor_critic_plan(module: nn.Module, head: Head, offsets: dict[int, int]) -> Plan:
    if not _is_ours(module, ActorCritic):
        raise Refused(_foreign(module, "ActorCritic"))
    layers: list[Layer] = []
    trunk = -1 if module.shared is None else _append(layers, module.shared, -1, offsets)
    policy = _append(layers, module.pi, trunk, offsets)
    value = _append(layers, module.vf, trunk, offsets)
    categorical = isinstance(head, CategoricalHead)
    sizes = layers[policy].n_out, layers[value].n_out
    if sizes != (head.n_params, 1):
        raise Refused(f"its pi and vf give {sizes} numbers, not {(head.n_params, 1)}")
    if categorical and layers[policy].activation != IDENTITY:
        raise Refused("its logits come from an activation")  # kernels turn them into probabilities in place
    log_std = None if categorical else module._parameters.get("log_std")
    if not categorical and log_std is None:
        raise Refused("its log_std is no parameter of the module itself")
    if log_std is not None and log_std.shape != (head.n_params,):
        raise Refused(f"its log_std has the shape {tuple(log_std.shape)}, not {(head.n_params,)}")
    _check_complete(module, layers, [] if log_std is None else [log_std], offsets)
    value_only = layers[policy + 1].weight
    if value_only < max(layer.weight for layer in layers[: policy + 1]):
        raise Refused("its vf was registered before its pi")
    code = [policy, value, -1 if log_std is None else offsets[id(log_std)]]
    return Plan(layers, code + (head.nvec if isinstance(head, CategoricalHead) else []), value_only)


def _is_ours(module: nn.Module, kind: type[nn.Module]) -> bool:
    if isinstance(module, kind) and (extractor := getattr(module, "features_extractor", None)) is not None:
        raise Refused(f"a {type(extractor).__name__} stands before its layers; kernels know multilayer perceptrons")
    same = isinstance(module, kind) and type(module).forward is kind.forward
    return same and "forward" not in vars(module)


def _foreign(module: nn.Module, known: str) -> str:
    return f"{type(module).__name__} has a forward of its own; kernels know that of {known}"


def _append(layers: list[Layer], chain: Any, source: int, offsets: dict[int, int]) -> int:
    """Append the layers of `chain`, the first of which reads layer `source`; returns the last one's index."""
    children = list(chain._modules.values())
    if type(chain) is not nn.Sequential or not children or "forward" in vars(chain):
        raise Refused(f"a {type(chain).__name__} stands where kernels know nn.Sequential")
    for i, child in enumerate(children):
        if "forward" in vars(child):
            raise Refused(f"a {type(child).__name__} of it has a forward of its own")
        if type(child) is nn.Linear:
            if id(child.weight) not in offsets:
                raise Refused("the weight of an nn.Linear is no parameter")
            n_out, n_in = child.weight.shape
            bias = -1 if child.bias is None else offsets[id(child.bias)]
            given = layers[source].n_out if source >= 0 else layers[0].n_in if layers else n_in
            if n_in != given or not n_in * n_out:  # kernels take one of each for granted
                raise Refused(f"an nn.Linear takes {n_in} numbers and gives {n_out} where there are {given}")
            layers.append(Layer(source, n_in, n_out, offsets[id(child.weight)], bias, IDENTITY))
            source = len(layers) - 1
        elif i == 0 or type(children[i - 1]) is not nn.Linear:
            raise Refused(f"a {type(child).__name__} follows no nn.Linear")
        else:
            layers[-1] = layers[-1]._replace(activation=_activation(child))
    return source


def _activation(layer: Any) -> int:
    known = [kind.__name__ for kind in ACTIVATIONS]
    if type(layer) not in ACTIVATIONS:
        raise Refused(f"kernels know no {type(layer).__name__}; they know nn.Linear and {', '.join(known)}")
    code, settings = ACTIVATIONS[type(layer)]
    for name, value in settings.items():
        if getattr(layer, name) != value:
            raise Refused(f"{type(layer).__name__} has {name}={getattr(layer, name)}; kernels know {value}")
    return code


def _check_complete(
    module: nn.Module, layers: Sequence[Layer], more: Sequence[nn.Parameter], offsets: dict[int, int]
) -> None:
    used = {offset for layer in layers for offset in (layer.weight, layer.bias)} | {offsets[id(p)] for p in more}
    for name, p in module.named_parameters():
        if offsets[id(p)] not in used:
            raise Refused(f"its parameter {name} belongs to none of the layers that kernels know")
