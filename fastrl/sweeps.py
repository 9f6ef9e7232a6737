"""Bellman backups over a table of transitions, repeated until they are accurate enough."""

from __future__ import annotations

import math
import sys
from typing import NamedTuple

import numpy as np

from fastrl.checks import check_int, check_number
from fastrl.kernels import bellman as kernels

__all__ = ["Rows", "Work", "not_converged"]

VISITS_PER_CALL = 50_000_000  # entries, about 0.1 s: so often a kernel returns, for Ctrl-C to be heard


class Work(NamedTuple):
    """The arrays that sweeps write."""

    V: np.ndarray  # float64[S + 1], the values; the end's, 0, comes last
    W: np.ndarray  # float64[S + 1], scratch
    policy: np.ndarray  # int64[S]

    @classmethod
    def zeros(cls, n_states: int) -> Work:
        """Where all iterations begin."""
        return cls(np.zeros(n_states + 1), np.zeros(n_states + 1), np.zeros(n_states, np.int64))


class Rows(NamedTuple):
    """The rows of an MDP, or of the chain with one action that a policy makes of it, to sweep over."""

    indptr: np.ndarray
    next_state: np.ndarray
    probability: np.ndarray
    reward: np.ndarray  # float64[S · A], expected
    n_states: int
    gamma: float
    ends: bool  # whether some transition ends the episode

    def sweep(self, work: Work, threshold: float, n: int) -> tuple[int, float]:
        """Up to `n` of `kernels.value_sweeps`, until the change is at most `threshold`: (sweeps, change)."""
        sweeps, change = 0, math.inf
        while sweeps < n and change > threshold:
            now = min(n - sweeps, max(1, VISITS_PER_CALL // len(self.next_state)))
            count, change = kernels.value_sweeps(*self[:4], self.gamma, self.ends, threshold, now, *work)
            sweeps += count
        return sweeps, change

    def converge(self, work: Work, tol: float, max_iterations: int) -> int:
        """Sweep until the Bellman residual is at most tol / `horizon()`; returns the number of sweeps."""
        check_int("max_iterations", max_iterations)
        threshold = self.threshold(tol)
        sweeps, change = self.sweep(work, threshold, max_iterations)
        if change > threshold:
            raise not_converged(max_iterations, tol)
        return sweeps

    def threshold(self, tol: float) -> float:
        """The change of a sweep after which the residual is at most tol / `horizon()`."""
        check_number("tol", tol)
        if self.gamma == 0:
            return sys.float_info.max
        return min(tol / (self.gamma * self.horizon()), sys.float_info.max)

    def horizon(self) -> float:
        """A number h such that |V − V*| <= h · residual; 1 where γ = 1 and there are actions to choose from."""
        if self.gamma < 1:
            return 1 / (1 - self.gamma)
        self.check_ending()
        if len(self.reward) > self.n_states:
            return 1.0
        # Where (I − P) steps >= 1/2, 2 · steps bounds (I − P)⁻¹ 1, the expected number of steps to the end.
        work = Work.zeros(self.n_states)
        self._replace(reward=np.ones(self.n_states)).sweep(work, 0.5, 10**12)
        return 2 * float(work.V.max())

    def ending_policy(self) -> np.ndarray:
        """int64[S], a policy that ends with probability one; −1 in the states from which none can."""
        return kernels.ending_policy(self.indptr, self.next_state, self.n_states, len(self.reward) // self.n_states)

    def check_ending(self) -> np.ndarray:
        """The same, or a ValueError if some state has none."""
        policy = self.ending_policy()
        stuck = np.flatnonzero(policy < 0)
        if stuck.size:
            raise ValueError(
                f"gamma = 1 needs episodes that end, but from state {stuck[0]} (of {stuck.size} such states) they "
                "never do; use gamma < 1, another policy, or terminal states"
            )
        return policy

    def room(self) -> tuple[np.ndarray, ...]:
        """Arrays for `chosen` to write into. Fresh memory costs as much as a sweep."""
        n, size = self.n_states, len(self.next_state)
        return np.empty(n + 1, np.int64), np.empty(size, np.int32), np.empty(size), np.empty(n)

    def chosen(self, policy: np.ndarray, room: tuple[np.ndarray, ...]) -> Rows:
        """The rows that `policy`, int64[S], chooses; valid until `room` is written again."""
        size = kernels.chain(*self[:4], policy, *room)
        indptr, next_state, probability, reward = room
        return Rows(indptr, next_state[:size], probability[:size], reward, *self[4:])

    def mixed(self, share: np.ndarray) -> Rows:
        """The rows when action a is chosen in state s with the probability share[s, a]."""
        probability = self.probability * np.repeat(share.ravel(), np.diff(self.indptr))
        kept = probability > 0
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr[:: share.shape[1]]]
        reward = (share * self.reward.reshape(share.shape)).sum(axis=1)
        return Rows(indptr, self.next_state[kept], probability[kept], reward, *self[4:])


def not_converged(n: int, tol: float) -> RuntimeError:
    return RuntimeError(f"not within tol = {tol} after {n} iterations; raise max_iterations or tol, or lower gamma")
