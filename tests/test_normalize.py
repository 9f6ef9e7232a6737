"""Running normalisation against its definition over everything seen."""

from __future__ import annotations

import numpy as np
import pytest

from fastrl import PPO
from fastrl.normalize import CLIP, Normalizer
from tests.envs import Counter


def test_observations_by_mean_and_deviation_of_all_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(5, 3, size=(n, 4)) for n in (1, 7, 500, 3)]
    normalizer = Normalizer(4, 2, 0.99)
    for batch in batches:
        normalizer.observe(batch)
    seen = np.concatenate(batches)
    new = rng.normal(5, 3, size=(10, 4))
    expected = (new - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(normalizer.obs(new), expected, rtol=1e-3, atol=1e-3)
    assert normalizer.obs(np.full((1, 4), 1e9)).max() == CLIP and normalizer.obs(np.full((1, 4), -1e9)).min() == -CLIP


def test_rewards_by_the_deviation_of_the_discounted_return():
    rng, gamma = np.random.default_rng(1), 0.9
    reward, done = rng.normal(2, 5, size=(300, 3)), rng.random((300, 3)) < 0.1
    valid = rng.random((300, 3)) < 0.8
    normalizer, running, seen = Normalizer(1, 3, gamma), np.zeros(3), []
    for t in range(300):
        found = normalizer.reward(reward[t], done[t], valid[t])
        running = running * gamma + reward[t]
        seen += running[valid[t]].tolist()
        running = np.where(done[t], 0, running)  # the next episode's return begins at 0
        np.testing.assert_array_equal(normalizer.returns, running)
    np.testing.assert_allclose(found, np.clip(reward[-1] / np.std(seen), -CLIP, CLIP), rtol=1e-2)
    assert normalizer.reward(np.full(3, 1e9), done[0], valid[0]).max() == CLIP


def test_what_a_rollout_holds_is_normalised_final_observations_too():
    model = PPO("MlpPolicy", lambda: Counter(length=9, truncate=True), n_steps=40, normalize=True, learning_rate=0.0,
                seed=0)  # fmt: skip
    values = []
    original = model.learner.value
    model.learner.value = lambda obs: (values.append(obs), original(obs))[1]
    model.learn(40)
    rollout = model._rollout
    assert np.abs(rollout.obs).max() <= CLIP and np.abs(rollout.obs[20:, 0, 1]).max() < 3
    assert rollout.reward[20:].max() < 5  # raw, it is 9
    final = np.concatenate(values[:-1])
    assert len(final) == 4 and np.abs(final).max() <= CLIP and final[-1, 1] < 3  # raw, it is 9


def test_returns_restart_with_new_episodes():
    model = PPO("MlpPolicy", lambda: Counter(length=50), n_steps=20, normalize=True, seed=0).learn(20)
    assert model.normalizer.returns[0] > 10
    model._new_episodes()
    assert model.normalizer.returns[0] == 0


@pytest.mark.parametrize("damage", [dict(missing="obs.mean"), dict(other="obs.var")])
def test_statistics_that_do_not_fit_change_nothing(damage):
    normalizer = Normalizer(3, 1, 0.9)
    normalizer.observe(np.ones((5, 3)))
    state, before = normalizer.state(), normalizer.obs(np.ones((1, 3)))
    if "missing" in damage:
        del state[damage["missing"]]
    else:
        state[damage["other"]] = np.zeros(7)
    with pytest.raises(ValueError, match="missing or of another shape"):
        normalizer.load(state)
    np.testing.assert_array_equal(normalizer.obs(np.ones((1, 3))), before)
