"""What the path does with what it is given: groups, schedules, leashes, tokenizers, judges, rewards that fail."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from fastrl.rlhf import RLHFTrainer  # noqa: E402
from fastrl.rlhf.generation import given, left_padded, sample  # noqa: E402
from fastrl.rlhf.rewards import judge  # noqa: E402
from tests.rlhf import EOS, PAD, PROMPTS, SMALL, VOCABULARY, evens, gpt2, llama, pairs, trainer, weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_threads")


# -- the path ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_group_has_one_prompt(algorithm):
    seen = []

    def reward(prompts, responses):
        seen.append(prompts)
        return evens(prompts, responses)

    trainer(reward_fn=reward, algorithm=algorithm).learn(PROMPTS, 48)
    for prompts in seen:
        assert len(prompts) == 16 and all(prompts[i] == prompts[i // 4 * 4] for i in range(16))
    assert len({tuple(prompt) for prompts in seen for prompt in prompts}) == 3


@torch.no_grad()
def log_probs(model, prompt, answer, temperature):
    """Of the tokens of an answer, one row without padding."""
    z = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / temperature
    return z.log_softmax(1).gather(1, torch.tensor(answer)[:, None])[:, 0]


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_gradient_of_groups_is_that_of_each_response_alone(estimator):
    """GRPO, first step: mean over tokens of −A ∇ln π + β ∇(estimate), with a reference that is another model."""
    policy, ref, beta, temperature = llama(), llama(1), 0.3, 0.7
    model = RLHFTrainer(policy, ref, evens, **{**SMALL, **dict(
        algorithm="grpo", minibatch_size=16, kl_coef=beta, kl_estimator=estimator, temperature=temperature,
        learning_rate=0.0, max_grad_norm=1e9,
    )})  # fmt: skip
    sampled, original = [], model._sample
    model._sample = lambda rows: sampled.append(original(rows)) or sampled[0]
    model.learn(PROMPTS, 16)
    found, alone = sampled[0], copy.deepcopy(policy)
    scores = np.array(evens(None, model._decode(found))).reshape(4, 4)
    each = ((scores - scores.mean(1, keepdims=True)) / (scores.std(1, ddof=1, keepdims=True) + 1e-4)).ravel()
    loss = 0.0
    for i, advantage in enumerate(each):
        prompt, answer = (x[i][m[i]].tolist() for x, m in ((found.prompts, found.prompt_mask),
                                                           (found.tokens, found.mask)))  # fmt: skip
        z = alone(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1] / temperature
        own = z.log_softmax(1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        d = own - log_probs(ref, prompt, answer, temperature)
        loss = loss + (-advantage * own + beta * (d**2 / 2 if estimator == "k2" else (-d).exp() - 1 + d)).sum()
    (loss / found.mask.sum()).backward()
    for p, q in zip(policy.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


def test_the_loss_of_pairs_is_that_of_each_pair_alone():
    policy, ref, beta = llama(), llama(1), 0.4
    model = RLHFTrainer(policy, ref, algorithm="dpo", kl_coef=beta, batch_size=64, minibatch_size=64, seed=0,
                        learning_rate=0.0, temperature=0.8)  # fmt: skip
    known = pairs(30, 0, lengths=(1, 7))
    n = len(known[0])
    model._next = lambda found, wanted: list(range(found))
    model.learn_pairs(*known, 1)
    margins = []
    for prompt, *both in zip(*known, strict=True):
        own, others = ([float(log_probs(m, prompt, x, 0.8).sum()) for x in both] for m in (policy, ref))
        margins.append(own[0] - others[0] - (own[1] - others[1]))
    assert model.metrics["policy/loss"] == pytest.approx(np.log1p(np.exp(-beta * np.array(margins))).mean(), rel=1e-4)
    assert model.metrics["objective/accuracy"] == pytest.approx(sum(m > 0 for m in margins) / n)
    assert model.preference_accuracy(*known) == pytest.approx(sum(m > 0 for m in margins) / n)


def test_pairs_are_counted_as_they_are_seen():
    model = RLHFTrainer(llama(scale=1.0), algorithm="dpo", batch_size=8, minibatch_size=8, seed=0)
    known = [x[:3] for x in pairs(20, 0)]
    seen, original = [], model._next
    model._next = lambda n, wanted: seen.append(original(n, wanted)) or seen[-1]
    model.learn_pairs(*known, 24)
    assert model.num_responses == 24 == sum(map(len, seen)) and model.n_updates == 3
    assert sorted(i for some in seen for i in some) == [0] * 8 + [1] * 8 + [2] * 8


def test_the_schedule_falls_with_what_remains():
    seen, rates = [], []
    model = trainer(learning_rate=lambda remaining: seen.append(remaining) or 1e-3 * remaining)
    model.learn(PROMPTS, 64, lambda model: rates.append(model.optimizer.param_groups[0]["lr"]))
    assert seen[-4:] == [1.0, 0.75, 0.5, 0.25] and rates == [1e-3, 7.5e-4, 5e-4, 2.5e-4]


def test_the_gradient_is_clipped():
    model = trainer(max_grad_norm=1e-3).learn(PROMPTS, 16)
    norm = torch.cat([p.grad.flatten() for p in model.parameters if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_the_coefficient_moves_by_the_responses_seen():
    model = trainer(target_kl=5.0, kl_horizon=100, kl_coef=0.3, learning_rate=0.0).learn(PROMPTS, 16)
    assert model.kl.beta == pytest.approx(0.3 * (1 - 0.2 * 16 / 100)) and model.metrics["objective/kl_coef"] == 0.3


def test_a_nucleus_of_one_token_is_the_likeliest():
    narrow, cold = (trainer(**options).generate(PROMPTS) for options in ({"top_p": 1e-6}, {"temperature": 1e-4}))
    assert narrow == cold


def test_values_are_clipped_to_the_old_ones():
    """A range so small that no value can move stops the learning of values, but for what makes them worse."""
    free, held = (trainer(clip_range_value=x, n_epochs=4, learning_rate=1e-2).learn(PROMPTS, 16) for x in (None, 1e-6))
    assert held.metrics["value/loss"] > 1.05 * free.metrics["value/loss"]


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer():
    """A letter a token, with a beginning of its own."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing

    words = {"<pad>": PAD, "</s>": EOS, "<s>": 2, **{letter: 3 + i for i, letter in enumerate("abcdefghi")}}
    model = Tokenizer(WordLevel(words, "a"))
    model.pre_tokenizer = WhitespaceSplit()
    model.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="</s>", bos_token="<s>"
    )


