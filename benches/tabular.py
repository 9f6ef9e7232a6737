"""Tables: dynamic programming beside QuantEcon's DiscreteDP, Q-learning beside the loop that courses write."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import scipy.sparse

from benches.operation import Implementation, Missing, NoPart, Operation, Work
from fastrl import TabularMDP, q_learning
from fastrl.kernels.bellman import optimal_backup

GAMMA = 0.99
EPSILON = 1e-6  # QuantEcon's: both are to return V within EPSILON / 2
SLOW = 1000  # states from which on the NumPy loop takes minutes
DENSE = 1000  # states up to which there is a matrix of all pairs: of 10,000 it takes 3.2 GB


class Model(NamedTuple):
    """The successors of each state and action, [S, A, K]; state S is the end of the episode. `reward` [S, A]."""

    next_state: np.ndarray
    probability: np.ndarray
    reward: np.ndarray


def model(which: str | int) -> Model:
    """Of an environment by its id, or a random one with so many states, 4 actions, 3 successors of each."""
    if isinstance(which, int):
        rng, shape = np.random.default_rng(0), (which, 4, 3)
        shares = rng.dirichlet(np.ones(3), shape[:2])
        return Model(rng.integers(which, size=shape), shares, rng.normal(size=shape[:2]))
    env: Any = gym.make(which)
    table = env.unwrapped.P
    size = len(table), len(table[0]), max(len(x) for actions in table.values() for x in actions.values())
    made = Model(np.zeros(size, np.int64), np.zeros(size), np.zeros(size[:2]))
    for s, actions in table.items():
        for a, successors in actions.items():
            for k, (probability, state, reward, terminated) in enumerate(successors):
                made.next_state[s, a, k] = len(table) if terminated else state
                made.probability[s, a, k] = probability
                made.reward[s, a] += probability * reward
    return made


def look_ahead(m: Model, V: np.ndarray) -> np.ndarray:
    """Q(s, a) = r(s, a) + γ Σ p(s' | s, a) V(s'), [S, A], from V [S]."""
    return m.reward + GAMMA * (m.probability * np.append(V, 0.0)[m.next_state]).sum(axis=2)


def numpy_sweeps(m: Model) -> np.ndarray:
    """V*, by sweeps until they change less than EPSILON / 2 allows."""
    V, change = np.zeros(len(m.reward)), np.inf
    while change > EPSILON / 2 * (1 - GAMMA) / GAMMA:
        W = look_ahead(m, V).max(axis=1)
        V, change = W, abs(W - V).max()
    return V


def optimal_values(m: Model) -> np.ndarray:
    """V* to ten digits: sweeps whose smallest and largest change bound how far there is to go (Puterman 6.6).

    The end is a state that is not left and pays nothing, so that every sweep of it changes nothing.
    """
    ends = (m.next_state == len(m.reward)).any()
    V = np.zeros(len(m.reward))
    for _ in range(100_000):
        W = look_ahead(m, V).max(axis=1)
        change = W - V
        low, high = min(change.min(), 0.0) if ends else change.min(), max(change.max(), 0.0) if ends else change.max()
        if high - low < 1e-10 * (1 - GAMMA):
            return W + (0.0 if ends else GAMMA / (1 - GAMMA) * (low + high) / 2)
        V = W
    raise RuntimeError("the reference did not converge")


def within_epsilon(V: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(V, expected, rtol=0, atol=EPSILON / 2)


def ours(m: Model) -> TabularMDP:
    """The same, where a padded successor has the probability 0."""
    ends = m.next_state == len(m.reward)
    return TabularMDP.from_successors(np.where(ends, 0, m.next_state), m.probability, m.reward, ends, gamma=GAMMA)


def discrete_dp(m: Model, dense: bool = False) -> Any:
    """QuantEcon's, in its form of sparse or of dense matrices; the end, if there is one, is one more state."""
    from quantecon.markov import DiscreteDP

    if dense and len(m.reward) > DENSE:
        raise NoPart(f"dense matrices of more than {DENSE} states")

    (n, n_actions, k), next_state, probability, reward = m.next_state.shape, *m
    if (next_state == n).any():
        next_state = np.concatenate([next_state, np.full((1, n_actions, k), n)])
        probability = np.concatenate([probability, np.eye(1, k).repeat(n_actions, axis=0)[None]])
        reward, n = np.concatenate([reward, np.zeros((1, n_actions))]), n + 1
    if dense:
        matrix = np.zeros((n, n_actions, n))
        np.add.at(matrix, (*np.ogrid[:n, :n_actions], next_state.transpose(2, 0, 1)), probability.transpose(2, 0, 1))
        return DiscreteDP(reward, matrix, GAMMA)
    pairs = np.arange(n * n_actions)
    entries = probability.ravel(), (pairs.repeat(k), next_state.ravel())
    matrix = scipy.sparse.csr_matrix(entries, (n * n_actions, n))
    matrix.eliminate_zeros()
    return DiscreteDP(reward.ravel(), matrix, GAMMA, *np.divmod(pairs, n_actions))


