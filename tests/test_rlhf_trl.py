"""Ours and TRL's from the same responses: the same advantages, losses and weights, where TRL defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("trl", reason="trl is not installed")

from benches.rlhf.iteration import Size, ours, prompts, quiet, trl
from fastrl.rlhf.generation import left_padded
from fastrl.rlhf.generation import sample as draw
from fastrl.rlhf.scoring import token_log_probs
from fastrl.tokens import kl_estimates, masked_whiten

pytestmark = pytest.mark.usefixtures("few_threads")
SIZE = Size(vocabulary=32, hidden=32, layers=2, batch=16, minibatch=16, prompt=3, response=7)


def weights(*modules):
    return {f"{i}.{name}": p.detach().clone() for i, m in enumerate(modules) for name, p in m.named_parameters()}


OPTIONS = [{}, {"kl_estimator": "k3", "whiten_rewards": True}, {"gamma": 0.9, "cliprange": 0.01}]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_whole_iteration_leaves_the_weights_that_trl_leaves(options, monkeypatch, tmp_path):
    """Sampled once, for both; then values, rewards, advantages, and four epochs of clipped losses, one batch each."""
    from trl.experimental.ppo import ppo_trainer

    seen = {}

    def sample_once(model, queries, local, pad, generation_config):
        mask, generator = torch.ones_like(queries, dtype=torch.bool), torch.Generator().manual_seed(1)
        while True:  # TRL takes the pad token for padding wherever it stands
            found = draw(model, queries, mask, SIZE.response, pad=pad, generator=generator, with_hidden=True)
            if (found.tokens != pad).all():
                break
        seen["responses"] = found
        whole = torch.cat([queries, found.tokens], 1)
        with torch.no_grad():
            logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
        return whole, logits[:, SIZE.prompt - 1 : -1]

    monkeypatch.setattr(ppo_trainer, "batch_generation", sample_once)
    with quiet():
        theirs = trl(SIZE, 1, str(tmp_path), num_mini_batches=1, gradient_accumulation_steps=1, lam=0.8, **options)
        before = weights(theirs.policy_model, theirs.value_model.model)
        theirs.train()
    own = {"cliprange": "clip_range"}
    mine = ours(SIZE, False, max_grad_norm=1e9, gae_lambda=0.8, **{own.get(k, k): v for k, v in options.items()})
    monkeypatch.setattr(mine, "_sample", lambda rows: seen["responses"])
    monkeypatch.setattr(mine, "_next", lambda n, wanted: list(range(wanted)))  # the reward sees what was sampled
    mine.learn(seen["responses"].prompts.tolist(), SIZE.batch)
    found = weights(mine.policy, mine.values.model.model)
    moved = 0.0
    for name, expected in weights(theirs.policy_model, theirs.value_model.model).items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=2e-6)
        moved = max(moved, float((expected - before[name]).abs().max()))
    assert moved > 3e-4  # four steps of 1e-4: what is equal is not what stood still
    torch.testing.assert_close(mine.values.head.weight, theirs.value_model.score.weight, rtol=0, atol=2e-6)


def test_log_probs_and_whitening():
    from trl.experimental.ppo.ppo_trainer import masked_whiten as whiten
    from trl.trainer.utils import selective_log_softmax

    torch.manual_seed(0)
    logits, tokens = torch.randn(5, 9, 300), torch.randint(300, (5, 9))
    torch.testing.assert_close(token_log_probs(logits, tokens), selective_log_softmax(logits, tokens))
    x, mask = torch.randn(5, 9) + 3, torch.rand(5, 9) < 0.6
    for shift_mean in (True, False):
        expected = whiten(x, mask, shift_mean)[mask]
        torch.testing.assert_close(masked_whiten(x, mask, shift_mean)[mask], expected, rtol=1e-4, atol=1e-5)


def test_prompts_are_told_from_padding():
    assert min(min(row) for row in prompts(SIZE)) > 0 and left_padded(prompts(SIZE), 0)[1].all()
    assert np.ptp([len(row) for row in prompts(SIZE)]) == 0


def test_rlox_estimates_other_numbers():
    """As the benches say, which time them all the same: Σ p² ln(p/q), and Σ p (p/q − 1 − ln(p/q))."""
    rlox = pytest.importorskip("rlox", reason="rlox is not installed")
    p, q = np.array([0.05, 0.15, 0.3, 0.5]), np.array([0.4, 0.3, 0.2, 0.1])
    exact, drawn = (p * np.log(p / q)).sum(), np.random.default_rng(0).choice(4, size=400_000, p=p)
    own, ref = (np.log(x)[drawn].astype(np.float32) for x in (p, q))
    for estimator, theirs, instead in (
        ("k1", rlox.compute_batch_token_kl_f32, (p**2 * np.log(p / q)).sum()),
        ("k3", rlox.compute_batch_token_kl_schulman_f32, (p * (p / q - 1 - np.log(p / q))).sum()),
    ):
        assert kl_estimates(own, ref, estimator).mean() == pytest.approx(exact, rel=0.02)
        assert theirs(own, ref, len(own))[0] / len(own) == pytest.approx(instead, rel=0.02)
        assert abs(instead / exact - 1) > 0.2
