"""The hyperparameters of fine-tuning by rewards, each with what it means and where it comes from."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from fastrl.checks import check_int, check_number
from fastrl.schedules import check_schedule

__all__ = ["Settings", "make_settings"]

TINY = 1e-12
OF_TRL = {  # what others call it
    "beta": "kl_coef", "init_kl_coef": "kl_coef", "num_generations": "group_size", "scale_rewards": "scale_advantages",
    "max_completion_length": "max_new_tokens", "response_length": "max_new_tokens", "stop_token_id": "eos_token_id",
    "lam": "gae_lambda", "epsilon": "clip_range", "cliprange": "clip_range", "cliprange_value": "clip_range_value",
    "num_ppo_epochs": "n_epochs", "num_iterations": "n_epochs", "num_train_epochs": "n_epochs",
    "per_device_train_batch_size": "minibatch_size", "adam_epsilon": "adam_eps", "peft_config": "lora",
    "processing_class": "tokenizer", "model": "policy", "ref_model": "ref_policy", "reward_model": "reward_fn",
    "reward_funcs": "reward_fn", "total_episodes": "total_responses= of learn", "train_dataset": "prompts= of learn",
}  # fmt: skip
OF_ALGORITHM: dict[str, dict[str, Any]] = {  # what None stands for
    "ppo": dict(n_epochs=4, kl_estimator="k1", kl_in="reward", kl_coef=0.05),
    "grpo": dict(n_epochs=1, kl_estimator="k3", kl_in="loss", kl_coef=0.04),
    "rloo": dict(n_epochs=1, kl_estimator="k1", kl_in="reward", kl_coef=0.05),
    "dpo": dict(n_epochs=1, kl_estimator="k1", kl_in="reward", kl_coef=0.1),
}


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of `RLHFTrainer`.

    Args:
        algorithm: "ppo" (Ziegler et al. 2019), "grpo" (Shao et al. 2024), "rloo" (Ahmadian et al. 2024), or "dpo", on
            pairs (Rafailov et al. 2023).
        learning_rate: of Adam; a number, "lin_1e-5" or a function of the remaining progress.
        batch_size: responses, or pairs, in an iteration; with groups a multiple of `group_size`.
        minibatch_size: responses, or pairs, in a step of the optimiser; the last of an epoch may be smaller.
        gradient_accumulation_steps: parts of a minibatch that go through the model one after the other.
        n_epochs: passes over a batch; None: 4 of PPO, 1 of others.
        max_new_tokens: the most tokens of a response.
        temperature: logits are divided by it where tokens are drawn, and wherever they are scored.
        top_p: tokens are drawn from the likeliest ones that have this probability together; 1 from all.
        eos_token_id: what ends a response; None: the tokenizer's, or none.
        pad_token_id: what stands beyond; None: the tokenizer's, or 0. It is never attended to.
        missing_eos_penalty: subtracted from the score of a response that did not end by itself.
        kl_coef: β of the divergence from the reference, in nats; of DPO the β of its loss. None: 0.05, of GRPO 0.04, of
            DPO 0.1.
        kl_estimator: "k1", "k2" or "k3" of `fastrl.tokens.kl_estimates`; None: "k1", of GRPO "k3".
        kl_in: "reward" of each token, or "loss"; None: "reward", of GRPO "loss".
        target_kl: of the divergence of a response, towards which β is adapted; None keeps β.
        kl_horizon: responses in which β may change by a fifth.
        gamma, gae_lambda: of the advantages of PPO.
        clip_range: ε of the clipped ratio.
        clip_range_value: how far a value may move from the old one in its loss; None for any distance.
        vf_coef: weight of the value's loss.
        whiten_rewards: scale rewards to variance 1, around their mean.
        whiten_advantages: scale advantages of PPO to mean 0 and variance 1, over the tokens of the batch.
        group_size: responses to each prompt, of GRPO and RLOO.
        scale_advantages: GRPO divides by the deviation of the group; False as in Liu et al. 2025.
        max_grad_norm: of the gradient's norm.
        adam_eps: ε of Adam.
        seed: from which all that is random flows; None for a fresh one.
    """

    algorithm: Literal["ppo", "grpo", "rloo", "dpo"] = "ppo"
    learning_rate: float | str | Callable[[float], float] = 1e-5
    batch_size: int = 64
    minibatch_size: int = 16
    gradient_accumulation_steps: int = 1
    n_epochs: int | None = None
    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    missing_eos_penalty: float = 0.0
    kl_coef: float | None = None
    kl_estimator: Literal["k1", "k2", "k3"] | None = None
    kl_in: Literal["reward", "loss"] | None = None
    target_kl: float | None = None
    kl_horizon: float = 10_000.0
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_value: float | None = 0.2
    vf_coef: float = 0.1
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    group_size: int = 8
    scale_advantages: bool = True
    max_grad_norm: float = 1.0
    adam_eps: float = 1e-5
    seed: int | None = None

    @property
    def in_groups(self) -> bool:
        """Whether responses to the same prompt are compared."""
        return self.algorithm in ("grpo", "rloo")


