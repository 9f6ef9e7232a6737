"""A module's parameters and its Adam's state as flat vectors, which kernels read and write in place.

The module stays an ordinary one and the optimiser an ordinary `torch.optim.Adam`: their tensors are views of the
vectors. `load_state_dict` writes through such views; `Module.double`, `load_state_dict(assign=True)`, assigning to
`p.data`, `Adam.load_state_dict` and deepcopy put other tensors in their place, which `is_bound` notices and `bind`
takes over. What kernels write does not raise a tensor's version: hold no autograd graph across their updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import torch
from torch import nn

from fastrl.learners.plan import MODULE_HOOKS

MOMENTS = ("exp_avg", "exp_avg_sq")
REQUIRES_GRAD = attrgetter("requires_grad")


class FlatParameters:
    """The parameters of `module`, in the order of `module.parameters()`, end to end; with `optimizer` its state too.

    Attributes:
        params, grads: float32 [P].
        exp_avg, exp_avg_sq: float32 [P], the moments of `optimizer`.
        steps: float32 [number of parameters], how many steps `optimizer` has taken with each.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.module, self.optimizer = module, optimizer
        parameters = list(module.parameters())
        self._shapes = [p.shape for p in parameters]
        size = sum(p.numel() for p in parameters)
        self.params, self.grads, self.exp_avg, self.exp_avg_sq = (np.zeros(size, np.float32) for _ in range(4))
        self.steps = np.zeros(len(parameters), np.float32)
        self.bind()

    def bind(self) -> None:
        """Take over the values of whatever tensors the module and its optimiser have now, and make them views."""
        parameters = list(self.module.parameters())
        _rebind(parameters, self._views(self.params))
        if self.optimizer is not None:
            # What Adam would create before its first step: zeros.
            states = [self.optimizer.state[p] or _nothing_yet(p) for p in parameters]
            views = {"step": list(torch.from_numpy(self.steps)), "exp_avg": self._views(self.exp_avg),
                     "exp_avg_sq": self._views(self.exp_avg_sq)}  # fmt: skip
            for name, own in views.items():
                found = [state[name].clone() for state in states]
                for view, value in zip(own, found, strict=True):
                    view.copy_(value)
            for i, p in enumerate(parameters):
                self.optimizer.state[p] = {name: own[i] for name, own in views.items()}
        self._remember()

    def tensors_before(self, offset: int) -> int:
        """How many parameters lie before `offset` in the vectors."""
        return int((np.cumsum([shape.numel() for shape in self._shapes]) <= offset).sum())

    def is_bound(self) -> bool:
        """Whether the module still consists of the same layers, and its parameters of views of `params`.

        Quick enough for every prediction: about 100 ns a tensor.
        """
        if self.optimizer is not None and self.optimizer.state is not self._state:
            return False  # as Adam.load_state_dict leaves it
        for children, known in self._children:
            if tuple(children.values()) != known:
                return False
        for own, name, pointer in self._pointers:  # all() of a generator takes twice as long
            p = own[name]
            if p is None or p.data_ptr() != pointer:
                return False
        return True

    def is_untouched(self) -> bool:
        """The same, and that the module has no hooks and no frozen parameters: once an iteration, 1 μs more."""
        return (
            self.is_bound()
            and not any(self._hooks)
            and (self.optimizer is None or all(map(REQUIRES_GRAD, self._parameters)))
        )

    def release(self) -> None:
        """Give module and optimiser tensors of their own again, of the same values."""
        for p in self.module.parameters():
            p.data = p.data.clone()
            if self.optimizer is not None:
                self.optimizer.state[p] = {name: x.clone() for name, x in self.optimizer.state[p].items()}

    def _views(self, vector: np.ndarray) -> list[torch.Tensor]:
        parts = torch.from_numpy(vector).split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _remember(self) -> None:
        modules = list(self.module.modules())
        self._parameters = list(self.module.parameters())
        self._hooks = [getattr(m, hooks) for m in modules for hooks in MODULE_HOOKS]
        self._state = None if self.optimizer is None else self.optimizer.state
        self._children = [(m._modules, tuple(m._modules.values())) for m in modules if m._modules]
        self._pointers = [(m._parameters, name, p.data_ptr()) for m in modules
                          for name, p in m._parameters.items() if p is not None]  # fmt: skip


def _rebind(parameters: Sequence[nn.Parameter], views: Sequence[torch.Tensor]) -> None:
    # Values first: a parameter may have been given another's view.
    for view, value in zip(views, [p.detach().clone() for p in parameters], strict=True):
        view.copy_(value)
    for p, view in zip(parameters, views, strict=True):
        p.data = view


def _nothing_yet(p: nn.Parameter) -> dict[str, torch.Tensor]:
    return {"step": torch.zeros(()), **{name: torch.zeros_like(p) for name in MOMENTS}}
