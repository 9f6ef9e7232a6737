"""Advantages, baselines, whitening and divergences of tokens against their definitions and against the peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.tokens import group_advantages, kl_estimates, masked_whiten, token_gae
from tests.reference import tokens as reference

UNIT, SEED = st.floats(0, 1), st.integers(0, 2**32)
FLOAT = st.sampled_from([np.float32, np.float64])
LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.sampled_from([1024, 1041, 2500])), min_size=1, max_size=6)


def ragged(seed, lengths, dtype=np.float64):
    """Two columns of tokens, and their offsets."""
    rng, offsets = np.random.default_rng(seed), np.concatenate([[0], np.cumsum(lengths)])
    return *rng.normal(size=(2, offsets[-1])).astype(dtype), offsets


def assert_close(found, wanted, dtype, tolerance=2e-4):
    assert found.dtype == dtype and found.shape == wanted.shape
    tolerance = 1e-10 if dtype == np.float64 else tolerance
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@settings(deadline=None)
@given(SEED, LENGTHS, FLOAT, UNIT, UNIT)
def test_advantages_are_those_of_each_response_alone(seed, lengths, dtype, gamma, gae_lambda):
    reward, value, offsets = ragged(seed, lengths, dtype)
    expected = reference.token_gae(reward, value, offsets, gamma, gae_lambda)
    found = token_gae(reward, value, offsets, gamma=gamma, gae_lambda=gae_lambda)
    for x, wanted in zip(found, expected, strict=True):
        assert_close(x, wanted, dtype, 2e-3)


@settings(deadline=None)
@given(SEED, st.integers(1, 9), st.integers(2, 40), FLOAT, st.sampled_from(["grpo", "rloo", "mean"]), st.booleans())
def test_advantages_within_groups(seed, groups, size, dtype, baseline, square):
    scores = np.random.default_rng(seed).normal(3, 2, size=groups * size).astype(dtype)
    found = group_advantages(scores.reshape(groups, size) if square else scores, size, baseline)
    assert found.shape == ((groups, size) if square else (groups * size,))
    assert_close(found.ravel(), reference.group_advantages(scores, size, baseline, 1e-4), dtype)


def test_equal_scores_are_no_advantage():
    for baseline in ("grpo", "rloo", "mean"):
        np.testing.assert_allclose(group_advantages(np.repeat([0.1, 7e5], 6), 6, baseline), 0, atol=1e-4)


@settings(deadline=None)
@given(SEED, st.sampled_from([(1,), (15,), (16,), (2048,), (7, 5), (3, 700)]), FLOAT, st.booleans(), UNIT)
def test_whitening_looks_at_what_is_masked_alone(seed, shape, dtype, shift_mean, share):
    rng = np.random.default_rng(seed)
    x, mask = rng.normal(5, 3, shape).astype(dtype), rng.random(shape) < share
    found = masked_whiten(x, mask, shift_mean)
    if mask.sum() != 1:  # where one number stands alone, what is left of it is rounding, of which ε makes much
        assert_close(found, reference.masked_whiten(x, mask, shift_mean, 1e-8), dtype, 1e-3)
    elsewhere = np.where(mask, x, np.nan).astype(dtype)
    np.testing.assert_array_equal(masked_whiten(elsewhere, mask, shift_mean), found)
    if mask.sum() > 1:
        assert found[mask].std(ddof=1) == pytest.approx(1, rel=1e-3)
        assert found[mask].mean() == pytest.approx(0 if shift_mean else x[mask].mean(), abs=1e-3)
    np.testing.assert_array_equal(masked_whiten(x), masked_whiten(x, np.ones(shape)))


@settings(deadline=None)
@given(SEED, LENGTHS, st.sampled_from(["k1", "k2", "k3"]), st.sampled_from([1e-4, 0.1, 1.0, 8.0]))
def test_divergences_by_token_and_by_response(seed, lengths, estimator, scale):
    log_prob, ref, offsets = ragged(seed, lengths, np.float32)
    ref = log_prob + np.float32(scale) * ref
    expected = reference.kl_estimates(log_prob, ref, estimator)
    found = kl_estimates(log_prob, ref, estimator)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-30)
    whole = kl_estimates(log_prob, ref, estimator, offsets)
    np.testing.assert_allclose(whole, np.add.reduceat(expected, offsets[:-1]), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_array_equal(kl_estimates(log_prob[:, None], ref[:, None], estimator)[:, 0], found)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_approach_the_divergence_of_two_distributions(seed):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(8), 2)
    exact, drawn = (p * np.log(p / q)).sum(), rng.choice(8, size=400_000, p=p)
    for estimator, low_bias in (("k1", True), ("k3", True), ("k2", False)):
        each = kl_estimates(np.log(p)[drawn], np.log(q)[drawn], estimator).astype(np.float64)
        mean, error = each.mean(), each.std() / np.sqrt(len(each))
        assert not low_bias or abs(mean - exact) < 5 * error + 1e-4, estimator
    near = p * np.exp(0.01 * rng.normal(size=8))
    near /= near.sum()
    exact = (p * np.log(p / near)).sum()
    means = {k: kl_estimates(np.log(p)[drawn], np.log(near)[drawn], k).astype(np.float64) for k in ("k1", "k2", "k3")}
    assert means["k2"].mean() == pytest.approx(exact, rel=0.05) and means["k3"].mean() == pytest.approx(exact, rel=0.05)
    assert means["k1"].std() > 10 * max(means["k2"].std(), means["k3"].std()) and means["k3"].min() >= 0


def test_tensors_in_tensors_out():
    reward, value, offsets = ragged(0, [3, 5], np.float32)
    made = token_gae(torch.from_numpy(reward), torch.from_numpy(value), torch.from_numpy(offsets))
    for x, wanted in zip(made, token_gae(reward, value, offsets), strict=True):
        np.testing.assert_array_equal(x.numpy(), wanted)
    for function, arguments in ((group_advantages, (4,)), (masked_whiten, ())):
        found = function(torch.from_numpy(reward), *arguments)
        np.testing.assert_array_equal(found.numpy(), function(reward, *arguments))
    half = torch.from_numpy(reward).bfloat16()
    np.testing.assert_array_equal(masked_whiten(half).numpy(), masked_whiten(half.float().numpy()))
    found = kl_estimates(torch.from_numpy(reward), torch.from_numpy(value), "k3")
    np.testing.assert_array_equal(found.numpy(), kl_estimates(reward, value, "k3"))


X = np.zeros(6, np.float32)
WRONG = [
    (token_gae, (X, X[:5], [0, 6]), ValueError, "values have shape"),
    (token_gae, (X, X, [0, 5]), ValueError, "offsets"),
    (token_gae, (X, X, [0, 3, 3, 6]), ValueError, "at least one"),
    (token_gae, (X, X, [6]), ValueError, "offsets"),
    (token_gae, (X, X, [0.0, 6.0]), TypeError, "offsets"),
    (token_gae, (X + 1j, X, [0, 6]), TypeError, "rewards have dtype"),
    (token_gae, (X.reshape(2, 3), X.reshape(2, 3), [0, 6]), ValueError, "end to end"),
    (group_advantages, (X, 4), ValueError, "scores have shape"),
    (group_advantages, (X.reshape(2, 3), 2), ValueError, "scores have shape"),
    (group_advantages, (X, 1), ValueError, "group_size"),
    (group_advantages, (X, 2.0), TypeError, "group_size"),
    (group_advantages, (X, 2, "ppo"), ValueError, "grpo, rloo, mean"),
    (group_advantages, (X, 2, "grpo", -1.0), ValueError, "eps"),
    (masked_whiten, (X, X[:5]), ValueError, "mask has shape"),
    (masked_whiten, (X, X + 2), ValueError, "0 and 1"),
    (masked_whiten, (X, None, True, 0.0), ValueError, "eps"),
    (masked_whiten, (["a"],), TypeError, "dtype"),
    (kl_estimates, (X, X, "k4"), ValueError, "k1, k2, k3"),
    (kl_estimates, (X, X[1:]), ValueError, "shape"),
    (kl_estimates, (X, X, "k1", [0, 7]), ValueError, "offsets"),
]


@pytest.mark.parametrize("function, arguments, error, message", WRONG)
def test_mistakes(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)
    if function is token_gae:
        for name in ("gamma", "gae_lambda"):
            with pytest.raises(ValueError, match=name):
                token_gae(X, X, [0, 6], **{name: 1.5})
