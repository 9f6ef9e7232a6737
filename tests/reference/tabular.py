"""The obvious versions: xoshiro256++ in Python's integers, Bellman's equations by loops and linear algebra."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MASK = 2**64 - 1


def xoshiro256pp(state: list[int]) -> Iterator[int]:
    """Line by line after https://prng.di.unimi.it/xoshiro256plusplus.c."""

    def rotl(x: int, k: int) -> int:
        return (x << k | x >> (64 - k)) & MASK

    s = list(state)
    while True:
        yield (rotl((s[0] + s[3]) & MASK, 23) + s[0]) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotl(s[3], 45)


def q_values(P: np.ndarray, R: np.ndarray, terminal: np.ndarray, gamma: float, V: np.ndarray) -> np.ndarray:
    """Q(s, a) for P(s' | s, a), R(s, a, s') and V, all [S, ...]; terminal states are worth nothing."""
    n_states, n_actions, _ = P.shape
    Q = np.zeros((n_states, n_actions))
    for s in range(n_states):
        for a in range(n_actions):
            for t in range(n_states):
                if not terminal[s]:
                    Q[s, a] += P[s, a, t] * (R[s, a, t] + gamma * (0 if terminal[t] else V[t]))
    return Q


def policy_values(P: np.ndarray, R: np.ndarray, terminal: np.ndarray, gamma: float, policy: np.ndarray) -> np.ndarray:
    """V_π for π(a | s), [S, A], by solving (I − γ P_π) V = r_π."""
    go_on = (~terminal).astype(float)
    p = np.einsum("sa,sat->st", policy, P) * go_on * go_on[:, None]
    r = np.einsum("sa,sat,sat->s", policy, P, R) * go_on
    return np.linalg.solve(np.eye(len(P)) - gamma * p, r)


def optimal_values(P: np.ndarray, R: np.ndarray, terminal: np.ndarray, gamma: float) -> np.ndarray:
    """V*, by policy iteration (Howard 1960)."""
    n_states, n_actions, _ = P.shape
    policy = np.zeros(n_states, int)
    while True:
        V = policy_values(P, R, terminal, gamma, np.eye(n_actions)[policy])
        Q = q_values(P, R, terminal, gamma, V)
        better = Q.max(axis=1) > Q[np.arange(n_states), policy] + 1e-12
        if not better.any():
            return V
        policy = np.where(better, Q.argmax(axis=1), policy)
