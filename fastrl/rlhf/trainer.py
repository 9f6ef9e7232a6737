"""Fine-tuning of causal language models by what their responses score: PPO over tokens, GRPO, RLOO, and DPO on pairs.

One path for all: sample responses, judge them, score them under the reference, make advantages, and descend a clipped
loss in minibatches. The algorithms differ in their advantages and in where the divergence goes; DPO has pairs in place
of samples, and a loss of its own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrl.checks import check_int
from fastrl.rlhf import checks, losses, preferences, saving
from fastrl.rlhf.experience import Experience, make_experience
from fastrl.rlhf.generation import Responses, left_padded, sample
from fastrl.rlhf.loop import Callback, Loop, Metrics, seed_of
from fastrl.rlhf.rewards import AdaptiveKL, judge
from fastrl.rlhf.scoring import score
from fastrl.rlhf.settings import make_settings
from fastrl.rlhf.values import Values

__all__ = ["RLHFTrainer"]

FEW_LOGITS = 2**25  # 128 MB


class RLHFTrainer(Loop):
    """Fine-tunes a causal language model of transformers.

    Dropout is off throughout. The policy is trained in place, by Adam.

    Args:
        policy: an `AutoModelForCausalLM`, or a `PeftModel` of one.
        ref_policy: the model that the policy stays near, of the same vocabulary; None for a copy of the policy, or for
            the policy without its adapters, where it has some: then one model is held.
        reward_fn: a function of (prompts, responses), as they were given and as the tokenizer decodes them (lists of
            tokens without one), that returns a number for each; or a sequence classification model with one label.
        tokenizer: of transformers; None where prompts are lists of tokens.
        value_model: a causal language model on whose last states the values stand, trained too; None for the policy's.
        lora: a `peft.LoraConfig`, by which adapters are put into the policy.
        hyperparameters: see `fastrl.rlhf.Settings`.

    Attributes:
        settings: the hyperparameters.
        num_responses, n_updates: how many responses were sampled, or pairs seen, and steps of the optimiser taken.
        kl: its `beta` is the coefficient of the divergence now.
        metrics: of the last iteration, by name.

    Raises:
        ValueError, TypeError: for hyperparameters out of range, a reference of another vocabulary, or a tokenizer that
            has no pad token.
    """

    def __init__(
        self, policy: Any, ref_policy: Any = None, reward_fn: Any = None, tokenizer: Any = None, *,
        value_model: Any = None, lora: Any = None, **hyperparameters: Any,
    ) -> None:  # fmt: skip
        s = make_settings(**hyperparameters)
        judge_model = reward_fn if checks.is_model(reward_fn) else None
        models = {"ref_policy": ref_policy, "value_model": value_model, "reward_fn": judge_model}
        checks.check_models(policy, **{name: model for name, model in models.items() if model is not None})
        self.pad, self.eos = checks.padding(tokenizer, s.pad_token_id, s.eos_token_id, checks.vocabulary_size(policy))
        if s.missing_eos_penalty and self.eos is None:
            raise ValueError("missing_eos_penalty needs to know what ends a response: pass eos_token_id=")
        if value_model is not None and s.algorithm != "ppo":
            raise ValueError(f"value_model is for PPO; {s.algorithm} has no values")
        checks.check_judge(reward_fn, self.pad)
        *streams, of_adapters = np.random.SeedSequence(s.seed).spawn(3)
        if lora is not None and hasattr(policy, "disable_adapter"):
            raise ValueError("the policy has adapters already; lora= is for one that has none")
        if lora is not None:
            policy = with_adapters(policy, lora, of_adapters)
        if ref_policy is None and not hasattr(policy, "disable_adapter"):
            ref_policy = copy.deepcopy(policy)
        self.policy, self.ref_policy, self.reward_fn, self.tokenizer = policy, ref_policy, reward_fn, tokenizer
        self._models = [model for model in (policy, ref_policy, value_model, judge_model) if model is not None]
        self.values = Values(policy, value_model) if s.algorithm == "ppo" else None
        self.trained = {"policy": policy} if self.values is None else {"policy": policy, "values": self.values}
        parameters = [p for module in self.trained.values() for p in module.parameters() if p.requires_grad]
        super().__init__(s, parameters, next(policy.parameters()).device, streams)
        self.kl = AdaptiveKL(float(s.kl_coef or 0.0), s.target_kl, s.kl_horizon)

    @property
    def _values_need_states(self) -> bool:
        return self.values is not None and self.values.model is None

    # -- training on responses -----------------------------------------------------------------------------------

    def learn(
        self, prompts: Sequence[Any], total_responses: int | None, callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> RLHFTrainer:  # fmt: skip
        """Sample responses and learn from them, until there are `total_responses` more.

        Ctrl-C ends the run after the current iteration, with `interrupted` set.

        Args:
            prompts: strings, lists of tokens, or mappings that have one of these as "prompt" (a dataset of them), which
                the reward function gets whole; each is taken once, in an order drawn anew, before any comes again.
            total_responses: how many; the last iteration is always finished, so that it may be some more. None: what is
                left of a run that ended early.
            callback: called with the trainer after each iteration; False ends the run.
            progress_bar: show responses, responses/s, the time left, score and divergence.

        Raises:
            ValueError: for a prompt without tokens or beyond the model's positions, before anything is trained; a score
                that is not finite, naming the prompt; a gradient that is not finite, before the step down it.
            TypeError: for prompts of another kind.
        """
        s = self.settings
        if s.algorithm == "dpo" or self.reward_fn is None:
            raise ValueError("learn samples responses and judges them: pass reward_fn=; DPO learns by learn_pairs")
        rows, prompts = self._rows(prompts), list(prompts)
        copies = s.group_size if s.in_groups else 1

        def iterate() -> Metrics:
            chosen = [i for i in self._next(len(rows), s.batch_size // copies) for _ in range(copies)]
            responses = self._sample([rows[i] for i in chosen])
            scores = judge(self.reward_fn, responses, [prompts[i] for i in chosen], self._decode(responses), self.pad)
            with torch.no_grad():
                values = None if self.values is None else self.values(responses, responses.hidden)
            ref = self._ref_log_probs(responses)
            experience, metrics = make_experience(responses, scores, ref, values, self.kl.beta, s)
            metrics |= self._descend(lambda index: self._loss(experience.rows(index)), responses.mask.sum(1).cpu())
            self.kl.update(metrics["objective/kl"], len(chosen))
            return metrics

        return self._run(iterate, total_responses, callback, progress_bar, ("score", "kl"))

    def generate(self, prompts: Sequence[Any], batch_size: int | None = None) -> list[Any]:
        """A response of the policy to each prompt: strings, or lists of tokens without a tokenizer.

        They are drawn as in training, which goes on from the random state that this leaves.

        Args:
            prompts: as of `learn`.
            batch_size: how many at once; None for the hyperparameter.

        Raises:
            ValueError, TypeError: as of `learn`.
        """
        rows, n = self._rows(prompts), self.settings.batch_size if batch_size is None else batch_size
        check_int("batch_size", n)
        batches = (self._decode(self._sample(rows[i : i + n])) for i in range(0, len(rows), n))
        return [response for batch in batches for response in batch]

    def _rows(self, prompts: Any) -> list[list[int]]:
        """Prompts as tokens, to which responses fit."""
        self.switch_dropout_off()
        rows = checks.token_rows(prompts, self.tokenizer, checks.vocabulary_size(self.policy), end=self.eos)
        room = checks.positions(*self._models)
        for i, row in enumerate(rows):
            checks.check_room(room, f"prompts[{i}]", len(row), self.settings.max_new_tokens)
        return rows

    def _sample(self, rows: list[list[int]]) -> Responses:
        s, (tokens, mask) = self.settings, left_padded(rows, self.pad, self.device)
        return sample(
            self.policy, tokens, mask, s.max_new_tokens, pad=self.pad, eos=self.eos, temperature=s.temperature,
            top_p=s.top_p, generator=self.generator, with_hidden=self._values_need_states,
        )  # fmt: skip

    def _decode(self, responses: Responses) -> list[Any]:
        tokens = [row[keep].tolist() for row, keep in zip(responses.tokens, responses.mask, strict=True)]
        return tokens if self.tokenizer is None else self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    def _log_probs(self, responses: Responses, model: Any = None) -> Tensor:
        """[B, R] of the policy, or of another model."""
        model, (tokens, mask) = model or self.policy, responses.whole()
        return score(model, tokens, mask, responses.tokens.shape[1], self.settings.temperature).log_probs

    @torch.no_grad()
    def _ref_log_probs(self, responses: Responses) -> Tensor:
        """[B, R] of the reference, of so many rows at once as an update has, or as have few logits."""
        s, found = self.settings, torch.zeros_like(responses.log_probs)
        few = FEW_LOGITS // (responses.tokens.shape[1] * checks.vocabulary_size(self.policy))
        at_once = max(few, s.minibatch_size // s.gradient_accumulation_steps)
        with self.policy.disable_adapter() if self.ref_policy is None else nullcontext():
            for index in torch.arange(len(found)).split(at_once):
                part = responses.rows(index)
                found[index, : part.tokens.shape[1]] = self._log_probs(part, self.ref_policy)
        return found

    def _loss(self, part: Experience) -> tuple[Tensor, dict[str, Any]]:
        s, responses, mask = self.settings, part.responses, part.responses.mask
        tokens, whole_mask = responses.whole()
        found = score(self.policy, tokens, whole_mask, mask.shape[1], s.temperature, self._values_need_states)
        loss, clipped, moved = losses.policy_loss(
            found.log_probs, responses.log_probs, part.advantages, mask, s.clip_range
        )
        told = {"policy/loss": loss.detach(), "policy/clip_fraction": clipped, "policy/approx_kl": moved}
        if self.values is not None:
            value = self.values(responses, found.hidden)
            value_loss = losses.value_loss(value, part.values, part.returns, mask, s.clip_range_value)
            loss, told["value/loss"] = loss + s.vf_coef * value_loss, value_loss.detach()
        if s.kl_in == "loss":
            estimate = losses.divergence(found.log_probs, part.ref_log_probs, mask, str(s.kl_estimator))
            loss = loss + self.kl.beta * estimate
        return loss, told

    # -- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what a run needs to go on to one file, atomically: trained weights, optimiser, β, random state.

        The models' own `save_pretrained` writes them for others.
        """
        saving.save(self, path)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], policy: Any, ref_policy: Any = None, reward_fn: Any = None,
        tokenizer: Any = None, **options: Any,
    ) -> RLHFTrainer:  # fmt: skip
        """The trainer of a file, which goes on as one that never stopped, bit for bit.

        Args:
            path: what `save` wrote.
            policy, ref_policy, reward_fn, tokenizer: as the constructor was given them; the policy as it was before its
                training, where the reference is made of it. They are looked at.
            options: `value_model` and `lora` as in the constructor; hyperparameters in place of the file's.

        Raises:
            FileNotFoundError: where there is no file.
            ModelFileError: for a damaged or foreign file, or one of other models.
        """
        return saving.load(cls, path, (policy, ref_policy, reward_fn, tokenizer), options)

    # -- training on pairs ---------------------------------------------------------------------------------------

    def learn_pairs(
        self, prompts: Sequence[Any], chosen: Sequence[Any], rejected: Sequence[Any], total_pairs: int | None,
        callback: Callback | None = None, progress_bar: bool = False,
    ) -> RLHFTrainer:  # fmt: skip
        """Learn from pairs of responses, of which one was preferred: direct preference optimisation.

        Args:
            prompts: as of `learn`.
            chosen, rejected: a response each, without its prompt. Strings get the EOS at their end; lists of tokens
                have it where they shall have one.
            total_pairs: how many to learn from; each comes once before any comes again. None as of `learn`.
            callback, progress_bar: as of `learn`.

        Raises:
            ValueError, TypeError: as of `learn`, and for another number of responses than of prompts.
        """
        if self.settings.algorithm != "dpo":
            raise ValueError(f'learn_pairs is for algorithm="dpo"; this is {self.settings.algorithm!r}')
        pairs = self._pairs(prompts, chosen, rejected)

        def iterate() -> Metrics:
            index = torch.tensor(self._next(len(pairs), self.settings.batch_size))
            batch = pairs.rows(index)
            ref = preferences.likelihoods(batch, self._ref_log_probs)
            one_each = torch.ones(len(index))
            return self._descend(lambda rows: self._preference_loss(batch.rows(rows), ref[rows]), one_each)

        return self._run(iterate, total_pairs, callback, progress_bar, ("accuracy", "margin"))

    @torch.no_grad()
    def preference_accuracy(self, prompts: Sequence[Any], chosen: Sequence[Any], rejected: Sequence[Any]) -> float:
        """The share of pairs of which the policy, other than the reference, makes the chosen response the likelier."""
        pairs, right = self._pairs(prompts, chosen, rejected), 0.0
        for index in torch.arange(len(pairs)).split(self.settings.minibatch_size):
            batch = pairs.rows(index)
            _, told = self._preference_loss(batch, preferences.likelihoods(batch, self._ref_log_probs))
            right += float(told["objective/accuracy"]) * len(index)
        return right / len(pairs)

    def _pairs(self, prompts: Any, chosen: Any, rejected: Any) -> preferences.Pairs:
        self.switch_dropout_off()
        room, known = checks.positions(*self._models), checks.vocabulary_size(self.policy)
        given = prompts, chosen, rejected, self.tokenizer, known, room
        return preferences.make_pairs(*given, self.pad, self.eos, self.device)

    def _preference_loss(self, pairs: preferences.Pairs, ref: Tensor) -> tuple[Tensor, dict[str, Any]]:
        own = preferences.likelihoods(pairs, self._log_probs)
        loss, margin = losses.preference_loss(own[:, 0] - ref[:, 0], own[:, 1] - ref[:, 1], self.kl.beta)
        return loss, {"policy/loss": loss.detach(), "objective/margin": margin.mean(),
                      "objective/accuracy": (margin > 0).float().mean()}  # fmt: skip


def with_adapters(policy: Any, lora: Any, stream: np.random.SeedSequence) -> Any:
    """The policy with adapters, whose first weights are drawn from `stream`."""
    from peft import get_peft_model

    checks.check_adapters(lora)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(stream))
        return get_peft_model(policy, lora)
