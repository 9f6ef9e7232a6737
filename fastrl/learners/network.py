"""A module as kernels take it: flat parameters, the plan of its layers, and the memory to run them in."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fastrl.kernels.heads import POLICY
from fastrl.kernels.mlp import make_plan, refresh
from fastrl.learners.flat import FlatParameters
from fastrl.learners.plan import Plan, Refused, plan_of, refusal
from fastrl.networks import Head
from fastrl.perceptron import ROWS, Perceptron


class FlatNetwork(Perceptron):
    """A module as kernels take it: a `Perceptron` of its parameters, with a plan and work memory for updates too.

    Where `is_bound`, it predicts.

    Attributes:
        flat: the vectors, see `FlatParameters`.
        value_only, to_policy: from where on the value alone depends on the vectors, and how many tensors come before.
        plan, work: of the whole network, for batches; see `fastrl.kernels.mlp`.
        held: nobody else changes the weights now: what was found out about them needs no second look.
        fresh: the copies in `work` are those of the parameters as they are; kernels that change these clear it.
    """

    flat: FlatParameters
    value_only: int
    to_policy: int
    plan: np.ndarray
    work: np.ndarray

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer | None, head: Head | None) -> None:
        self.module, self.optimizer, self._head = module, optimizer, head
        self.rows = ROWS
        self._known: Plan | None = None
        self.held = self.fresh = False
        reason = self.bind()
        if reason is not None:
            raise Refused(reason)

    def bind(self) -> str | None:
        """Look at the module anew, and take over its tensors; the reason where kernels do not know it any more."""
        self.fresh = False
        plan = plan_of(self.module, self._head, trained=self.optimizer is not None)
        if isinstance(plan, str):
            return plan
        reason = None if self.optimizer is None else refusal(self.optimizer, self.module)
        if reason is not None:
            return reason
        if self._known is not None and _sizes(plan) != _sizes(self._known):
            (n_in, n_out), (known_in, known_out) = _sizes(plan), _sizes(self._known)
            return f"it turns {n_in} numbers into {n_out}, not {known_in} into {known_out}"
        if plan != self._known:
            self._know(plan)
        self.flat.optimizer = self.optimizer
        self.flat.bind()
        if len(set(self.flat.steps[: self.to_policy])) > 1 or len(set(self.flat.steps[self.to_policy :])) > 1:
            return "its optimiser has taken more steps with some layers than with others"
        return None

    def _know(self, plan: Plan) -> None:
        """Have all that follows from `plan`, or where that fails what there was: never one part without the others."""
        flat = FlatParameters(self.module, self.optimizer)
        for_predictions = Perceptron(plan.layers, plan.head, flat.params)
        self.__dict__.update(
            vars(for_predictions) | _memory(plan, self.rows), _known=plan, value_only=plan.value_only, flat=flat,
            to_policy=flat.tensors_before(plan.value_only),
        )  # fmt: skip

    def reserve(self, rows: int) -> None:
        """Have work memory for batches of `rows`."""
        if rows > self.rows:
            assert self._known is not None
            self.__dict__.update(_memory(self._known, rows))

    def is_bound(self) -> bool:
        """Whether kernels may read and write the parameters, binding them again where that is needed."""
        return self.held or self.flat.is_bound() or self.bind() is None

    def prepare(self) -> bool:
        """The same, with copies in `work` that are up to date."""
        if self.held and self.fresh:
            return True
        if not self.is_bound():
            return False
        refresh(self.flat.params, self.plan, self.work)
        self.fresh = True
        return True


def _memory(plan: Plan, rows: int) -> dict[str, Any]:
    """A plan for batches of `rows`, and the work memory for it."""
    table, size = make_plan(plan.layers, rows)
    return {"rows": rows, "plan": table, "work": np.zeros(size, np.float32), "fresh": False}


def _sizes(plan: Plan) -> tuple[int, int]:
    """Of the observations, and of what the policy makes of them."""
    return plan.layers[0].n_in, plan.layers[plan.head[POLICY]].n_out
