"""A multilayer perceptron that predicts by kernels: layers over a flat vector of parameters, and memory to run them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from fastrl.kernels import acting, predicting
from fastrl.kernels.heads import NVEC, POLICY
from fastrl.kernels.mlp import Layer, make_plan, refresh

Bounds = tuple[np.ndarray, np.ndarray]  # lowest and highest action, float32 [c]
Statistics = tuple[np.ndarray, np.ndarray, np.ndarray]  # mean and variance float64 [obs_dim], and of how many

ROWS = 64  # rows of work memory until an update asks for more: kernels that only act take larger batches in parts
NOTHING, NO_NUMBERS = np.zeros(0, np.float32), np.zeros(0)


class Perceptron:
    """Layers over flat parameters, ready to predict. Its methods may be called from several threads at once.

    Kernels check nothing: layers, head and parameters must fit each other.

    Attributes:
        layers: in the order of `fastrl.learners.plan.Plan`.
        head: int64 [3 + c], as `fastrl.kernels.heads` has it.
        params: float32 [P].
        n_components, action_dtype: of an action as kernels write it: float32 means, or int64 counted from 0.
    """

    layers: list[Layer]
    head: np.ndarray
    params: np.ndarray
    n_components: int
    action_dtype: type[np.generic]
    single_plan: np.ndarray
    single_size: int
    _batch_plan: np.ndarray
    _batch_size: int
    _spare: list[np.ndarray]

    def __init__(self, layers: Sequence[Layer], head: Sequence[int], params: np.ndarray) -> None:
        self.layers, self.head, self.params = list(layers), np.array(head, np.int64), params
        nvec = head[NVEC:]
        self.n_components = len(nvec) or layers[head[POLICY]].n_out
        self.action_dtype = np.int64 if nvec else np.float32
        self.single_plan, self.single_size = make_plan(layers[: head[POLICY] + 1], 1)
        self._batch_plan, self._batch_size = make_plan(layers, ROWS)
        self._spare = []

    @contextmanager
    def apart(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """A plan and prepared work memory for as long as the context lasts.

        For prediction: another thread may be training, or predicting too, and kernels run side by side.
        """
        plan, spare = self._batch_plan, self._spare
        try:
            work = spare.pop()
        except IndexError:  # not asked before: another thread might take the last one in between
            work = np.zeros(self._batch_size, np.float32)
        refresh(self.params, plan, work)
        try:
            yield plan, work
        finally:
            spare.append(work)

    def outputs(self, obs: np.ndarray, layer: int, plan: np.ndarray, work: np.ndarray) -> np.ndarray:
        """What `layer` makes of observations [N, obs_dim]: float32 [N, n_out]."""
        out = np.empty((len(obs), self.layers[layer].n_out), np.float32)
        acting.outputs(np.ascontiguousarray(obs, np.float32), plan, work, layer, out)
        return out

    def act(
        self, obs: np.ndarray, noise: np.ndarray, plan: np.ndarray, work: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(action [N, c], log_prob [N], value [N]) for observations [N, obs_dim], drawn by `noise` [N, c]."""
        n = len(obs)
        action = np.empty((n, self.n_components), self.action_dtype)
        log_prob, value = np.empty(n, np.float32), np.empty(n, np.float32)
        obs = np.ascontiguousarray(obs, np.float32)
        acting.act(obs, noise, self.params, plan, work, self.head, action, log_prob, value)
        return action, log_prob, value

    def predict(self, obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Actions [N, c] for flat, normalised observations [N, obs_dim]: drawn by `noise` [N, c], or the likeliest."""
        if len(obs) == 1:  # as `predict_one` does for one observation, to the last bit
            action = self.predict_one(obs[0].copy(), None if noise is None else noise[0], None, None)
            if action is not None:
                return action[None]
        with self.apart() as memory:
            if noise is not None:
                return self.act(obs, noise, *memory)[0]
            params = self.outputs(obs, self.head[POLICY], *memory)
        nvec = self.head[NVEC:]
        if not len(nvec):
            return params
        parts = np.split(params, np.cumsum(nvec)[:-1], axis=1)
        return np.stack([logits.argmax(1) for logits in parts], axis=1)

    def predict_one(
        self, obs: np.ndarray, noise: np.ndarray | None, statistics: Statistics | None, bounds: Bounds | None
    ) -> np.ndarray | None:
        """The action [c] for one observation, float32 [obs_dim], contiguous and writable; None where it is not finite.

        Drawn with `noise` [c], or the likeliest. The observation is normalised (in place) by `statistics`, and the
        action kept within `bounds`, where given. In memory of its own for each call.
        """
        mean, var = (NO_NUMBERS, NO_NUMBERS) if statistics is None else statistics[:2]
        low, high = (NOTHING, NOTHING) if bounds is None else bounds
        action = np.empty(self.n_components, self.action_dtype)
        work = np.empty(self.single_size, np.float32)
        finite = predicting.predict(
            obs, mean, var, NOTHING if noise is None else noise, self.params, self.single_plan, work, self.head,
            low, high, action,
        )  # fmt: skip
        return action if finite else None
