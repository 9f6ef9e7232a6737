"""A module as kernels take it: flat parameters, the plan of its layers, and the memory to run them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrl.kernels import acting, predicting
from fastrl.kernels.heads import POLICY
from fastrl.kernels.mlp import Layer, make_plan, refresh
from fastrl.learners.flat import FlatParameters
from fastrl.learners.plan import Plan, Refused, plan_of, refusal
from fastrl.learners.torch import Bounds, Statistics
from fastrl.networks import Head

ROWS = 64  # rows of work memory until an update asks for more: kernels that only act take larger batches in parts
NOTHING, NO_NUMBERS = np.zeros(0, np.float32), np.zeros(0)


class FlatNetwork:
    """A module as kernels take it: flat parameters, plan, head, and work memory.

    Attributes:
        flat: the vectors, see `FlatParameters`.
        value_only, to_policy: from where on the value alone depends on the vectors, and how many tensors come before.
        plan, work, head: of the whole network, for batches; see `fastrl.kernels.mlp` and `heads`.
        held: nobody else changes the weights now: what was found out about them needs no second look.
        fresh: the copies in `work` are those of the parameters as they are; kernels that change these clear it.
    """

    layers: list[Layer]
    flat: FlatParameters
    value_only: int
    to_policy: int
    plan: np.ndarray
    work: np.ndarray
    head: np.ndarray
    single_plan: np.ndarray
    single_size: int
    _batch_plan: np.ndarray
    _batch_size: int
    _spare: list[np.ndarray]

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
        single_plan, single_size = make_plan(plan.layers[: plan.head[POLICY] + 1], 1)
        batch_plan, batch_size = make_plan(plan.layers, ROWS)
        for_updates = _memory(plan, self.rows)
        flat = FlatParameters(self.module, self.optimizer)
        self.__dict__.update(
            for_updates, _known=plan, layers=plan.layers, value_only=plan.value_only, flat=flat,
            to_policy=flat.tensors_before(plan.value_only), head=np.array(plan.head, np.int64), _spare=[],
            single_plan=single_plan, single_size=single_size, _batch_plan=batch_plan, _batch_size=batch_size,
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

    @contextmanager
    def apart(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A plan and prepared work memory for as long as the context lasts, where `is_bound`.

        For prediction: another thread may be training, or predicting too, and kernels run side by side.
        """
        plan, spare = self._batch_plan, self._spare
        try:
            work = spare.pop()
        except IndexError:  # not asked before: another thread might take the last one in between
            work = np.zeros(self._batch_size, np.float32)
        refresh(self.flat.params, plan, work)
        try:
            yield plan, work
        finally:
            spare.append(work)

    def outputs(self, obs: np.ndarray, layer: int, plan: np.ndarray, work: np.ndarray) -> np.ndarray:
        """What `layer` makes of observations [N, obs_dim]: float32 [N, n_out]."""
        out = np.empty((len(obs), self.layers[layer].n_out), np.float32)
        acting.outputs(np.ascontiguousarray(obs, np.float32), plan, work, layer, out)
        return out

    def predict_one(
        self, obs: np.ndarray, noise: np.ndarray | None, statistics: Statistics | None, bounds: Bounds | None,
        action: np.ndarray,
    ) -> np.ndarray | None:  # fmt: skip
        """As `TorchLearner.predict_one`, where `is_bound`; writes and returns `action`.

        In memory of its own for each call: threads may predict while another trains.
        """
        mean, var = (NO_NUMBERS, NO_NUMBERS) if statistics is None else statistics[:2]
        low, high = (NOTHING, NOTHING) if bounds is None else bounds
        work = np.empty(self.single_size, np.float32)
        finite = predicting.predict(
            obs, mean, var, NOTHING if noise is None else noise, self.flat.params, self.single_plan, work, self.head,
            low, high, action,
        )  # fmt: skip
        return action if finite else None


def _memory(plan: Plan, rows: int) -> dict[str, Any]:
    """A plan for batches of `rows`, and the work memory for it."""
    table, size = make_plan(plan.layers, rows)
    return {"rows": rows, "plan": table, "work": np.zeros(size, np.float32), "fresh": False}


def _sizes(plan: Plan) -> tuple[int, int]:
    """Of the observations, and of what the policy makes of them."""
    return plan.layers[0].n_in, plan.layers[plan.head[POLICY]].n_out
