"""A whole rollout in one call: acting, compiled environments, their resets, normalisation, values at time limits."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.acting import act_rows, load_rows
from fastrl.kernels.environment import (
    BAD_ACTION,
    BAD_OBS,
    BAD_REWARD,
    OBSERVE,
    RESET,
    STEP,
    observe_flat,
    reset,
    row,
    step,
)
from fastrl.kernels.heads import VALUE
from fastrl.kernels.mlp import ROWS, H, forward
from fastrl.kernels.normalize import normalize, observe, scale_reward


class Envs(NamedTuple):
    """N compiled environments, as `fastrl.envs.vector` keeps them, and scratch memory."""

    env: np.ndarray  # int64 [5]
    states: np.ndarray  # float64 [N, S]
    rngs: np.ndarray  # uint64 [N, 4]
    lengths: np.ndarray  # int64 [N]
    returns: np.ndarray  # float64 [N]
    max_episode_steps: int  # 0: never truncated
    is_choice: bool  # the action is one integer, not an array
    low: np.ndarray  # float32 [c], the bounds of Box actions; else empty
    high: np.ndarray
    obs: np.ndarray  # float32 [N, D], flat observations of the states as they are
    final_obs: np.ndarray  # float32 [N, D], of the episodes that ended with the last step
    reward: np.ndarray  # float64 [N], of the last step
    done: np.ndarray  # bool [N], likewise
    all: np.ndarray  # bool [N], True
    where: np.ndarray  # int64 [3]: the environment at work, on which of its functions, at which step


class Policy(NamedTuple):
    """A network as kernels take it."""

    params: np.ndarray
    plan: np.ndarray
    work: np.ndarray
    head: np.ndarray


class Normalization(NamedTuple):
    """Running statistics of `fastrl.normalize`; unused where `used` is False."""

    used: bool
    gamma: float
    obs_mean: np.ndarray
    obs_var: np.ndarray
    obs_count: np.ndarray
    returns: np.ndarray  # float64 [N]
    mean: np.ndarray  # of the discounted returns, float64 [1], like the next two
    var: np.ndarray
    seen: np.ndarray


class Steps(NamedTuple):
    """T steps of N environments, rows in the order of time: row t N + i is step t of environment i."""

    noise: np.ndarray  # float32 [T N, c], uniform or normal: given
    obs: np.ndarray  # float32 [T N, D], as the network saw them: written, like all that follows
    action: np.ndarray  # int64 or float32 [T N, c]
    log_prob: np.ndarray  # float32 [T N], and likewise
    value: np.ndarray
    reward: np.ndarray
    final_value: np.ndarray
    terminated: np.ndarray  # bool [T N]
    truncated: np.ndarray
    valid: np.ndarray
    ended: np.ndarray  # float64 [T N, 2]: (return, length) of the episodes that ended, in this order
    bounded: np.ndarray  # [c] scratch memory for an action


@bare
def collect(
    envs: Envs, policy: Policy, norm: Normalization, steps: Steps, left: np.ndarray, bootstrap: bool
) -> tuple[int, int]:  # fmt: skip
    """Run the policy for T steps, or until `left` int64 [N], the episodes that each environment owes, are all played.

    `left` is counted down; `steps.valid` marks the rows that belong to owed episodes. With `bootstrap`, the value of
    the true last observation is written where an episode was truncated and not terminated, else 0.
    After `mlp.refresh`. Returns (steps of each environment, episodes that ended); or as the first BAD_ACTION,
    BAD_REWARD or BAD_OBS, where a number was not finite, or a Discrete observation none of its space's: `envs.where`
    says for which environment, and at which step.
    """
    n, n_ended, t, done, owed = len(envs.states), 0, 0, envs.done, 0
    for episodes in left:
        owed += episodes
    code = look_at_all(envs)
    if code < 0:
        return code, n_ended
    while owed > 0 and (t + 1) * n <= len(steps.obs):
        first = t * n
        act_on(envs.obs, first, policy, norm, steps)
        envs.where[2] = t
        for i in range(n):
            k = first + i
            code = advance(i, k, envs, steps)
            if code < 0:
                return code, n_ended
            done[i] = steps.terminated[k] or steps.truncated[k]
            steps.valid[k] = left[i] > 0
            if done[i]:
                steps.ended[n_ended, 0], steps.ended[n_ended, 1] = envs.returns[i], envs.lengths[i]
                n_ended += 1
                if left[i] > 0:
                    left[i] -= 1
                    owed -= 1
                code = renew(i, envs)
                if code < 0:
                    return code, n_ended
        if norm.used:
            observe(envs.obs, norm.obs_mean, norm.obs_var, norm.obs_count)
            scale_reward(envs.reward, done, envs.all, norm.gamma, norm.returns, norm.mean, norm.var,
                         norm.seen, steps.reward[first : first + n])  # fmt: skip
        for i in range(n):
            k = first + i
            steps.final_value[k] = 0
            if not norm.used:
                steps.reward[k] = envs.reward[i]
            if bootstrap and steps.truncated[k] and not steps.terminated[k]:
                steps.final_value[k] = final_value(i, envs, policy, norm)
        t += 1
    return t, n_ended


@inlined
def act_on(obs: np.ndarray, first: int, policy: Policy, norm: Normalization, steps: Steps) -> None:
    """Act on flat observations [N, D]: everything that the policy says is written to the rows from `first` on."""
    n, n_obs = obs.shape
    for i in range(n):
        for j in range(n_obs):
            steps.obs[first + i, j] = obs[i, j]
    if norm.used:
        seen = steps.obs[first : first + n]
        normalize(seen, norm.obs_mean, norm.obs_var, seen)
    for start in range(0, n, policy.plan[0, ROWS]):
        rows = min(n - start, policy.plan[0, ROWS])
        load_rows(steps.obs, first + start, rows, policy.plan, policy.work)
        act_rows(first + start, rows, steps.noise, policy.params, policy.plan, policy.work, policy.head, steps.action,
                 steps.log_prob, steps.value)  # fmt: skip


@inlined
def advance(i: int, k: int, envs: Envs, steps: Steps) -> int:
    """One step of environment i by the action in row k; how it ended is written there. 0, or BAD_…"""
    envs.where[0] = i
    chosen, action = row(steps.action, k), steps.bounded
    if envs.is_choice:
        code, steps.terminated[k], steps.truncated[k] = move(i, int(chosen[0]), envs)
        return code
    for c in range(len(action)):
        x = chosen[c]
        if len(envs.low) > 0:
            if x < envs.low[c]:
                x = envs.low[c]
            if x > envs.high[c]:
                x = envs.high[c]
            if not np.isfinite(x):
                return BAD_ACTION
        action[c] = x
    code, steps.terminated[k], steps.truncated[k] = move(i, action, envs)
    return code


@inlined
def move(i: int, action: Any, envs: Envs) -> tuple[int, bool, bool]:
    """One step of environment i by `action`: (0 or BAD_…, terminated, truncated)."""
    envs.where[0], envs.where[1] = i, STEP
    reward, terminated = step(envs.env, row(envs.states, i), action, row(envs.rngs, i))
    envs.reward[i] = reward
    envs.lengths[i] += 1
    envs.returns[i] += reward
    truncated = envs.lengths[i] == envs.max_episode_steps
    return (look(i, envs) if np.isfinite(np.float32(reward)) else BAD_REWARD), terminated, truncated


@inlined
def renew(i: int, envs: Envs) -> int:
    """Keep the final observation of environment i, and begin its next episode. 0, or BAD_OBS."""
    for j in range(envs.obs.shape[1]):
        envs.final_obs[i, j] = envs.obs[i, j]
    envs.where[1] = RESET
    for j in range(envs.states.shape[1]):
        envs.states[i, j] = 0
    reset(envs.env, row(envs.states, i), row(envs.rngs, i))
    envs.lengths[i], envs.returns[i] = 0, 0
    return look(i, envs)


@inlined
def look(i: int, envs: Envs) -> int:
    """Write the observation of environment i. 0, or BAD_OBS."""
    return _look(i, envs.env, envs.states, envs.obs, envs.where)


@bare
def _look(i: int, env: np.ndarray, states: np.ndarray, obs: np.ndarray, where: np.ndarray) -> int:
    where[0], where[1] = i, OBSERVE
    return 0 if observe_flat(env, row(states, i), row(obs, i)) else BAD_OBS


@inlined
def look_at_all(envs: Envs) -> int:
    """Write the observations of all environments, whoever has stepped them before. 0, or BAD_OBS."""
    for i in range(len(envs.states)):
        code = look(i, envs)
        if code < 0:
            return code
    return 0


@inlined
def final_value(i: int, envs: Envs, policy: Policy, norm: Normalization) -> float:
    """V of the final observation of environment i."""
    obs = envs.final_obs[i : i + 1]
    if norm.used:
        normalize(obs, norm.obs_mean, norm.obs_var, obs)
    rows = len(obs)  # 1, of which the compiler would make versions of its own
    load_rows(envs.final_obs, i, rows, policy.plan, policy.work)
    forward(policy.plan, policy.work, rows)
    critic = policy.plan[policy.head[VALUE]]
    return policy.work[critic[H]]
