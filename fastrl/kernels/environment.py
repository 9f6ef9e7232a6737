"""Kernels over environments that are compiled functions; `fastrl.envs.compiled` says what those must do.

A kernel is handed the environment as `env`, an int64[5] array: the addresses of its functions `reset`, `step` and
`observe` and of its constants, and for Discrete observations their number, else 0. So one compilation of a kernel
serves every environment, its machine code is found on disk by the next process, and handing an environment over
costs as much as any other array. A call through it takes 2 ns or so; what the function raises, the kernel raises.

N environments are the arrays states float64[N, S] and rngs uint64[N, 4]: each has a random stream of its own,
so that what it does depends neither on its neighbours nor on threads. Give `row(states, i)` to the functions, not
`states[i]`: Numba counts the references to such a part of an array, which takes longer than a step of CartPole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import config

from fastrl.kernels._jit import bare
from fastrl.kernels.simd import flat

__all__ = [
    "observe", "observe_all", "observe_flat", "reset", "reset_all", "row", "step", "step_all",
    "step_one",
]  # fmt: skip

RESET, STEP, OBSERVE = 0, 1, 2  # what `where`[1] says an environment was doing
BAD_ACTION, BAD_REWARD, BAD_OBS, NOT_RESET = -1, -2, -3, -4  # what `step_all` returns instead of a number

interpreted: list[Any] = []  # with NUMBA_DISABLE_JIT=1, `env` holds places in this list instead of addresses

if TYPE_CHECKING or config.DISABLE_JIT:

    def row(array: np.ndarray, i: int) -> Any:
        """array[i] of a C-contiguous array with one or two dimensions, for use while `array` lives. Unchecked."""
        return array[i]

    def reset(env: np.ndarray, state: np.ndarray, rng: np.ndarray) -> None:
        """Write the first state of a new episode into `state` [S]; `rng` [4] is advanced."""
        interpreted[env[0]](interpreted[env[3]], state, rng)

    def step(env: np.ndarray, state: np.ndarray, action: Any, rng: np.ndarray) -> tuple[float, bool]:
        """(reward, terminated) of `action`, which changes `state` [S]; `rng` [4] is advanced.

        `action` is an integer (Discrete), int64[c] (MultiDiscrete, MultiBinary) or float32[c] (Box), contiguous.
        """
        reward, terminated = interpreted[env[1]](interpreted[env[3]], state, action, rng)
        return float(reward), bool(terminated)

    def observe(env: np.ndarray, state: np.ndarray, obs: np.ndarray) -> None:
        """Write the observation of `state` [S], its numbers one by one, into `obs` float32[D]."""
        interpreted[env[2]](interpreted[env[3]], state, obs)

else:
    from fastrl.kernels._environment import observe, reset, row, step


@bare
def observe_flat(env: np.ndarray, state: np.ndarray, obs: np.ndarray) -> bool:
    """As `observe`, but as networks see it: a Discrete observation is written one-hot into its n numbers.

    False, and `obs` is as the environment wrote it, where it is not finite or, if Discrete, none of 0 … n − 1.
    """
    observe(env, state, obs)
    if not _is_observation(env, obs):
        return False
    if env[4] > 0:
        index = int(obs[0])
        obs[:] = 0
        obs[index] = 1
    return True


@bare
def reset_all(
    env: np.ndarray, states: np.ndarray, rngs: np.ndarray, lengths: np.ndarray, returns: np.ndarray,
    mask: np.ndarray, where: np.ndarray,
) -> None:  # fmt: skip
    """Begin new episodes where `mask` bool[N] is set; lengths int64[N] and returns float64[N] become 0 there."""
    for i in range(len(states)):
        if mask[i]:
            where[0], where[1] = i, RESET
            states[i, :] = 0
            reset(env, row(states, i), row(rngs, i))
            lengths[i], returns[i] = 0, 0


@bare
def observe_all(env: np.ndarray, states: np.ndarray, obs: np.ndarray, where: np.ndarray) -> int:
    """Write the observations float32[N, D]. Returns 0, or BAD_OBS as `step_all`; `where`[0] says which it is."""
    where[1] = OBSERVE
    for i in range(len(states)):
        where[0] = i
        observe(env, row(states, i), row(obs, i))
        if not _is_observation(env, row(obs, i)):
            return BAD_OBS
    return 0


@bare
def step_all(
    env: np.ndarray, states: np.ndarray, rngs: np.ndarray, lengths: np.ndarray, returns: np.ndarray,
    max_episode_steps: int, actions: np.ndarray, nvec: np.ndarray, obs: np.ndarray, reward: np.ndarray,
    terminated: np.ndarray, truncated: np.ndarray, done: np.ndarray, final_obs: np.ndarray, ended: np.ndarray,
    where: np.ndarray,
) -> int:  # fmt: skip
    """One step of N environments; those whose episode ends begin a new one at once.

    Args:
        states, rngs, lengths, returns: [N, S], [N, 4], [N], [N]; advanced.
        max_episode_steps: an episode of so many steps is truncated; 0: never.
        actions: int64[N] or [N, c], or float32[N, c].
        nvec: int64[c], the number of choices in each column of `actions`; empty for actions that are no choices.
        obs: float32[N, D], written: what to act on next.
        reward, terminated, truncated, done: float64[N] and three times bool[N], written; done is either of the two.
        final_obs, ended: float32[N, D] and int64[N]; as many rows are written as episodes ended: the observation
            that the action led to, and in which environment.
        where: int64[2], written: the environment at work, and on which function.

    Returns:
        how many episodes ended; or NOT_RESET (its length is below 0) or BAD_ACTION, and nothing has happened; or
        BAD_REWARD or BAD_OBS (not finite, or a Discrete observation outside its space). `where` says for which
        environment.
    """
    columns = actions.size // len(states)
    choices = flat(actions)
    for i in range(len(states)):
        where[0] = i
        if lengths[i] < 0:
            return NOT_RESET
        for k in range(columns):
            a = choices[i * columns + k]
            if (not np.isfinite(a)) if len(nvec) == 0 else (a < 0 or a >= nvec[k]):
                return BAD_ACTION
    n_ended = 0
    for i in range(len(states)):
        where[0], where[1] = i, STEP
        r, over = step(env, row(states, i), row(actions, i), row(rngs, i))
        if not np.isfinite(r):
            return BAD_REWARD
        lengths[i] += 1
        returns[i] += r
        cut = lengths[i] == max_episode_steps
        reward[i], terminated[i], truncated[i], done[i] = r, over, cut, over or cut
        if over or cut:
            where[1] = OBSERVE
            observe(env, row(states, i), row(final_obs, n_ended))
            if not _is_observation(env, row(final_obs, n_ended)):
                return BAD_OBS
            ended[n_ended] = i
            n_ended += 1
            where[1] = RESET
            states[i, :] = 0
            reset(env, row(states, i), row(rngs, i))
            lengths[i], returns[i] = 0, 0
        where[1] = OBSERVE
        observe(env, row(states, i), row(obs, i))
        if not _is_observation(env, row(obs, i)):
            return BAD_OBS
    return n_ended


@bare
def step_one(
    env: np.ndarray, state: np.ndarray, action: Any, rng: np.ndarray, obs: np.ndarray
) -> tuple[float, bool]:  # fmt: skip
    """`step` and then `observe` of one environment, called from Python."""
    reward, terminated = step(env, state, action, rng)
    observe(env, state, obs)
    return reward, terminated


@bare
def reset_one(env: np.ndarray, state: np.ndarray, rng: np.ndarray, obs: np.ndarray) -> None:
    """`reset` and then `observe` of one environment, called from Python."""
    state[:] = 0
    reset(env, state, rng)
    observe(env, state, obs)


@bare
def _is_observation(env: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether `numbers`, as `observe` wrote them, are finite, and a Discrete one is a place in its space."""
    if env[4] > 0:
        x = numbers[0]
        return 0 <= x < env[4] and x == np.floor(x)
    for x in numbers:  # noqa: SIM110
        if not np.isfinite(x):
            return False
    return True