def test_prompts_begin_as_the_tokenizer_has_it_and_responses_are_read_without_what_is_special(tokenizer):
    seen = []

    def reward(prompts, responses):
        seen.append((prompts, responses))
        return [response.count("b") for response in responses]

    options = {name: value for name, value in SMALL.items() if name != "eos_token_id"}
    model = RLHFTrainer(llama(), None, reward, tokenizer, **options)
    assert (model.pad, model.eos) == (PAD, EOS)
    sampled, original = [], model._sample
    model._sample = lambda rows: sampled.append((rows, original(rows))) or sampled[-1][1]
    model.learn(["a b", "c"], 16)
    rows, found = sampled[0]
    assert {tuple(row) for row in rows} == {(2, 3, 4), (2, 5)}
    prompts, responses = seen[0]
    assert set(prompts) == {"a b", "c"} and found.ended.any()
    for i, text in enumerate(responses):
        tokens = found.tokens[i][found.mask[i]].tolist()
        assert text.split() == [tokenizer.convert_ids_to_tokens(token) for token in tokens if token > 2]
    assert all(isinstance(text, str) for text in model.generate(["a"]))


def test_pairs_of_strings(tokenizer):
    model = RLHFTrainer(llama(), tokenizer=tokenizer, algorithm="dpo", seed=0)
    made = model._pairs(["a b", "c"], ["d </s>", "e f"], ["g", "h i a"])
    expected = given([[2, 3, 4], [2, 5]] * 2, [[6, 1], [7, 8, 1], [9, 1], [10, 11, 3, 1]], PAD, None)
    for name in ("prompts", "prompt_mask", "tokens", "mask"):
        assert torch.equal(getattr(made.responses, name), getattr(expected, name)), name


def test_a_prompt_does_not_end_with_an_end_that_the_tokenizer_adds(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    model = RLHFTrainer(llama(), None, evens, tokenizer, **SMALL)
    assert model._rows(["a b", "a </s>"]) == [[2, 3, 4], [2, 3, 1, 1]]


def test_what_else_is_known_of_a_prompt_reaches_the_reward():
    known = [{"prompt": prompt, "answer": 2 * len(prompt)} for prompt in PROMPTS]

    def reward(given, responses):
        assert all(row["answer"] == 2 * len(row["prompt"]) for row in given)
        return evens(given, responses)

    trainer(reward_fn=reward).learn(known, 16)


class Labelled:
    """A column that is labelled otherwise than it is ordered, as pandas' are."""

    def __init__(self, rows, labels):
        self.rows, self.labels = rows, labels

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, label):
        return self.rows[self.labels.index(label)]


