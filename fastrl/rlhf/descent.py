"""Steps of an optimiser down a loss of minibatches, whose parts may go through the model one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastrl.checks import diverged
from fastrl.rlhf.settings import Settings

__all__ = ["Loss", "Metrics", "descend"]

Metrics = dict[str, float]
Loss = Callable[[Tensor], tuple[Tensor, dict[str, Any]]]  # of some rows, and what to tell of it


def descend(
    loss: Loss, weights: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter],
    rng: np.random.Generator, settings: Settings,
) -> list[Metrics]:  # fmt: skip
    """Descend the loss of each minibatch in turn, `n_epochs` times; returns what each told.

    Args:
        loss: of rows, by their indices.
        weights: [rows], the share of each in the mean that its loss is: how many tokens it has.
        optimizer: of `parameters`, the norm of whose gradient is clipped.
        rng: draws the minibatches.
        settings: their size, and in how many parts they go through the model.

    Raises:
        ValueError: for a gradient that is not finite, before the step down it.
    """
    told: list[Metrics] = []
    for _ in range(int(settings.n_epochs or 1)):
        for minibatch in torch.from_numpy(rng.permutation(len(weights))).split(settings.minibatch_size):
            metrics: Metrics = {}
            optimizer.zero_grad(set_to_none=True)
            for rows in minibatch.chunk(settings.gradient_accumulation_steps):
                share = float(weights[rows].sum() / weights[minibatch].sum())
                value, found = loss(rows)
                (value * share).backward()
                for key, x in found.items():
                    metrics[key] = metrics.get(key, 0.0) + share * float(x)
            if not torch.isfinite(nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)):
                raise diverged()
            optimizer.step()
            told.append(metrics)
    return told
