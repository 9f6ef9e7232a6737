"""Q-learning: the worked update, two ways of playing that must agree, what is learnt, and bad input."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numba
import numpy as np
import pytest
from gymnasium.envs.toy_text import FrozenLakeEnv
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Tuple
from hypothesis import given
from hypothesis import strategies as st

from fastrl import TabularMDP, evaluate_policy, q_learning
from fastrl.algorithms import q_learning as module
from fastrl.kernels.sampling import new_stream
from fastrl.kernels.tabular import any_greedy, epsilon_greedy, learn, note_greedy, td_update

# Some ten million steps: a second compiled, an hour interpreted (NUMBA_DISABLE_JIT=1).
many_steps = pytest.mark.slow if numba.config.DISABLE_JIT else lambda test: test


def test_the_worked_update():
    assert td_update(3.0, -1.0, 5.0, 0.1, 0.9) == pytest.approx(3.05, abs=1e-15)
    Q, greedy = np.array([[3.0, 1.0], [5.0, 2.0], [0.0, 0.0]]), np.array([0, 0, 0])
    learn(Q, greedy, 0, 0, -1.0, 1, 0.1, 0.9)
    np.testing.assert_allclose(Q, [[3.05, 1], [5, 2], [0, 0]], atol=1e-15)
    learn(Q, greedy, 1, 0, 2.0, 2, 0.5, 0.9)  # to the end: no more than the reward
    np.testing.assert_allclose(Q, [[3.05, 1], [3.5, 2], [0, 0]], atol=1e-15)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=9))
def test_greedy_actions(values):
    Q, greedy, stream = np.array([values]), np.array([-1]), new_stream(0)
    note_greedy(Q, greedy, 0)
    assert greedy[0] == epsilon_greedy(stream, Q, greedy, 0, 0.0, False) == np.argmax(values)
    chosen = {any_greedy(stream, Q, 0) for _ in range(200)}
    assert chosen == set(np.flatnonzero(Q[0] == Q[0].max()))


def test_random_actions_come_with_probability_epsilon():
    Q, greedy, stream = np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([1]), new_stream(0)
    actions = [epsilon_greedy(stream, Q, greedy, 0, 0.4, False) for _ in range(10_000)]
    assert abs(np.bincount(actions) - [1000, 7000, 1000, 1000]).max() < 200


def random_mdp(seed, gamma=0.9):
    rng, shape = np.random.default_rng(seed), (12, 3, 4)
    shares = rng.dirichlet(np.full(4, 0.3), shape[:2])
    over = rng.random(shape) < 0.1
    over[0, 0] = True
    return TabularMDP.from_successors(rng.integers(12, size=shape), shares, rng.normal(size=shape), over, gamma=gamma)


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def played():
    """A digest of learning and planning on random models."""
    results = []
    for seed in range(3):
        mdp = random_mdp(seed)
        run = q_learning(mdp, 60, 0.3, 0.9, 0.5, 0.99, seed=seed, max_steps=50, random_ties=seed == 1)
        plans = [mdp.value_iteration(), mdp.policy_iteration(), mdp.modified_policy_iteration()]
        results += [run.Q, run.returns, run.lengths, *(array for plan in plans for array in (plan.V, plan.Q))]
    blackjack = q_learning("Blackjack-v1", 50, seed=0)
    return digest(*results, blackjack.Q, blackjack.returns)


def test_kernels_equal_their_pure_python_selves_bit_for_bit():
    root = Path(__file__).parent.parent
    other = {**os.environ, "NUMBA_DISABLE_JIT": "0" if numba.config.DISABLE_JIT else "1", "PYTHONPATH": str(root)}
    code = "from tests.test_q_learning import played; print(played())"
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, env=other, cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == played(), run.stderr


class Untouched(gym.Wrapper):
    """A wrapper that does nothing, but for all that q_learning can tell might do anything."""


@pytest.mark.parametrize("random_ties", [False, True])
@pytest.mark.parametrize("env_id, kwargs", [("FrozenLake-v1", {"is_slippery": False}), ("CliffWalking-v1", {})])
def test_playing_the_model_equals_stepping_the_environment(env_id, kwargs, random_ties):
    """Where nothing is drawn by the environment, both draw the same numbers: bit for bit."""
    runs = [
        q_learning(env, 60, 0.5, seed=3, epsilon_decay=0.97, max_steps=15, random_ties=random_ties)
        for env in (gym.make(env_id, **kwargs), Untouched(gym.make(env_id, **kwargs)))
    ]
    for name in ("Q", "returns", "lengths"):
        np.testing.assert_array_equal(getattr(runs[0], name), getattr(runs[1], name))
    assert runs[0].lengths.max() == 15


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Taxi-v4", "CliffWalkingSlippery-v1"])
def test_playing_the_model_has_the_distribution_of_stepping_the_environment(env_id):
    env = gym.make(env_id)
    runs = [q_learning(e, 1500, 0.0, seed=0, epsilon_decay=1.0, max_steps=50) for e in (env, Untouched(env))]
    for name in ("returns", "lengths"):
        a, b = (getattr(run, name) for run in runs)
        assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var() + b.var()) / 1500)


def test_seeds_and_slices(monkeypatch):
    env = gym.make("FrozenLake-v1")
    first = q_learning(env, 300, seed=1)
    assert not env.get_wrapper_attr("has_reset")  # what the model tells needs no step
    same, other, fresh = q_learning("FrozenLake-v1", 300, seed=1), q_learning(env, 300, seed=2), q_learning(env, 300)
    assert digest(first.Q, first.returns, first.lengths) == digest(same.Q, same.returns, same.lengths)
    assert len({digest(run.lengths) for run in (first, other, fresh, q_learning(env, 300))}) == 4
    monkeypatch.setattr(module, "STEPS_PER_CALL", 7)
    sliced = q_learning(env, 300, seed=np.int64(1))
    assert digest(first.Q, first.returns, first.lengths) == digest(sliced.Q, sliced.returns, sliced.lengths)


def test_stepped_environments_follow_the_seed_too():
    runs = [q_learning("Blackjack-v1", 200, seed=seed) for seed in (5, 5, 6)]
    assert digest(runs[0].Q, runs[0].returns) == digest(runs[1].Q, runs[1].returns)
    assert digest(runs[0].returns) != digest(runs[2].returns)


class Bandit(gym.Env):
    """One state, one action, reward 1; terminates at `last`, if ever. States and actions count from `start`."""

    def __init__(self, last=None, start=0, reward=1.0, observation_space=None, action_space=None):
        self.observation_space = observation_space or Discrete(2, start=start)
        self.action_space = action_space or Discrete(1, start=start)
        self.start, self.last, self.reward = start, last, reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.start, {}

    def step(self, action):
        assert action == self.start
        self.steps += 1
        return self.start, self.reward, self.steps == self.last, False, {}


def loop(over):
    return TabularMDP.from_successors([[[0]]], [[[1.0]]], [[1.0]], [[[over]]])


@pytest.mark.parametrize("start", [0, 7])
def test_a_time_limit_is_no_end(start):
    """With r = 1 and γ = 0.9: V = 10 where episodes are only cut, and 1 where the first step ends them."""
    unit = dict(alpha=1.0, gamma=0.9, seed=0)
    for env, kwargs in [
        (gym.wrappers.TimeLimit(Bandit(start=start), 5), {}),
        (Bandit(start=start), {"max_steps": 5}),
        (loop(over=False), {"max_steps": 5}),
    ]:
        run = q_learning(env, 40, **unit, **kwargs)
        assert run.Q[0, 0] == pytest.approx(10, abs=1e-6)
        assert (run.lengths == 5).all() and (run.returns == 5).all()
    for env in (gym.wrappers.TimeLimit(Bandit(last=1, start=start), 5), loop(over=True)):
        run = q_learning(env, 40, **unit)
        assert run.Q[0, 0] == 1 and (run.lengths == 1).all()
    both = q_learning(Bandit(last=5, start=start), 400, alpha=0.5, gamma=0.9, max_steps=5)  # ended, not cut
    assert both.Q[0, 0] < 10


def test_the_shorter_time_limit_holds():
    lake = gym.make("FrozenLake8x8-v1", is_slippery=False, max_episode_steps=30)
    for env in (lake, Untouched(lake)):
        assert q_learning(env, 5, seed=0, epsilon=0.0, epsilon_min=0.0).lengths.max() == 30
        assert q_learning(env, 5, seed=0, epsilon=0.0, epsilon_min=0.0, max_steps=9).lengths.max() == 9
        assert q_learning(env, 5, seed=0, epsilon=0.0, epsilon_min=0.0, max_steps=99).lengths.max() == 30


def test_epsilon_falls_after_every_episode_down_to_its_minimum():
    """An action that is greedy at once and pays 1: the returns show how often another was taken."""
    rewards = np.eye(1, 10)
    arms = TabularMDP.from_successors(np.zeros((1, 10, 1), int), np.ones((1, 10, 1)), rewards)
    run = q_learning(arms, 40, epsilon_decay=0.9, epsilon_min=0.1, max_steps=5_000, seed=0, q_init=rewards)
    epsilon = np.maximum(0.9 ** np.arange(40), 0.1)
    np.testing.assert_allclose(run.returns / 5_000, 1 - 0.9 * epsilon, atol=0.035)


def test_q_init_starts_from_a_number_or_from_what_was_learnt():
    mdp = random_mdp(0)
    assert (q_learning(mdp, 3, 0.0, q_init=2.5).Q == 2.5).all()
    learnt = q_learning(mdp, 200, seed=0).Q
    kept, again, further = learnt.copy(), *(q_learning(mdp, 3, alpha, q_init=learnt).Q for alpha in (0.0, 0.5))
    np.testing.assert_array_equal(learnt, kept)
    np.testing.assert_array_equal(again, kept)
    assert (further != kept).any()


def reachable(mdp):
    """The states that an episode can visit."""
    table, seen = mdp.transitions, np.append(mdp.initial > 0, False)
    while True:
        entries = np.repeat(seen[:-1], mdp.n_actions).repeat(np.diff(table.indptr))
        before = seen.sum()
        seen[table.next_state[entries]] = True
        if seen.sum() == before:
            return seen[:-1]


@many_steps
@pytest.mark.parametrize(
    "env_id, kwargs, rates, arguments, error, loss",
    [
        # Without chance α = 0.5 goes all the way; with chance α falls, and the error is what the last α leaves.
        ("FrozenLake-v1", {"is_slippery": False}, [0.5], dict(episodes=20_000), 1e-9, 1e-9),
        ("FrozenLake8x8-v1", {"is_slippery": False}, [0.5], dict(episodes=99_999, epsilon=0.5, q_init=1.0), 0.02, 1e-9),
        ("CliffWalking-v1", {}, [0.5], dict(episodes=5_000, max_steps=1000), 1e-6, 1e-9),
        ("Taxi-v4", {}, [0.5], dict(episodes=20_000), 1e-6, 1e-9),
        ("FrozenLake-v1", {}, [0.1, 0.01, 0.001], dict(episodes=100_000), 0.1, 0.01),
        ("FrozenLake8x8-v1", {}, [0.1, 0.01, 0.003], dict(episodes=200_000, epsilon=0.5, q_init=1.0), 0.2, 0.02),
    ],
)
def test_learnt_q_approaches_that_of_value_iteration(env_id, kwargs, rates, arguments, error, loss):
    mdp = TabularMDP.from_env(env_id, **kwargs)
    best, visited = mdp.value_iteration(), reachable(mdp)
    for seed in range(3):
        run, arguments = None, dict(arguments)
        for alpha in rates:
            run = q_learning(gym.make(env_id, **kwargs), alpha=alpha, epsilon_decay=1.0, seed=seed, **arguments)
            arguments["q_init"] = run.Q
        assert abs(run.Q - best.Q)[visited].max() <= error
        value, optimum = (mdp.initial @ V for V in (mdp.policy_evaluation(run.policy()), best.V))
        assert value >= optimum - loss * abs(optimum) - 1e-7


@many_steps
def test_frozen_lake_by_default_on_ten_seeds():
    """Greedy play reaches the goal every time without slipping, and is within 2 % of the optimum with it."""
    straight, slippery = gym.make("FrozenLake-v1", is_slippery=False), TabularMDP.from_env("FrozenLake-v1")
    optimum = slippery.value_iteration().V[0]
    for seed in range(10):
        run = q_learning(straight, seed=seed)
        assert evaluate_policy(run, straight, 5) == (1.0, 0.0)
        run = q_learning("FrozenLake-v1", 100_000, alpha=0.05, epsilon_decay=0.99995, seed=seed)
        assert slippery.policy_evaluation(run.policy())[0] >= 0.98 * optimum


def test_blackjack():
    run = q_learning("Blackjack-v1", 15_000, alpha=0.02, gamma=1.0, epsilon_min=0.1, seed=0)
    assert run.Q.shape == (32 * 11 * 2, 2) and run.returns[-5000:].mean() > -0.2
    assert run.state_index((14, 10, 0)) == (14 * 11 + 10) * 2
    assert run.predict((20, 10, 0))[0] == 0  # stick
    assert [run.predict((total, 10, 0))[0] for total in (6, 8, 10)].count(1) >= 2  # hit
    np.testing.assert_array_equal(run.state_index((np.array([14, 2]), np.array([10, 0]), np.array([0, 1]))), [328, 45])


def test_observations_and_actions_that_do_not_count_from_zero():
    space = MultiDiscrete([3, 4], start=[1, 10])

    class Corner(Bandit):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.array([2, 13]), {}

        def step(self, action):
            return np.array([3, 10]), 1.0, True, False, {}

    run = q_learning(Corner(observation_space=space, action_space=Discrete(2, start=-1)), 50, seed=0)
    assert run.Q.shape == (12, 2) and (np.flatnonzero(run.Q.any(axis=1)) == [1 * 4 + 3]).all()
    assert run.predict(np.array([2, 13]))[0] == -1 + run.Q[7].argmax()
    np.testing.assert_array_equal(run.predict(np.array([[2, 13], [1, 10]]))[0], [-1 + run.Q[7].argmax(), -1])


def test_results_evaluate_like_any_model():
    run = q_learning(gym.make("FrozenLake-v1", is_slippery=False), seed=0)
    np.testing.assert_array_equal(run.predict(np.arange(16))[0], run.policy())
    assert run.policy().dtype == np.int64 and run.Q.dtype == run.returns.dtype == np.float64


def test_environments_that_do_more_than_their_model_are_stepped():
    class Generous(FrozenLakeEnv):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, 7.0, terminated, truncated, info

    run = q_learning(Generous(), 20, seed=0)
    assert (run.returns == 7 * run.lengths).all()
    doubled = gym.wrappers.TransformReward(gym.make("CliffWalking-v1"), lambda reward: 2 * reward)
    run = q_learning(doubled, 2, seed=0, max_steps=10)
    assert (run.returns <= -2 * run.lengths).all()
    assert q_learning(gym.make("Taxi-v4", fickle_passenger=True), 2, seed=0).lengths.sum() > 0


class Exposed(Bandit):
    """Says what it does, and must not be asked to do it."""

    P, initial_state_distrib = {0: {0: [(1.0, 1, 1.0, False)]}, 1: {0: [(1.0, 0, 5.0, True)]}}, [1.0, 0.0]

    def step(self, action):
        raise AssertionError("stepped")


def test_models_of_other_environments_are_taken_at_their_word():
    run = q_learning(Exposed(), 20, alpha=1.0, gamma=0.5)
    np.testing.assert_array_equal(run.Q, [[3.5], [5.0]])
    assert (run.returns == 6).all() and (run.lengths == 2).all()
    for other in (Exposed(observation_space=Discrete(3)), Exposed(action_space=Discrete(2)), Exposed(start=1)):
        with pytest.raises(AssertionError, match="stepped"):
            q_learning(other, 20)


class Nowhere(Bandit):
    def step(self, action):
        return 2, 1.0, False, False, {}


@pytest.mark.parametrize(
    "env, arguments, error, message",
    [
        ("FrozenLake-v1", dict(alpha=1.5), ValueError, r"alpha is 1.5; it must lie in \[0, 1\]"),
        ("FrozenLake-v1", dict(alpha=np.nan), ValueError, "alpha"),
        ("FrozenLake-v1", dict(gamma=-0.1), ValueError, "gamma"),
        ("FrozenLake-v1", dict(gamma="0.9"), TypeError, "gamma"),
        ("FrozenLake-v1", dict(epsilon=2), ValueError, "epsilon is 2"),
        ("FrozenLake-v1", dict(epsilon_decay=1.1), ValueError, "epsilon_decay"),
        ("FrozenLake-v1", dict(epsilon=0.0), ValueError, r"epsilon_min is 0.01; it must lie in \[0, 0.0\]"),
        ("FrozenLake-v1", dict(episodes=0), ValueError, "episodes is 0; it must be at least 1"),
        ("FrozenLake-v1", dict(episodes=10.0), TypeError, "episodes is 10.0; it must be an int"),
        ("FrozenLake-v1", dict(max_steps=0), ValueError, "max_steps is 0"),
        ("FrozenLake-v1", dict(seed=-1), ValueError, "seed must not be negative"),
        ("FrozenLake-v1", dict(seed=0.5), TypeError, "seed must be an integer"),
        ("FrozenLake-v1", dict(q_init=np.zeros((4, 16))), ValueError, r"q_init .* \(4, 16\); .* or \(16, 4\)"),
        ("FrozenLake-v1", dict(q_init=np.inf), ValueError, "q_init"),
        ("CartPole-v1", {}, TypeError, "takes Discrete, MultiDiscrete or a Tuple of Discrete"),
        ("Pendulum-v1", {}, TypeError, "q_learning takes Discrete actions"),
        ("FrozenLaek-v1", {}, gym.error.NameNotFound, "FrozenLake"),
        (np.zeros(3), {}, TypeError, "env is a ndarray; it must be an id, a gymnasium.Env or a TabularMDP"),
        (loop(over=False), {}, ValueError, "give max_steps"),
        (Bandit(reward=np.nan), dict(max_steps=5), ValueError, "reward nan in step 1 of episode 0"),
        (Bandit(reward=-np.inf), dict(max_steps=5), ValueError, "reward -inf in step 1 of episode 0"),
        (Nowhere(), dict(max_steps=5), ValueError, r"the observation 2 lies outside its space Discrete\(2\)"),
        (Bandit(observation_space=Tuple([Discrete(2), Box(0, 1)])), {}, TypeError, "is not supported"),
        (
            Bandit(observation_space=Tuple([Discrete(2)])),
            {},
            ValueError,
            "the observation 0 lies outside its space Tuple",
        ),
        (Bandit(observation_space=MultiDiscrete([2, 2])), {}, ValueError, "the observation 0 lies outside its space"),
    ],
)
def test_bad_input_is_refused(env, arguments, error, message):
    with pytest.raises(error, match=message):
        q_learning(env, **arguments)


@pytest.mark.parametrize("obs", [-1, 16, 3.0, np.array([0, 16]), np.array([0.5]), "3"])
def test_observations_outside_the_space_are_refused(obs):
    run = q_learning("FrozenLake-v1", 1)
    with pytest.raises(ValueError, match="lies outside its space"):
        run.predict(obs)


def test_an_error_of_the_environment_comes_through():
    class Broken(Bandit):
        def step(self, action):
            raise OSError("the robot fell")

    with pytest.raises(OSError, match="the robot fell"):
        q_learning(Broken(), 3)


def test_ctrl_c_stops_a_loop_that_would_run_for_ever():
    code = (
        "import fastrl, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may inherit that it is ignored\n"
        "from tests.test_q_learning import loop\nfastrl.q_learning(loop(False), 1, max_steps=5)\n"
        "print('ready', flush=True)\nfastrl.q_learning(loop(False), 1, max_steps=2**62)"
    )
    command, root, pipe = [sys.executable, "-c", code], Path(__file__).parent.parent, subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdout=pipe, stderr=pipe) as run:
        assert run.stdout.readline() == b"ready\n"
        run.send_signal(signal.SIGINT)
        try:
            assert b"KeyboardInterrupt" in run.communicate(timeout=120)[1]
        finally:
            run.kill()
