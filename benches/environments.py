"""Environments stepped with random actions: ours compiled, Gymnasium's, EnvPool's, rlox's and gymnax's.

Each step is checked against Gymnasium's single environment, put into the state that the observation before shows. Of
LunarLander an observation shows too little for that; there, only what is returned is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from benches.operation import Implementation, Missing, Operation, Work
from fastrl.envs import make_vec
from fastrl.envs.registration import TWINS
from fastrl.envs.stepper import make_stepper
from fastrl.kernels._jit import kernel
from fastrl.kernels.environment import observe, reset, row, step

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


def vector_environment(w: World) -> Work:
    if w.id in TWINS:
        envs = make_vec(w.id, w.num_envs)
        envs.reset(seed=0)
        return stepped(w, envs.step, gymnasiums)
    stepper = make_stepper(w.id, w.num_envs)  # what an agent has where nothing is compiled: Gymnasium's, one by one
    stepper.reset(seed=0)

    def step(action: np.ndarray) -> Any:
        stepper.take_finished()
        return stepper.step(action)

    return stepped(w, step, gymnasiums)


@kernel
def rollout(
    env: np.ndarray, states: np.ndarray, rngs: np.ndarray, lengths: np.ndarray, max_episode_steps: int,
    actions: np.ndarray, obs: np.ndarray, reward: np.ndarray, terminated: np.ndarray, done: np.ndarray,
) -> None:  # fmt: skip
    """`actions` [T, N] or [T, N, c]; the others [T, N, …] are written. Episodes that end are followed by new ones."""
    for t in range(len(actions)):
        action, seen = actions[t], obs[t]
        for i in range(len(states)):
            r, over = step(env, row(states, i), row(action, i), row(rngs, i))
            lengths[i] += 1
            ended = over or lengths[i] == max_episode_steps
            reward[t, i], terminated[t, i], done[t, i] = r, over, ended
            if ended:
                states[i, :] = 0
                reset(env, row(states, i), row(rngs, i))
                lengths[i] = 0
            observe(env, row(states, i), row(seen, i))


def in_a_kernel(w: World) -> Work:
    """All steps in one call of a kernel, as PPO's rollouts are."""
    if w.id not in TWINS:
        raise Missing(f"{w.id} has no compiled twin")
    envs = make_vec(w.id, w.num_envs)
    envs.reset(seed=0)
    actions, obs = np.stack(w.actions), np.empty((*w.size, envs.environment.obs_size), np.float32)
    reward, terminated, done = np.empty(w.size), np.empty(w.size, bool), np.empty(w.size, bool)
    shown = obs[..., 0] if isinstance(envs.single_observation_space, gym.spaces.Discrete) else obs

    def call() -> None:  # which keeps `envs`, whose constants the handle is the address of
        state = envs.handle, envs.states, envs.rngs, envs.lengths, envs.max_episode_steps
        rollout(*state, actions, obs, reward, terminated, done)

    return Work(call, lambda _: rolled_out(w, Seen(shown, reward, terminated, done)))


def rolled_out(w: World, seen: Seen) -> Walk:
    """Of arrays [T, N, …]."""
    rows = [Seen(*(np.array(x[t]) for x in seen)) for t in range(len(w.actions))]
    return [(rows[t - 1], w.actions[t], rows[t]) for t in range(1, len(w.actions))]


def gymnasium(w: World) -> Work:
    """Vectorised where Gymnasium has that (CartPole), else one after the other."""
    envs = gym.make_vec(w.id, w.num_envs)
    envs.reset(seed=0)
    return stepped(w, envs.step, gymnasiums)


def stable_baselines3(w: World) -> Work:
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs: Any = DummyVecEnv([partial(gym.make, w.id)] * w.num_envs)
    envs.seed(0)
    envs.reset()

    def see(returned: Any) -> Seen:
        obs, reward, done, infos = returned
        cut = np.array([info.get("TimeLimit.truncated", False) for info in infos])
        return Seen(obs.copy(), reward.copy(), done & ~cut, done.copy())

    return stepped(w, envs.step, see)


def envpool(w: World) -> Work:
    import envpool

    envs = envpool.make_gymnasium(w.id, num_envs=w.num_envs, num_threads=1, seed=0)
    envs.reset()
    return stepped(w, envs.step, gymnasiums)


def rlox(w: World) -> Work:
    import rlox

    try:
        envs = rlox.VecEnv(w.num_envs, seed=0, env_id=w.id)
    except ValueError as error:
        raise Missing(f"it has no {w.id} of its own") from error
    envs.reset_all()

    def see(returned: dict[str, Any]) -> Seen:
        terminated, truncated = (returned[x].astype(bool) for x in ("terminated", "truncated"))
        return Seen(returned["obs"].copy(), returned["rewards"].copy(), terminated, terminated | truncated)

    continuous = w.actions[0].dtype.kind == "f"
    return stepped(w, envs.step_all, see, [a if continuous else a.astype(np.uint32) for a in w.actions])


def gymnax(w: World) -> Work:
    """All steps in one XLA program, as PureJaxRL has it; its compilation is not timed."""
    import gymnax
    import jax

    if w.id not in gymnax.registered_envs:
        raise Missing(f"it has no {w.id}")
    env, parameters = gymnax.make(w.id)
    actions, keys = jax.numpy.asarray(np.stack(w.actions)), jax.random.split(jax.random.key(0), w.num_envs)
    take = jax.vmap(env.step, in_axes=(0, 0, 0, None))

    def one(carry: Any, action: Any) -> Any:
        key, state = carry
        key, now = jax.random.split(key)
        obs, state, reward, done, _ = take(jax.random.split(now, w.num_envs), state, action, parameters)
        return (key, state), (obs, reward, done)

    program = jax.jit(lambda carry: jax.lax.scan(one, carry, actions))
    carry = jax.random.key(1), jax.vmap(env.reset, in_axes=(0, None))(keys, parameters)[1]

    def call() -> Any:
        nonlocal carry
        carry, seen = jax.block_until_ready(program(carry))
        return seen

    return Work(call, lambda seen: rolled_out(w, Seen(*map(np.asarray, (*seen, seen[2])))))


IDS = ("CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "FrozenLake-v1", "LunarLander-v3")
ENVIRONMENTS = Operation(
    "Environments", {f"{id}, 64": (id, 64) for id in IDS}, world, physics,
    {
        "fastrl": Implementation(vector_environment, role="ours"),
        "fastrl, in a kernel": Implementation(in_a_kernel, role="ours"),
        "Gymnasium": Implementation(gymnasium),
        "Stable-Baselines3": Implementation(stable_baselines3, ("stable_baselines3",)),
        "EnvPool": Implementation(envpool, ("envpool",)),
        "rlox": Implementation(rlox, ("rlox",)),
        "gymnax": Implementation(gymnax, ("jax", "gymnax")),
    },
    obeys, sweeps={"environments": {n: ("CartPole-v1", n) for n in (1, 4, 16, 64, 256, 1024)}},
    unit="step", per=lambda case: case[1] * STEPS,
)  # fmt: skip
