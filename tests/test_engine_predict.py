"""Prediction by either engine: one observation and many, from several threads, and what is explored."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given
from hypothesis import strategies as st

from fastrl import DQN, PPO
from fastrl.exploration import explore
from fastrl.networks import make_head
from tests.engines import both, make
from tests.envs import Identity
from tests.test_algorithms import ALGORITHMS

pytestmark = pytest.mark.usefixtures("few_threads")


SPACES = [Discrete(3), Discrete(3, start=-4), MultiDiscrete([2, 3], start=[1, 0]), MultiBinary([2, 2]),
          Box(np.float32([-0.1, 0]), np.float32([0.1, 3])), Box(-1, 1, (2, 2)),
          Box(-1, 1, (2,), np.float64)]  # fmt: skip


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_one_observation_gives_what_a_batch_gives(space, shape, normalize):
    """Action, dtype and shape; drawn ones from the same stream, whichever way an observation takes."""
    algorithms = [PPO, DQN] if isinstance(space, Discrete) else [PPO]
    for cls in algorithms:
        models = both(cls, lambda: Identity(space, Box(-9, 9, shape)), normalize=normalize)
        rng = np.random.default_rng(0)
        for model in models:
            model.total_timesteps = 100
            if normalize:
                model.normalizer.observe(3 * np.random.default_rng(1).standard_normal((50, model.obs_dim)) + 1)
        models[1].policy.load_state_dict(models[0].policy.state_dict())
        for deterministic in (True, False) * 20:
            obs = np.asarray(3 * rng.standard_normal(shape), np.float32)
            kept = obs.copy()
            forms = [obs, obs.astype(np.float64), obs.tolist(), obs[None], torch.from_numpy(obs)]
            frozen = obs.copy()
            frozen.setflags(write=False)
            theirs, ours = (m.predict(obs, deterministic=deterministic)[0] for m in models)
            assert type(theirs) is type(ours) and theirs.dtype == ours.dtype == space.dtype
            assert space.contains(ours)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(obs, kept)
            if deterministic:
                for form in [*forms, frozen]:
                    again = models[1].predict(form, deterministic=True)[0]
                    np.testing.assert_array_equal(again[0] if form is forms[3] else again, ours)
        assert models[0]._predict_rng.bit_generator.state == models[1]._predict_rng.bit_generator.state


def test_what_predict_returns_is_the_callers():
    model = make(PPO, "Pendulum-v1")
    first = model.predict(np.ones(3, np.float32), deterministic=True)[0]
    kept = first.copy()
    model.predict(np.full(3, -1, np.float32), deterministic=True)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_one_observation_is_checked_as_any_other(cls, value):
    for model in both(cls):
        for bad, message in ((np.float32([0, value, 0, 0]), "NaN or infinity"), (np.zeros(3, np.float32), "shape")):
            with pytest.raises(ValueError, match=message):
                model.predict(bad)


def test_threads_predict_while_another_trains():
    """Kernels run side by side, so each needs memory of its own; of the weights only their values change."""
    options = dict(learning_rate=0.0, policy_kwargs=dict(net_arch=[256, 256]))
    model = make(PPO, "Pendulum-v1", **options)
    obs = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    wrong = []

    def predict():
        for i in range(200):
            for found, right in (
                (model.predict(obs, deterministic=True)[0], expected),
                (model.predict(obs[i], deterministic=True)[0], expected[i]),
            ):
                if not np.allclose(found, right, rtol=1e-5, atol=1e-6):
                    wrong.append(found)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.learn(200)
    for thread in threads:
        thread.join()
    assert not wrong
    alone = make(PPO, "Pendulum-v1", **options).learn(200)
    assert {k: v for k, v in model.metrics.items() if k.split("/")[0] != "time"} == {
        k: v for k, v in alone.metrics.items() if k.split("/")[0] != "time"
    }


# -- exploration --------------------------------------------------------------------------------------------------


def test_one_number_decides_whether_and_what_to_explore():
    u = np.random.default_rng(0).random(200_000)
    action, explored = explore(u, 0.3, 5)
    np.testing.assert_array_equal(explored, u < 0.3)
    np.testing.assert_array_equal(action[explored], np.floor(u[explored] / 0.3 * 5))
    counts = np.bincount(action[explored], minlength=5)
    assert (np.abs(counts - 12_000) < 5 * np.sqrt(12_000)).all()


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.integers(1, 2**40))
def test_exploration_stays_within_the_actions(u, epsilon, n_actions):
    for x in (u, np.nextafter(epsilon, 0)):
        action, explored = explore(np.array([x]), epsilon, n_actions)
        assert explored[0] == (x < epsilon) and 0 <= action[0] < n_actions


def test_a_stretch_of_steps_draws_what_single_steps_draw():
    """[T, N] numbers at once are the same stream, so that either engine may draw as it likes."""
    one, two = np.random.default_rng(0), np.random.default_rng(0)
    many = one.random((7, 3))
    np.testing.assert_array_equal(many, [two.random(3) for _ in range(7)])
    for space in (Discrete(2), MultiDiscrete([2, 3, 4]), Box(-1, 1, (3,))):
        head = make_head(space)
        many = head.noise(one, 21).reshape(7, 3, -1)
        np.testing.assert_array_equal(many, [head.noise(two, 3) for _ in range(7)])
