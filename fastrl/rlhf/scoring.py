"""Log-probabilities of tokens under a causal language model, and its values of them, where padding changes nothing."""

from __future__ import annotations

import functools
import inspect
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["Scores", "score", "states", "token_log_probs"]

CHUNK = 2**19  # logits that are worked on at once, within a cache


class Scores(NamedTuple):
    """What a model says of the last R tokens of each row; meaningless where these are padding."""

    log_probs: torch.Tensor  # [B, R] log π(token | all before it), at the sampling temperature
    hidden: torch.Tensor | None  # [B, R, H] the last layer's states from which the tokens were predicted


def position_ids(mask: torch.Tensor) -> torch.Tensor:
    """Positions [B, L] that count from the first token that is no padding; `mask` [B, L] bool."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def accepted(model: nn.Module, **options: Any) -> dict[str, Any]:
    """Those of the options that the model's forward pass takes."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    kind: Any = type(model)
    known = _parameters(kind)
    return {name: value for name, value in options.items() if name in known}


@functools.cache
def _parameters(kind: Any) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def before(model: nn.Module, tokens: torch.Tensor, mask: torch.Tensor, keep: int, with_hidden: bool) -> Any:
    """A forward pass over all but the last token of each row, with logits of the last `keep` places alone."""
    return model(
        input_ids=tokens[:, :-1], attention_mask=mask[:, :-1].long(), use_cache=False,
        output_hidden_states=with_hidden,
        **accepted(model, position_ids=position_ids(mask[:, :-1]), logits_to_keep=keep),
    )  # fmt: skip


def score(
    model: nn.Module, tokens: torch.Tensor, mask: torch.Tensor, n_last: int, temperature: float = 1.0,
    with_hidden: bool = False,
) -> Scores:  # fmt: skip
    """Score the last `n_last` tokens of each row.

    Args:
        model: a causal language model of transformers.
        tokens: [B, L] int64, prompts padded on the left, responses on the right.
        mask: [B, L] bool, False where `tokens` is padding; each row has at least one token before the last n_last.
        n_last: R.
        temperature: by which the tokens were sampled; logits are divided by it.
        with_hidden: return the states too, for a value head.
    """
    out = before(model, tokens, mask, n_last, with_hidden)
    log_probs = token_log_probs(out.logits[:, -n_last:], tokens[:, -n_last:], temperature)
    return Scores(log_probs, out.hidden_states[-1][:, -n_last:] if with_hidden else None)


def states(model: nn.Module, tokens: torch.Tensor, mask: torch.Tensor, n_last: int) -> torch.Tensor:
    """[B, R, H] the last layer's states before each of the last `n_last` tokens; arguments as of `score`."""
    return before(model, tokens, mask, 1, True).hidden_states[-1][:, -n_last:]


def token_log_probs(logits: torch.Tensor, tokens: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """log softmax(logits / temperature) at `tokens`: [...] float32.

    The log-probabilities of the whole vocabulary exist for a few rows at a time only, in the forward pass and again in
    the backward one, which writes them straight into the gradient: beside the logits there is that gradient, and
    nothing else of their size.

    Args:
        logits: [..., V].
        tokens: [...] int64.
        temperature: positive.
    """
    flat = logits.reshape(-1, logits.shape[-1])
    return _Gathered.apply(flat, tokens.reshape(-1), float(temperature)).view(tokens.shape)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, tokens: torch.Tensor, temperature: float) -> Any:
        log_probs, log_total = (logits.new_empty(len(logits), dtype=torch.float32) for _ in range(2))
        for rows in _chunks(logits):
            z = _scaled(logits[rows], temperature)
            log_total[rows] = z.logsumexp(1)
            log_probs[rows] = z.gather(1, tokens[rows, None])[:, 0] - log_total[rows]
        ctx.save_for_backward(logits, tokens, log_total)
        ctx.temperature = temperature
        return log_probs

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        logits, tokens, log_total = ctx.saved_tensors
        weight, out = gradient[:, None] / ctx.temperature, torch.empty_like(logits)
        for rows in _chunks(logits):
            p = _scaled(logits[rows], ctx.temperature).sub(log_total[rows, None]).exp_()
            p[torch.arange(len(p)), tokens[rows]] -= 1  # before it is rounded to the type of the logits
            torch.mul(p, -weight[rows], out=out[rows])
        return out, None, None


def _scaled(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    z = logits.float()
    return z if temperature == 1 else z / temperature


def _chunks(logits: torch.Tensor) -> list[slice]:
    n = max(1, CHUNK // logits.shape[1])
    return [slice(i, i + n) for i in range(0, len(logits), n)]
