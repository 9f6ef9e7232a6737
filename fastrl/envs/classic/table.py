"""Environments that are tables of transitions: FrozenLake, Taxi, CliffWalking, any `fastrl.TabularMDP`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete

from fastrl import transitions as tables
from fastrl.envs.compiled import Environment, environment
from fastrl.kernels.sampling import alias_tables
from fastrl.kernels.tabular import outcome
from fastrl.mdp import TabularMDP

__all__ = ["tabular"]


def tabular(model: str | gym.Env | TabularMDP, max_episode_steps: int | None = None, **kwargs: Any) -> Environment:
    """A compiled environment whose observations are the numbers of states.

    Args:
        model: an MDP; or an environment, or an id, whose model is all there is to it, as FrozenLake, Taxi and
            CliffWalking have one.
        max_episode_steps: episodes are truncated then; 0: never; by default the environment's limit, or never.
        kwargs: for `gymnasium.make`, with an id.

    An MDP does not say in which state an episode ended: its final observation is the state before. The machine code
    depends on the size of the table, so another size compiles anew (half a second, and then it is on disk).

    Raises:
        ValueError: if the environment has no model, or more to it than its model (wrappers are not looked at).
        TypeError: for anything else.
    """
    if isinstance(model, str):
        env = gym.make(model, **kwargs)
        try:
            return tabular(env, max_episode_steps)
        finally:
            env.close()
    if isinstance(model, TabularMDP):
        table = model.transitions
        ends = table.next_state == table.n_states
        before = np.repeat(np.arange(table.n_states * table.n_actions), np.diff(table.indptr)) // table.n_actions
        target = np.where(ends, before, table.next_state)
        return _environment("Table", table, target, ends, model.initial, max_episode_steps or 0, None)
    if not isinstance(model, gym.Env):
        raise TypeError(f"model is {model!r}; it must be an id, a gymnasium.Env or a TabularMDP")
    if not tables.is_exact_model(model):
        raise ValueError(f"{model} does not expose a model that is all there is to it, as FrozenLake does")
    next_state, probability, reward, terminated = tables.successors_of(model)
    table = tables.from_successors(next_state, probability, reward, terminated)
    target = tables.from_successors(next_state, probability, reward, None).next_state  # entry by entry the same
    spec = model.spec
    limit = (spec.max_episode_steps if spec else None) if max_episode_steps is None else max_episode_steps
    initial: Any = model.unwrapped
    return _environment(
        type(model.unwrapped).__name__.removesuffix("Env"), table, target, table.next_state == table.n_states,
        initial.initial_state_distrib, limit or 0, spec.reward_threshold if spec else None,
    )  # fmt: skip


def _environment(
    name: str, table: tables.Transitions, target: np.ndarray, ends: np.ndarray, initial: Any, limit: int,
    threshold: float | None,
) -> Environment:  # fmt: skip
    """Entries of the pair (s, a) are in the row s · A + a; one more row leads to the first states."""
    first = np.flatnonzero(initial)
    rows = np.append(table.indptr, len(target) + len(first))
    shares = np.append(table.probability, np.asarray(initial, np.float64)[first] / np.sum(initial))
    accept, alias = alias_tables(rows, shares)
    constants = dict(
        n_actions=table.n_actions,
        last_row=len(rows) - 2,
        indptr=rows,
        next_state=np.append(target, first).astype(np.int64),
        reward_of=np.append(table.reward, np.zeros(len(first))),
        ends=np.append(ends, np.zeros(len(first), bool)),
        accept=accept,
        alias=alias,
        observation_space=Discrete(table.n_states),
        action_space=Discrete(table.n_actions),
        max_episode_steps=limit,
        reward_threshold=threshold,
    )
    return environment(type(name, (_Table,), constants))


class _Table:
    """The number of the state is all there is to it."""

    state_size = 1
    n_actions: int
    last_row: int
    indptr: np.ndarray
    next_state: np.ndarray
    reward_of: np.ndarray
    ends: np.ndarray
    accept: np.ndarray
    alias: np.ndarray

    def reset(self, state: np.ndarray, rng: np.ndarray) -> None:
        state[0] = self.next_state[outcome(rng, self.indptr, self.accept, self.alias, np.uint64(self.last_row))]

    def step(self, state: np.ndarray, action: int, rng: np.ndarray) -> tuple[float, bool]:
        row = np.uint64(int(state[0]) * self.n_actions + action)
        i = outcome(rng, self.indptr, self.accept, self.alias, row)
        state[0] = self.next_state[i]
        return self.reward_of[i], self.ends[i] != 0

    def observe(self, state: np.ndarray, obs: np.ndarray) -> None:
        obs[0] = state[0]
