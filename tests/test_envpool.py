"""EnvPool's environments are accepted as they are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fastrl import DQN, PPO, REINFORCE, evaluate_policy
from fastrl.envs.stepper import make_stepper

envpool = pytest.importorskip("envpool", reason="EnvPool is not installed: pip install 'fastrl[envpool]'")


@pytest.mark.parametrize("env_type", ["gymnasium", "gym"])
def test_transitions_are_cartpoles_and_resets_are_none(env_type):
    env = envpool.make("CartPole-v1", env_type=env_type, num_envs=5, seed=3, max_episode_steps=25)
    stepper, rng, lengths, n_invalid = make_stepper(env), np.random.default_rng(0), np.zeros(5, int), 0
    obs, finished = stepper.reset(), []
    for _ in range(200):
        step = stepper.step(rng.integers(2, size=5))
        follows = np.isclose(step.final_obs[:, 0], obs[:, 0] + 0.02 * obs[:, 1], atol=1e-5)  # x' = x + τ ẋ
        np.testing.assert_array_equal(follows, step.valid)
        lengths += step.valid
        np.testing.assert_array_equal(step.truncated & ~step.terminated, (lengths == 25) & step.valid)
        for i in np.flatnonzero(step.terminated | step.truncated):
            finished.append((float(lengths[i]), int(lengths[i])))  # each step pays 1
            lengths[i] = 0
        obs, n_invalid = step.obs, n_invalid + (~step.valid).sum()
    assert stepper.take_finished() == finished and len(finished) - 5 <= n_invalid <= len(finished)
    assert any(length == 25 for _, length in finished) and any(length < 25 for _, length in finished)
    stepper.close()


@pytest.mark.parametrize(
    ("algorithm", "env_id", "kwargs"),
    [
        (PPO, "LunarLander-v3", dict(n_steps=64)),
        (PPO, "Pendulum-v1", dict(n_steps=64, normalize=True)),
        (PPO, "FrozenLake-v1", dict(n_steps=64)),
        (DQN, "CartPole-v1", dict(learning_starts=20, buffer_size=500)),
        (REINFORCE, "CartPole-v1", dict(n_episodes=4, baseline=True)),
    ],
)
def test_every_algorithm_trains_evaluates_and_saves(algorithm, env_id, kwargs, tmp_path):
    def make():
        return envpool.make(env_id, env_type="gymnasium", num_envs=4, seed=1, num_threads=1)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="EnvPool seeds")
        model = algorithm("MlpPolicy", make(), seed=0, **kwargs).learn(300)
        model.save(tmp_path / "model")
        again = algorithm.load(tmp_path / "model", env=make()).learn(300, reset_num_timesteps=False)
        assert again.num_timesteps > model.num_timesteps >= 300
        returns, _ = evaluate_policy(model, make(), n_eval_episodes=2, return_episode_rewards=True)
    assert np.isfinite(returns).all()


def test_the_seed_is_that_of_its_making():
    def first(made, given):
        return make_stepper(envpool.make("CartPole-v1", env_type="gymnasium", num_envs=2, seed=made)).reset(given)

    np.testing.assert_array_equal(first(1, 5), first(1, 6))
    assert (first(1, 5) != first(2, 5)).any()


def test_batches_of_fewer_environments():
    env = envpool.make("CartPole-v1", env_type="gymnasium", num_envs=4, batch_size=2)
    with pytest.raises(ValueError, match=r"fewer of its 4 environments.*without batch_size"):
        PPO("MlpPolicy", env)
