"""Steps of many environments, and what they have to obey: Gymnasium's physics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from benches.operation import Work

STEPS = 32  # of each environment in a call
CHECKED = 8  # environments whose steps are checked


class World(NamedTuple):
    """`actions` are those of each step, [N] or [N, c]."""

    id: str
    num_envs: int
    actions: list[np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        return len(self.actions), self.num_envs


class Seen(NamedTuple):
    """What N environments returned of one step; where `done`, `obs` may be the next episode's."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    done: np.ndarray


Outcome = tuple[Any, float, bool]  # obs, reward, terminated
Physics = Callable[[np.ndarray, Any], list[Outcome]]  # of an observation and an action, what may come of it


def world(case: tuple[str, int], steps: int = STEPS) -> World:
    id, num_envs = case
    env = gym.make(id)
    space = gym.vector.utils.batch_space(env.action_space, num_envs)
    space.seed(0)
    return World(id, num_envs, [np.asarray(space.sample()) for _ in range(steps)])


STATES: dict[str, Callable[[np.ndarray], Any]] = {  # which an observation shows
    "CartPole-v1": np.array,
    "MountainCar-v0": np.array,
    "Pendulum-v1": lambda obs: np.array([math.atan2(obs[1], obs[0]), obs[2]]),
    "Acrobot-v1": lambda obs: np.array([math.atan2(obs[1], obs[0]), math.atan2(obs[3], obs[2]), obs[4], obs[5]]),
}


def physics(w: World) -> Physics | None:
    """Gymnasium's, or None where its state cannot be set."""
    env: Any = gym.make(w.id).unwrapped
    env.reset(seed=0)
    if hasattr(env, "P"):
        return lambda obs, action: [(s, r, ended) for p, s, r, ended in env.P[int(obs)][int(action)] if p > 0]
    if w.id not in STATES:
        return None

    def outcome(obs: np.ndarray, action: Any) -> list[Outcome]:
        env.state, env.steps_beyond_terminated = STATES[w.id](obs.astype(float)), None
        after, reward, terminated, *_ = env.step(action)
        return [(after, reward, terminated)]

    return outcome


Walk = list[tuple[Seen, np.ndarray, Seen]]  # each step with what was seen before it, and the actions


def obeys(walk: Walk, law: Physics | None) -> None:
    """Every step of the first environments, but those that only begin an episode (Gymnasium's mode NEXT_STEP)."""
    for before, actions, after in walk:
        assert np.isfinite(after.obs).all() and np.isfinite(after.reward).all()
        for i in range(min(CHECKED, len(actions)) if law else 0):
            if before.done[i]:
                continue
            seen = after.obs[i], after.reward[i], after.terminated[i], after.done[i]
            allowed = law(before.obs[i], actions[i]) if law else []
            assert any(agree(seen, outcome) for outcome in allowed), (
                f"action {actions[i]} led from {before.obs[i]} to {seen[:3]}, in Gymnasium to {allowed}"
            )


def agree(seen: tuple[Any, Any, Any, Any], outcome: Outcome) -> bool:
    """Within float32's accuracy; the observation unless an episode ended, after which it may be the next one's."""
    obs, reward, terminated, done = seen
    close = partial(np.allclose, rtol=1e-4, atol=1e-4)
    return bool(terminated == outcome[2] and close(reward, outcome[1]) and (done or close(obs, outcome[0])))


def stepped(w: World, step: Callable[[Any], Any], see: Callable[[Any], Seen], actions: Iterable[Any] = ()) -> Work:
    """Of what takes one step of all environments a call; its `actions` are `w.actions` in the form that it takes."""
    given = list(actions) or w.actions

    def call() -> None:
        for action in given:
            step(action)

    def walk(_: None) -> Walk:
        seen = [see(step(action)) for action in given]
        return [(seen[t - 1], w.actions[t], seen[t]) for t in range(1, len(w.actions))]

    return Work(call, walk)


def gymnasiums(returned: Any) -> Seen:
    """Of `step` as Gymnasium has it, copied."""
    obs, reward, terminated, truncated = (np.array(x) for x in returned[:4])
    return Seen(obs, reward, terminated, terminated | truncated)


def rolled_out(w: World, seen: Seen) -> Walk:
    """Of arrays [T, N, …]."""
    rows = [Seen(*(np.array(x[t]) for x in seen)) for t in range(len(w.actions))]
    return [(rows[t - 1], w.actions[t], rows[t]) for t in range(1, len(w.actions))]
