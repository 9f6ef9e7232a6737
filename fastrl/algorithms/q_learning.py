"""Tabular Q-learning (Watkins 1989): one compiled loop where the environment's model is known, else step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete, Space, Tuple
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from fastrl.checks import check_int, check_number
from fastrl.kernels.sampling import alias_tables, new_stream
from fastrl.kernels.tabular import epsilon_greedy, learn, q_learning_steps
from fastrl.mdp import TabularMDP
from fastrl.transitions import is_exact_model, numbers

__all__ = ["QLearningResult", "q_learning"]

STEPS_PER_CALL = 10_000_000  # about 0.2 s: so often the compiled loop returns, for Ctrl-C to be heard
NO_LIMIT = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class QLearningResult:
    """What Q-learning learnt, and how the episodes went.

    Attributes:
        Q: float64[S, A]; the row of an observation is `state_index(obs)`.
        returns: float64[episodes], the undiscounted sum of rewards of each episode.
        lengths: int64[episodes], its number of steps.
        observation_space, action_space: the environment's.
    """

    Q: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    observation_space: Space
    action_space: Discrete

    def policy(self) -> np.ndarray:
        """int64[S], the first action of the highest Q in each state, counted from 0."""
        return self.Q.argmax(axis=1)

    def state_index(self, obs: Any) -> Any:
        """The row of `Q` for an observation: an int, or int64[N] for a batch.

        Tuple and MultiDiscrete observations are numbered in C order, the last component changing fastest.
        ValueError for an observation outside the space.
        """
        return _numbering(self.observation_space)[1](obs)

    def predict(
        self, observation: Any, state: None = None, episode_start: Any = None, deterministic: bool = True
    ) -> tuple[Any, None]:
        """(greedy action, None) for an observation or a batch; the other arguments change nothing."""
        return self.policy()[self.state_index(observation)] + self.action_space.start, None


def q_learning(
    env: str | gym.Env | TabularMDP,
    episodes: int = 10_000,
    alpha: float = 0.1,
    gamma: float = 0.99,
    epsilon: float = 1.0,
    epsilon_decay: float = 0.9995,
    epsilon_min: float = 0.01,
    seed: int | None = None,
    *,
    max_steps: int | None = None,
    random_ties: bool = False,
    q_init: Any = 0.0,
) -> QLearningResult:
    """Learn Q* by ε-greedy play: Q(s, a) ← Q(s, a) + α (r + γ max_a' Q(s', a') − Q(s, a)).

    A terminated episode ends with V = 0. A truncated one (a time limit) does not: its last update counts on
    max_a' Q(s', a') as any other does.

    Where `env` exposes its model (FrozenLake, Taxi, CliffWalking and what follows their P and
    initial_state_distrib) and has no wrappers but those of `gymnasium.make`, the whole loop is one compiled
    kernel over the table of transitions, and `env` itself is never stepped. Otherwise `env` is stepped in Python.

    Args:
        env: an id, an environment or a `TabularMDP` (give its gamma too). Observations: Discrete,
            MultiDiscrete or a Tuple of Discrete; actions: Discrete.
        episodes: how many to play.
        alpha: the step size α, in [0, 1].
        gamma: the discount γ, in [0, 1].
        epsilon: the probability of a random action in the first episode.
        epsilon_decay: ε is multiplied by this after every episode, in [0, 1],
        epsilon_min: and never falls below this, in [0, epsilon].
        seed: of the random stream and of the first reset; the same seed gives the same result, bit for bit.
        max_steps: truncates episodes after so many steps; the environment's own time limit holds as well.
        random_ties: choose among equally good actions at random; the first of them by default.
        q_init: the first Q, a number or an array [S, A], which is copied.

    Raises:
        ValueError: for numbers out of range; observations outside the space; rewards that are not finite, with
            the episode and the step; a `q_init` of another shape; a model from which an episode may
            never end, without a time limit.
        TypeError: for spaces and environments of another kind.

    Source: Watkins 1989; Sutton & Barto 2018, section 6.5.
    """
    for name, value in (("alpha", alpha), ("gamma", gamma), ("epsilon", epsilon), ("epsilon_decay", epsilon_decay)):
        check_number(name, value, 0, 1)
    check_number("epsilon_min", epsilon_min, 0, epsilon)
    check_int("episodes", episodes)
    if max_steps is not None:
        check_int("max_steps", max_steps)
    stream = new_stream(seed)
    world = gym.make(env) if isinstance(env, str) else env
    try:
        observation_space, action_space = _spaces(world)
        n_states, index = _numbering(observation_space)
        Q = np.zeros((n_states + 1, int(action_space.n)))
        Q[:-1] = _first_q(q_init, Q[:-1].shape)
        run = _Run(
            Q, Q.argmax(axis=1), float(alpha), float(gamma), float(epsilon), float(epsilon_decay), float(epsilon_min),
            max_steps or NO_LIMIT, bool(random_ties), stream, np.zeros(episodes), np.zeros(episodes, np.int64),
        )  # fmt: skip
        if isinstance(world, TabularMDP):
            run.through_model(world, NO_LIMIT)
        elif (model := _model(world)) is not None:
            run.through_model(*model)
        else:
            run.through_env(world, index, int(action_space.start), None if seed is None else int(seed))
    finally:
        if isinstance(env, str) and isinstance(world, gym.Env):
            world.close()
    return QLearningResult(Q[:-1].copy(), run.returns, run.lengths, observation_space, action_space)


@dataclass
class _Run:
    """The state of one call of `q_learning`. Q's last row, 0, and state number S stand for the end."""

    Q: np.ndarray
    greedy: np.ndarray
    alpha: float
    gamma: float
    epsilon: float
    epsilon_decay: float
    epsilon_min: float
    limit: int
    random_ties: bool
    stream: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray

    def through_model(self, mdp: TabularMDP, time_limit: int) -> None:
        """All episodes, from a table of transitions."""
        limit = min(self.limit, time_limit)
        if limit == NO_LIMIT and mdp.endless_states().size:
            raise ValueError("an episode may never end here, and there is no time limit; give max_steps")
        table = _playable(mdp)
        episode, state = 0, mdp.n_states
        while episode < len(self.returns):
            episode, state, self.epsilon = q_learning_steps(
                *table, self.Q, self.greedy, self.alpha, self.gamma, self.epsilon, self.epsilon_decay,
                self.epsilon_min, limit, self.random_ties, self.stream, self.returns, self.lengths,
                episode, state, STEPS_PER_CALL,
            )  # fmt: skip

    def through_env(self, env: gym.Env, index: Callable[[Any], int], first_action: int, seed: int | None) -> None:
        """All episodes, by stepping `env`."""
        end = len(self.Q) - 1
        for episode in range(len(self.returns)):
            obs, _ = env.reset(seed=seed if episode == 0 else None)
            state, length, over = index(obs), 0, False
            while not over and length < self.limit:
                action = epsilon_greedy(self.stream, self.Q, self.greedy, state, self.epsilon, self.random_ties)
                obs, reward, terminated, truncated, _ = env.step(first_action + action)
                reward, length, over = float(reward), length + 1, terminated or truncated
                if not math.isfinite(reward):
                    raise ValueError(f"{env} gave the reward {reward} in step {length} of episode {episode}")
                next_state = end if terminated else index(obs)
                learn(self.Q, self.greedy, state, action, reward, next_state, self.alpha, self.gamma)
                self.returns[episode] += reward
                state = next_state
            self.lengths[episode] = length
            self.epsilon = max(self.epsilon_min, self.epsilon * self.epsilon_decay)


def _model(env: gym.Env) -> tuple[TabularMDP, int] | None:
    """What `env` does, as an MDP and a time limit, or None where only stepping it can tell."""
    limit, inner = NO_LIMIT, env
    while isinstance(inner, gym.Wrapper):
        if type(inner) not in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
            return None
        if isinstance(inner, TimeLimit):
            limit = min(limit, inner._max_episode_steps)
        inner = inner.env
    return (TabularMDP.from_env(env), limit) if is_exact_model(env) else None


def _playable(mdp: TabularMDP) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """indptr, next_state, reward, accept, alias: the MDP's table and a last row, from the end to the first states."""
    table, first = mdp.transitions, np.flatnonzero(mdp.initial)
    indptr = np.append(table.indptr, len(table.next_state) + len(first))
    next_state = np.append(table.next_state, first.astype(np.int32))
    reward = np.append(table.reward, np.zeros(len(first)))
    return indptr, next_state, reward, *alias_tables(indptr, np.append(table.probability, mdp.initial[first]))


def _spaces(env: gym.Env | TabularMDP) -> tuple[Space, Discrete]:
    if isinstance(env, TabularMDP):
        return Discrete(env.n_states), Discrete(env.n_actions)
    if not isinstance(env, gym.Env):
        raise TypeError(f"env is a {type(env).__name__}; it must be an id, a gymnasium.Env or a TabularMDP")
    if not isinstance(env.action_space, Discrete):
        raise TypeError(f"the action space {env.action_space} is not supported; q_learning takes Discrete actions")
    return env.observation_space, env.action_space


def _numbering(space: Space) -> tuple[int, Callable[[Any], Any]]:
    """The number of observations in `space`, and the function that numbers them, one or a batch at once."""
    parts: list[Any] = list(space.spaces) if isinstance(space, Tuple) else [space]
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        sizes, starts = [int(n) for n in space.nvec], [int(start) for start in space.start]
    elif all(isinstance(part, Discrete) for part in parts):
        sizes, starts = [int(part.n) for part in parts], [int(part.start) for part in parts]
    else:
        raise TypeError(
            f"the observation space {space} is not supported; q_learning takes Discrete, MultiDiscrete or a Tuple "
            "of Discrete: map observations to one of these with a gymnasium.ObservationWrapper, or use DQN"
        )

    def index(obs: Any) -> Any:
        number: Any = 0
        try:
            columns = (
                [obs] if isinstance(space, Discrete) else obs if isinstance(space, Tuple) else np.moveaxis(obs, -1, 0)
            )
            for column, size, start in zip(columns, sizes, starts, strict=True):
                number = number * size + _place(column, size, start)
        except (TypeError, ValueError):
            raise ValueError(f"the observation {obs!r} lies outside its space {space}") from None
        return number

    return math.prod(sizes), index


def _place(value: Any, size: int, start: int) -> Any:
    """`value`, an integer or an array of them, counted from `start`; a ValueError outside 0 … size − 1."""
    if isinstance(value, (int, np.integer)):
        place: Any = int(value) - start
        inside = 0 <= place < size
    else:
        place = np.asarray(value) - start
        inside = place.dtype.kind in "iu" and bool(((place >= 0) & (place < size)).all())
    if not inside:
        raise ValueError
    return place


def _first_q(q_init: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = numbers("q_init", q_init)
    if array.shape not in ((), shape) or not np.isfinite(array).all():
        raise ValueError(f"q_init has the shape {array.shape}; it must be a number or {shape}, and finite")
    return array
