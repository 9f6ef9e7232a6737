"""Environments stepped with random actions: ours compiled, Gymnasium's, and the libraries' own or around Gymnasium's.

Each step is checked against Gymnasium's single environment, put into the state that the observation before shows. Of
LunarLander an observation shows too little for that; there, only what is returned is looked at.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from benches.operation import Implementation, Missing, NoPart, Operation, Work
from benches.walks import STEPS, Seen, World, gymnasiums, obeys, physics, rolled_out, stepped, world
from fastrl.envs import make_vec
from fastrl.envs.registration import TWINS
from fastrl.envs.stepper import make_stepper
from fastrl.kernels._jit import kernel
from fastrl.kernels.environment import observe, reset, row, step


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


def tianshou(w: World) -> Work:
    """Its vector environment begins no episodes: its collector does, as here, after the step that ends one."""
    from tianshou.env import DummyVectorEnv

    envs = DummyVectorEnv([partial(gym.make, w.id)] * w.num_envs)
    envs.seed(0)
    envs.reset()

    def step(action: np.ndarray) -> Any:
        returned = envs.step(action)
        ended = np.flatnonzero(returned[2] | returned[3])
        if len(ended):
            envs.reset(ended)
        return returned

    return stepped(w, step, gymnasiums)


def torchrl(w: World) -> Work:
    import torch
    from torchrl.envs import GymEnv, SerialEnv

    if w.num_envs > 64:
        raise NoPart("a step of each takes a tenth of a millisecond: at most 64 environments")
    torch.set_num_threads(1)
    make = partial(GymEnv, w.id, **({} if w.actions[0].dtype.kind == "f" else {"categorical_action_encoding": True}))
    envs: Any = SerialEnv(w.num_envs, make)
    now = envs.reset()

    def step(action: Any) -> Any:
        nonlocal now
        full, now = envs.step_and_maybe_reset(now.set("action", action))
        return full["next"]

    def see(returned: Any) -> Seen:
        obs, reward, terminated, done = (
            returned[x].numpy().copy().reshape(w.num_envs, -1) for x in ("observation", "reward", "terminated", "done")
        )
        return Seen(obs if obs.shape[1] > 1 else obs[:, 0], reward[:, 0], terminated[:, 0], done[:, 0])

    return stepped(w, step, see, [torch.as_tensor(a) for a in w.actions])


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
        "Tianshou": Implementation(tianshou, ("tianshou",)),
        "TorchRL": Implementation(torchrl, ("torchrl",)),
        "EnvPool": Implementation(envpool, ("envpool",)),
        "rlox": Implementation(rlox, ("rlox",)),
        "gymnax": Implementation(gymnax, ("jax", "gymnax")),
    },
    obeys, sweeps={"environments": {n: ("CartPole-v1", n) for n in (1, 4, 16, 64, 256, 1024)}},
    unit="step", per=lambda case: case[1] * STEPS,
)  # fmt: skip
