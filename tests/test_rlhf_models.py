"""Adapters, models for values, and the models and arguments that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="peft is not installed")

from fastrl.rlhf import RLHFTrainer  # noqa: E402
from tests.rlhf import PROMPTS, SMALL, VOCABULARY, evens, llama, trainer, weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_threads")
LORA = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


def test_adapters_come_from_the_seed():
    made = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        policy = llama()
        torch.manual_seed(noise)
        made.append(weights(RLHFTrainer(policy, None, evens, lora=LORA, **{**SMALL, "seed": seed})))
        assert torch.initial_seed() == noise
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def test_a_policy_with_adapters_of_its_own_goes_on_bit_for_bit(tmp_path):
    def make():
        torch.manual_seed(5)
        return peft.get_peft_model(llama(), LORA)

    whole = trainer(make(), target_kl=1.0)
    whole.learn(PROMPTS, 64, lambda model: model.save(tmp_path / "half") if model.num_responses == 32 else None)
    again = RLHFTrainer.load(tmp_path / "half", make(), None, evens).learn(PROMPTS, None)
    assert whole.ref_policy is None and torch.equal(weights(whole), weights(again))


def test_a_value_model_goes_on_bit_for_bit(tmp_path):
    whole = trainer(value_model=llama(5))
    whole.learn(PROMPTS, 32, lambda model: model.save(tmp_path / "half") if model.num_responses == 16 else None)
    again = RLHFTrainer.load(tmp_path / "half", llama(), None, evens, value_model=llama(5)).learn(PROMPTS, None)
    assert torch.equal(weights(whole), weights(again))


def test_numbers_of_numpy_are_numbers(tmp_path):
    model = trainer(seed=np.int64(3), learning_rate=np.float32(1e-3)).learn(PROMPTS, 16)
    model.save(tmp_path / "file")
    again = trainer(seed=3, learning_rate=float(np.float32(1e-3))).learn(PROMPTS, 16)
    assert torch.equal(weights(model), weights(again))


def shared():
    ref = llama(1)
    return RLHFTrainer(llama(), ref, evens, value_model=ref, **SMALL)


def adapted():
    base = llama()
    return RLHFTrainer(peft.get_peft_model(base, LORA), base, evens, **SMALL)


def t5():
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    ))  # fmt: skip


def roberta():
    return transformers.RobertaForCausalLM(transformers.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        is_decoder=True, max_position_embeddings=48,
    ))  # fmt: skip


def mamba():
    return transformers.MambaForCausalLM(transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, state_size=4
    ))  # fmt: skip


PROMPT_TUNING = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
def merged(tmp):
    model = trainer(lora=LORA)
    model.policy.merge_and_unload()
    model.save(tmp)


def another(tmp, **options):
    """Loaded otherwise than it was made."""
    trainer().learn(PROMPTS, 16).save(tmp)
    RLHFTrainer.load(tmp, **{"policy": llama(), "reward_fn": evens, **options})


MISTAKES = [
    (lambda tmp: merged(tmp), ValueError, "were its adapters merged"),
    (lambda tmp: another(tmp, policy=llama(9)), ValueError, "the reference is another one"),
    (lambda tmp: another(tmp, lora=LORA), ValueError, "adapters .pass lora= as then"),
    (lambda tmp: another(tmp, policy=llama(size=16)), ValueError, r"of the policy are others, such as .*\(12, 32\)"),
    (lambda tmp: another(tmp, algorithm="rloo"), ValueError, "is of ppo, and cannot go on as rloo"),
    (lambda: trainer(peft.get_peft_model(llama(), LORA), lora=LORA), ValueError, "adapters already"),
    (lambda: trainer(lora=True), TypeError, "lora is True; it must be a peft.LoraConfig"),
    (lambda: trainer(llama(kind=transformers.LlamaForSequenceClassification)), ValueError, "AutoModelForCausalLM"),
    (lambda: trainer(reward_fn=llama(1)), ValueError, "LlamaForCausalLM, which has no score"),
    (lambda: trainer(num_generations=4), TypeError, "did you mean group_size"),
    (lambda: trainer(beta=0.1), TypeError, "did you mean kl_coef"),
    (lambda: trainer().learn([{"text": [1]}], 16), ValueError, "has no 'prompt'; it has text"),
    (lambda: trainer().learn([[{"role": "user", "content": "x"}]], 16), TypeError, "apply_chat_template"),
    (shared, ValueError, "value_model shares parameters with ref_policy"),
    (adapted, ValueError, "ref_policy shares parameters with policy"),
    (lambda: trainer(llama().requires_grad_(False)), ValueError, "no parameter to train.*is_trainable=True"),
    (lambda: trainer(lora=PROMPT_TUNING), ValueError, "PromptTuningConfig learns prompts"),
    (lambda: trainer(peft.get_peft_model(llama(), PROMPT_TUNING)), ValueError, "PromptTuningConfig learns prompts"),
    (lambda: RLHFTrainer(llama(), evens), TypeError, "ref_policy is <function evens.*reward_fn="),
    (lambda: RLHFTrainer("gpt2"), TypeError, "policy is 'gpt2'; it must be a model"),
    (lambda: trainer(reward_fn=3), TypeError, "reward_fn is 3"),
    (lambda: trainer(t5()), ValueError, "policy is a t5; it must be a decoder"),
    (lambda: trainer(mamba()), ValueError, "policy is a mamba; it must be a decoder"),
    (lambda: trainer(roberta()), ValueError, "positions do not count from 0"),
    (lambda: trainer(pad_token_id=99), ValueError, "pad_token_id is 99.*resize_token_embeddings"),
    (lambda: trainer(missing_eos_penalty=1.0, eos_token_id=None), ValueError, "pass eos_token_id="),
    (lambda: trainer(value_model=llama(1), algorithm="rloo"), ValueError, "value_model is for PPO"),
    (lambda: trainer(kl_coef=0.0, target_kl=1.0), ValueError, "kl_coef is 0, from which no target_kl"),
    (lambda: trainer().learn(PROMPTS, None), ValueError, "no run to go on with"),
    (lambda: trainer().learn([[5, 12]], 16), ValueError, r"prompts\[0\] has the token 12; .* from 0 to 11"),
    (lambda: trainer().learn([[5.5]], 16), TypeError, "list of tokens, which are ints"),
    (lambda: trainer(reward_fn=lambda p, r: [[1], [1, 2]] * 8).learn(PROMPTS, 16), ValueError, "number for each"),
    (lambda: trainer(reward_fn=lambda p, r: None).learn(PROMPTS, 16), TypeError, "number for each.*None"),
    (lambda: trainer(llama(num_labels=3)).generate([[1] * 60]), ValueError, "60 tokens.*48 positions"),
]  # fmt: skip


@pytest.mark.parametrize("make, error, message", MISTAKES)
def test_mistakes(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        make(*[tmp_path / "file"] * make.__code__.co_argcount)