def make_settings(**given: Any) -> Settings:
    """Settings, checked, with the algorithm's own where None stands for them.

    Raises:
        TypeError: for an unknown name, naming the nearest, or a value of another kind.
        ValueError: for a value out of range, or some that do not go together.
    """
    known = [field.name for field in fields(Settings)]
    for name in given:
        if name not in known:
            close = [OF_TRL[name]] if name in OF_TRL else difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; it takes {', '.join(known)}"
            raise TypeError(f"RLHFTrainer has no argument {name}{hint}")
    settings = Settings(**{name: x.item() if isinstance(x, np.generic) else x for name, x in given.items()})
    _check_choice("algorithm", settings.algorithm, tuple(OF_ALGORITHM))
    own = {k: v for k, v in OF_ALGORITHM[settings.algorithm].items() if getattr(settings, k) is None}
    settings = replace(settings, **own)
    _check(settings)
    return settings


def _check(s: Settings) -> None:
    check_schedule("learning_rate", s.learning_rate)
    for name in ("batch_size", "minibatch_size", "gradient_accumulation_steps", "n_epochs", "max_new_tokens"):
        check_int(name, getattr(s, name))
    check_int("group_size", s.group_size, 2)
    for name in ("seed", "eos_token_id", "pad_token_id"):
        if getattr(s, name) is not None:
            check_int(name, getattr(s, name), 0)
    for name, low, high in (
        ("temperature", TINY, float("inf")), ("top_p", TINY, 1), ("missing_eos_penalty", 0, float("inf")),
        ("kl_coef", 0, float("inf")), ("kl_horizon", 1, float("inf")), ("gamma", 0, 1), ("gae_lambda", 0, 1),
        ("clip_range", TINY, float("inf")), ("vf_coef", 0, float("inf")), ("max_grad_norm", TINY, float("inf")),
        ("adam_eps", TINY, float("inf")), ("target_kl", TINY, float("inf")), ("clip_range_value", TINY, float("inf")),
    ):  # fmt: skip
        if getattr(s, name) is not None:
            check_number(name, getattr(s, name), low, high)
    _check_choice("kl_estimator", s.kl_estimator, ("k1", "k2", "k3"))
    _check_choice("kl_in", s.kl_in, ("reward", "loss"))
    if s.kl_in == "loss" and s.kl_estimator == "k1":
        raise ValueError('kl_estimator="k1" has no gradient in the mean: with kl_in="loss" take "k2" or "k3"')
    if s.target_kl is not None and not s.kl_coef:
        raise ValueError("kl_coef is 0, from which no target_kl can raise it: pass another, or no target_kl")
    if s.in_groups and s.batch_size % s.group_size:
        raise ValueError(f"batch_size is {s.batch_size}; it must be a multiple of group_size, {s.group_size}")
    if s.gradient_accumulation_steps > s.minibatch_size:
        raise ValueError(
            f"gradient_accumulation_steps is {s.gradient_accumulation_steps}; it must be at most minibatch_size, "
            f"{s.minibatch_size}"
        )


def _check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
