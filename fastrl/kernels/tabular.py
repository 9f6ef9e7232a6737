"""Q-learning on tables: Q is [S + 1, A], where row S, the end of an episode, is 0."""

from __future__ import annotations

import numpy as np

from fastrl.kernels._jit import kernel
from fastrl.kernels.sampling import draw, integer, uniform


@kernel
def td_update(q: float, reward: float, next_value: float, alpha: float, gamma: float) -> float:
    """Q ← Q + α (r + γ max_a' Q(s', a') − Q).   Watkins 1989; Sutton & Barto 2018, eq. 6.8."""
    return q + alpha * (reward + gamma * next_value - q)


@kernel
def note_greedy(Q: np.ndarray, greedy: np.ndarray, state: int | np.uint64) -> None:
    """Bring `greedy`[state] up to date: the first action of the highest Q."""
    best, value = 0, Q[state, 0]
    for action in range(1, Q.shape[1]):
        q = Q[state, action]
        best = action if q > value else best
        value = q if q > value else value
    # Written only when it changes, so that the next visit need not wait for this scan.
    if greedy[state] != best:
        greedy[state] = best


@kernel
def any_greedy(stream: np.ndarray, Q: np.ndarray, state: int | np.uint64) -> int:
    """One of the actions of the highest Q, each as likely."""
    best, n_best = 0, 0
    for action in range(Q.shape[1]):
        if Q[state, action] > Q[state, best]:
            best, n_best = action, 1
        elif Q[state, action] == Q[state, best]:
            n_best += 1
            if integer(stream, n_best) == 0:
                best = action
    return best


@kernel
def epsilon_greedy(
    stream: np.ndarray, Q: np.ndarray, greedy: np.ndarray, state: int, epsilon: float, random_ties: bool
) -> int:
    """A random action with probability ε, else a greedy one: the first, or with `random_ties` any of them."""
    if uniform(stream) < epsilon:
        return integer(stream, Q.shape[1])
    return any_greedy(stream, Q, state) if random_ties else greedy[state]


@kernel
def learn(
    Q: np.ndarray,
    greedy: np.ndarray,
    state: int,
    action: int,
    reward: float,
    next_state: int,
    alpha: float,
    gamma: float,
) -> None:
    """Learn from one transition. Q [S + 1, A] and `greedy` int64[S + 1] are written; Q[S] = 0 is the end."""
    Q[state, action] = td_update(Q[state, action], reward, Q[next_state, greedy[next_state]], alpha, gamma)
    note_greedy(Q, greedy, state)


@kernel
def outcome(stream: np.ndarray, indptr: np.ndarray, accept: np.ndarray, alias: np.ndarray, row: np.uint64) -> np.uint64:
    """An entry of `row`, drawn from the `alias_tables`; nothing is drawn where there is only one."""
    first, last = indptr[row], indptr[row + np.uint64(1)]
    return draw(stream, accept, alias, first, last) if last - first > 1 else np.uint64(first)


@kernel
def q_learning_steps(
    indptr: np.ndarray,
    next_state: np.ndarray,
    reward: np.ndarray,
    accept: np.ndarray,
    alias: np.ndarray,
    Q: np.ndarray,
    greedy: np.ndarray,
    alpha: float,
    gamma: float,
    epsilon: float,
    epsilon_decay: float,
    epsilon_min: float,
    max_steps: int,
    random_ties: bool,
    stream: np.ndarray,
    returns: np.ndarray,
    lengths: np.ndarray,
    episode: int,
    state: int,
    n_steps: int,
) -> tuple[int, int, float]:
    """Play and learn for `n_steps` steps, or until `returns` and `lengths` (float64, int64[episodes]) are full.

    The transitions' last row, S·A, leads from the end to the first states. An episode of `max_steps` is cut:
    its last update still counts on the value of the state it reached. Returns (episode, state, epsilon), from
    which a further call continues, in the middle of an episode too; `state` S begins a new one.
    """
    # Indices are unsigned, for numba asks of signed ones whether they count from the end: a quarter of the time.
    end, n_actions, here = np.uint64(Q.shape[0] - 1), np.uint64(Q.shape[1]), np.uint64(state)
    for _ in range(n_steps):
        if here == end:
            here = np.uint64(next_state[outcome(stream, indptr, accept, alias, end * n_actions)])
        # `epsilon_greedy` and `learn`, written out: as calls they would halve the speed.
        if uniform(stream) < epsilon:
            action = np.uint64(integer(stream, n_actions))
        else:
            action = np.uint64(any_greedy(stream, Q, here) if random_ties else greedy[here])
        i = outcome(stream, indptr, accept, alias, here * n_actions + action)
        successor, r = np.uint64(next_state[i]), reward[i]
        Q[here, action] = td_update(Q[here, action], r, Q[successor, np.uint64(greedy[successor])], alpha, gamma)
        note_greedy(Q, greedy, here)
        returns[episode] += r
        lengths[episode] += 1
        here = successor
        if here == end or lengths[episode] == max_steps:
            here = end
            epsilon = max(epsilon_min, epsilon * epsilon_decay)
            episode += 1
            if episode == len(returns):
                break
    return episode, int(here), epsilon
