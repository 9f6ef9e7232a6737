"""One iteration of PPO over tokens, ours and TRL's: the same models, prompts, lengths, minibatches and epochs.

Each samples a response to every prompt, scores it under the policy, the reference, the value model and the reward
model, and descends clipped losses. TRL's value is a model of its own; ours is timed with one as well as by the policy's
own states.
"""

from __future__ import annotations

import contextlib
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
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(size.vocabulary)}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "t0")), pad_token="t0", unk_token="t0", eos_token="t1"
    )
    made.padding_side = "left"
    return made


def trl(size: Size, iterations: int, folder: str, **options: Any) -> Any:
    """TRL's trainer, for so many iterations."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import copy

    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, judge, value = models(size)
    rows = Dataset.from_dict({"input_ids": prompts(size)})
    arguments: dict[str, Any] = dict(
        output_dir=folder, learning_rate=LEARNING_RATE, adam_epsilon=ADAM_EPS, lr_scheduler_type="constant",
        per_device_train_batch_size=size.minibatch, num_mini_batches=size.batch // size.minibatch,
        gradient_accumulation_steps=size.batch // size.minibatch, local_rollout_forward_batch_size=size.batch,
        total_episodes=iterations * size.batch, response_length=size.response, num_ppo_epochs=4, temperature=1.0,
        kl_coef=BETA, gamma=1.0, lam=0.95, cliprange=0.2, cliprange_value=0.2, vf_coef=0.1, missing_eos_penalty=None,
        num_sample_generations=0, report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, seed=0, disable_tqdm=True,
    )  # fmt: skip
    return PPOTrainer(
        PPOConfig(**{**arguments, **options}), tokenizer(size), policy, copy.deepcopy(policy), judge, rows, value,
        eval_dataset=rows,
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Any:
    """What TRL prints goes nowhere."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def ours_work(size: Size, shared: bool) -> Work:
    trainer, rows = ours(size, shared), prompts(size)

    def call() -> tuple[float, float]:
        before, began = trainer.n_updates, time.perf_counter()
        trainer.learn(rows, TIMED * size.batch)
        return time.perf_counter() - began, trainer.n_updates - before

    return Work(call, lambda result: result[1], seconds=lambda result: result[0] / TIMED)


def trl_work(size: Size) -> Work:
    def call() -> tuple[float, float]:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            trainer, steps = trl(size, TIMED, folder), []
            step = trainer.optimizer.step
            trainer.optimizer.step = lambda *args, **named: (steps.append(1), step(*args, **named))[1]
            began = time.perf_counter()
            trainer.train()
            return time.perf_counter() - began, len(steps)

    return Work(call, lambda result: result[1], seconds=lambda result: result[0] / TIMED)


ITERATION = Operation(
    "An iteration of PPO over tokens", SIZES, lambda size: size,
    lambda size: TIMED * 4 * size.batch // size.minibatch,
    {
        "fastrl": Implementation(partial(ours_work, shared=False), ("transformers",), role="ours"),
        "fastrl, values of the policy's states": Implementation(
            partial(ours_work, shared=True), ("transformers",), role="ours"
        ),
        "TRL": Implementation(trl_work, ("transformers", "trl")),
    },
    compare=np.testing.assert_array_equal, unit="iteration", rounds=(3, 3),
    note="Checked is the number of steps of the optimiser; that a whole iteration of ours and of TRL's leaves the same "
    "weights, where it is given the same responses, is a test of its own.",
)  # fmt: skip
