"""Two tasks that a tiny model learns in seconds, and how well they can be done: for demonstrations, tests, benches.

Tokens stand for themselves; there is no tokenizer, and nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from fastrl.rlhf.generation import given

__all__ = ["RECIPES", "Ascending", "Members", "Optimum", "decoder"]

Rows = list[list[int]]
SAMPLED = dict(learning_rate="lin_0.003", kl_in="reward", kl_estimator="k1")
RECIPES: dict[str, dict[str, Any]] = {  # hyperparameters that learn both tasks, DPO's the second
    "ppo": dict(SAMPLED, learning_rate="lin_0.002", n_epochs=2, gae_lambda=1.0),
    "grpo": SAMPLED,
    "rloo": SAMPLED,
    "dpo": dict(learning_rate=3e-3, minibatch_size=64, kl_coef=0.1),
}
RESPONSES = {"ppo": 12_800, "grpo": 16_000, "rloo": 16_000, "dpo": 32_000}  # of DPO: pairs


def decoder(vocabulary: int, seed: int = 0, hidden_size: int = 64, layers: int = 2) -> Any:
    """A causal language model of transformers (Llama's architecture) with random weights, 0.1 million by default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden_size, intermediate_size=3 * hidden_size, num_hidden_layers=layers,
        num_attention_heads=4, max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


class Optimum(NamedTuple):
    """What the policy of the greatest E[score] − β KL has: it, its score, divergence and entropy, in nats."""

    objective: float
    score: float
    kl: float
    entropy: float


class Members:
    """Say tokens of a class: the score is the share of a response's tokens that are below `members`.

    The reference draws every token of the vocabulary with the same probability, so that the optimum is known.
    """

    vocabulary, members, length = 32, 8, 16
    settings: ClassVar[dict[str, Any]] = dict(max_new_tokens=length)

    def model(self, seed: int = 0) -> Any:
        """The reference: a decoder whose last layer is 0."""
        model = decoder(self.vocabulary, seed)
        torch.nn.init.zeros_(model.lm_head.weight)
        return model

    def prompts(self, n: int = 256, seed: int = 0) -> Rows:
        """Of one to six tokens, which mean nothing."""
        rng = np.random.default_rng(seed)
        return [rng.integers(self.vocabulary, size=rng.integers(1, 7)).tolist() for _ in range(n)]

    def reward(self, prompts: Sequence[Any], responses: Sequence[Sequence[int]]) -> list[float]:
        """The share of members among the tokens."""
        return [sum(token < self.members for token in response) / self.length for response in responses]

    def optimum(self, beta: float) -> Optimum:
        """J* = βT log(1 − p₀ + p₀ e^{1/(βT)}), where members are drawn with p = p₀ e^{1/(βT)} e^{−J*/(βT)}."""
        T, p0 = self.length, self.members / self.vocabulary
        best = beta * T * math.log(1 - p0 + p0 * math.exp(1 / (beta * T)))
        p = p0 * math.exp((1 - best) / (beta * T))
        kl = T * (p * math.log(p / p0) + (1 - p) * math.log((1 - p) / (1 - p0)))
        return Optimum(best, p, kl, T * math.log(self.vocabulary) - kl)


class Ascending:
    """Say six digits in ascending order: the score is how many of the first five steps go up, of five.

    The reference has learnt a corpus of some digits, an arrow, four to eight digits and a stop, all by chance.
    """

    digits, arrow, stop, pad, vocabulary = 10, 10, 11, 12, 13
    steps = 5
    attainable = 1.0
    settings: ClassVar[dict[str, Any]] = dict(
        max_new_tokens=10, eos_token_id=stop, pad_token_id=pad, missing_eos_penalty=0.5
    )
    leash: ClassVar[dict[str, Any]] = dict(kl_coef=0.04, target_kl=12.0, kl_horizon=2_500)

    def model(self, seed: int = 0, steps: int = 300, learning_rate: float = 3e-3) -> Any:
        """The reference, as it comes from `steps` batches of the corpus."""
        model, rng = decoder(self.vocabulary, seed), np.random.default_rng(seed)
        optimizer = torch.optim.Adam(model.parameters())
        for i in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - i / steps)
            prompts = self.prompts(64, seed=rng)
            answers = [[*rng.integers(self.digits, size=rng.integers(4, 9)).tolist(), self.stop] for _ in prompts]
            tokens, mask = given(prompts, answers, self.pad, None).whole()
            labels = tokens.masked_fill(~mask, -100)
            optimizer.zero_grad()
            model(input_ids=tokens, attention_mask=mask.long(), labels=labels).loss.backward()
            optimizer.step()
        return model

    def prompts(self, n: int = 256, seed: int | np.random.Generator = 0) -> Rows:
        """One to four digits and the arrow."""
        rng = np.random.default_rng(seed)
        return [[*rng.integers(self.digits, size=rng.integers(1, 5)).tolist(), self.arrow] for _ in range(n)]

    def reward(self, prompts: Sequence[Any], responses: Sequence[Sequence[int]]) -> list[float]:
        """The share of steps up among the first five."""
        first = [[token for token in response if token < self.digits][: self.steps + 1] for response in responses]
        return [sum(a < b for a, b in pairwise(digits)) / self.steps for digits in first]

    def pairs(self, prompts: Rows, responses: Rows, others: Rows) -> tuple[Rows, Rows, Rows]:
        """Prompts, and of two responses to each the better one and the worse one, where they differ."""
        scores, rest = self.reward(prompts, responses), self.reward(prompts, others)
        rows = [
            (prompt, a, b) if first > second else (prompt, b, a)
            for prompt, a, b, first, second in zip(prompts, responses, others, scores, rest, strict=True)
            if first != second
        ]
        found = zip(*rows, strict=True)
        return list(next(found)), list(next(found)), list(next(found))

    def text(self, tokens: Sequence[int]) -> str:
        """Tokens as one reads them."""
        return "".join("0123456789>.#"[token] for token in tokens)
