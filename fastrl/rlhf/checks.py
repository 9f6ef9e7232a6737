"""What is refused before anything is trained, and why."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = [
    "check_adapters", "check_judge", "check_models", "check_pairs", "check_room", "is_model", "padding", "positions",
    "token_rows", "vocabulary_size",
]  # fmt: skip


def vocabulary_size(model: nn.Module) -> int:
    """How many tokens the model knows."""
    return int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]


def check_models(policy: Any, **others: Any) -> None:
    """Raise unless all are models of transformers that speak of the same tokens, and none moves with another.

    Raises:
        TypeError: for what is no model.
        ValueError: for a policy that cannot be trained or sampled from here, another vocabulary, shared parameters.
    """
    for name, model in {"policy": policy, **others}.items():
        if not (isinstance(model, nn.Module) and hasattr(model, "config")):
            hint = " (a reward function is passed as reward_fn=)" if callable(model) else ""
            raise TypeError(f"{name} is {model!r:.80}; it must be a model of transformers{hint}")
    _check_policy(policy)
    owners: dict[int, str] = {}
    for name, model in {"policy": policy, **others}.items():
        if (known := vocabulary_size(model)) != (ours := vocabulary_size(policy)):
            raise ValueError(
                f"{name} has a vocabulary of {known} tokens, the policy one of {ours}: it must be the same"
            )
        shared = next((owners[id(p)] for p in model.parameters() if owners.get(id(p), name) != name), None)
        if shared:
            raise ValueError(f"{name} shares parameters with {shared}, and would move with it: pass a copy, or None")
        owners |= {id(p): name for p in model.parameters()}


def _generates(model: Any) -> bool:
    return bool(getattr(model, "can_generate", lambda: False)())


def _check_policy(policy: Any) -> None:
    config = policy.config
    if not _generates(policy):
        raise ValueError(f"the policy is a {type(policy).__name__}; it must be one of AutoModelForCausalLM")
    if getattr(config, "is_encoder_decoder", False) or getattr(policy, "_is_stateful", False):
        raise ValueError(f"the policy is a {config.model_type}; it must be a decoder with a cache of keys and values")
    if "roberta" in config.model_type:
        raise ValueError(f"the policy is a {config.model_type}, whose positions do not count from 0: take another")
    for adapters in getattr(policy, "peft_config", {}).values():
        check_adapters(adapters)
    if not any(p.requires_grad for p in policy.parameters()):
        raise ValueError(
            "the policy has no parameter to train: call policy.requires_grad_(True), or load adapters by "
            "PeftModel.from_pretrained(..., is_trainable=True)"
        )


def check_adapters(adapters: Any) -> None:
    """Raise for what is no configuration of peft, or learns prompts, after which positions and logits are others."""
    if not hasattr(adapters, "peft_type"):
        raise TypeError(f"lora is {adapters!r:.80}; it must be a peft.LoraConfig or the like")
    if getattr(adapters, "is_prompt_learning", False):
        raise ValueError(f"{type(adapters).__name__} learns prompts, which scoring does not see: take LoRA or the like")


def positions(*models: nn.Module | None) -> float:
    """How many tokens may stand one after the other in each of the models; infinite where none says."""
    configs = [model.config.get_text_config() for model in models if model is not None]  # type: ignore[operator, union-attr]
    most = (getattr(config, "max_position_embeddings", None) for config in configs)
    return min((n for n in most if n is not None), default=float("inf"))


def check_room(room: float, name: str, length: int, more: int, what: str = "and max_new_tokens={} may follow") -> None:
    """Raise a ValueError where tokens would come to stand beyond the models' positions."""
    if length + more > room:
        raise ValueError(f"{name} has {length} tokens, {what.format(more)}; the models have {room} positions")


def padding(tokenizer: Any, pad: int | None, eos: int | None, vocabulary: int) -> tuple[int, int | None]:
    """The tokens beyond the end of a response and at it.

    Raises:
        ValueError: for a tokenizer without a pad token, or tokens that the policy does not know.
    """
    if tokenizer is not None:
        pad = tokenizer.pad_token_id if pad is None else pad
        eos = tokenizer.eos_token_id if eos is None else eos
        if pad is None:
            raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, or pass pad_token_id=")
    pad = 0 if pad is None else pad
    for name, token in (("pad_token_id", pad), ("eos_token_id", eos)):
        if token is not None and token >= vocabulary:
            raise ValueError(
                f"{name} is {token}; the policy knows the tokens from 0 to {vocabulary - 1}: "
                "policy.resize_token_embeddings makes it know more"
            )
    return pad, eos


