"""What responses are worth token by token, against one response after the other in plain Python; and the losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.rlhf import losses
from fastrl.rlhf.experience import make_experience
from fastrl.rlhf.generation import given as given_responses
from fastrl.rlhf.settings import make_settings
from tests.reference import tokens as reference

SEED, LENGTHS = st.integers(0, 2**31), st.lists(st.integers(1, 9), min_size=4, max_size=4)


def responses(seed, lengths):
    """Responses of these lengths, with numbers everywhere: where there is no token they must not matter."""
    rng = np.random.default_rng(seed)
    found = given_responses([[1]] * len(lengths), [[2] * n for n in lengths], 0, None)
    found.log_probs = torch.from_numpy(-rng.exponential(2, found.tokens.shape).astype(np.float32))
    found.ended = torch.from_numpy(rng.random(len(lengths)) < 0.5)
    ref, values = torch.from_numpy(rng.normal(-2, 1, (2, *found.tokens.shape)).astype(np.float32))
    return found, rng.normal(size=len(lengths)), ref, values


def by_hand(found, scores, ref, values, beta, s):
    """Advantages and returns of each response: lists of numbers, in float64."""
    lengths = found.mask.sum(1).tolist()
    own, ref, values = (x.double().tolist() for x in (found.log_probs, ref, values))
    judged = [x - (0 if end else s.missing_eos_penalty) for x, end in zip(scores, found.ended.tolist(), strict=True)]
    kls = [reference.kl_estimates(own[b][:n], ref[b][:n], s.kl_estimator) for b, n in enumerate(lengths)]
    leash = beta if s.kl_in == "reward" else 0
    if s.algorithm != "ppo":
        worth = [judged[b] - leash * sum(kls[b]) for b in range(len(lengths))]
        each = reference.group_advantages(worth, s.group_size, s.algorithm, 1e-4)
        return [[a] * n for a, n in zip(each, lengths, strict=True)], None
    rewards = [-leash * kl for kl in kls]
    for b in range(len(lengths)):
        rewards[b][-1] += judged[b]
    if s.whiten_rewards:
        flat = np.concatenate(rewards)
        rewards = [flat.mean() + (r - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8) for r in rewards]
    pairs = [reference.token_gae(r, values[b][: len(r)], [0, len(r)], s.gamma, s.gae_lambda)
             for b, r in enumerate(rewards)]  # fmt: skip
    advantages, returns = [a for a, _ in pairs], [g for _, g in pairs]
    flat = np.concatenate(advantages)
    if s.whiten_advantages:
        advantages = [(a - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8) for a in advantages]
    return advantages, returns


OPTIONS = [
    dict(algorithm="ppo", missing_eos_penalty=1.5, gamma=0.9),
    dict(algorithm="ppo", whiten_rewards=True, kl_estimator="k3"),
    dict(algorithm="ppo", whiten_advantages=False, kl_in="loss", kl_estimator="k2"),
    dict(algorithm="grpo", missing_eos_penalty=1.5), dict(algorithm="grpo", kl_in="reward", kl_estimator="k1"),
    dict(algorithm="rloo", missing_eos_penalty=0.5),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@settings(deadline=None, max_examples=25)
@given(SEED, LENGTHS)
def test_experience_is_that_of_each_response_alone(options, seed, lengths):
    s = make_settings(**options, group_size=2, batch_size=4)
    found, scores, ref, values = responses(seed, lengths)
    mine, metrics = make_experience(found, scores, ref, values if s.algorithm == "ppo" else None, 0.3, s)
    advantages, returns = by_hand(found, scores, ref, values, 0.3, s)
    for b, n in enumerate(lengths):
        np.testing.assert_allclose(mine.advantages[b, :n], advantages[b], rtol=5e-3, atol=5e-3)
        if returns is not None:
            np.testing.assert_allclose(mine.returns[b, :n], returns[b], rtol=1e-3, atol=1e-3)
        assert (mine.advantages[b, n:] == 0).all() and (mine.ref_log_probs[b, n:] == 0).all()
    differences = [float((found.log_probs - ref)[b, :n].sum()) for b, n in enumerate(lengths)]
    assert metrics["objective/kl"] == pytest.approx(np.mean(differences), abs=1e-3)
    assert metrics["objective/score"] == pytest.approx(scores.mean())


@settings(deadline=None, max_examples=25)
@given(SEED, LENGTHS)
def test_losses_are_means_over_tokens_of_responses_alone(seed, lengths):
    found, *_ = responses(seed, lengths)
    rng, shape, mask = np.random.default_rng(seed), found.tokens.shape, found.mask
    old, new, advantage, old_value, value, returns, ref = torch.from_numpy(rng.normal(size=(7, *shape)))
    chosen = [x[mask].numpy() for x in (old, new, advantage, old_value, value, returns, ref)]
    ratio = np.exp(chosen[1] - chosen[0])
    gain = np.minimum(ratio * chosen[2], np.clip(ratio, 0.8, 1.2) * chosen[2])
    loss, clipped, moved = losses.policy_loss(new, old, advantage, mask, 0.2)
    assert float(loss) == pytest.approx(-gain.mean())
    assert float(clipped) == pytest.approx((abs(ratio - 1) > 0.2).mean())
    assert float(moved) == pytest.approx((ratio - 1 - np.log(ratio)).mean())
    near = np.clip(chosen[4], chosen[3] - 0.2, chosen[3] + 0.2)
    worse = np.maximum((chosen[4] - chosen[5]) ** 2, (near - chosen[5]) ** 2)
    assert float(losses.value_loss(value, old_value, returns, mask, 0.2)) == pytest.approx(0.5 * worse.mean())
    for estimator in ("k2", "k3"):
        expected = reference.kl_estimates(chosen[1], chosen[6], estimator).mean()
        assert float(losses.divergence(new, ref, mask, estimator)) == pytest.approx(expected)
    elsewhere = torch.where(mask, new, torch.full_like(new, -np.inf))  # as of tokens that cannot be
    assert [float(x) for x in losses.policy_loss(elsewhere, old, advantage, mask, 0.2)] == [loss, clipped, moved]


def test_gradients_of_the_estimates_in_the_loss():
    """In the mean k2's is that of KL(π ‖ π_ref), k3's that of KL(π_ref ‖ π), k1's 0: which is why it is refused."""
    torch.manual_seed(0)
    z, ref = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64).log_softmax(0)
    p = z.softmax(0)

    def gradient(of):
        logits = z.clone().requires_grad_()
        (found,) = torch.autograd.grad(of(logits.log_softmax(0)), logits)
        return found

    every = torch.ones(1, dtype=torch.bool)
    for estimator, divergence in (
        ("k2", lambda log_p: (log_p.exp() * (log_p - ref)).sum()),
        ("k3", lambda log_p: (ref.exp() * (ref - log_p)).sum()),
    ):
        of_each = (gradient(lambda q, i=i, e=estimator: losses.divergence(q[i], ref[i], every, e)) for i in range(6))
        torch.testing.assert_close(sum(p[i] * x for i, x in enumerate(of_each)), gradient(divergence))
    assert float(sum(p[i] * gradient(lambda q, i=i: q[i] - ref[i]) for i in range(6)).abs().max()) < 1e-12


def test_preferences():
    chosen, rejected = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 1.0])
    loss, margin = losses.preference_loss(chosen, rejected, 0.3)
    expected = np.mean([np.log1p(np.exp(-0.3 * 0.5)), np.log1p(np.exp(0.3 * 3.0))])
    assert float(loss) == pytest.approx(expected) and margin.tolist() == [0.5, -3.0]
