"""The compiled classics and tables against Gymnasium's own, on the same states and actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from fastrl import TabularMDP
from fastrl.envs import make_vec, tabular
from fastrl.envs.classic import HOME, TABLES, find
from fastrl.kernels.environment import reset_one, step_one
from fastrl.kernels.sampling import new_stream

STEPS = 100_000
TOLERANCE = 1e-12  # of states and rewards, absolute and relative; observations are those numbers in float32
REWARD = {"Pendulum-v1": 1e-9}  # Gymnasium squares the torque in float32, and not quite as a product does
SINGLE = {"MountainCarContinuous-v0"}  # Gymnasium keeps its state in float32
CUT = 2e-7  # ... and rounds it elsewhere while an action is cut


@pytest.mark.parametrize("id", HOME)
def test_equals_gymnasium(id):
    theirs, ours, rng = gym.make(id).unwrapped, find(id), new_stream(0)
    handle, generator = ours.handle(), np.random.default_rng(0)
    theirs.reset(seed=0)
    theirs.action_space.seed(0)
    state, obs = np.zeros(ours.state_size), np.zeros(ours.obs_size, np.float32)
    box, ended, length = isinstance(ours.action_space, gym.spaces.Box), 0, 0
    reset_one(handle, state, rng, obs)
    for _ in range(STEPS):
        if generator.random() < 0.005:  # so that rare states come about too: at an end, or fast
            state *= generator.uniform(0.5, 2, len(state))
        if id in SINGLE:
            state[:] = state.astype(np.float32)
        theirs.state = state.astype(np.float32) if id in SINGLE else state.copy()
        theirs.steps_beyond_terminated = None
        action = theirs.action_space.sample()
        if box:
            action = (1.5 * action).astype(np.float32)  # what is beyond is cut by both
        expected = theirs.step(action)
        reward, terminated = step_one(handle, state, action, rng, obs)
        exact = CUT if id in SINGLE and abs(action[0]) > 1 else TOLERANCE
        np.testing.assert_allclose(state, np.asarray(theirs.state, np.float64), exact, exact)
        tolerance = REWARD.get(id, TOLERANCE)
        np.testing.assert_allclose(reward, expected[1], tolerance, tolerance)
        np.testing.assert_allclose(obs, expected[0], 2e-7, exact)
        assert terminated == expected[2]
        length += 1
        if terminated or length == ours.max_episode_steps:
            reset_one(handle, state, rng, obs)
            length, ended = 0, ended + 1
    assert ended > 10


@pytest.mark.parametrize("id", HOME)
def test_has_the_spaces_and_limits_of_gymnasium(id):
    theirs, ours = gym.make(id), find(id)
    spec = gym.spec(f"fastrl/{id}")
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    assert ours.max_episode_steps == theirs.spec.max_episode_steps == spec.max_episode_steps
    assert ours.reward_threshold == theirs.spec.reward_threshold == spec.reward_threshold


@pytest.mark.parametrize("id", HOME)
def test_first_states_are_spread_as_gymnasiums(id):
    theirs, ours, rng = gym.make(id).unwrapped, find(id), new_stream(0)
    state, obs = np.zeros(ours.state_size), np.zeros(ours.obs_size, np.float32)
    theirs.reset(seed=0)
    first: dict[str, list] = {"ours": [], "theirs": []}
    for _ in range(4000):
        reset_one(ours.handle(), state, rng, obs)
        first["ours"].append(state.copy())
        theirs.reset()
        first["theirs"].append(np.array(theirs.state))
    quantiles = [np.quantile(first[who], [0, 0.25, 0.5, 0.75, 1], axis=0) for who in first]
    width = np.ptp(first["theirs"], axis=0).max()
    np.testing.assert_allclose(*quantiles, atol=0.06 * width)


@pytest.mark.parametrize(
    "id, constants, kwargs",
    [
        ("CartPole-v1", {"sutton_barto_reward": True}, {"sutton_barto_reward": True}),
        ("Pendulum-v1", {"g": 3.7}, {"g": 3.7}),
        ("MountainCar-v0", {"goal_velocity": 0.02}, {"goal_velocity": 0.02}),
        ("MountainCarContinuous-v0", {"goal_velocity": 0.02}, {"goal_velocity": 0.02}),
    ],
)
def test_takes_gymnasiums_arguments(id, constants, kwargs):
    """The same episode in both, started in the same state; an argument that did nothing would show."""
    theirs, ours, plain = gym.make(id, **kwargs).unwrapped, find(id, **constants), find(id)
    theirs.reset(seed=1)
    theirs.action_space.seed(1)
    rng, differs = new_stream(1), False
    obs = np.zeros(ours.obs_size, np.float32)
    for _ in range(2000):
        start = np.array([0.52, 0.01]) if id.startswith("Mountain") else np.array(theirs.state, np.float64)
        theirs.state = start.astype(np.float32) if id in SINGLE else start.copy()
        action = theirs.action_space.sample()
        one, other = start.copy(), start.copy()
        if id in SINGLE:
            one, other = one.astype(np.float32).astype(float), other.astype(np.float32).astype(float)
        result = step_one(ours.handle(), one, action, rng, obs)
        expected = theirs.step(action)
        np.testing.assert_allclose(result, (expected[1], expected[2]), 1e-9, 1e-9)
        np.testing.assert_allclose(one, np.asarray(theirs.state, np.float64), TOLERANCE, TOLERANCE)
        differs |= result != step_one(plain.handle(), other, action, rng, obs) or bool((one != other).any())
        if expected[2]:
            theirs.reset()
    assert differs


def model_of(id, **kwargs):
    env = gym.make(id, **kwargs)
    return env, env.unwrapped.P, np.asarray(env.unwrapped.initial_state_distrib)


@pytest.mark.parametrize("id, kwargs", [(id, {}) for id in TABLES] + [("FrozenLake-v1", {"is_slippery": False})])
def test_tables_are_gymnasiums(id, kwargs):
    """Every pair of a state and an action leads where Gymnasium's table says, as often, with its reward and end."""
    env, P, first = model_of(id, **kwargs)
    ours, rng = find(f"fastrl/{id}", **kwargs), new_stream(0)
    assert (ours.observation_space, ours.action_space) == (env.observation_space, env.action_space)
    assert ours.max_episode_steps == (env.spec.max_episode_steps or 0)
    assert ours.reward_threshold == env.spec.reward_threshold
    handle, state, obs = ours.handle(), np.zeros(1), np.zeros(1, np.float32)
    generator, trials = np.random.default_rng(0), 20 if id.startswith("Taxi") else 600
    for s in generator.permutation(len(P))[:40]:
        for a in range(len(P[s])):
            expected: dict[tuple, float] = {}
            for probability, target, reward, terminated in P[s][a]:
                key = (int(target), float(reward), bool(terminated))
                expected[key] = expected.get(key, 0) + probability
            seen: dict[tuple, float] = dict.fromkeys(expected, 0.0)
            for _ in range(trials):
                state[0] = s
                reward, terminated = step_one(handle, state, a, rng, obs)
                assert obs[0] == state[0]
                seen[int(state[0]), reward, terminated] += 1 / trials  # a KeyError: it cannot happen in theirs
            for key, probability in expected.items():
                assert abs(seen[key] - probability) < 5 * np.sqrt(probability * (1 - probability) / trials) + 1e-9
    counts = np.zeros(len(P))
    for _ in range(3000):
        reset_one(handle, state, rng, obs)
        counts[int(state[0])] += 1 / 3000
    assert (counts[first == 0] == 0).all() and abs(counts - first).max() < 5 * np.sqrt(first.max() / 3000)


