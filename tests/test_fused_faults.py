"""Runs on compiled environments in which something goes wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from fastrl import DQN, PPO, REINFORCE, EnvironmentFailure
from fastrl.envs import environment, make_vec, uniform
from tests.test_algorithms import ALGORITHMS, make, weights
from tests.test_fused import COLUMNS, SMALLER, assert_same_buffers

pytestmark = pytest.mark.usefixtures("few_threads")


@environment
class Faulty:
    """[t, a number of the episode's own]; in some episodes something goes wrong at one of these steps."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(2)
    state_size = 2
    max_episode_steps = 12

    nan_reward, huge_reward, nan_obs, raises, out = 1e9, 1e9, 1e9, 1e9, 1e9
    rare = 0.8

    def reset(self, state, rng):
        state[1] = uniform(rng)

    def step(self, state, action, rng):
        state[0] += 1
        if state[1] > self.rare:
            if state[0] == self.nan_reward:
                return np.nan, False
            if state[0] == self.huge_reward:
                return 1e39, False
            if state[0] == self.raises:
                raise ValueError("the wheel fell off")
            if state[0] == self.out:
                state[2] = 1.0
        return 1.0 + action * state[1], False

    def observe(self, state, obs):
        obs[:] = state
        if state[0] == self.nan_obs and state[1] > self.rare:
            obs[0] = np.nan


FAULTS = {
    "nan_reward": (ValueError, "a reward"), "nan_obs": (ValueError, "an observation"),
    "raises": (EnvironmentFailure, "raised ValueError in step .*: the wheel fell off"),
    "out": (EnvironmentFailure, "raised IndexError in step"),
}  # fmt: skip


def fail(cls, by_steps, off, fault, **options):
    """A model that ran into `fault`, and (environment, step) of the error."""
    by_steps(off)
    env = make_vec(Faulty, 3, debug=fault == "out", **{fault: 7.0})
    model = cls("MlpPolicy", env, engine="compiled", **{**SMALLER[cls], "seed": 0, **options})
    error, message = FAULTS[fault]
    with pytest.raises(error, match=rf"environment \d .*{message}") as caught:
        model.learn(10_000)
    text = str(caught.value)
    return model, re.search(r"environment (\d) ", text)[1], re.search(r"at step (\d+)", text)[1]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_environment_that_fails(cls, by_steps, fault):
    """The error says where; weights and replay buffer are as the steps before left them; the model is good for more."""
    options = dict(buffer_size=20, n_steps=2, learning_starts=3) if cls is DQN else {}
    options |= dict(n_episodes=3, baseline=True) if cls is REINFORCE else {}
    (ours, *where), (theirs, *there) = (fail(cls, by_steps, off, fault, **options) for off in (False, True))
    assert where == there and where[0] == "2"  # when the others of this step are done
    assert torch.equal(weights(ours), weights(theirs)) and ours.n_updates == theirs.n_updates
    assert [int(s["step"]) for s in ours.learner.optimizer.state.values()] == [
        int(s["step"]) for s in theirs.learner.optimizer.state.values()
    ]
    if cls is DQN:
        assert_same_buffers(ours, theirs)
        assert (ours.num_timesteps, ours.episodes) == (theirs.num_timesteps, theirs.episodes)
        check_transitions(ours)
    assert ours.env.calls == theirs.env.calls == int(where[1]) - 1
    by_steps(False)
    ours.learn(6, reset_num_timesteps=False) if cls is DQN else None
    ours.set_env(make_vec(Faulty, 3))
    ours.learn(200)
    assert np.isfinite(weights(ours).numpy()).all()
    if cls is DQN:
        check_transitions(ours)


def check_transitions(model):
    buffer = model.replay_buffer
    obs, action, reward, next_obs, terminated, truncated = (np.array(buffer[name]) for name in COLUMNS)
    np.testing.assert_array_equal(next_obs, obs + np.float32([1, 0]))
    np.testing.assert_allclose(reward, 1 + action * obs[:, 1], rtol=1e-6)
    assert not terminated.any() and truncated[next_obs[:, 0] == 12].all()


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_reward_beyond_float32(cls):
    model = make(cls, make_vec(Faulty, 3, huge_reward=7.0))
    with pytest.raises(ValueError, match=r"environment \d returned a reward of 1e\+39 at step \d+; .*float32"):
        model.learn(10_000)
    assert np.isfinite(weights(model).numpy()).all()


@pytest.mark.parametrize("cell", [10, -1, 4.5, np.nan, 1e300])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_discrete_observation_outside_its_space(cls, cell):
    """Written one-hot where it says, it would be written anywhere."""

    @environment
    class Lost:
        observation_space = Discrete(10)
        action_space = Discrete(2)
        state_size = 1
        max_episode_steps = 20
        cell = 0.0

        def reset(self, state, rng):
            pass

        def step(self, state, action, rng):
            state[0] += 1
            return 1.0, False

        def observe(self, state, obs):
            obs[0] = state[0] if state[0] < 5 else self.cell

    model = make(cls, make_vec(Lost, 2, cell=float(cell)))
    with pytest.raises(ValueError, match=r"environment 0 returned an observation .*Discrete\(10\)"):
        model.learn(100)


@pytest.mark.parametrize("cls", [PPO, REINFORCE])
def test_actions_that_are_not_finite(cls):
    model = make(cls, "fastrl/Pendulum-v1", n_envs=2)
    with torch.no_grad():
        model.policy.pi[-1].bias.fill_(np.nan)
    with pytest.raises(ValueError, match="action for environment 0 is not finite at step 1"):
        model.learn(100)


def test_reinforce_on_episodes_that_do_not_end(monkeypatch):
    monkeypatch.setattr("fastrl.algorithms.reinforce.LONGEST", 600)
    model = make(REINFORCE, make_vec(Faulty, 2, max_episode_steps=0))
    before = weights(model)
    with pytest.raises(ValueError, match=r"still not ended its episodes.*time limit"):
        model.learn(1000)
    assert torch.equal(weights(model), before)
    monkeypatch.setattr("fastrl.algorithms.reinforce.CHUNK", 600)
    make(REINFORCE, make_vec(Faulty, 2, max_episode_steps=600)).learn(10)  # it does end, if late
