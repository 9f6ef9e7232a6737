"""The same updates by either engine, on the same numbers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastrl.learners.compiled import CompiledActorCritic, CompiledQ
from fastrl.learners.torch import ActorCriticLearner, QLearner
from fastrl.networks import ACTIVATIONS, ActorCritic, CategoricalHead, GaussianHead, QNetwork
from tests.engines import metrics_close

pytestmark = pytest.mark.usefixtures("few_threads")

CPU = torch.device("cpu")
KNOWN = [name for name in ACTIVATIONS if name not in ("GELU", "SiLU")]


def twins(module, learner, compiled, *more, eps):
    """A Torch learner and a compiled one, of equal modules."""
    both = [learner(*copy.deepcopy((module, *more)), CPU, eps) for _ in range(2)]
    return both[0], compiled(both[1])


def assert_close(a, b, tolerance=1e-4):
    """Parameters and moments of two learners."""
    for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        if p in a.optimizer.state and "exp_avg" in a.optimizer.state[p]:
            theirs, ours = a.optimizer.state[p], b.optimizer.state[q]
            assert theirs["step"] == ours["step"]
            scale = theirs["exp_avg"].abs().max().item() + 1e-6
            assert (theirs["exp_avg"] - ours["exp_avg"]).abs().max() <= 10 * tolerance * scale


@st.composite
def actor_critics(draw):
    sizes = st.lists(st.integers(1, 33), max_size=2)
    if draw(st.booleans()):
        head = CategoricalHead(draw(st.lists(st.integers(2, 5), min_size=1, max_size=3)))
    else:
        head = GaussianHead(draw(st.integers(1, 3)))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    module = ActorCritic(
        draw(st.integers(1, 20)), head.n_params, pi=draw(sizes), vf=draw(sizes), shared=draw(sizes),
        activation_fn=ACTIVATIONS[draw(st.sampled_from(KNOWN))], ortho_init=draw(st.booleans()),
        log_std_init=-0.3 if isinstance(head, GaussianHead) else None,
    )  # fmt: skip
    return module, head


def rollout(learner, head, rng, n):
    first = next(m for m in learner.policy.modules() if isinstance(m, nn.Linear))
    obs = rng.standard_normal((n, first.in_features)).astype(np.float32)
    action, log_prob, value = learner.act(obs, head.noise(rng, n))
    return obs, action, log_prob, value, *rng.standard_normal((2, n)).astype(np.float32)


limits = st.sampled_from([None, 0.4])


@settings(max_examples=6)
@given(actor_critics(), st.integers(0, 2**32), st.booleans(), limits, limits)
def test_a_hundred_updates_of_ppo(network, seed, normalize, clip_vf, max_norm):
    module, head = network
    theirs, ours = twins(module, ActorCriticLearner, CompiledActorCritic, head, eps=1e-5)
    rng = np.random.default_rng(seed)
    arrays = rollout(theirs, head, rng, 90)
    orders = np.stack([rng.permutation(90) for _ in range(34)])
    options = dict(batch_size=32, learning_rate=3e-4, clip_range=0.2, clip_range_vf=clip_vf,
                   normalize_advantage=normalize, ent_coef=0.01, vf_coef=0.5, max_grad_norm=max_norm,
                   target_kl=None)  # fmt: skip
    found, expected = (x.update_ppo(x.batch(*arrays), orders, **options) for x in (ours, theirs))
    assert found["n_updates"] == expected["n_updates"] == 102
    metrics_close(expected, found)
    assert_close(theirs, ours)


@settings(max_examples=6)
@given(actor_critics(), st.integers(0, 2**32), st.booleans(), st.sampled_from([None, 0.5]))
def test_a_hundred_updates_of_reinforce(network, seed, baseline, max_norm):
    module, head = network
    theirs, ours = twins(module, ActorCriticLearner, CompiledActorCritic, head, eps=1e-8)
    rng = np.random.default_rng(seed)
    options = dict(learning_rate=3e-4, baseline=baseline, vf_coef=0.5, ent_coef=0.01, max_grad_norm=max_norm)
    before = torch.cat([p.detach().flatten().clone() for p in ours.policy.vf.parameters()])
    for _ in range(100):
        arrays = rollout(theirs, head, rng, int(rng.integers(1, 150)))
        metrics_close(*(x.update_reinforce(x.batch(*arrays), **options) for x in (theirs, ours)))
    assert_close(theirs, ours)
    after = torch.cat([p.detach().flatten() for p in ours.policy.vf.parameters()])
    assert torch.equal(before, after) != baseline


@settings(max_examples=6)
@given(st.data(), st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from([None, 0.7]))
def test_a_hundred_updates_of_dqn(data, seed, double_q, huber, max_norm):
    obs_dim, n_actions = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    hidden = data.draw(st.lists(st.integers(1, 33), max_size=2))
    torch.manual_seed(seed)
    activation = ACTIVATIONS[data.draw(st.sampled_from(KNOWN))]
    module, target = (QNetwork(obs_dim, n_actions, hidden, activation) for _ in range(2))
    theirs, ours = twins(module, QLearner, CompiledQ, target, eps=1e-8)
    rng = np.random.default_rng(seed)
    for i in range(100):
        n = int(rng.integers(1, 40))
        obs, next_obs = rng.standard_normal((2, n, obs_dim)).astype(np.float32)
        discount = np.float32(0.9) if i % 2 else rng.random(n).astype(np.float32)
        arrays = (obs, rng.integers(n_actions, size=n), 3 * rng.standard_normal(n).astype(np.float32), discount,
                  next_obs, rng.random(n) < 0.3)  # fmt: skip
        options = dict(learning_rate=3e-4, double_q=double_q, huber=huber, max_grad_norm=max_norm)
        found, expected = (float(x.update(*arrays, **options)) for x in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
        if i % 20 == 7:
            for learner in (ours, theirs):
                learner.update_target(1.0 if i == 7 else 0.25)
    assert_close(theirs, ours)
    for p, q in zip(theirs.target.parameters(), ours.target.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)
