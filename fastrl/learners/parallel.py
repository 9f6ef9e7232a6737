"""Updates over several ranks: each has its own rows, and all step down the one gradient of the mean over all rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastrl.kernels.losses import APPROX_KL, LOSS, PPOSettings, advantage_sums
from fastrl.kernels.optim import descend
from fastrl.kernels.updates import DIVERGED, gradient_ppo, gradient_reinforce
from fastrl.learners.network import FlatNetwork
from fastrl.ranks import Ranks

if TYPE_CHECKING:
    from fastrl.learners.torch import Batch


def minibatches(epochs: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """(order [M], first, rows) of each minibatch, in the order in which `epochs` [K, M] visit them."""
    for order, first in itertools.product(epochs, range(0, epochs.shape[1], batch_size)):
        yield order, first, min(batch_size, len(order) - first)


def advantage_moments(advantage: np.ndarray, epochs: np.ndarray, batch_size: int, ranks: Ranks) -> np.ndarray:
    """float64 [n, 3]: (count, Σ A, Σ A²) over all ranks of each of the n minibatches, by one all-reduce for all."""
    found = []
    for order, first, rows in minibatches(epochs, batch_size):
        found.append(np.empty(3))
        advantage_sums(advantage, order, first, rows, found[-1])
    moments = np.stack(found)
    ranks.add_up(moments)
    return moments


def add_up_gradients(
    parameters: Sequence[torch.Tensor], parts: torch.Tensor, weight: float, ranks: Ranks
) -> torch.Tensor:
    """Gradients ← Σ over all ranks of weight · gradient, by one all-reduce; returns the same sum of `parts`."""
    own = [p for p in parameters if p.grad is not None]
    shared = torch.cat([*(p.grad.reshape(-1) for p in own), parts.to(own[0].dtype)]) * weight  # type: ignore[union-attr]
    ranks.add_up(shared)
    for p, gradient in zip(own, shared.split([p.numel() for p in own] + [len(parts)]), strict=False):
        p.grad = gradient.view_as(p)
    return shared[-len(parts) :]


def update_ppo(
    net: FlatNetwork, batch: Batch, epochs: np.ndarray, batch_size: int, settings: PPOSettings,
    ranks: Ranks, totals: np.ndarray, means: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """`kernels.updates.update_ppo` over all ranks, `batch_size` rows of each in a minibatch.

    One all-reduce a minibatch carries gradient and metrics.
    """
    flat, step, n_updates, seen = net.flat, int(net.flat.steps[0]), 0, 0
    size = len(flat.params)
    shared, totals[:] = np.empty(size + len(means), np.float32), 0
    moments = advantage_moments(batch.advantage, epochs, batch_size, ranks)
    for order, first, rows in minibatches(epochs, batch_size):
        gradient_ppo(order, first, rows, *batch, moments[seen], flat.params, net.plan, net.work, net.head, settings,
                     flat.grads, means)  # fmt: skip
        shared[:size], shared[size:] = flat.grads, means
        shared /= ranks.size
        ranks.add_up(shared)
        sums, seen = shared[size:], seen + 1
        totals += sums
        if sums[APPROX_KL] > 1.5 * settings.target_kl:
            break
        if not math.isfinite(sums[LOSS]) or not descend(
            flat.params, shared[:size], flat.exp_avg, flat.exp_avg_sq, step + n_updates + 1, settings.learning_rate,
            settings.adam_eps, settings.max_grad_norm,
        ):  # fmt: skip
            return n_updates, DIVERGED
        n_updates += 1
    return n_updates, seen


def update_reinforce(
    net: FlatNetwork, batch: Batch, total: int, learning_rate: float, adam_eps: float,
    max_grad_norm: float, ent_coef: float, vf_coef: float, ranks: Ranks, sums: np.ndarray,
) -> bool:  # fmt: skip
    """`kernels.updates.update_reinforce` over all ranks, which have `total` rows between them; `sums` over all, too."""
    flat, (obs, action, _, _, advantage, returns) = net.flat, batch
    size = len(flat.params)
    gradient_reinforce(np.arange(len(obs)), total, obs, action, advantage, returns, flat.params, flat.grads, net.plan,
                       net.work, net.head, ent_coef, vf_coef, sums)  # fmt: skip
    shared = np.concatenate([flat.grads, sums.astype(np.float32)])
    ranks.add_up(shared)
    sums[:] = shared[size:]
    return bool(np.isfinite(sums[[0, 2]]).all() and (vf_coef == 0 or math.isfinite(sums[1]))) and descend(
        flat.params, shared[:size], flat.exp_avg, flat.exp_avg_sq, int(flat.steps[0]) + 1, learning_rate, adam_eps,
        max_grad_norm,
    )  # fmt: skip
