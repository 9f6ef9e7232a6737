"""TabularMDP against Bellman's equations written out, the environments' own models, and bad input."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from fastrl import TabularMDP, sweeps
from tests.reference import tabular as reference

SOLVERS = ["value_iteration", "policy_iteration", "modified_policy_iteration"]
ENVS = [
    ("FrozenLake-v1", {"is_slippery": False}),
    ("FrozenLake-v1", {}),
    ("FrozenLake-v1", {"success_rate": 0.8, "reward_schedule": (2, -1, -0.1)}),
    ("FrozenLake8x8-v1", {"is_slippery": False}),
    ("FrozenLake8x8-v1", {}),
    ("CliffWalking-v1", {}),
    ("CliffWalkingSlippery-v1", {}),
    ("Taxi-v4", {}),
    ("Taxi-v4", {"is_rainy": True}),
]


@st.composite
def mdps(draw, ending=True):
    """P(s' | s, a), R(s, a, s'), terminal, γ: random, sparse in part."""
    n_states, n_actions = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    P = rng.exponential(size=(n_states, n_actions, n_states)) * (rng.random((n_states, n_actions, n_states)) < 0.5)
    P[..., rng.integers(n_states)] += 0.1
    P /= P.sum(axis=2, keepdims=True)
    R = rng.normal(scale=draw(st.sampled_from([1e-3, 1, 1e3])), size=P.shape)
    terminal = (rng.random(n_states) < 0.3) & ending
    return P, R, terminal, draw(st.sampled_from([0.0, 0.3, 0.9, 0.99]))


@pytest.mark.parametrize("solver", SOLVERS)
def test_three_states_by_hand(solver):
    right, rewards = np.zeros((3, 1, 3)), np.array([[5.0], [2.0], [1.0]])
    right[[0, 1, 2], 0, [1, 2, 2]] = 1  # A → B → C → C
    solution = getattr(TabularMDP(right, rewards, gamma=0.9), solver)()
    np.testing.assert_allclose(solution.V, [14.9, 11, 10], atol=1e-8)
    np.testing.assert_allclose(solution.Q[:, 0], [14.9, 11, 10], atol=1e-8)


@pytest.mark.parametrize("solver", SOLVERS)
@given(mdp=mdps())
def test_solvers_find_the_optimal_values(solver, mdp):
    P, R, terminal, gamma = mdp
    tol = 1e-8 * abs(R).max()
    model = TabularMDP(P, R, terminal, gamma=gamma)
    solution = getattr(model, solver)(tol=tol)
    V = reference.optimal_values(P, R, terminal, gamma)
    rounding = 1e-12 * abs(R).max() / (1 - gamma)
    assert abs(solution.V - V).max() <= tol + rounding
    assert abs(solution.V - V).max() <= solution.residual / (1 - gamma) + rounding
    np.testing.assert_allclose(solution.Q, reference.q_values(P, R, terminal, gamma, solution.V), atol=rounding)
    greedy = np.eye(P.shape[1])[solution.policy]
    assert (V - reference.policy_values(P, R, terminal, gamma, greedy)).max() <= 2 * tol + rounding
    assert (solution.V[terminal] == 0).all() and (solution.Q[terminal] == 0).all()


@given(mdp=mdps(), seed=st.integers(0, 2**32 - 1))
def test_policy_evaluation_solves_the_linear_system(mdp, seed):
    P, R, terminal, gamma = mdp
    model, rng = TabularMDP(P, R, terminal, gamma=gamma), np.random.default_rng(seed)
    mixed = rng.dirichlet(np.ones(P.shape[1]), len(P)) * (rng.random(P.shape[:2]) < 0.5)
    mixed[np.arange(len(P)), rng.integers(P.shape[1], size=len(P))] += 0.1
    mixed /= mixed.sum(axis=1, keepdims=True)
    pure = rng.integers(P.shape[1], size=len(P))
    tol = 1e-8 * abs(R).max()
    for policy, share in [(mixed, mixed), (pure, np.eye(P.shape[1])[pure]), (pure.astype(np.int8), None)]:
        share = np.eye(P.shape[1])[pure] if share is None else share
        V = reference.policy_values(P, R, terminal, gamma, share)
        assert abs(model.policy_evaluation(policy, tol=tol) - V).max() <= 1.01 * tol


@given(mdp=mdps(), V=st.integers(0, 2**32 - 1))
def test_operators(mdp, V):
    P, R, terminal, gamma = mdp
    model, V = TabularMDP(P, R, terminal, gamma=gamma), np.random.default_rng(V).normal(size=len(P)) * ~terminal
    Q = reference.q_values(P, R, terminal, gamma, V)
    np.testing.assert_allclose(model.q_values(V), Q, atol=1e-12 * abs(Q).max())
    assert model.bellman_residual(V) == pytest.approx(abs(Q.max(axis=1) - V).max(), rel=1e-9)
    np.testing.assert_array_equal(model.greedy_policy(V), model.q_values(V).argmax(axis=1))
    np.testing.assert_array_equal(model.bellman_operator(V), model.q_values(V).max(axis=1))
    np.testing.assert_array_equal(model.greedy_policy(Q), Q.argmax(axis=1))


@given(mdp=mdps(ending=False))
def test_dense_sparse_and_successors_are_one_model(mdp):
    P, R, _, gamma = mdp
    expected, n_states, n_actions = (P * R).sum(axis=2), *P.shape[:2]
    everywhere = np.broadcast_to(np.arange(n_states), P.shape)
    models = [
        TabularMDP(P, R, gamma=gamma),
        TabularMDP(P.tolist(), expected.tolist(), gamma=gamma),
        TabularMDP(scipy.sparse.csr_matrix(P.reshape(n_states * n_actions, n_states)), expected, gamma=gamma),
        TabularMDP(scipy.sparse.coo_array(P.reshape(n_states * n_actions, n_states)), expected, gamma=gamma),
        TabularMDP.from_successors(everywhere, P, R, gamma=gamma),
        TabularMDP.from_successors(everywhere, P, expected, gamma=gamma),
    ]
    for model in models:
        for mine, first in zip(model.transitions[:5], models[0].transitions[:5], strict=True):
            np.testing.assert_array_equal(mine, first)
        np.testing.assert_allclose(model.expected_reward, expected, atol=1e-12 * abs(R).max())


@given(mdp=mdps())
def test_terminal_states_are_the_successors_that_terminate(mdp):
    P, R, terminal, gamma = mdp
    everywhere = np.broadcast_to(np.arange(len(P)), P.shape)
    model = TabularMDP.from_successors(everywhere, P, R, np.broadcast_to(terminal, P.shape), gamma=gamma)
    go_on = ~terminal
    V, tol = TabularMDP(P, R, terminal, gamma=gamma).value_iteration().V, 2e-8 + 1e-12 * abs(R).max() / (1 - gamma)
    np.testing.assert_allclose(model.value_iteration().V[go_on], V[go_on], atol=tol)


def test_rows_of_terminal_states_are_not_read():
    P, R = np.zeros((2, 2, 2)), np.full((2, 2), np.nan)
    P[0, :, 1], R[0] = 1, [3, 4]
    for transitions in (P, scipy.sparse.csr_matrix(P.reshape(4, 2))):
        solution = TabularMDP(transitions, R, terminal=[False, True]).value_iteration()
        np.testing.assert_array_equal(solution.Q, [[3, 4], [0, 0]])


@pytest.mark.parametrize("env_id, kwargs", ENVS)
def test_environments_give_their_model(env_id, kwargs):
    mdp = TabularMDP.from_env(env_id, gamma=0.9, **kwargs)
    raw = gym.make(env_id, **kwargs).unwrapped
    assert (mdp.n_states, mdp.n_actions, mdp.gamma) == (raw.observation_space.n, raw.action_space.n, 0.9)
    np.testing.assert_array_equal(mdp.initial, raw.initial_state_distrib)
    V = np.random.default_rng(0).normal(size=mdp.n_states)
    Q = [
        [sum(p * (r + 0.9 * (0 if over else V[s])) for p, s, r, over in raw.P[state][a]) for a in range(mdp.n_actions)]
        for state in range(mdp.n_states)
    ]
    np.testing.assert_allclose(mdp.q_values(V), Q, atol=1e-12 * np.abs(Q).max())
    best = mdp.value_iteration()
    for other in (mdp.policy_iteration(), mdp.modified_policy_iteration()):
        np.testing.assert_allclose(other.V, best.V, atol=2e-8)
    np.testing.assert_allclose(mdp.policy_evaluation(best.policy), best.V, atol=3e-8)
    np.testing.assert_array_equal(best.policy, best.Q.argmax(axis=1))


def test_known_values():
    lake = TabularMDP.from_env(gym.make("FrozenLake-v1"))
    assert lake.value_iteration().V[0] == pytest.approx(0.5420259, abs=1e-6)
    straight = TabularMDP.from_env("FrozenLake-v1", is_slippery=False)
    assert straight.value_iteration().V[0] == pytest.approx(0.99**5, abs=1e-8)
    for solver in ("value_iteration", "policy_iteration"):
        # Without discounting: the chance of ever reaching the goal, and minus the number of steps.
        lake = TabularMDP.from_env("FrozenLake-v1", gamma=1)
        assert getattr(lake, solver)(tol=1e-10).V[0] == pytest.approx(14 / 17, abs=1e-7)
        cliff = getattr(TabularMDP.from_env("CliffWalking-v1", gamma=1), solver)()
        assert cliff.V[36] == -13 and cliff.policy[36] == 0


def corridor(n, gamma=1.0, reward=-1.0):
    """States 0 … n − 1; right leads one further, and out of the last ends; left leads back, or stays in 0."""
    state = np.arange(n)
    next_state = np.stack([np.maximum(state - 1, 0), np.minimum(state + 1, n - 1)], axis=1)[..., None]
    over = np.stack([np.zeros(n, bool), state == n - 1], axis=1)[..., None]
    return TabularMDP.from_successors(next_state, np.ones((n, 2, 1)), np.full((n, 2), reward), over, gamma=gamma)


def test_without_discounting_the_error_of_an_evaluation_is_still_bounded():
    n = 30
    walk, steps = corridor(n), np.arange(1, n + 1)[::-1]
    expected = -(n * (n + 1) - np.arange(n) * (np.arange(n) + 1.0))  # a fair walk from s, reflected in 0
    half = np.full((n, 2), 0.5)
    for tol in (1.0, 1e-3, 1e-9):
        assert abs(walk.policy_evaluation(half, tol=tol) - expected).max() <= tol + 1e-10
    for solver in ("value_iteration", "policy_iteration"):
        np.testing.assert_array_equal(getattr(walk, solver)().V, -steps)


def test_without_discounting_episodes_must_end():
    loop = TabularMDP(np.eye(2)[:, None], np.ones((2, 1)), gamma=1)
    for solver in ("value_iteration", "policy_iteration"):
        with pytest.raises(ValueError, match="gamma = 1 needs episodes that end, but from state 0"):
            getattr(loop, solver)()
    walk = corridor(4)
    assert walk.endless_states().size == 0
    assert (loop.endless_states() == [0, 1]).all()
    with pytest.raises(ValueError, match=r"from state 0 \(of 4 such"):
        walk.policy_evaluation([0, 0, 0, 0])
    with pytest.raises(ValueError, match="gamma < 1"):
        walk.modified_policy_iteration()
    gaining = corridor(4, reward=1.0)
    with pytest.raises(RuntimeError, match="not within tol"):
        gaining.value_iteration(max_iterations=1000)
    with pytest.raises(ValueError, match="gamma = 1 needs episodes that end"):
        gaining.policy_iteration()


def test_discounts_and_tolerances_at_their_limits():
    walk = corridor(5, gamma=0)
    for solver in SOLVERS:
        np.testing.assert_array_equal(getattr(walk, solver)(tol=0).V, -np.ones(5))
    # More than float64 can give, and γ close to 1: the iterations end all the same.
    rng = np.random.default_rng(0)
    P, R = rng.dirichlet(np.ones(9), (9, 3)), 1e9 * rng.normal(size=(9, 3, 9))
    for terminal in (np.zeros(9, bool), np.arange(9) == 4):
        V = reference.optimal_values(P, R, terminal, 0.999)
        for solver in SOLVERS:
            solution = getattr(TabularMDP(P, R, terminal, gamma=0.999), solver)(tol=0)
            np.testing.assert_allclose(solution.V, V, atol=1e-10 * abs(V).max())


@pytest.mark.parametrize("seed", range(20))
def test_equal_actions_do_not_go_round_in_circles(seed):
    """Four actions that differ in nothing but the order of the successors, and so in rounding errors."""
    rng = np.random.default_rng(seed)
    states, shares, rewards = rng.integers(20, size=(20, 5)), rng.dirichlet(np.ones(5), 20), rng.normal(size=(20, 5))
    orders = [rng.permutation(5) for _ in range(4)]
    parts = (np.stack([each[:, order] for order in orders], axis=1) for each in (states, shares, rewards))
    mdp = TabularMDP.from_successors(*parts)
    best = mdp.policy_iteration(max_iterations=2).V
    np.testing.assert_allclose(best, mdp.value_iteration().V, atol=2e-8)


def test_iterations_in_slices_are_the_same(monkeypatch):
    mdp = TabularMDP.from_env("FrozenLake-v1")
    whole = mdp.value_iteration(), mdp.modified_policy_iteration()
    monkeypatch.setattr(sweeps, "VISITS_PER_CALL", 1)
    for before, after in zip(whole, (mdp.value_iteration(), mdp.modified_policy_iteration()), strict=True):
        np.testing.assert_array_equal(before.V, after.V)
        assert before.iterations == after.iterations


def test_a_hundred_thousand_states_fit_in_tens_of_megabytes():
    rng, shape = np.random.default_rng(0), (100_000, 4, 3)
    shares = rng.dirichlet(np.ones(3), shape[:2])
    mdp = TabularMDP.from_successors(rng.integers(shape[0], size=shape), shares, rng.normal(size=shape[:2]))
    assert mdp.nbytes < 32e6
    V = rng.normal(size=shape[0])
    states = mdp.transitions.next_state.reshape(shape)
    np.testing.assert_allclose(mdp.q_values(V), mdp.expected_reward + 0.99 * (shares * V[states]).sum(2), atol=1e-12)


def test_what_is_passed_in_is_copied_and_what_is_kept_is_read_only():
    P, R = np.full((2, 1, 2), 0.5), np.ones((2, 1))
    mdp = TabularMDP(P, R, initial=(start := np.array([1.0, 0.0])))
    P[:], R[:], start[:] = 0, np.nan, 0
    np.testing.assert_allclose(mdp.value_iteration().V, 100)
    assert (mdp.initial == [1, 0]).all()
    for array in (*mdp.transitions[2:], mdp.initial, mdp.expected_reward):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    solution = mdp.value_iteration()
    solution.V[:], solution.Q[:] = 0, 0
    np.testing.assert_allclose(mdp.value_iteration().V, 100)
    assert "n_states=2" in repr(mdp)


def test_initial_states():
    P, R = np.full((4, 1, 4), 0.25), np.ones((4, 1))
    assert (TabularMDP(P, R).initial == 0.25).all()
    np.testing.assert_array_equal(TabularMDP(P, R, terminal=[True, False, True, False]).initial, [0, 0.5, 0, 0.5])


HALF, ONE = np.full((2, 1, 2), 0.5), np.ones((2, 1))
NAN, BELOW = np.array([[[0.5, np.nan]], [[0.5, 0.5]]]), np.array([[[0.5, 0.5]], [[1.5, -0.5]]])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(transitions=HALF * 0.9, rewards=ONE), ValueError, r"state 0, action 0: .* must sum to 1, got 0.9"),
        (dict(transitions=NAN, rewards=ONE), ValueError, "state 0, action 0: a probability must be finite"),
        (dict(transitions=BELOW, rewards=ONE), ValueError, "state 1, action 0: .* not negative, got -0.5"),
        (dict(transitions=HALF, rewards=[[1], [np.nan]]), ValueError, "state 1, action 0: the reward must be finite"),
        (dict(transitions=HALF, rewards=[[np.inf], [0]]), ValueError, "state 0, action 0: the reward must be finite"),
        (dict(transitions=HALF[0], rewards=ONE), ValueError, r"transitions have the shape \(1, 2\)"),
        (dict(transitions=HALF, rewards=np.ones(2)), ValueError, r"rewards have the shape \(2,\)"),
        (dict(transitions=np.zeros((0, 1, 0)), rewards=np.zeros((0, 1))), ValueError, "at least one state"),
        (dict(transitions=np.zeros((2, 0, 2)), rewards=np.zeros((2, 0))), ValueError, "at least one state and one act"),
        (dict(transitions=HALF.astype(object), rewards=ONE), TypeError, "transitions is an array of object"),
        (dict(transitions=HALF, rewards=[["a"], ["b"]]), TypeError, "rewards is an array of"),
        (dict(transitions=HALF, rewards=ONE, gamma=1.1), ValueError, r"gamma is 1.1; it must lie in \[0, 1\]"),
        (dict(transitions=HALF, rewards=ONE, gamma=-0.1), ValueError, "gamma"),
        (dict(transitions=HALF, rewards=ONE, gamma=np.nan), ValueError, "gamma"),
        (dict(transitions=HALF, rewards=ONE, gamma="1"), TypeError, "gamma"),
        (dict(transitions=HALF, rewards=ONE, terminal=[0, 1]), ValueError, "terminal is int64"),
        (dict(transitions=HALF, rewards=ONE, terminal=[True]), ValueError, r"it must be bool \(2,\)"),
        (dict(transitions=HALF, rewards=ONE, initial=[0.5, 0.6]), ValueError, "initial must be 2 probabilities"),
        (dict(transitions=HALF, rewards=ONE, initial=[np.nan, 1]), ValueError, "initial must be 2 probabilities"),
        (dict(transitions=scipy.sparse.eye(3).tocsr(), rewards=ONE), ValueError, r"they must be \(S \* A, S\)"),
    ],
)
def test_bad_models_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        TabularMDP(**arguments)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(next_state=[[[0, 2]], [[0, 1]]]), ValueError, "state 0, action 0: the next state must be one of 0 to 1"),
        (dict(next_state=[[[0, 1]], [[-1, 1]]]), ValueError, "state 1, action 0: the next state .* got -1"),
        (dict(next_state=[[[0.0, 1]], [[0, 1]]]), TypeError, "next_state is an array of float64"),
        (dict(probability=ONE), ValueError, r"have the shapes \(2, 1, 2\), \(2, 1\)"),
        (dict(terminated=[[[0, 1]], [[0, 1]]]), ValueError, "terminated is int64"),
    ],
)
def test_bad_successors_are_refused(change, error, message):
    good = dict(next_state=[[[0, 1]], [[0, 1]]], probability=HALF, reward=ONE)
    assert TabularMDP.from_successors(**good).n_states == 2
    with pytest.raises(error, match=message):
        TabularMDP.from_successors(**(good | change))


def test_rows_that_nearly_sum_to_one_are_scaled():
    thirds = np.full((3, 1, 3), 1 / 3, np.float32)
    mdp = TabularMDP(thirds, np.ones((3, 1)), initial=thirds[0, 0])
    assert thirds[0].astype(float).sum() != 1
    assert (mdp.transitions.probability == 1 / 3).all() and mdp.initial.sum() == 1


def test_padding_is_not_read():
    mdp = TabularMDP.from_successors([[[0, -7]]], [[[1.0, 0.0]]], [[[2.0, np.nan]]], gamma=0.5)
    assert mdp.value_iteration().V[0] == pytest.approx(4)


@pytest.mark.parametrize(
    "policy, message",
    [
        ([0, 2], "takes action 2 in state 1; actions are 0 to 1"),
        ([-1, 0], "takes action -1 in state 0"),
        ([0, 0, 0], r"the policy is int64 \(3,\); it must be int \(2,\) or \(2, 2\)"),
        ([0.0, 1.0], "the policy is float64"),
        ([[0.5, 0.6], [1, 0]], "probabilities that sum to 1"),
        ([[1.5, -0.5], [1, 0]], "probabilities that sum to 1"),
        ([[np.nan, 0], [1, 0]], "probabilities that sum to 1"),
    ],
)
def test_bad_policies_are_refused(policy, message):
    with pytest.raises(ValueError, match=message):
        corridor(2, gamma=0.9).policy_evaluation(policy)


def test_bad_arguments_of_the_solvers_are_refused():
    mdp = corridor(3, gamma=0.9)
    for solver in SOLVERS:
        with pytest.raises(ValueError, match="tol is -1"):
            getattr(mdp, solver)(tol=-1)
        with pytest.raises(ValueError, match="max_iterations is 0"):
            getattr(mdp, solver)(max_iterations=0)
        with pytest.raises(RuntimeError, match="not within tol = 1e-08 after 1 iterations"):
            getattr(mdp, solver)(max_iterations=1)
    with pytest.raises(ValueError, match="k is -1"):
        mdp.modified_policy_iteration(k=-1)
    for values in (np.zeros(2), np.zeros((3, 3)), np.full(3, np.nan), np.full((3, 2), np.nan)):
        with pytest.raises(ValueError):
            mdp.greedy_policy(values)
    with pytest.raises(ValueError, match=r"V has the shape \(3, 2\)"):
        mdp.q_values(np.zeros((3, 2)))


def test_environments_without_a_true_model_are_refused():
    with pytest.raises(ValueError, match="CartPoleEnv does not expose its model"):
        TabularMDP.from_env("CartPole-v1")
    with pytest.raises(ValueError, match="make it with fickle_passenger=False"):
        TabularMDP.from_env("Taxi-v4", fickle_passenger=True)
    with pytest.raises(TypeError, match="it must be an id, or a gymnasium"):
        TabularMDP.from_env(3)
    lake = gym.make("FrozenLake-v1")
    with pytest.raises(TypeError, match="alone"):
        TabularMDP.from_env(lake, is_slippery=False)
    del lake.unwrapped.P[3]
    with pytest.raises(ValueError, match=r"FrozenLakeEnv\.P is no model"):
        TabularMDP.from_env(lake)
