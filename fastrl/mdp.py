"""Finite Markov decision processes and the dynamic programming that solves their Bellman equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from fastrl import transitions as tables
from fastrl.checks import check_int, check_number
from fastrl.kernels import bellman as kernels
from fastrl.sweeps import Rows, Work, not_converged
from fastrl.transitions import Transitions, distribution, numbers

__all__ = ["Solution", "TabularMDP"]


@dataclass(frozen=True, eq=False)
class Solution:
    """What an algorithm of `TabularMDP` found.

    Attributes:
        V: float64[S], the value of each state.
        Q: float64[S, A], r(s, a) + γ Σ p(s' | s, a) V(s').
        policy: int64[S], the action to take in each state.
        iterations: sweeps of value iteration, or rounds of the policy iterations.
        residual: the Bellman residual of `V`, max_s |max_a Q(s, a) − V(s)|.
    """

    V: np.ndarray
    Q: np.ndarray
    policy: np.ndarray
    iterations: int
    residual: float


class TabularMDP:
    """A finite MDP (S, A, P, R, γ), kept as lists of successors: 100,000 states × 4 actions × 3 take 31 MB.

    The end of an episode is one more state, number S, whose value is 0; no array of results has it.

    Args:
        transitions: P(s' | s, a), [S, A, S], or a SciPy sparse matrix [S · A, S] with the row s · A + a.
        rewards: R(s, a), [S, A], or R(s, a, s'), [S, A, S] (not with a sparse matrix).
        terminal: bool [S], the states that end an episode when they are entered; none by default. Their own
            rows of `transitions` and `rewards` are not read, and their V and Q are 0.
        initial: [S], the distribution of first states; uniform over the states not terminal by default.
        gamma: the discount γ in [0, 1]. Each method says what it asks of an MDP with γ = 1.

    Attributes:
        n_states, n_actions, initial, gamma: as above.
        transitions: the lists of successors, as read-only arrays.
        expected_reward: r(s, a), float64[S, A], read-only.

    Raises:
        ValueError: for shapes that do not fit; no states or no actions; probabilities that are negative, not
            finite or do not sum to 1 within 1e-6 (within it they are scaled to); rewards that are not finite.
        TypeError: for arrays that are not numbers.

    Source: Sutton & Barto 2018, chapters 3 and 4; Puterman 1994, chapter 6.
    """

    def __init__(
        self, transitions: Any, rewards: Any, terminal: Any = None, initial: Any = None, gamma: float = 0.99
    ) -> None:
        if terminal is not None:
            terminal = np.asarray(terminal)
            n_states = transitions.shape[-1] if hasattr(transitions, "shape") else len(transitions)
            if terminal.dtype != bool or terminal.shape != (n_states,):
                raise ValueError(f"terminal is {terminal.dtype} {terminal.shape}; it must be bool ({n_states},)")
            if initial is None and not terminal.all():
                initial = ~terminal / (~terminal).sum()
        self._set(tables.from_matrix(transitions, rewards, terminal), initial, gamma)

    @classmethod
    def from_successors(
        cls,
        next_state: Any,
        probability: Any,
        reward: Any,
        terminated: Any = None,
        initial: Any = None,
        gamma: float = 0.99,
    ) -> TabularMDP:
        """An MDP from at most K successors of each state and action.

        Args:
            next_state: int [S, A, K].
            probability: [S, A, K]; 0 marks padding, of which nothing else is read.
            reward: [S, A] or [S, A, K].
            terminated: bool [S, A, K], the transitions that end the episode; none by default.
            initial, gamma: as for `TabularMDP`; the default of `initial` is uniform over all states.

        Raises:
            ValueError, TypeError: as `TabularMDP`, and for a next state outside 0 … S − 1.
        """
        return cls._from(tables.from_successors(next_state, probability, reward, terminated), initial, gamma)

    @classmethod
    def from_env(cls, env: str | gym.Env, gamma: float = 0.99, **kwargs: Any) -> TabularMDP:
        """The model of an environment that exposes it as `env.unwrapped.P` (FrozenLake, Taxi, CliffWalking).

        Wrappers, time limits among them, are no part of it. `kwargs` go to `gymnasium.make` with an id.

        Raises:
            ValueError: if there is no model, if it is not complete, or if it is not what the environment
                does (Taxi with a fickle passenger).
            TypeError: if `env` is neither an id nor an environment, or is one and `kwargs` are given.
        """
        if isinstance(env, str):
            made = gym.make(env, **kwargs)
            try:
                return cls.from_env(made, gamma)
            finally:
                made.close()
        if not isinstance(env, gym.Env) or kwargs:
            raise TypeError(f"env is {env!r} with {kwargs}; it must be an id, or a gymnasium.Env alone")
        return cls._from(tables.from_env(env), getattr(env.unwrapped, "initial_state_distrib", None), gamma)

    @classmethod
    def _from(cls, transitions: Transitions, initial: Any, gamma: float) -> TabularMDP:
        mdp = cls.__new__(cls)
        mdp._set(transitions, initial, gamma)
        return mdp

    def _set(self, transitions: Transitions, initial: Any, gamma: float) -> None:
        check_number("gamma", gamma, 0, 1)
        self.gamma = float(gamma)
        self.n_states, self.n_actions = n, n_actions = transitions[:2]
        self.initial = _read_only(np.full(n, 1 / n) if initial is None else distribution("initial", initial, n))
        starts = transitions.indptr[:-1]  # every row has successors, which reduceat relies on
        reward = np.add.reduceat(transitions.probability * transitions.reward, starts).reshape(n, n_actions)
        self.expected_reward = _read_only(reward)
        self.transitions = Transitions(n, n_actions, *map(_read_only, transitions[2:]))
        ends = bool((transitions.next_state == n).any())
        self._rows = Rows(*transitions[2:5], reward.ravel(), n, self.gamma, ends)

    @property
    def nbytes(self) -> int:
        """The memory of all arrays, in bytes."""
        return sum(a.nbytes for a in (*self.transitions[2:], self.initial, self.expected_reward))

    def __repr__(self) -> str:
        return f"TabularMDP(n_states={self.n_states}, n_actions={self.n_actions}, gamma={self.gamma})"

    # Bellman's operators.

    def q_values(self, V: Any) -> np.ndarray:
        """Q(s, a) = r(s, a) + γ Σ p(s' | s, a) V(s'), float64[S, A], from V [S]. ValueError for other shapes or NaN."""
        return self._look_ahead(V)[0]

    def bellman_operator(self, V: Any) -> np.ndarray:
        """max_a Q(s, a), float64[S], from V [S]: one sweep of value iteration (Sutton & Barto 2018, eq. 4.10)."""
        W, policy = np.empty(self.n_states + 1), np.empty(self.n_states, np.int64)
        kernels.optimal_backup(*self._rows[:4], self.gamma, self._with_end(V), W, policy)
        return W[:-1]

    def bellman_residual(self, V: Any) -> float:
        """max_s |max_a Q(s, a) − V(s)| for V [S]: 0 for V* alone. For γ < 1, |V − V*| <= residual / (1 − γ)."""
        return self._look_ahead(V)[2]

    def greedy_policy(self, values: Any) -> np.ndarray:
        """int64[S], the first action of the highest value, from V [S] or Q [S, A]."""
        values = numbers("values", values)
        if values.ndim == 1:
            values = self.q_values(values)
        if values.shape != (self.n_states, self.n_actions) or np.isnan(values).any():
            raise ValueError(
                f"values have the shape {values.shape}; they must be V ({self.n_states},) or "
                f"Q ({self.n_states}, {self.n_actions}), without NaN"
            )
        return values.argmax(axis=1)

    def endless_states(self) -> np.ndarray:
        """int64[n], the states from which no policy can reach an end."""
        return np.flatnonzero(self._rows.ending_policy() < 0)

    # Algorithms. Where `tol` asks for more than float64 has, they end when nothing changes any more.

    def policy_evaluation(self, policy: Any, tol: float = 1e-8, max_iterations: int = 1_000_000) -> np.ndarray:
        """V_π, float64[S], by sweeps of V ← r_π + γ P_π V (Sutton & Barto 2018, section 4.1).

        No entry is off by more than `tol`: the sweeps stop at a Bellman residual of tol / h, where h is
        1 / (1 − γ), or with γ = 1 a bound on the expected number of steps to the end, computed the same way.

        Args:
            policy: int [S], an action for each state, or [S, A], the probabilities of the actions.
            tol: the largest error, in units of reward.
            max_iterations: the largest number of sweeps.

        Raises:
            ValueError: for another shape, an action outside 0 … A − 1, rows that do not sum to 1; with γ = 1,
                for a policy that never ends from some state.
            RuntimeError: if `max_iterations` sweeps do not suffice.
        """
        work = Work.zeros(self.n_states)
        self._under(policy).converge(work, tol, max_iterations)
        return work.V[:-1].copy()

    def value_iteration(self, tol: float = 1e-8, max_iterations: int = 1_000_000) -> Solution:
        """V*, by sweeps of V ← max_a r + γ P V from V = 0 (Sutton & Barto 2018, section 4.4).

        With γ < 1 the sweeps stop at a Bellman residual of tol (1 − γ) at most. So no entry of V is further
        than `tol` from V*, and the greedy policy loses at most 2 tol (Williams & Baird 1993). Where no episode
        ends, the span of the last change bounds the residual (Puterman 1994, section 6.6), which takes
        fewer sweeps.

        With γ = 1 they stop at a residual of `tol`. Some policy must end from every state, which is checked.
        If moreover every policy that does not end loses without bound, or all rewards have one sign, V tends
        to V* (Bertsekas & Tsitsiklis 1991; Puterman 1994, chapter 7), which is not checked. A cycle that
        gains reward makes V grow until `max_iterations`.

        Raises:
            ValueError: with γ = 1, if from some state no policy ends.
            RuntimeError: if `max_iterations` sweeps do not suffice.
        """
        work = Work.zeros(self.n_states)
        sweeps = self._rows.converge(work, tol, max_iterations)
        return self._solution(work, sweeps)

    def modified_policy_iteration(self, k: int = 100, tol: float = 1e-8, max_iterations: int = 1_000_000) -> Solution:
        """V*, by improving the policy and then sweeping up to `k` times with it (Puterman 1994, section 6.5).

        A round has no sweeps while the improvement still changes a third of the policy. Else they end early,
        when their change is a quarter of the improvement's or, if that kept the policy, when they would
        satisfy `tol`. The rounds stop as value iteration does, with the same bounds.

        Raises:
            ValueError: with γ = 1, for which it is not known to converge.
            RuntimeError: if `max_iterations` rounds do not suffice.
        """
        check_int("k", k, 0)
        check_int("max_iterations", max_iterations)
        if self.gamma == 1:
            raise ValueError("modified policy iteration needs gamma < 1; use value_iteration or policy_iteration")
        rows, room, work = self._rows, self._rows.room(), Work.zeros(self.n_states)
        threshold, policy = rows.threshold(tol), np.full(self.n_states, -1)
        for iteration in range(1, max_iterations + 1):
            _, change = rows.sweep(work, threshold, 1)
            if change <= threshold:
                return self._solution(work, iteration)
            changed = np.count_nonzero(work.policy != policy)
            policy = work.policy.copy()
            if changed <= self.n_states // 3:
                target = max(threshold, 0.25 * change) if changed else threshold
                rows.chosen(policy, room).sweep(work, target, k)
        raise not_converged(max_iterations, tol)

    def policy_iteration(self, tol: float = 1e-8, max_iterations: int = 10_000) -> Solution:
        """V*, by evaluating a policy and improving it until that changes nothing (Howard 1960).

        An action is changed only if that gains more than the error of the evaluation, so that ties cannot go
        round in circles. V is within `tol` of the value of the policy returned, and with γ < 1 of V* too. With
        γ = 1 all policies tried end: the first because some policy must, and the others unless a cycle gains
        reward. The result is then the best of the policies that end.

        Raises:
            ValueError: with γ = 1, if from some state no policy ends, or a cycle gains reward.
            RuntimeError: if `max_iterations` rounds do not suffice.
        """
        check_int("max_iterations", max_iterations)
        check_number("tol", tol)
        rows, room, work = self._rows, self._rows.room(), Work.zeros(self.n_states)
        V, states = work.V[:-1], np.arange(self.n_states)
        policy = rows.check_ending() if self.gamma == 1 else self.greedy_policy(V)
        accuracy = tol / 8 * (1 - self.gamma if self.gamma < 1 else 1)
        for iteration in range(1, max_iterations + 1):
            chain = rows.chosen(policy, room)
            chain.converge(work, accuracy, 1_000_000)
            Q, best, residual = self._look_ahead(V)
            error = max(accuracy, chain.horizon() * abs(Q[states, policy] - V).max())
            better = Q[states, best] > Q[states, policy] + 2 * self.gamma * error
            if not better.any():
                return Solution(V.copy(), Q, policy, iteration, residual)
            policy = np.where(better, best, policy)
        raise not_converged(max_iterations, tol)

    def _look_ahead(self, V: Any) -> tuple[np.ndarray, np.ndarray, float]:
        """Q, the greedy policy and the Bellman residual that belong to V."""
        Q, policy = np.empty((self.n_states, self.n_actions)), np.empty(self.n_states, np.int64)
        residual = kernels.look_ahead(*self._rows[:4], self.gamma, self._with_end(V), Q, policy)
        return Q, policy, residual

    def _with_end(self, V: Any) -> np.ndarray:
        """V, checked, and the end's value."""
        V = numbers("V", V)
        if V.shape != (self.n_states,) or not np.isfinite(V).all():
            raise ValueError(f"V has the shape {V.shape}; it must be ({self.n_states},) and finite")
        return np.append(V, 0.0)

    def _solution(self, work: Work, iterations: int) -> Solution:
        V = work.V[:-1].copy()
        Q, policy, residual = self._look_ahead(V)
        return Solution(V, Q, policy, iterations, residual)

    def _under(self, policy: Any) -> Rows:
        """The rows when `policy`, which is checked, chooses the actions."""
        policy, shape = np.asarray(policy), (self.n_states, self.n_actions)
        if policy.dtype.kind in "iu" and policy.shape == shape[:1]:
            outside = np.flatnonzero((policy < 0) | (policy >= shape[1]))
            if outside.size:
                s = outside[0]
                raise ValueError(f"the policy takes action {policy[s]} in state {s}; actions are 0 to {shape[1] - 1}")
            return self._rows.chosen(policy.astype(np.int64), self._rows.room())
        if policy.shape != shape:
            raise ValueError(f"the policy is {policy.dtype} {policy.shape}; it must be int {shape[:1]} or {shape}")
        share = numbers("policy", policy)
        total = share.sum(axis=1, keepdims=True)
        if not ((share >= 0).all() and (abs(total - 1) <= 1e-6).all()):
            raise ValueError("each row of the policy must hold probabilities that sum to 1")
        return self._rows.mixed(share / total)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
