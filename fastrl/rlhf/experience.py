"""What a batch of judged responses is to an update: log-probabilities, advantages and returns of every token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fastrl.rlhf.generation import Responses
from fastrl.rlhf.settings import Settings
from fastrl.tokens import group_advantages, kl_estimates, masked_whiten, token_gae

__all__ = ["Experience", "make_experience"]


@dataclass
class Experience:
    """Responses and what an update needs of them, [B, R] each; 0 beyond the end of a response."""

    responses: Responses
    ref_log_probs: torch.Tensor
    advantages: torch.Tensor
    values: torch.Tensor  # as they were when the tokens were drawn
    returns: torch.Tensor

    def rows(self, index: torch.Tensor) -> Experience:
        """Some of the rows, without the columns that are padding in all of them."""
        responses = self.responses.rows(index)
        n = responses.tokens.shape[1]
        rest = {name: x[index, :n] for name, x in vars(self).items() if name != "responses"}
        return Experience(responses, **rest)


def make_experience(
    responses: Responses, scores: np.ndarray, ref_log_probs: torch.Tensor, values: torch.Tensor | None, beta: float,
    settings: Settings,
) -> tuple[Experience, dict[str, float]]:  # fmt: skip
    """Experience of responses, and metrics of them.

    Args:
        responses: B of them.
        scores: float64 [B].
        ref_log_probs: [B, R] of the reference.
        values: [B, R], V(prompt and the tokens before); None where groups are compared.
        beta: the coefficient of the divergence.
        settings: the algorithm, and how to make advantages.
    """
    s, mask = settings, responses.mask
    offsets = np.concatenate([[0], mask.sum(1).cumsum(0).cpu().numpy()])  # tokens end to end, from here on
    own, ref = _flat(responses.log_probs, mask), _flat(ref_log_probs, mask)
    judged = scores - s.missing_eos_penalty * ~responses.ended.cpu().numpy()
    leash = beta if s.kl_in == "reward" else 0.0
    if values is None:
        worth = judged - leash * kl_estimates(own, ref, s.kl_estimator or "k1", offsets)
        baseline = "rloo" if s.algorithm == "rloo" else "grpo" if s.scale_advantages else "mean"
        each = group_advantages(worth.astype(np.float32), s.group_size, baseline)
        advantages = returns = np.repeat(each, np.diff(offsets))
        values = torch.zeros_like(ref_log_probs)
    else:
        rewards = -np.float32(leash) * kl_estimates(own, ref, s.kl_estimator or "k1")
        rewards[offsets[1:] - 1] += judged.astype(np.float32)  # the score is of the whole, known at its last token
        if s.whiten_rewards:
            rewards = masked_whiten(rewards, shift_mean=False)
        advantages, returns = token_gae(
            rewards, _flat(values, mask), offsets, gamma=s.gamma, gae_lambda=s.gae_lambda
        )
        if s.whiten_advantages:
            advantages = masked_whiten(advantages)
    kl = float(kl_estimates(own, ref, "k1", offsets).mean())
    metrics = {
        "objective/score": float(scores.mean()), "objective/kl": kl, "objective/kl_coef": beta,
        "objective/rlhf_reward": float(judged.mean()) - beta * kl, "objective/entropy": float(-own.sum() / len(scores)),
        "response/length": float(np.diff(offsets).mean()), "response/ended": float(responses.ended.float().mean()),
    }  # fmt: skip
    made = (_padded(x, mask) for x in (advantages, returns))
    return Experience(responses, ref_log_probs * mask, next(made), values, next(made)), metrics


def _flat(x: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    return x[mask].float().cpu().numpy()


def _padded(flat: np.ndarray, mask: torch.Tensor) -> torch.Tensor:
    x = torch.zeros(mask.shape, device=mask.device)
    x[mask] = torch.from_numpy(flat).to(mask.device)
    return x
