"""Pairs of responses to the same prompts, of which one was preferred."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fastrl.rlhf.checks import check_pairs, check_room, token_rows
from fastrl.rlhf.generation import Responses, given

__all__ = ["Pairs", "likelihoods", "make_pairs"]


@dataclass
class Pairs:
    """`responses` holds those that were chosen, then, in the same order, those that were rejected."""

    responses: Responses

    def __len__(self) -> int:
        return len(self.responses.tokens) // 2

    def rows(self, index: torch.Tensor) -> Pairs:
        """Some of them."""
        return Pairs(self.responses.rows(torch.cat([index, index + len(self)])))


def make_pairs(
    prompts: Any, chosen: Any, rejected: Any, tokenizer: Any, vocabulary: int, room: float, pad: int, eos: int | None,
    device: Any,
) -> Pairs:  # fmt: skip
    """Pairs of strings or of lists of tokens; raises as `RLHFTrainer.learn_pairs` does."""
    rows = token_rows(prompts, tokenizer, vocabulary, end=eos)
    both = [
        token_rows(answers, tokenizer, vocabulary, name, eos, answers=True)
        for name, answers in (("chosen", chosen), ("rejected", rejected))
    ]
    check_pairs(rows, *both)
    for name, answers in zip(("chosen", "rejected"), both, strict=True):
        for i, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            check_room(room, f"prompts[{i}]", len(row), len(answer), f"{name}[{i}] {{}}")
    return Pairs(given([*rows, *rows], [*both[0], *both[1]], pad, device))


def likelihoods(pairs: Pairs, log_probs: Callable[[Responses], torch.Tensor]) -> torch.Tensor:
    """log π of whole responses [n, 2], chosen and rejected; `log_probs` gives those of their tokens."""
    return (log_probs(pairs.responses) * pairs.responses.mask).sum(1).view(2, -1).T
