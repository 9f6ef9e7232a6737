"""What is refused before anything is trained, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["check_judge", "check_pairs", "check_prompts", "check_reference", "check_room", "padding", "token_ids"]


def vocabulary(model: nn.Module) -> int:
    """How many tokens the model knows."""
    return int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]


def check_reference(policy: nn.Module, ref_policy: nn.Module) -> None:
    """Raise a ValueError unless both models speak of the same tokens, and are not the same object."""
    if ref_policy is policy:
        raise ValueError("ref_policy is the policy itself, and would move with it: pass a copy, or None")
    if vocabulary(policy) != vocabulary(ref_policy):
        raise ValueError(
            f"ref_policy has a vocabulary of {vocabulary(ref_policy)} tokens, the policy one of {vocabulary(policy)}: "
            "it must be the same"
        )


def check_room(policy: nn.Module, name: str, longest: int, new: int, what: str = "") -> None:
    """Raise a ValueError where tokens would come to stand beyond the model's positions."""
    most = getattr(policy.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[operator, union-attr]
    if most is not None and longest + new > most:
        rest = f"{what} {new}" if what else f"{new} more may follow"
        raise ValueError(f"{name} has {longest} tokens, and {rest}; the model has {most} positions")


def padding(tokenizer: Any, pad: int | None, eos: int | None) -> tuple[int, int | None]:
    """The tokens beyond the end of a response and at it; a ValueError for a tokenizer that has no pad token."""
    if tokenizer is None:
        return (0 if pad is None else pad), eos
    pad = tokenizer.pad_token_id if pad is None else pad
    if pad is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, or pass pad_token_id=")
    return pad, tokenizer.eos_token_id if eos is None else eos


def check_prompts(prompts: Any, tokenizer: Any, name: str = "prompts") -> list[list[int]]:
    """Prompts, or responses, as lists of tokens; a ValueError or TypeError for what is none, or empty, naming it."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise TypeError(f"{name} is {prompts!r}; it must be a list of strings, or of lists of tokens, and not empty")
    found = []
    for i, prompt in enumerate(prompts):
        tokens = token_ids(prompt, tokenizer, f"{name}[{i}]")
        if not tokens:
            raise ValueError(f"{name}[{i}] is {prompt!r}, which has no token; each needs at least one")
        found.append(tokens)
    return found


def token_ids(text: Any, tokenizer: Any, name: str) -> list[int]:
    """A string's tokens, or what is a list of tokens already."""
    if isinstance(text, str):
        if tokenizer is None:
            raise TypeError(f"{name} is a string; pass tokenizer=, or lists of tokens")
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    try:
        tokens = [int(token) for token in text]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is {text!r}; it must be a string or a list of tokens") from error
    if any(token < 0 for token in tokens):
        raise ValueError(f"{name} has tokens below 0")
    return tokens


def check_judge(reward: Any, pad: int) -> None:
    """Raise a ValueError for a model that would take its score from another token than the last of a response."""
    config = getattr(reward, "config", None) if isinstance(reward, nn.Module) else None
    if config is not None and (config.num_labels != 1 or config.pad_token_id != pad):
        raise ValueError(
            f"the reward model has num_labels={config.num_labels}, pad_token_id={config.pad_token_id} in its config; "
            f"they must be 1 and {pad}, what stands beyond the end of a response"
        )


def check_pairs(prompts: list[list[int]], chosen: list[list[int]], rejected: list[list[int]]) -> None:
    """Raise a ValueError unless there is one of each for every prompt."""
    if not len(prompts) == len(chosen) == len(rejected):
        raise ValueError(
            f"there are {len(prompts)} prompts, {len(chosen)} chosen and {len(rejected)} rejected responses; there "
            "must be as many of each"
        )