def solve_ours(method: str, m: Model) -> Work:
    solve = getattr(ours(m), method)
    return Work(lambda: solve(tol=EPSILON / 2).V)


def solve_quantecon(method: str, m: Model, dense: bool = False) -> Work:
    solve, n = discrete_dp(m, dense).solve, len(m.reward)
    return Work(lambda: solve(method, epsilon=EPSILON, max_iter=10**6).v[:n])


def solve_numpy(m: Model) -> Work:
    if len(m.reward) > SLOW:
        raise Missing(f"two thousand sweeps of NumPy over more than {SLOW} states take too long")
    return Work(partial(numpy_sweeps, m))


def solvers(method: str) -> dict[str, Implementation]:
    return {
        "fastrl": Implementation(partial(solve_ours, method), role="ours"),
        "QuantEcon": Implementation(partial(solve_quantecon, method), ("quantecon",)),
        "QuantEcon, dense": Implementation(partial(solve_quantecon, method, dense=True), ("quantecon",)),
    }


# One sweep: V is another in each round.


class Sweep(NamedTuple):
    model: Model
    values: list[np.ndarray]


def sweep(n_states: int) -> Sweep:
    rng = np.random.default_rng(1)
    return Sweep(model(n_states), [rng.normal(size=n_states) for _ in range(4)])


def swept(bind: Callable[[Model, np.ndarray], Callable[[], Any]], s: Sweep) -> Work:
    """What `bind` makes of the model and V [S + 1], in which the end comes last."""
    V = np.append(s.values[0], 0.0)
    return Work(
        bind(s.model, V), lambda found: found[: len(V) - 1],
        lambda round: np.copyto(V[:-1], s.values[round % len(s.values)]),
    )  # fmt: skip


def sweep_kernel(m: Model, V: np.ndarray) -> Callable[[], np.ndarray]:
    mdp = ours(m)
    table, reward, W, policy = mdp.transitions, mdp.expected_reward.ravel(), V.copy(), np.zeros(len(m.reward), np.int64)
    arrays = table.indptr, table.next_state, table.probability, reward
    return lambda: (optimal_backup(*arrays, GAMMA, V, W, policy), W)[1]


def sweep_ours(m: Model, V: np.ndarray) -> Callable[[], np.ndarray]:
    return partial(ours(m).bellman_operator, V[:-1])


def sweep_quantecon(m: Model, V: np.ndarray, dense: bool = False) -> Callable[[], np.ndarray]:
    return partial(discrete_dp(m, dense).bellman_operator, V[:-1], Tv=np.empty(len(m.reward)))


def sweep_numpy(m: Model, V: np.ndarray) -> Callable[[], np.ndarray]:
    return lambda: look_ahead(m, V[:-1]).max(axis=1)


