"""PPO over tokens: what padding must not change, what is zero at the start, what each detail of practice does."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from fastrl.rlhf import RLHFTrainer  # noqa: E402
from fastrl.rlhf.generation import given as given_responses  # noqa: E402
from fastrl.rlhf.generation import left_padded, sample  # noqa: E402
from fastrl.rlhf.rewards import AdaptiveKL  # noqa: E402
from fastrl.rlhf.scoring import score, token_log_probs  # noqa: E402
from tests.rlhf import EOS, PAD, PROMPTS, SMALL, VOCABULARY, evens, gpt2, llama, pairs, trainer, weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_threads")
MODELS = pytest.mark.parametrize("make", [llama, gpt2])


def responses(model, prompts=PROMPTS, n=9, seed=0, **options):
    tokens, mask = left_padded(prompts, PAD)
    generator = torch.Generator().manual_seed(seed)
    return sample(model, tokens, mask, n, pad=PAD, eos=EOS, generator=generator, **options)


@torch.no_grad()
def scores(model, found, temperature=1.0, **options):
    tokens, mask = found.whole()
    return score(model, tokens, mask, found.tokens.shape[1], temperature, **options)


# -- sampling and scoring ----------------------------------------------------------------------------------------------


@MODELS
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_what_was_sampled_scores_as_it_did(make, temperature):
    model = make()
    for seed in range(3):
        found = responses(model, seed=seed, temperature=temperature, with_hidden=True)
        again = scores(model, found, temperature, with_hidden=True)
        torch.testing.assert_close(again.log_probs[found.mask], found.log_probs[found.mask], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again.hidden[found.mask], found.hidden[found.mask], rtol=1e-3, atol=1e-3)


@MODELS
def test_padding_changes_nothing(make):
    """Metamorphic: more padding on either side, of any tokens, or none at all."""
    model = make()
    found = responses(model)
    expected = scores(model, found)
    tokens, mask = found.whole()
    rng, n = np.random.default_rng(0), found.tokens.shape[1]
    junk = torch.from_numpy(rng.integers(VOCABULARY, size=(3, 11)))
    none = torch.zeros(3, 11, dtype=torch.bool)
    wide, wide_mask = torch.cat([junk[:, :7], tokens, junk[:, 7:]], 1), torch.cat([none[:, :7], mask, none[:, 7:]], 1)
    wide = torch.where(wide_mask, wide, torch.from_numpy(rng.integers(VOCABULARY, size=wide.shape)))
    with torch.no_grad():
        more = score(model, wide, wide_mask, n + 4).log_probs[:, :n]
    torch.testing.assert_close(more[found.mask], expected.log_probs[found.mask], rtol=1e-4, atol=1e-4)
    for i, prompt in enumerate(PROMPTS):
        alone = given_responses([prompt], [found.tokens[i][found.mask[i]].tolist()], PAD, None)
        assert alone.prompt_mask.all() and alone.mask.all()
        own = expected.log_probs[i][found.mask[i]]
        torch.testing.assert_close(scores(model, alone).log_probs[0], own, rtol=1e-4, atol=1e-4)


@MODELS
def test_padding_changes_no_sample(make):
    """The likeliest tokens of a prompt alone are those of it among others."""
    model = make()
    together = responses(model, temperature=1e-4)
    for i, prompt in enumerate(PROMPTS):
        alone = responses(model, [prompt], temperature=1e-4)
        assert alone.tokens[0][alone.mask[0]].tolist() == together.tokens[i][together.mask[i]].tolist()


def test_a_response_ends_with_its_eos():
    found = responses(llama(scale=2.0), [[5]] * 200, n=20)
    for tokens, mask, ended in zip(found.tokens, found.mask, found.ended, strict=True):
        n = int(mask.sum())
        assert n >= 1 and mask[:n].all() and (tokens[n:] == PAD).all()
        assert (EOS in tokens[:n].tolist()) == bool(ended) and EOS not in tokens[: n - 1].tolist()
        assert ended or n == 20
    assert found.ended.any() and not found.ended.all()


def test_frequencies_of_samples():
    model, n = llama(), 20_000
    found = responses(model, [[5, 6]] * n, n=1, temperature=1.3, top_p=0.8)
    with torch.no_grad():
        p = (model(torch.tensor([[5, 6]])).logits[0, -1] / 1.3).softmax(0)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(0) < 0.8).sum()) + 1]
    expected = torch.zeros_like(p)
    expected[kept] = p[kept] / p[kept].sum()
    seen = torch.bincount(found.tokens[:, 0], minlength=VOCABULARY) / n
    assert (seen[expected == 0] == 0).all()
    assert ((seen - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt() + 1e-9).all()


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 40), st.floats(0.2, 3), st.integers(1, 50))
def test_log_probs_of_the_tokens_alone(seed, rows, width, temperature, chunk):
    from fastrl.rlhf import scoring

    torch.manual_seed(seed)
    logits = (3 * torch.randn(rows, 3, width, dtype=torch.float64)).float().requires_grad_()
    tokens, weight = torch.randint(width, (rows, 3)), torch.randn(rows, 3)
    before, scoring.CHUNK = scoring.CHUNK, chunk
    try:
        found = token_log_probs(logits, tokens, temperature)
        (gradient,) = torch.autograd.grad(found, logits, weight)
    finally:
        scoring.CHUNK = before
    whole = (logits.double() / temperature).log_softmax(-1)
    expected = whole.gather(-1, tokens[..., None])[..., 0]
    (wanted,) = torch.autograd.grad(expected, logits, weight.double())
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_log_probs_of_half_precision():
    """Where a token is all but certain, what is left of the gradient is no rounding."""
    torch.manual_seed(0)
    logits = (6 * torch.randn(40, 30)).bfloat16().requires_grad_()
    tokens = logits.argmax(1)
    found = token_log_probs(logits, tokens, 0.7)
    expected = (logits.float() / 0.7).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    (gradient,), (wanted,) = (torch.autograd.grad(x.sum(), logits) for x in (found, expected))
    assert gradient.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=1e-6)


# -- training ----------------------------------------------------------------------------------------------------------


ONLINE = pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])


@ONLINE
@MODELS
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_at_the_start_nothing_diverges(algorithm, make, temperature):
    """Policy and reference are one, and the ratio of new and old probabilities is 1, though there is dropout."""
    model = trainer(make().train(), algorithm=algorithm, n_epochs=1, minibatch_size=16, learning_rate=0.0,
                    temperature=temperature)  # fmt: skip
    model.learn(PROMPTS, 32, lambda model: model.policy.train() and None)
    assert abs(model.metrics["objective/kl"]) < 1e-4 and model.metrics["policy/clip_fraction"] == 0
    assert model.metrics["policy/approx_kl"] < 1e-6
    assert model.num_responses == 32 and model.n_updates == 2


@ONLINE
def test_the_same_seed_gives_the_same_and_another_another(algorithm):
    one, same, other = (trainer(algorithm=algorithm, seed=seed).learn(PROMPTS, 32) for seed in (3, 3, 4))
    assert torch.equal(weights(one), weights(same)) and not torch.equal(weights(one), weights(other))
    assert one.metrics == same.metrics


@ONLINE
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_parts_of_a_minibatch_add_up_to_the_whole(algorithm, parts):
    """Whatever the lengths of responses: the loss is a mean over tokens, not over parts."""
    options = dict(algorithm=algorithm, kl_in="loss", kl_estimator="k3")
    found = [weights(trainer(gradient_accumulation_steps=n, **options).learn(PROMPTS, 16)) for n in (1, parts)]
    torch.testing.assert_close(*found, rtol=1e-3, atol=2e-5)


@ONLINE
def test_going_on_from_a_file_equals_no_interruption(algorithm, tmp_path):
    options = dict(algorithm=algorithm, target_kl=0.5, learning_rate="lin_0.001")
    whole = trainer(**options)

    def save_half(model):
        if model.num_responses == 32:
            model.save(tmp_path / "half")

    whole.learn(PROMPTS * 3, 64, save_half)
    again = RLHFTrainer.load(tmp_path / "half", llama(), None, evens)
    assert (again.num_responses, again.total_responses, again.kl.target) == (32, 64, 0.5)
    again.learn(PROMPTS * 3, None)
    assert torch.equal(weights(whole), weights(again)) and whole.kl.beta == again.kl.beta
    assert whole.metrics == again.metrics


def test_going_on_with_pairs_equals_no_interruption(tmp_path):
    options = dict(algorithm="dpo", learning_rate="lin_0.001", batch_size=8, minibatch_size=4, seed=0)
    whole, known = RLHFTrainer(llama(scale=1.0), **options), pairs(20, 0)
    whole.learn_pairs(*known, 48, lambda model: model.save(tmp_path / "half") if model.num_responses == 24 else None)
    again = RLHFTrainer.load(tmp_path / "half", llama(scale=1.0)).learn_pairs(*known, None)
    assert torch.equal(weights(whole), weights(again)) and whole.metrics == again.metrics


@pytest.mark.parametrize("how", ["callback", "Ctrl-C"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(how, tmp_path):
    whole = trainer(learning_rate="lin_0.001").learn(PROMPTS, 64)

    def stop(model):
        if how == "callback":
            return False
        signal.raise_signal(signal.SIGINT)

    model = trainer(learning_rate="lin_0.001").learn(PROMPTS, 64, stop)
    assert model.num_responses == 16 and model.interrupted == (how == "Ctrl-C")
    model.save(tmp_path / "stopped")
    again = RLHFTrainer.load(tmp_path / "stopped", llama(), None, evens).learn(PROMPTS, None)
    model.learn(PROMPTS, None)
    assert torch.equal(weights(whole), weights(again)) and torch.equal(weights(whole), weights(model))


def test_a_schedule_that_is_a_function_has_to_be_given_again(tmp_path):
    trainer(learning_rate=lambda remaining: 1e-3 * remaining).learn(PROMPTS, 16).save(tmp_path / "file")
    with pytest.raises(ValueError, match=r"load\(..., learning_rate=function\)"):
        RLHFTrainer.load(tmp_path / "file", llama(), None, evens)
    again = RLHFTrainer.load(tmp_path / "file", llama(), None, evens, learning_rate=1e-4)
    assert again.settings.learning_rate == 1e-4 and again.num_responses == 16


def test_other_prompts_come_after_others():
    model = trainer(learning_rate=0.0).learn(PROMPTS * 10, 16)
    model.learn([[5], [6]], 32)  # what was to come of the thirty is forgotten
    assert model._n_prompts == 2 and set(model._order) <= {0, 1}


DAMAGES = [
    (lambda header, tensors: header.pop("counters"), "counters"),
    (lambda header, tensors: header.pop("settings"), "no settings"),
    (lambda header, tensors: tensors.pop("values.head.bias"), "weights of the values are others"),
    (lambda header, tensors: tensors.update({"optimizer.999.exp_avg": torch.zeros(3)}), "optimiser"),
    (lambda header, tensors: header.update(algorithm="PPO"), "holds a PPO"),
]


@pytest.mark.parametrize("damage, message", DAMAGES)
def test_a_file_that_cannot_be_restored_leaves_the_policy_alone(damage, message, tmp_path, monkeypatch):
    from fastrl.checkpoint import ModelFileError
    from fastrl.rlhf import saving

    trainer().learn(PROMPTS, 16).save(tmp_path / "file")
    header, tensors = saving.read_model(tmp_path / "file")
    damage(header, tensors)
    monkeypatch.setattr(saving, "read_model", lambda path: (header, tensors))
    policy = llama()
    before = [p.clone() for p in policy.parameters()]
    with pytest.raises(ModelFileError, match=message):
        RLHFTrainer.load(tmp_path / "file", policy, None, evens)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_without_adapters_the_reference_is_a_copy_and_with_them_the_model_itself(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    base = llama()
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = RLHFTrainer(base, None, evens, lora=lora, **{**SMALL, "learning_rate": 1e-2})
    assert model.ref_policy is None and sum(p.numel() for p in model.parameters) < 5_000
    found = model._sample(PROMPTS)
    expected = scores(llama(), found)
    ref = model._ref_log_probs(found)
    torch.testing.assert_close(ref[found.mask], expected.log_probs[found.mask], rtol=1e-4, atol=1e-4)
    model.learn(PROMPTS, 32)
    for name, p in base.named_parameters():
        if "lora" not in name:
            assert torch.equal(p, before[name.replace(".base_layer", "")])
    model.save(tmp_path / "lora")
    assert (tmp_path / "lora").stat().st_size < 100_000
    again = RLHFTrainer.load(tmp_path / "lora", llama(), None, evens, lora=lora)
    assert torch.equal(weights(model), weights(again))


def test_a_value_model_of_its_own():
    model = trainer(value_model=llama(5)).learn(PROMPTS, 32)
    assert np.isfinite(model.metrics["value/loss"])
    value, policy = (dict(m.named_parameters()) for m in (model.values.model, model.policy))
    assert not torch.equal(value["model.layers.0.mlp.up_proj.weight"], policy["model.layers.0.mlp.up_proj.weight"])


@ONLINE
def test_scores_of_a_model(algorithm):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=PAD, max_position_embeddings=48,
    )  # fmt: skip
    judge = transformers.LlamaForSequenceClassification(config).eval()
    model = trainer(reward_fn=judge, algorithm=algorithm)
    found = model._sample(PROMPTS)
    from fastrl.rlhf.rewards import judge as judged

    expected = []
    for prompt, tokens in zip(PROMPTS, model._decode(found), strict=True):
        with torch.no_grad():
            expected.append(float(judge(input_ids=torch.tensor([[*prompt, *tokens]])).logits))
    np.testing.assert_allclose(judged(judge, found, PROMPTS, PROMPTS, PAD), expected, rtol=1e-4, atol=1e-5)
    model.learn(PROMPTS, 16)


def test_the_coefficient_follows_the_divergence():
    kl = AdaptiveKL(0.1, 6.0, 1000)
    kl.update(12.0, 100)
    assert kl.beta == pytest.approx(0.1 * (1 + 0.2 * 0.1))
    kl.update(6.6, 100)
    assert kl.beta == pytest.approx(0.102 * (1 + 0.1 * 0.1))
    kl.update(0.0, 1000)
    assert kl.beta == pytest.approx(0.102 * 1.01 * 0.8)
    fixed = AdaptiveKL(0.1, None, 1000)
    fixed.update(50, 1000)
    assert fixed.beta == 0.1


def test_preferences_are_learnt_and_hold_for_others():
    model = RLHFTrainer(
        llama(scale=1.0), algorithm="dpo", learning_rate=1e-3, batch_size=32, minibatch_size=32, kl_coef=0.1, seed=0
    )
    held_out = pairs(200, 1)
    assert model.preference_accuracy(*held_out) == 0  # equal to the reference: no preference
    model.learn_pairs(*pairs(800, 0), 3000)
    assert model.preference_accuracy(*held_out) >= 0.9
    with pytest.raises(ValueError, match="as many of each"):
        model.learn_pairs([[1]], [[2], [3]], [[4]], 1)
    with pytest.raises(ValueError, match="learn_pairs"):
        model.learn([[1]], 4)


def nan_for(bad):
    return lambda prompts, found: [float("nan") if prompt == bad else 0.0 for prompt in prompts]


class Tokenizer:
    pad_token_id = None
    eos_token_id = EOS


MISTAKES = [
    (lambda: trainer(reward_fn=nan_for([8])).learn(PROMPTS, 16), ValueError, r"nan for the prompt \[8\]"),
    (lambda: trainer(reward_fn=lambda p, r: [0.0]).learn(PROMPTS, 16), ValueError, r"shape \(1,\); it must be \(16,\)"),
    (lambda: trainer(reward_fn=lambda p, r: ["a"] * 16).learn(PROMPTS, 16), TypeError, "a number for each"),
    (lambda: trainer().learn([[5], []], 16), ValueError, r"prompts\[1\] is \[\], which has no token"),
    (lambda: trainer().learn([], 16), ValueError, "prompts is empty"),
    (lambda: trainer().learn("ab", 16), TypeError, "list"),
    (lambda: trainer().learn(["ab"], 16), TypeError, "pass tokenizer="),
    (lambda: trainer().learn([[5] * 43], 16), ValueError, r"prompts\[0\] has 43 tokens, and max_new_tokens=6 .* 48"),
    (lambda: trainer(llama(), tokenizer=Tokenizer()), ValueError, "no pad token"),
    (lambda: RLHFTrainer(llama(), gpt2(vocabulary=9)), ValueError, "vocabulary of 9 tokens, the policy one of 12"),
    (lambda: trainer(algorithm="a2c"), ValueError, "ppo, grpo, rloo, dpo"),
    (lambda: trainer(clip_rnge=0.1), TypeError, "did you mean clip_range"),
    (lambda: trainer(algorithm="grpo", batch_size=18), ValueError, "multiple of group_size"),
    (lambda: trainer(kl_in="loss"), ValueError, "no gradient"),
    (lambda: trainer(temperature=0.0), ValueError, "temperature"),
    (lambda: trainer().learn(PROMPTS, 0), ValueError, "total_responses"),
]  # fmt: skip


@pytest.mark.parametrize("make, error, message", MISTAKES)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("wrong", [dict(num_labels=2), dict(pad_token_id=5), dict(pad_token_id=None)])
def test_a_judge_that_would_look_elsewhere(wrong):
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        **{"num_labels": 1, "pad_token_id": PAD, **wrong},
    )  # fmt: skip
    with pytest.raises(ValueError, match="reward model has num_labels"):
        trainer(reward_fn=transformers.LlamaForSequenceClassification(config))


def test_the_policy_is_no_reference_of_itself():
    policy = llama()
    with pytest.raises(ValueError, match="pass a copy"):
        RLHFTrainer(policy, policy, evens)


def test_a_mistake_in_the_middle_changes_no_weights():
    model = trainer(reward_fn=nan_for([8]))
    before = weights(model)
    with pytest.raises(ValueError, match="finite"):
        model.learn([[8]], 16)
    assert torch.equal(weights(model), before) and model.num_responses == 0