def test_a_table_from_an_mdp():
    P = np.zeros((3, 2, 3))
    P[0, 0, 1] = P[0, 1, 2] = P[1, :, 0] = P[2, :, 2] = 1
    R = np.array([[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]])
    env = tabular(TabularMDP(P, R, terminal=np.array([False, False, True])), max_episode_steps=3)
    assert env.observation_space == gym.spaces.Discrete(3) and env.max_episode_steps == 3
    envs = make_vec(env, 1)
    envs.reset(seed=0)
    envs.states[:] = 0
    obs, reward, terminated, truncated, _ = envs.step(np.array([0]))
    assert (obs, reward, terminated, truncated) == (1, 1, False, False)
    obs, reward, terminated, truncated, _ = envs.step(np.array([1]))
    assert (obs, reward, terminated, truncated) == (0, 4, False, False)
    obs, reward, terminated, truncated, infos = envs.step(np.array([1]))
    assert (reward, terminated, truncated) == (2, True, True) and obs[0] in (0, 1)
    assert infos["final_obs"][0] == 0  # an MDP does not say in which state it ended: the state before


def test_what_is_no_table():
    with pytest.raises(ValueError, match="does not expose a model"):
        tabular(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="does not expose a model"):
        tabular("Taxi-v4", fickle_passenger=True)
    with pytest.raises(TypeError, match="it must be an id, a gymnasium"):
        tabular(3)
