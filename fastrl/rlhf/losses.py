"""Losses over the tokens of responses; means over what the mask has alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["divergence", "masked_mean", "policy_loss", "preference_loss", "value_loss"]


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where the mask is set."""
    return (x * mask).sum() / mask.sum()


def policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, mask: Tensor, clip_range: float
) -> tuple[Tensor, Tensor, Tensor]:
    """−mean of min(r A, clip(r, 1 ± ε) A) with r = π(token) / π_old(token); Schulman et al. 2017, eq. 7.

    All but the last are [B, R]. Returns the loss, and without gradient the fraction that was clipped and an estimate of
    KL(π_old ‖ π), k3 of Schulman 2020.
    """
    log_ratio = (log_prob - old_log_prob).masked_fill(~mask, 0)  # it is anything there, and might be infinite
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    loss = -masked_mean(torch.min(ratio * advantage, clipped * advantage), mask)
    with torch.no_grad():
        fraction = masked_mean(((ratio - 1).abs() > clip_range).float(), mask)
        moved = masked_mean(log_ratio.expm1() - log_ratio, mask)
    return loss, fraction, moved


def value_loss(value: Tensor, old_value: Tensor, returns: Tensor, mask: Tensor, clip_range: float | None) -> Tensor:
    """½ mean of (V − G)², the greater of it and that of V clipped to within `clip_range` of the old V; all [B, R]."""
    error = (value - returns) ** 2
    if clip_range is not None:
        clipped = old_value + (value - old_value).clamp(-clip_range, clip_range)
        error = torch.max(error, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask)


def divergence(log_prob: Tensor, ref_log_prob: Tensor, mask: Tensor, estimator: str) -> Tensor:
    """Mean estimate of KL(π ‖ π_ref) by tokens [B, R] that π drew, with its gradient; see `fastrl.tokens.kl_estimates`.

    The gradient of "k2" is that of the divergence; "k1", whose gradient is 0 in the mean, is refused by the trainer.
    """
    d = (log_prob - ref_log_prob).masked_fill(~mask, 0)
    return masked_mean(0.5 * d**2 if estimator == "k2" else (-d).expm1() + d, mask)


def preference_loss(chosen: Tensor, rejected: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """−mean of log σ(β (Δ_chosen − Δ_rejected)), and Δ_chosen − Δ_rejected [B], without gradient.

    `chosen` and `rejected` are Δ = log π(response) − log π_ref(response) [B]; Rafailov et al. 2023, eq. 7.
    """
    margin = chosen - rejected
    return -logsigmoid(beta * margin).mean(), margin.detach()
