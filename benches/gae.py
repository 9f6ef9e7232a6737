"""GAE over rollouts [T, N]: ours, the peers', the loop that CleanRL's scripts have, and what C needs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches.limits import library
from benches.operation import Implementation, Missing, Operation, Work, close
from fastrl import compute_gae
from tests.reference.returns import next_values

GAMMA, LAMBDA = 0.99, 0.95
ROLLOUTS = 4  # of one size, that take turns
Arrays = tuple[np.ndarray, ...]


class Rollout(NamedTuple):
    """Float32 [T, N], the flags bool; `last_value` [N]; `final_value` is V of what a truncated episode ended in."""

    reward: np.ndarray
    value: np.ndarray
    last_value: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    final_value: np.ndarray


def rollouts(size: tuple[int, int], time_limits: bool = False) -> list[Rollout]:
    rng, made = np.random.default_rng(0), []
    for _ in range(ROLLOUTS):
        reward, value, final, last = (rng.standard_normal(s, np.float32) for s in (size, size, size, size[1:]))
        terminated, cut = rng.random(size) < 0.01, rng.random(size) < 0.02
        truncated = cut & ~terminated & time_limits
        made.append(Rollout(reward, value, last, terminated, truncated, np.where(truncated, final, 0)))
    return made


def reference(made: list[Rollout]) -> np.ndarray:
    """Advantages of the first, by the recurrence of Schulman et al. 2016, eq. 16, in float64."""
    r = made[0]
    following, done = next_values(*r[1:]), r.terminated | r.truncated
    advantage = r.reward + GAMMA * following - r.value.astype(float)
    for t in reversed(range(len(advantage) - 1)):
        advantage[t] += GAMMA * LAMBDA * ~done[t] * advantage[t + 1]
    return advantage


# An implementation is a layout, the arrays that it takes of a rollout, and what binds them to the call that is timed.
Layout = Callable[[Rollout], Arrays]


def work(
    layout: Layout, bind: Callable[..., Callable[[], Any]], result: Callable[[Any], Any], made: list[Rollout]
) -> Work:
    """The call, and other numbers in its arrays before each round."""
    own = tuple(np.array(x) for x in layout(made[0]))

    def fresh(round: int) -> None:
        for mine, new in zip(own, layout(made[round % ROLLOUTS]), strict=True):
            np.copyto(mine, new)

    return Work(bind(*own), result, fresh)


def as_it_is(r: Rollout) -> Arrays:
    return r if r.truncated.any() else r[:4]


def ours(*own: np.ndarray) -> Callable[[], Any]:
    return partial(compute_gae, *own, gamma=GAMMA, gae_lambda=LAMBDA)


def ours_out(*own: np.ndarray) -> Callable[[], Any]:
    out = np.empty_like(own[0]), np.empty_like(own[0])
    return partial(compute_gae, *own, gamma=GAMMA, gae_lambda=LAMBDA, out=out)


def c_layout(r: Rollout) -> Arrays:
    return (*r[:3], r.terminated.astype(np.float32))


def c_loop(*own: np.ndarray) -> Callable[[], Any]:
    loops = library()
    if loops is None:
        raise Missing("no C compiler")
    out = np.empty_like(own[0]), np.empty_like(own[0])
    columns, targets = ([np.ctypeslib.as_ctypes(a) for a in group] for group in (own, out))  # which keep them alive
    numbers = [ctypes.c_float(x) for x in (GAMMA, GAMMA * LAMBDA)]
    call = partial(loops.gae, *columns, *numbers, *targets, *map(ctypes.c_long, own[0].shape))
    return lambda: (call(), out)[1]


def memory_copy(reward: np.ndarray, value: np.ndarray) -> Callable[[], Any]:
    """The bytes that are written, and as many of those that are read."""
    out = np.empty((2, *reward.shape), np.float32)
    both = np.stack([reward, value])
    return partial(np.copyto, out, both)


def sb3_layout(r: Rollout) -> Arrays:
    """Its `episode_starts` say that a step begins an episode; a truncated one gets its last value as reward."""
    done = r.terminated | r.truncated
    starts = np.concatenate([np.zeros_like(done[:1]), done[:-1]]).astype(np.float32)
    return r.reward + np.float32(GAMMA) * r.final_value, r.value, r.last_value, starts, done[-1]


def stable_baselines3(
    reward: np.ndarray, value: np.ndarray, last: np.ndarray, starts: np.ndarray, done: np.ndarray,
    gae_lambda: float = LAMBDA,
) -> Callable[[], Any]:  # fmt: skip
    import torch
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import RolloutBuffer

    T, N = reward.shape
    buffer = RolloutBuffer(T, Box(-1, 1, (1,)), Box(-1, 1, (1,)), gae_lambda=gae_lambda, gamma=GAMMA, n_envs=N)
    buffer.rewards, buffer.values, buffer.episode_starts = reward, value, starts
    call = partial(buffer.compute_returns_and_advantage, torch.from_numpy(last), done)
    return lambda: (call(), (buffer.advantages, buffer.returns))[1]


def cleanrl_layout(r: Rollout) -> Arrays:
    """Its `dones` too say that a step begins an episode, and know no truncation."""
    done = (r.terminated | r.truncated).astype(np.float32)
    return r.reward, r.value, np.concatenate([np.zeros_like(done[:1]), done[:-1]]), r.last_value, done[-1]


def cleanrl_loop(rewards: Any, values: Any, dones: Any, next_value: Any, next_done: Any) -> Any:
    """The recurrence in Torch's operations on N numbers, as CleanRL's scripts contain it."""
    import torch

    advantages, carry = torch.zeros_like(rewards), 0.0
    for t in reversed(range(len(rewards))):
        is_last = t == len(rewards) - 1
        live = 1.0 - (next_done if is_last else dones[t + 1])
        following = next_value if is_last else values[t + 1]
        delta = rewards[t] + GAMMA * following * live - values[t]
        advantages[t] = carry = delta + GAMMA * LAMBDA * live * carry
    return advantages, advantages + values


def cleanrl(*own: np.ndarray) -> Callable[[], Any]:
    import torch

    return partial(cleanrl_loop, *map(torch.from_numpy, own))


def rlox_layout(r: Rollout) -> Arrays:
    done = r.terminated | r.truncated
    return (*(np.ascontiguousarray(x.T, np.float32).ravel() for x in (r.reward, r.value, done)), r.last_value)


def rlox(
    reward: np.ndarray, value: np.ndarray, done: np.ndarray, last: np.ndarray, gae_lambda: float = LAMBDA
) -> Callable[[], Any]:
    import rlox

    T = len(reward) // len(last)
    return partial(rlox.compute_gae_batched_f32, reward, value, done, last, T, GAMMA, gae_lambda)


def tianshou_layout(r: Rollout) -> Arrays:
    """One series, environment after environment, whose ends are marked; float64, as its collector stores them."""
    following = np.concatenate([r.value[1:], r.last_value[None]]) * ~r.terminated
    following = np.where(r.truncated, r.final_value, following)
    ends = r.terminated | r.truncated
    ends[-1] = True
    return tuple(x.T.ravel().astype(np.float64) for x in (r.value, following, r.reward, ends))


def tianshou(*own: np.ndarray, gae_lambda: float = LAMBDA) -> Callable[[], Any]:
    try:
        from tianshou.algorithm.algorithm_base import _gae_return
    except ImportError:
        from tianshou.policy.base import _gae_return
    return partial(_gae_return, *own, GAMMA, gae_lambda)


def torchrl_layout(r: Rollout) -> Arrays:
    following = np.concatenate([r.value[1:], r.last_value[None]])
    following, done = np.where(r.truncated, r.final_value, following), r.terminated | r.truncated
    columns = (r.value, following, r.reward, done, r.terminated)
    return tuple(np.ascontiguousarray(x.T)[..., None] for x in columns)


def torchrl(*own: np.ndarray, vectorised: bool = False) -> Callable[[], Any]:
    """A loop over time; or its default, all episodes at once."""
    import torch
    from torchrl.objectives.value import functional

    estimate = functional.generalized_advantage_estimate
    if vectorised:
        estimate = functional.vec_generalized_advantage_estimate
    return partial(estimate, GAMMA, LAMBDA, *map(torch.from_numpy, own))


def first(result: Any) -> np.ndarray:
    return np.asarray(result[0])


def by_environment(size: tuple[int, int]) -> Callable[[Any], np.ndarray]:
    """Advantages [T, N] of what has one series after the other."""
    return lambda result: np.asarray(result[0] if isinstance(result, tuple) else result).reshape(size[::-1]).T


def gae(*parts: Any, **options: Any) -> Implementation:
    """Of a layout, what binds, and how to read the result: advantages [T, N] unless said."""
    layout, bind, *read = parts
    return Implementation(
        lambda made: work(layout, bind, read[0](made[0].reward.shape) if read else first, made), **options
    )


IMPLEMENTATIONS = {
    "fastrl": gae(as_it_is, ours, role="ours"),
    "fastrl, out=": gae(as_it_is, ours_out, role="ours"),
    "Stable-Baselines3": gae(sb3_layout, stable_baselines3, needs=("stable_baselines3",)),
    "CleanRL": gae(cleanrl_layout, cleanrl, why="takes a time limit for a terminal state", needs=("torch",)),
    "rlox": gae(rlox_layout, rlox, by_environment, needs=("rlox",), why="its rollouts know no time limit"),
    "Tianshou": gae(tianshou_layout, tianshou, by_environment, needs=("tianshou",)),
    "TorchRL": gae(torchrl_layout, torchrl, by_environment, needs=("torchrl",)),
    "TorchRL, vectorised": gae(torchrl_layout, partial(torchrl, vectorised=True), by_environment, needs=("torchrl",)),
}


def right_c_loop(made: list[Rollout]) -> Work:
    bound = work(c_layout, c_loop, first, made)
    close(bound.result(bound.call()), reference(made))
    return bound


BOUNDS = {
    "C loop": Implementation(right_c_loop, role="bound"),
    "memory copy": gae(lambda r: r[:2], memory_copy, role="bound"),
}
SIZES = ((128, 8), (2048, 1), (2048, 16), (128, 64), (2048, 256))  # T, N

GAE = Operation(
    "GAE", {str(size): size for size in SIZES}, rollouts, reference, {**IMPLEMENTATIONS, **BOUNDS},
    sweeps={
        "horizon": {T: (T, 8) for T in (32, 128, 512, 2048, 8192)},
        "environments": {N: (128, N) for N in (1, 4, 16, 64, 256, 1024)},
    },
)  # fmt: skip
GAE_TIME_LIMITS = Operation(
    "GAE, episodes cut by time limits", {str(size): size for size in SIZES[:1]}, partial(rollouts, time_limits=True),
    reference, IMPLEMENTATIONS,
)  # fmt: skip