def table_copy(m: Model, V: np.ndarray) -> Callable[[], Any]:
    """As many bytes moved as the table has: half of them read, half written."""
    source = np.empty(m.probability.size * (8 + 4) // 16)
    return partial(np.copyto, np.empty_like(source), source)


# Q-learning. Runs differ in how many steps their episodes take, so each counts its own.


class Played(NamedTuple):
    seconds: float
    steps: int
    Q: np.ndarray


EPISODES = 10_000


def lake(slippery: bool, wrapped: bool = False) -> gym.Env:
    """`wrapped`: no model can be seen through it, so that the environment itself is stepped."""
    env = gym.make("FrozenLake-v1", is_slippery=slippery)
    return gym.Wrapper(env) if wrapped else env


def timed(play: Callable[[gym.Env, int], tuple[int, np.ndarray]], runs: int, case: tuple[bool, bool]) -> Work:
    """Seconds a step, of so many runs with a new seed each; the result is what the last one's policy is worth."""
    env, seeds = lake(*case), itertools.count()
    runs = 1 if case[1] else runs

    def call() -> Played:
        start = time.perf_counter()
        played = [play(env, next(seeds)) for _ in range(runs)]
        return Played(time.perf_counter() - start, sum(steps for steps, _ in played), played[-1][1])

    return Work(call, lambda run: worth(lake(case[0]), run.Q), seconds=lambda run: run.seconds / run.steps)


def q_learning_ours(env: gym.Env, seed: int) -> tuple[int, np.ndarray]:
    run = q_learning(env, EPISODES, gamma=GAMMA, seed=seed)
    return int(run.lengths.sum()), run.Q


def q_learning_plain(env: Any, seed: int) -> tuple[int, np.ndarray]:
    """As courses write it, with the defaults of `q_learning`."""
    alpha, epsilon, steps = 0.1, 1.0, 0
    n_actions, rng = int(env.action_space.n), np.random.default_rng(seed)
    Q = np.zeros((int(env.observation_space.n), n_actions))
    for episode in range(EPISODES):
        state, _ = env.reset(seed=seed if episode == 0 else None)
        done = False
        while not done:
            action = int(rng.integers(n_actions)) if rng.random() < epsilon else int(np.argmax(Q[state]))
            next_state, reward, terminated, truncated, _ = env.step(action)
            target = reward + GAMMA * (0 if terminated else np.max(Q[next_state]))
            Q[state, action] += alpha * (target - Q[state, action])
            state, done, steps = next_state, terminated or truncated, steps + 1
        epsilon = max(0.01, epsilon * 0.9995)
    return steps, Q


def worth(env: gym.Env, Q: np.ndarray | None = None) -> float:
    """Of the first state, by the model: under the greedy policy of Q, or the best there is."""
    P, V, chosen = env.unwrapped.P, np.zeros(16), Q.argmax(axis=1) if Q is not None else None  # type: ignore[attr-defined]
    for _ in range(2000):
        for s in P:
            tried = range(4) if chosen is None else chosen[s : s + 1]
            V[s] = max(sum(p * (r + GAMMA * (not end) * V[t]) for p, t, r, end in P[s][int(a)]) for a in tried)
    return float(V[0])


def has_learnt(found: float, best: float) -> None:
    """On a slippery lake a step size of 0.1 does not settle: half the optimum is far above any luck (0.014 of it)."""
    assert found >= 0.5 * best, f"its policy is worth {found:.3f}, the best one {best:.3f}"


SOLVED = {"FrozenLake8x8-v1": "FrozenLake8x8-v1", "Taxi-v4": "Taxi-v4"}
VALUE_ITERATION = Operation(
    "Value iteration", {**SOLVED, "random, 10,000 states": 10_000}, model, optimal_values,
    {**solvers("value_iteration"), "NumPy": Implementation(solve_numpy, role="plain")}, within_epsilon,
)  # fmt: skip
MODIFIED_POLICY_ITERATION = Operation(
    "Modified policy iteration", {**SOLVED, "random, 100,000 states": 100_000}, model, optimal_values,
    solvers("modified_policy_iteration"), within_epsilon,
)  # fmt: skip
BELLMAN_SWEEP = Operation(
    "Bellman sweep", {"10,000 states": 10_000}, sweep, lambda s: look_ahead(s.model, s.values[0]).max(axis=1),
    {
        "fastrl": Implementation(partial(swept, sweep_ours), role="ours"),
        "fastrl, kernel": Implementation(partial(swept, sweep_kernel), role="ours"),
        "QuantEcon": Implementation(partial(swept, sweep_quantecon), ("quantecon",)),
        "QuantEcon, dense": Implementation(partial(swept, partial(sweep_quantecon, dense=True)), ("quantecon",)),
        "NumPy": Implementation(partial(swept, sweep_numpy), role="plain"),
        "memory copy": Implementation(partial(swept, table_copy), role="bound"),
    },
    sweeps={"states": {n: n for n in (100, 1000, 10_000, 100_000, 1_000_000)}},
)  # fmt: skip
Q_LEARNING = Operation(
    "Q-learning, FrozenLake-v1",
    {"not slippery": (False, False), "slippery": (True, False), "stepped in Python": (False, True)},
    lambda case: case, lambda case: worth(lake(case[0])),
    {
        "fastrl": Implementation(partial(timed, q_learning_ours, 10), role="ours"),
        "plain Python": Implementation(partial(timed, q_learning_plain, 1), role="plain"),
    },
    has_learnt, unit="step", rounds=(5, 5),
)  # fmt: skip
