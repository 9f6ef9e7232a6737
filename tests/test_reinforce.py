"""REINFORCE's own parts: returns, normalisation, whole episodes, the baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch.distributions import Categorical

from fastrl import REINFORCE
from fastrl.learners.torch import Batch
from fastrl.networks import ActorCritic
from tests.envs import Counter


def first_batch(monkeypatch, env, **options):
    """The batch of the first update, the weights before it, and the model after it."""
    batches = []
    model = REINFORCE("MlpPolicy", env, seed=0, **options)
    original = model.learner.update_reinforce

    def spy(batch, **kwargs):
        batches.append(Batch(*map(torch.as_tensor, batch)))
        return original(batch, **kwargs)

    monkeypatch.setattr(model.learner, "update_reinforce", spy)
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(1)
    return batches[0], before, model


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("truncate", [False, True])
def test_one_update_uses_whole_episodes_of_every_environment(monkeypatch, mode, truncate):
    env = SyncVectorEnv([lambda: Counter(2, truncate), lambda: Counter(5, truncate, first=100)], autoreset_mode=mode)
    batch, _, _ = first_batch(monkeypatch, env, n_episodes=4, normalize_returns=False, gamma=0.5)
    rows = sorted(map(tuple, batch.obs.tolist()))
    assert rows == [(e, t) for e, n in ((1, 2), (2, 2), (101, 5), (102, 5)) for t in range(n)]
    for (_, t), weight in zip(batch.obs.tolist(), batch.advantage.tolist(), strict=True):
        length = 2 if _ < 100 else 5
        # rewards are t + 1; without a baseline a time limit cannot bootstrap
        assert weight == pytest.approx(sum(0.5 ** (k - t) * (k + 1) for k in range(int(t), length)))


def test_returns_are_normalised_over_the_update(monkeypatch):
    batch, _, _ = first_batch(monkeypatch, "CartPole-v1", n_episodes=3, n_envs=2)
    assert batch.advantage.mean().abs() < 1e-5
    assert batch.advantage.std(unbiased=False) == pytest.approx(1, abs=1e-4)


def test_the_update_is_the_policy_gradient(monkeypatch):
    batch, before, model = first_batch(monkeypatch, "CartPole-v1", n_episodes=2, learning_rate=1e-2, ent_coef=0.02)
    twin = ActorCritic(4, 2)
    twin.load_state_dict(before)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-2)
    d = Categorical(logits=twin(batch.obs)[0])
    (-(d.log_prob(batch.action[:, 0]) * batch.advantage).mean() - 0.02 * d.entropy().mean()).backward()
    optimizer.step()
    for a, b in zip(model.policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)  # Adam divides tiny gradients by their size


def test_the_baseline_is_subtracted_and_bootstraps_truncated_episodes(monkeypatch):
    batch, before, _ = first_batch(monkeypatch, lambda: Counter(3, truncate=True), baseline=True,
                                   normalize_returns=False, gamma=0.5)  # fmt: skip
    twin = ActorCritic(2, 2)
    twin.load_state_dict(before)
    with torch.no_grad():
        values = twin(torch.tensor([[1.0, 0], [1, 1], [1, 2], [1, 3]]))[1].numpy()
    returns = [1 + 0.5 * (2 + 0.5 * (3 + 0.5 * values[3])), 2 + 0.5 * (3 + 0.5 * values[3]), 3 + 0.5 * values[3]]
    np.testing.assert_allclose(batch.returns, returns, rtol=1e-5)
    np.testing.assert_allclose(batch.advantage, returns - values[:3], rtol=1e-5)


def test_without_a_baseline_the_value_network_stays(monkeypatch):
    _, before, model = first_batch(monkeypatch, "CartPole-v1", baseline=False)
    assert torch.equal(model.policy.vf[0].weight, before["vf.0.weight"])
    _, before, model = first_batch(monkeypatch, "CartPole-v1", baseline=True)
    assert not torch.equal(model.policy.vf[0].weight, before["vf.0.weight"])


def test_an_update_takes_as_many_episodes_as_asked():
    model = REINFORCE("MlpPolicy", lambda: Counter(4), n_episodes=3, seed=0).learn(12)
    assert (model.n_updates, model.num_episodes, model.num_timesteps) == (1, 3, 12)


def test_later_updates_use_whole_episodes_too(monkeypatch):
    """The second environment is in the middle of an episode when the first update begins, and starts anew."""
    batches = []
    env = SyncVectorEnv([lambda: Counter(2), lambda: Counter(5, first=100)], autoreset_mode=AutoresetMode.SAME_STEP)
    model = REINFORCE("MlpPolicy", env, n_episodes=2, learning_rate="lin_0.1", max_grad_norm=0.3, seed=0)
    original = model.learner.update_reinforce

    def spy(batch, **options):
        batches.append((Batch(*map(torch.as_tensor, batch)), options))
        return original(batch, **options)

    monkeypatch.setattr(model.learner, "update_reinforce", spy)
    model.learn(40)
    assert len(batches) == 4
    for batch, options in batches:
        for episode in batch.obs[:, 0].unique():
            steps = batch.obs[batch.obs[:, 0] == episode, 1].tolist()
            assert steps == list(range(2 if episode < 100 else 5))
        assert options["max_grad_norm"] == 0.3
    np.testing.assert_allclose([o["learning_rate"] for _, o in batches], [0.075, 0.05, 0.025, 0.0], atol=1e-12)


def test_a_single_step_is_learnt_from():
    model = REINFORCE("MlpPolicy", lambda: Counter(1), seed=0)
    before = model.policy.pi[0].weight.clone()
    model.learn(5)
    assert not torch.equal(model.policy.pi[0].weight, before)


def test_an_environment_without_ends(monkeypatch):
    monkeypatch.setattr("fastrl.algorithms.reinforce.LONGEST", 200)
    with pytest.raises(ValueError, match="TimeLimit"):
        REINFORCE("MlpPolicy", lambda: Counter(10**9), seed=0).learn(1000)
