"""One iteration of PPO over tokens, GRPO or RLOO, ours and TRL's: equal models, prompts, lengths, minibatches, epochs.

Each samples responses to the prompts, scores them under the policy, the reference and the reward model, and descends
clipped losses. TRL's PPO has a value model of its own; ours is timed with one as well as by the policy's own states.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import tempfile
import time
import warnings
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from benches.operation import Implementation, Operation, Work
from fastrl.rlhf import RLHFTrainer

TIMED = 2  # iterations of a call
LEARNING_RATE, ADAM_EPS, BETA = 1e-4, 1e-5, 0.05


class Size(NamedTuple):
    """Of the models and of a batch."""

    vocabulary: int
    hidden: int
    layers: int
    batch: int
    minibatch: int
    prompt: int
    response: int


SIZES = {
    "0.1 million parameters, 64 x 16": Size(32, 64, 2, 64, 16, 4, 16),
    "1.1 million parameters, 32 x 32": Size(1_000, 128, 4, 32, 16, 16, 32),
}


def config(size: Size, **options: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers, num_attention_heads=4, max_position_embeddings=256, bos_token_id=None,
        eos_token_id=None, pad_token_id=0, **options,
    )  # fmt: skip


def models(size: Size) -> tuple[Any, Any, Any]:
    """The policy, a judge, and a value model whose head is 0."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = LlamaForCausalLM(config(size))
        judge, value = (LlamaForSequenceClassification(config(size, num_labels=1)) for _ in range(2))
    torch.nn.init.zeros_(value.score.weight)
    return policy.eval(), judge.eval(), value.eval()


def value_trunk(size: Size, value: Any) -> Any:
    """The same trunk as a causal language model, which ours takes."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(config(size))
    model.model.load_state_dict(value.model.state_dict())
    return model.eval()


def prompts(size: Size) -> list[list[int]]:
    """All of one length, each of which an iteration takes once; token 0 is padding, 1 the end that none has."""
    rng = np.random.default_rng(0)
    return rng.integers(2, size.vocabulary, (size.batch, size.prompt)).tolist()


def ours(size: Size, shared: bool, **options: Any) -> RLHFTrainer:
    """With values of the policy's own states, or of a model as TRL's are."""
    policy, judge, value = models(size)
    return RLHFTrainer(
        policy, None, judge, value_model=None if shared else value_trunk(size, value), seed=0, kl_coef=BETA,
        learning_rate=LEARNING_RATE, adam_eps=ADAM_EPS, batch_size=size.batch, minibatch_size=size.minibatch,
        max_new_tokens=size.response, **options,
    )  # fmt: skip


def tokenizer(size: Size) -> Any:
    """A word a token, made here."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    model = Tokenizer(WordLevel({f"t{i}": i for i in range(size.vocabulary)}, "t0"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="t0", unk_token="t0", eos_token="t1", padding_side="left"
    )


def common(size: Size, folder: str) -> dict[str, Any]:
    """Arguments of all of TRL's trainers."""
    return dict(
        output_dir=folder, learning_rate=LEARNING_RATE, adam_epsilon=ADAM_EPS, lr_scheduler_type="constant",
        per_device_train_batch_size=size.minibatch, temperature=1.0, report_to=[], save_strategy="no",
        logging_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, seed=0, disable_tqdm=True,
    )  # fmt: skip


