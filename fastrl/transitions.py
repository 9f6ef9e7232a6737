"""The transitions of a finite MDP as lists of successors: built from what users have, and checked."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.toy_text import CliffWalkingEnv, FrozenLakeEnv, TaxiEnv
from gymnasium.spaces import Discrete

__all__ = ["Transitions", "distribution", "from_env", "from_matrix", "from_successors", "is_exact_model", "numbers",
           "successors_of"]  # fmt: skip


class Transitions(NamedTuple):
    """The successors of S · A pairs; entries indptr[row] … indptr[row + 1] − 1 belong to the row s · A + a."""

    n_states: int
    n_actions: int
    indptr: np.ndarray  # int64[S · A + 1]
    next_state: np.ndarray  # int32[n], below S, or S where the episode ends
    probability: np.ndarray  # float64[n], above 0, each row's sum is 1
    reward: np.ndarray  # float64[n]


def numbers(name: str, value: Any) -> np.ndarray:
    """`value` as float64; TypeError if it is no array of real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} is an array of {array.dtype}; it must be one of real numbers")
    return array.astype(np.float64, copy=False)


def distribution(name: str, value: Any, n: int) -> np.ndarray:
    """`value` as float64[n] that sums to 1; ValueError if it is not one within 1e-6."""
    array = numbers(name, value)
    if array.shape != (n,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-6:
        raise ValueError(f"{name} must be {n} probabilities that sum to 1; got shape {array.shape}, sum {array.sum()}")
    return array / array.sum()


def from_matrix(transitions: Any, rewards: Any, terminal: np.ndarray | None) -> Transitions:
    """From P(s' | s, a), [S, A, S] or sparse [S · A, S]; see `TabularMDP`."""
    rewards = numbers("rewards", rewards)
    if hasattr(transitions, "tocsr"):
        matrix = transitions.tocsr()
        n_rows, n_states = matrix.shape
        if rewards.ndim != 2 or rewards.size != n_rows or len(rewards) != n_states:
            raise ValueError(
                f"transitions have the shape {matrix.shape} and rewards {rewards.shape}; "
                "with a sparse matrix they must be (S * A, S) and (S, A)"
            )
        row, target = np.repeat(np.arange(n_rows), np.diff(matrix.indptr)), matrix.indices
        probability, reward = numbers("transitions", matrix.data), rewards.ravel()[row]
    else:
        dense = numbers("transitions", transitions)
        if dense.ndim != 3 or dense.shape[0] != dense.shape[2]:
            raise ValueError(f"transitions have the shape {dense.shape}; it must be (S, A, S)")
        if rewards.shape not in (dense.shape, dense.shape[:2]):
            raise ValueError(f"rewards have the shape {rewards.shape}; it must be {dense.shape[:2]} or {dense.shape}")
        n_states, n_rows = len(dense), dense.shape[0] * dense.shape[1]
        state, action, target = dense.nonzero()
        row, probability = state * dense.shape[1] + action, dense[state, action, target]
        reward = rewards[state, action] if rewards.ndim == 2 else rewards[state, action, target]
    n_actions = rewards.shape[1]
    ends = np.zeros(len(row), bool)
    if terminal is not None:
        # Whatever the rows of terminal states hold, often zeros or loops, nothing follows and nothing is earned.
        keep = ~terminal[row // n_actions]
        over = np.flatnonzero(np.repeat(terminal, n_actions))
        order = np.argsort(np.concatenate([row[keep], over]), kind="stable")
        row = np.concatenate([row[keep], over])[order]
        target = np.concatenate([target[keep], np.zeros_like(over)])[order]
        probability = np.concatenate([probability[keep], np.ones(len(over))])[order]
        reward = np.concatenate([reward[keep], np.zeros(len(over))])[order]
        ends = terminal[target] | terminal[row // n_actions]
    return _checked((n_states, n_actions), row, target, probability, reward, ends)


def from_successors(next_state: Any, probability: Any, reward: Any, terminated: Any) -> Transitions:
    """From successors [S, A, K]; see `TabularMDP.from_successors`."""
    next_state = np.asarray(next_state)
    probability, reward = numbers("probability", probability), numbers("reward", reward)
    if next_state.dtype.kind not in "iu":
        raise TypeError(f"next_state is an array of {next_state.dtype}; it must be one of integers")
    shape = next_state.shape
    if len(shape) != 3 or probability.shape != shape or reward.shape not in (shape, shape[:2]):
        raise ValueError(
            f"next_state, probability and reward have the shapes {shape}, {probability.shape} and {reward.shape}; "
            "they must be (S, A, K), (S, A, K) and (S, A) or (S, A, K)"
        )
    terminated = np.zeros(shape, bool) if terminated is None else np.asarray(terminated)
    if terminated.shape != shape or terminated.dtype != bool:
        raise ValueError(f"terminated is {terminated.dtype} {terminated.shape}; it must be bool {shape}")
    state, action, k = probability.nonzero()
    target = next_state[state, action, k]
    earned = reward[state, action] if reward.ndim == 2 else reward[state, action, k]
    row, share = state * shape[1] + action, probability[state, action, k]
    return _checked(shape[:2], row, target, share, earned, terminated[state, action, k])


def from_env(env: gym.Env) -> Transitions:
    """From `env.unwrapped.P`, where P[s][a] lists (probability, next state, reward, terminated)."""
    return from_successors(*successors_of(env))


def successors_of(env: gym.Env) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """next_state int64, probability, reward and terminated bool [S, A, K] of `env.unwrapped.P`."""
    raw: Any = env.unwrapped
    name = type(raw).__name__
    if not hasattr(raw, "P"):
        raise ValueError(f"{name} does not expose its model; it would be an attribute P, as FrozenLake has")
    if getattr(raw, "fickle_passenger", False):
        raise ValueError(f"{name}.P leaves out the fickle passenger; make it with fickle_passenger=False")
    try:
        model = [[raw.P[s][a] for a in range(len(raw.P[s]))] for s in range(len(raw.P))]
        shape = (len(model), len(model[0]), max(len(pair) for state in model for pair in state))
        table = np.zeros((*shape, 4))
        for s, state in enumerate(model):
            for a, pair in enumerate(state):
                table[s, a, : len(pair)] = pair
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name}.P is no model: P[s][a] must list (probability, next state, reward, terminated) for every "
            "state s and action a, both counted from 0"
        ) from error
    return table[..., 1].astype(np.int64), table[..., 0], table[..., 2], table[..., 3] != 0


def is_exact_model(env: gym.Env) -> bool:
    """Whether `env`, unwrapped, exposes a model that is all there is to its steps and resets.

    Gymnasium's environments are known; a subclass that steps in its own way inherits a model that is not its own.
    Other environments that expose both P and initial_state_distrib are taken at their word.
    """
    raw: Any = env.unwrapped
    changed = any(
        isinstance(raw, kind) and (type(raw).step is not kind.step or type(raw).reset is not kind.reset)
        for kind in (CliffWalkingEnv, FrozenLakeEnv, TaxiEnv)
    )
    if changed or getattr(raw, "fickle_passenger", False) or not hasattr(raw, "initial_state_distrib"):
        return False
    try:
        return (raw.observation_space, raw.action_space) == (Discrete(len(raw.P)), Discrete(len(raw.P[0])))
    except (AttributeError, KeyError, TypeError):
        return False


def _checked(
    shape: tuple[int, int], row: np.ndarray, target: np.ndarray, probability: np.ndarray, reward: np.ndarray,
    ends: np.ndarray,
) -> Transitions:  # fmt: skip
    """The table of the entries (row, target, ...), sorted by row, or an error that names the state and action."""
    n_states, n_actions = shape
    if n_states < 1 or n_actions < 1:
        raise ValueError(f"an MDP needs at least one state and one action; got {n_states} and {n_actions}")

    def refuse(bad: np.ndarray, pairs: np.ndarray, what: str, values: np.ndarray) -> None:
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            state, action = divmod(int(pairs[i]), n_actions)
            raise ValueError(f"state {state}, action {action}: {what}, got {values[i]}")

    positive = np.isfinite(probability) & (probability >= 0)
    refuse(~positive, row, "a probability must be finite and not negative", probability)
    kept = probability > 0
    row, target, probability, reward, ends = row[kept], target[kept], probability[kept], reward[kept], ends[kept]
    refuse((target < 0) | (target >= n_states), row, f"the next state must be one of 0 to {n_states - 1}", target)
    refuse(~np.isfinite(reward), row, "the reward must be finite", reward)
    total = np.bincount(row, probability, n_states * n_actions)
    refuse(abs(total - 1) > 1e-6, np.arange(len(total)), "the probabilities of the next states must sum to 1", total)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(total)))])
    next_state = np.where(ends, n_states, target).astype(np.int32)
    return Transitions(n_states, n_actions, indptr, next_state, probability / total[row], reward)
