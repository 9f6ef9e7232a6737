"""What responses are worth: anybody's scores, checked, and the coefficient of the divergence, fixed or adaptive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fastrl.rlhf.checks import is_model
from fastrl.rlhf.generation import Responses

__all__ = ["AdaptiveKL", "judge"]

RewardFunction = Callable[[list[Any], list[Any]], Sequence[float]]


class AdaptiveKL:
    """β ← β (1 + clip(KL / target − 1, ±0.2) n / horizon); Ziegler et al. 2019, section 2.2.

    Args:
        beta: its value at first.
        target: of the divergence of a whole response, in nats; None keeps β.
        horizon: responses in which β may grow to e^0.2 of itself.
    """

    def __init__(self, beta: float, target: float | None, horizon: float) -> None:
        self.beta, self.target, self.horizon = beta, target, horizon

    def update(self, kl: float, n: int) -> None:
        """Take up the mean divergence `kl` of n responses."""
        if self.target is not None:
            self.beta *= 1 + float(np.clip(kl / self.target - 1, -0.2, 0.2)) * n / self.horizon


def judge(
    reward: RewardFunction | nn.Module, responses: Responses, prompts: list[Any], texts: list[Any], pad: int
) -> np.ndarray:
    """The score of each response, float64 [B].

    Args:
        reward: a function of (prompts, responses), or a sequence classification model of transformers with one label.
        responses: what the model sees, padded by `pad`.
        prompts, texts: what the function sees: strings, or lists of tokens.

    Raises:
        ValueError: for another number of scores than of responses, or one that is not finite, naming the prompt.
        TypeError: for scores that are no numbers.
    """
    scores: Any = _by_model(reward, responses, pad) if is_model(reward) else reward(prompts, texts)
    if isinstance(scores, (list, tuple)):
        scores = [x.item() if isinstance(x, torch.Tensor) and x.numel() == 1 else x for x in scores]
    elif isinstance(scores, torch.Tensor):
        scores = scores.detach().cpu().float().numpy()
    try:
        array = np.asarray(scores)
    except ValueError as error:
        raise ValueError(f"reward_fn must return a number for each response; it returned {scores!r:.80}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"reward_fn must return a number for each response; it returned {scores!r:.80}")
    if array.shape != (len(texts),):
        raise ValueError(f"reward_fn returned shape {array.shape}; it must be ({len(texts)},), a number each")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        i = bad[0]
        raise ValueError(f"reward_fn returned {array[i]} for the prompt {prompts[i]!r}; scores must be finite")
    return array.astype(np.float64)


@torch.no_grad()
def _by_model(model: Any, responses: Responses, pad: int) -> torch.Tensor:
    """Padding is on the right, where no model of transformers minds it."""
    tokens, mask = responses.right_padded(pad)
    logits = model(input_ids=tokens, attention_mask=mask.long()).logits
    return logits[:, 0] if logits.ndim == 2 and logits.shape[1] == 1 else logits