@pytest.mark.parametrize("prompts", [
    Labelled(PROMPTS, [2, 0, 7]), tuple(map(tuple, PROMPTS)), np.array([[5, 6], [7, 8]]), [np.array([4, 5])],
])  # fmt: skip
def test_prompts_of_other_kinds(prompts):
    def reward(given, responses):
        assert {tuple(prompt) for prompt in given} <= {tuple(prompt) for prompt in prompts}
        assert [tuple(map(int, prompt)) for prompt in given] == [tuple(row) for row in sampled[-1]]
        return evens(given, responses)

    model, sampled = trainer(reward_fn=reward), []
    original = model._sample
    model._sample = lambda rows: sampled.append(rows) or original(rows)
    model.learn(prompts, 32)


# -- judges ------------------------------------------------------------------------------------------------------------


JUDGES = {
    "llama": lambda: llama(kind=transformers.LlamaForSequenceClassification, num_labels=1),
    "gpt2": lambda: gpt2(kind=transformers.GPT2ForSequenceClassification, num_labels=1, pad_token_id=PAD),
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=1, pad_token_id=PAD,
    )),
}  # fmt: skip


@pytest.mark.parametrize("kind", JUDGES)
def test_a_judge_scores_each_response_as_it_does_alone(kind):
    torch.manual_seed(0)
    found, model = sampled(llama()), JUDGES[kind]().eval()
    scores = judge(model, found, PROMPTS, PROMPTS, PAD)
    for i, prompt in enumerate(PROMPTS):
        tokens = torch.tensor([[*prompt, *found.tokens[i][found.mask[i]].tolist()]])
        with torch.no_grad():
            expected = float(model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits)
        assert scores[i] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    trainer(reward_fn=model.train()).learn(PROMPTS, 16)
    assert not model.training


def sampled(model):
    tokens, mask = left_padded(PROMPTS, PAD)
    return sample(model, tokens, mask, 9, pad=PAD, eos=EOS, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scores", [
    lambda n: torch.arange(n), lambda n: [torch.tensor(float(i), requires_grad=True) for i in range(n)],
    lambda n: np.arange(n), lambda n: tuple(range(n)), lambda n: [np.float32(i) for i in range(n)],
])  # fmt: skip
def test_scores_of_many_kinds(scores):
    found = sampled(llama())
    np.testing.assert_array_equal(judge(lambda p, r: scores(3), found, PROMPTS, PROMPTS, PAD), [0, 1, 2])


def test_a_tokenizer_is_no_reward(tokenizer):
    with pytest.raises(TypeError, match="pass it as tokenizer="):
        RLHFTrainer(llama(), None, tokenizer)


@pytest.mark.parametrize("what", ["error", "nan", "Ctrl-C"])
def test_an_iteration_that_fails_before_its_update_has_not_been(what):
    """Once the reward works, the run goes on as if nothing had happened."""
    failing = []

    def reward(prompts, responses):
        failing.append(None)
        if len(failing) == 2:
            if what == "nan":
                return [float("nan")] * len(prompts)
            raise KeyboardInterrupt if what == "Ctrl-C" else RuntimeError("no answer")
        return evens(prompts, responses)

    model, whole = trainer(reward_fn=reward), trainer().learn(PROMPTS, 64)
    if what == "Ctrl-C":
        assert model.learn(PROMPTS, 64).interrupted
    else:
        with pytest.raises((RuntimeError, ValueError), match=r"no answer|finite"):
            model.learn(PROMPTS, 64)
    assert model.num_responses == 16
    assert torch.equal(weights(model.learn(PROMPTS, None)), weights(whole)) and model.metrics == whole.metrics


def test_references_are_scored_a_few_rows_at_once(monkeypatch):
    model = trainer(minibatch_size=4, gradient_accumulation_steps=2)
    found = model._sample([PROMPTS[i % 3] for i in range(9)])
    whole = model._ref_log_probs(found)
    seen, original = [], model._log_probs
    monkeypatch.setattr("fastrl.rlhf.trainer.FEW_LOGITS", 0)
    monkeypatch.setattr(model, "_log_probs", lambda part, other: seen.append(len(part.tokens)) or original(part, other))
    torch.testing.assert_close(model._ref_log_probs(found)[found.mask], whole[found.mask], rtol=1e-4, atol=1e-4)
    assert seen == [2, 2, 2, 2, 1]
