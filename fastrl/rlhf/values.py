"""What a response may still come to be worth, as PPO estimates it before each token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastrl.rlhf.generation import Responses
from fastrl.rlhf.scoring import states

__all__ = ["Values"]


class Values(nn.Module):
    """A linear head on the last states of a language model, which is 0 at first.

    Args:
        policy: whose states they are.
        model: whose states they are instead, trained with the head; None for the policy's.
    """

    def __init__(self, policy: Any, model: Any = None) -> None:
        super().__init__()
        self.model = model
        trunk, device = policy if model is None else model, next(policy.parameters()).device
        self.head = nn.Linear(trunk.config.get_text_config().hidden_size, 1, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, responses: Responses, hidden: Tensor | None) -> Tensor:
        """V(prompt and the tokens before) [B, R]; `hidden` [B, R, H]: the policy's states, where they are needed."""
        if self.model is not None:
            tokens, mask = responses.whole()
            hidden = states(self.model, tokens, mask, responses.tokens.shape[1])
        assert hidden is not None
        return self.head(hidden.to(self.head.weight.dtype))[..., 0].float() * responses.mask