def token_rows(
    texts: Any, tokenizer: Any, vocabulary: int, name: str = "prompts", end: int | None = None, answers: bool = False
) -> list[list[int]]:
    """Prompts, or answers to them, as lists of tokens.

    Args:
        texts: strings, lists of tokens, or mappings that have one of these as "prompt".
        tokenizer: of transformers, for strings.
        vocabulary: how many tokens there are.
        name: of `texts`.
        end: the EOS. Strings that are prompts begin as the tokenizer has it, but do not end with it; answers do.
        answers: they are answers.

    Raises:
        ValueError, TypeError: for what is none, or empty, naming it.
    """
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        raise TypeError(f"{name} is {texts!r:.80}; it must be a list of strings, or of lists of tokens")
    if not len(texts):
        raise ValueError(f"{name} is empty")
    found = []
    for i, text in enumerate(texts):
        if isinstance(text, Mapping):
            if "prompt" not in text:
                raise ValueError(f"{name}[{i}] has no 'prompt'; it has {', '.join(map(str, text))}")
            text = text["prompt"]
        tokens = _tokens(text, tokenizer, f"{name}[{i}]", end, answers)
        if not tokens:
            raise ValueError(f"{name}[{i}] is {text!r}, which has no token; each needs at least one")
        if not 0 <= min(tokens) <= max(tokens) < vocabulary:
            wrong = next(token for token in tokens if not 0 <= token < vocabulary)
            raise ValueError(f"{name}[{i}] has the token {wrong}; the policy knows those from 0 to {vocabulary - 1}")
        found.append(tokens)
    return found


def _tokens(text: Any, tokenizer: Any, name: str, end: int | None, answer: bool) -> list[int]:
    if isinstance(text, str):
        if tokenizer is None:
            raise TypeError(f"{name} is a string; pass tokenizer=, or lists of tokens")
        plain, tokens = (list(tokenizer(text, add_special_tokens=special)["input_ids"]) for special in (False, True))
        if not plain:
            return []
        if answer:
            return plain if end is None or plain[-1] == end else [*plain, end]
        return tokens[:-1] if tokens[-1] == end and plain[-1] != end else tokens
    try:
        return [operator.index(token) for token in text]
    except TypeError as error:
        hint = ": make it a string by tokenizer.apply_chat_template" if "role" in str(text) else ""
        what = f"{text!r:.80}; it must be a string or a list of tokens, which are ints"
        raise TypeError(f"{name} is {what}{hint}") from error


def is_model(reward: Any) -> bool:
    """Whether it is a sequence classification model of transformers, not a function."""
    return isinstance(reward, nn.Module) and hasattr(reward, "config")


def check_judge(reward: Any, pad: int) -> None:
    """Raise for what gives no score, or a model that would take it from another token than the last of a response."""
    if is_model(reward) and _generates(reward):
        raise ValueError(
            f"the reward model is a {type(reward).__name__}, which has no score: take "
            "AutoModelForSequenceClassification with num_labels=1, or a function"
        )
    if is_model(reward) and (reward.config.num_labels != 1 or reward.config.pad_token_id != pad):
        raise ValueError(
            f"the reward model has num_labels={reward.config.num_labels}, pad_token_id={reward.config.pad_token_id} in "
            f"its config; they must be 1 and {pad}, what stands beyond the end of a response"
        )
    if hasattr(reward, "pad_token_id"):
        raise TypeError("reward_fn is a tokenizer: pass it as tokenizer=")
    if not (reward is None or callable(reward)):
        raise TypeError(f"reward_fn is {reward!r:.80}; it must be a function of (prompts, responses), or a model")


def check_pairs(prompts: list[list[int]], chosen: list[list[int]], rejected: list[list[int]]) -> None:
    """Raise a ValueError unless there is one of each for every prompt."""
    if not len(prompts) == len(chosen) == len(rejected):
        raise ValueError(
            f"there are {len(prompts)} prompts, {len(chosen)} chosen and {len(rejected)} rejected responses; there "
            "must be as many of each"
        )