def trl(size: Size, iterations: int, folder: str, **options: Any) -> Any:
    """TRL's trainer by PPO, for so many iterations."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, judge, value = models(size)
    rows, parts = Dataset.from_dict({"input_ids": prompts(size)}), size.batch // size.minibatch
    arguments: dict[str, Any] = dict(
        common(size, folder), num_mini_batches=parts, gradient_accumulation_steps=parts,
        local_rollout_forward_batch_size=size.batch, total_episodes=iterations * size.batch,
        response_length=size.response, num_ppo_epochs=4, kl_coef=BETA, gamma=1.0, lam=0.95, cliprange=0.2,
        cliprange_value=0.2, vf_coef=0.1, missing_eos_penalty=None, num_sample_generations=0,
    )  # fmt: skip
    return PPOTrainer(
        PPOConfig(**{**arguments, **options}), tokenizer(size), policy, copy.deepcopy(policy), judge, rows, value,
        eval_dataset=rows,
    )  # fmt: skip


def trl_groups(size: Size, iterations: int, folder: str, algorithm: str) -> Any:
    """TRL's trainer by GRPO or RLOO, which reads its reference from where the policy was read."""
    import trl as library
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    policy, judge, _ = models(size)
    policy.save_pretrained(folder)
    rows = Dataset.from_dict({"prompt": [" ".join(f"t{token}" for token in row) for row in prompts(size)]})
    parts, words = size.batch // size.minibatch, tokenizer(size)
    arguments = getattr(library, f"{algorithm.upper()}Config")(
        **common(size, folder), steps_per_generation=parts, max_steps=iterations * parts, num_iterations=1, beta=BETA,
        max_completion_length=size.response, num_generations=8,
    )  # fmt: skip
    return getattr(library, f"{algorithm.upper()}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(folder), reward_funcs=judge, args=arguments, train_dataset=rows,
        processing_class=words, reward_processing_classes=words,
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Any:
    """What TRL prints goes nowhere."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    logging.disable(logging.WARNING)
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def ours_work(size: Size, shared: bool = True, **options: Any) -> Work:
    trainer, rows = ours(size, shared, **options), prompts(size)

    def call() -> tuple[float, float]:
        before, began = trainer.n_updates, time.perf_counter()
        trainer.learn(rows, TIMED * size.batch)
        return time.perf_counter() - began, trainer.n_updates - before

    return Work(call, lambda result: result[1], seconds=lambda result: result[0] / TIMED)


def trl_work(size: Size, algorithm: str = "ppo") -> Work:
    def call() -> tuple[float, float]:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            if algorithm == "ppo":
                trainer, steps = trl(size, TIMED, folder), []
                step = trainer.optimizer.step
                trainer.optimizer.step = lambda *args, **named: (steps.append(1), step(*args, **named))[1]
            else:
                trainer, steps = trl_groups(size, TIMED, folder, algorithm), []
            began = time.perf_counter()
            trainer.train()
            return time.perf_counter() - began, len(steps) or trainer.state.global_step

    return Work(call, lambda result: result[1], seconds=lambda result: result[0] / TIMED)


def operation(title: str, epochs: int, implementations: dict[str, Implementation], note: str = "") -> Operation:
    return Operation(
        title, SIZES, lambda size: size, lambda size: TIMED * epochs * size.batch // size.minibatch, implementations,
        compare=np.testing.assert_array_equal, unit="iteration", rounds=(3, 3),
        note=f"Checked is the number of steps of the optimiser.{note}",
    )  # fmt: skip


ITERATION = operation(
    "An iteration of PPO over tokens", 4,
    {
        "fastrl": Implementation(partial(ours_work, shared=False), ("transformers",), role="ours"),
        "fastrl, values of the policy's states": Implementation(ours_work, ("transformers",), role="ours"),
        "TRL": Implementation(trl_work, ("transformers", "trl")),
    },
    " That a whole iteration of ours and of TRL's leaves the same weights, where it is given the same responses, is a "
    "test of its own.",
)  # fmt: skip
ITERATION_GRPO, ITERATION_RLOO = (
    operation(
        f"An iteration of {algorithm.upper()}", 1,
        {
            "fastrl": Implementation(partial(ours_work, algorithm=algorithm), ("transformers",), role="ours"),
            "TRL": Implementation(partial(trl_work, algorithm=algorithm), ("transformers", "trl")),
        },
    )
    for algorithm in ("grpo", "rloo")
)  # fmt: skip
