"""Responses sampled from a causal language model, a token of every row at a time, over a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastrl.rlhf.scoring import accepted, position_ids

__all__ = ["Responses", "left_padded", "sample"]


@dataclass
class Responses:
    """B prompts, padded on the left, and what was answered, padded on the right."""

    prompts: torch.Tensor  # [B, P] int64
    prompt_mask: torch.Tensor  # [B, P] bool, False where a prompt is padding
    tokens: torch.Tensor  # [B, R] int64
    mask: torch.Tensor  # [B, R] bool: the tokens up to the end of the response, its EOS among them
    ended: torch.Tensor  # [B] bool, whether the response has an EOS
    log_probs: torch.Tensor  # [B, R] float32, at the sampling temperature, of the whole vocabulary
    hidden: torch.Tensor | None  # [B, R, H] the states from which the tokens were drawn

    def rows(self, index: torch.Tensor) -> Responses:
        """Some of them, without the columns that are padding in all of these."""
        first = self.prompts.shape[1] - int(self.prompt_mask[index].sum(1).max())
        last = int(self.mask[index].sum(1).max())
        hidden = None if self.hidden is None else self.hidden[index, :last]
        return Responses(
            self.prompts[index, first:], self.prompt_mask[index, first:], self.tokens[index, :last],
            self.mask[index, :last], self.ended[index], self.log_probs[index, :last], hidden,
        )  # fmt: skip

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Prompts and responses side by side, and where they are no padding: [B, P + R] each."""
        return torch.cat([self.prompts, self.tokens], 1), torch.cat([self.prompt_mask, self.mask], 1)

    def right_padded(self, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `whole`, each row from its first token on."""
        tokens, mask = self.whole()
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
        mask = mask.gather(1, order)
        return tokens.gather(1, order).masked_fill(~mask, pad), mask


def left_padded(prompts: Sequence[Sequence[int]], pad: int, device: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of different lengths as [B, P] int64, padded on the left, and the mask of what is no padding."""
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), pad)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, longest - len(prompt) :] = True
    return tokens.to(device), mask.to(device)


def given(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int, device: Any) -> Responses:
    """Responses that are there already, one to each prompt."""
    tokens, mask = (x.flip(1) for x in left_padded([answer[::-1] for answer in answers], pad, device))
    nothing = torch.zeros(tokens.shape, device=device)
    return Responses(*left_padded(prompts, pad, device), tokens, mask, mask[:, 0], nothing, None)


@torch.no_grad()
def sample(
    model: nn.Module, prompts: torch.Tensor, prompt_mask: torch.Tensor, max_new_tokens: int, *, pad: int,
    eos: int | None = None, temperature: float = 1.0, top_p: float = 1.0, generator: torch.Generator | None = None,
    with_hidden: bool = False,
) -> Responses:  # fmt: skip
    """Draw responses.

    Args:
        model: a causal language model of transformers, in its evaluation mode.
        prompts, prompt_mask: as `left_padded` makes them.
        max_new_tokens: where a response ends that has no EOS before; R is that of the longest one.
        pad: the token after the end of a response.
        eos: the token that ends one; None: all are of `max_new_tokens`.
        temperature: what logits are divided by.
        top_p: draw from the likeliest tokens whose probability reaches it (Holtzman et al. 2020), as seen by
            `log_probs`, which are of the whole vocabulary, with a bias.
        generator: of the draws.
        with_hidden: keep the states, for a value head.
    """
    rows, mask = len(prompts), prompt_mask
    going = torch.ones(rows, dtype=torch.bool, device=prompts.device)
    columns: list[tuple[torch.Tensor, ...]] = []
    states: list[torch.Tensor] = []
    new, cache = prompts, None
    positions = position_ids(mask)
    for _ in range(max_new_tokens):
        out = _step(model, new, mask, positions, cache, with_hidden)
        z, cache = out.logits[:, -1].float() / temperature, out.past_key_values
        log_p = z.log_softmax(1)
        token = torch.multinomial(_nucleus(log_p, top_p), 1, generator=generator)
        columns.append((torch.where(going[:, None], token, pad), going[:, None], log_p.gather(1, token)))
        if with_hidden:
            states.append(out.hidden_states[-1][:, -1:])
        if eos is not None:
            going = going & (token[:, 0] != eos)
        if not going.any():
            break
        new, mask = columns[-1][0], torch.cat([mask, columns[-1][1]], 1)
        positions = positions[:, -1:] + 1
    tokens, drawn, log_probs = (torch.cat(column, 1) for column in zip(*columns, strict=True))
    ended = torch.zeros_like(going) if eos is None else ((tokens == eos) & drawn).any(1)
    hidden = torch.cat(states, 1) if with_hidden else None
    return Responses(prompts, prompt_mask, tokens, drawn, ended, log_probs, hidden)


def _step(
    model: nn.Module, new: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any, with_hidden: bool
) -> Any:
    return model(
        input_ids=new, attention_mask=mask.long(), past_key_values=cache, use_cache=True,
        output_hidden_states=with_hidden, **accepted(model, position_ids=positions, logits_to_keep=1),
    )  # fmt: skip


def _nucleus(log_p: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities [B, V] of the likeliest tokens, up to the one with which their sum reaches `top_p`; 0 elsewhere."""
    p = log_p.exp()
    if top_p >= 1:
        return p
    ordered, order = p.sort(1, descending=True)
    beyond = ordered.cumsum(1) - ordered >= top_p
    return p.masked_fill(beyond.scatter(1, order, beyond), 0)
