"""Running normalisation against its definition over everything seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl import PPO
from fastrl.kernels import normalize as kernels
from fastrl.kernels.normalize import CLIP
from fastrl.normalize import Normalizer
from tests.envs import Counter
from tests.reference import normalize as reference


def moments(rng, n):
    return rng.normal(size=n), rng.uniform(0.1, 9, n), rng.uniform(1e-4, 1e3, 1)


@given(seed=st.integers(0, 2**32), n=st.integers(0, 40), dim=st.integers(1, 12))
def test_kernels_on_observations_are_their_definition(seed, n, dim):
    rng = np.random.default_rng(seed)
    stats, batch = moments(rng, dim), rng.normal(2, 3, size=(n, dim)).astype(np.float32)
    expected = reference.observe(batch, *stats)
    kernels.observe(batch, *stats)
    for found, wanted in zip(stats, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    out = np.full_like(batch, np.nan)
    kernels.normalize(batch, *stats[:2], out)
    np.testing.assert_array_equal(out, reference.normalize(batch, *stats[:2]))
    kernels.normalize(batch, *stats[:2], batch)
    np.testing.assert_array_equal(batch, out)


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), share=st.sampled_from([0, 0.5, 1]))
def test_kernel_on_rewards_is_its_definition(seed, n, share):
    rng = np.random.default_rng(seed)
    stats, returns, reward = moments(rng, 1), rng.normal(size=n), rng.normal(2, 30, size=n)
    done, valid, out = rng.random(n) < 0.3, rng.random(n) < share, np.empty(n, np.float32)
    expected = reference.scale_reward(reward, done, valid, 0.9, returns, *stats)
    kernels.scale_reward(reward, done, valid, 0.9, returns, *stats, out)
    for found, wanted in zip((returns, *stats, out), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)


def test_nan_is_not_clipped_away():
    assert np.isnan(Normalizer(1, 1, 0.9).obs(np.full((1, 1), np.nan, np.float32))).all()


def test_a_state_does_not_move_with_the_statistics_it_came_from():
    normalizer = Normalizer(2, 3, 0.9)
    state, untouched = normalizer.state(), Normalizer(2, 3, 0.9).state()
    normalizer.observe(np.ones((5, 2)))
    normalizer.reward(np.ones(3), np.zeros(3, bool), np.ones(3, bool))
    assert all(np.array_equal(state[key], untouched[key]) for key in state)
    assert not any(np.array_equal(array, untouched[key]) for key, array in normalizer.state().items())
    other = Normalizer(2, 3, 0.9)
    other.load(normalizer.state())
    assert all(np.array_equal(array, other.state()[key]) for key, array in normalizer.state().items())


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
