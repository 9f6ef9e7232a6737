"""Discounted returns, n-step returns and V-trace over rollouts [T, N], with and without episodes cut by time limits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benches import gae
from benches.gae import GAMMA, Rollout, as_it_is, by_environment, rollouts, torchrl_layout, work
from benches.operation import Implementation, Missing, Operation, Work
from fastrl import discounted_returns, n_step_returns, vtrace
from tests.reference import returns as reference

N_STEPS = 5
CASES = {
    "(128, 8)": ((128, 8), False), "(512, 64)": ((512, 64), False), "(128, 8), time limits": ((128, 8), True),
}  # fmt: skip
Arrays = tuple[np.ndarray, ...]


def made_rollouts(case: tuple[tuple[int, int], bool]) -> list[Rollout]:
    return rollouts(*case)


def same(result: Any) -> np.ndarray:
    return np.asarray(result)


# Discounted returns.


def rewards_layout(r: Rollout) -> Arrays:
    """As in `as_it_is`, what no time limit needs is left out."""
    reward, _, *rest = as_it_is(r)
    return (reward, *rest)


def reference_discounted(made: list[Rollout]) -> np.ndarray:
    reward, _, *rest = made[0]
    return reference.discounted_returns(reward, *rest, GAMMA)


def python_layout(r: Rollout) -> Arrays:
    done = r.terminated | r.truncated
    return r.reward, r.last_value, done, r.final_value * ~r.terminated


def python_loop(reward: np.ndarray, last: np.ndarray, done: np.ndarray, final: np.ndarray) -> Callable[[], Any]:
    """Backwards through the rollout, a row of NumPy's at a time."""

    def call() -> np.ndarray:
        returns, following = np.empty_like(reward), last
        for t in reversed(range(len(reward))):
            returns[t] = following = reward[t] + GAMMA * np.where(done[t], final[t], following)
        return returns

    return call


def torchrl_reward2go(reward: np.ndarray, done: np.ndarray) -> Callable[[], Any]:
    import torch
    from torchrl.objectives.value.functional import reward2go

    return partial(reward2go, torch.from_numpy(reward), torch.from_numpy(done), GAMMA)


def reward2go_layout(r: Rollout) -> Arrays:
    """It knows no value after the end: each last step's reward has it already."""
    reward, done = r.reward + np.float32(GAMMA) * r.final_value * ~r.terminated, r.terminated | r.truncated
    reward[-1] += np.float32(GAMMA) * r.last_value * ~done[-1]
    done[-1] = True
    return tuple(np.ascontiguousarray(x.T)[..., None] for x in (reward, done))


def tianshou_returns(*own: np.ndarray) -> Callable[[], Any]:
    """As its REINFORCE and A2C have them: GAE with λ = 1, to which the values are added again."""
    advantages, value = gae.tianshou(*own, gae_lambda=1.0), own[0]
    return lambda: advantages() + value


def of_gae(result: Any) -> np.ndarray:
    """The returns of what has both."""
    return np.asarray(result[1])


def rlox_returns(made: list[Rollout]) -> Work:
    advantages_first = by_environment(made[0].reward.shape)
    bind = partial(gae.rlox, gae_lambda=1.0)
    return work(gae.rlox_layout, bind, lambda result: advantages_first(result[1]), made)


# Returns over several steps.


def reference_n_step(made: list[Rollout]) -> np.ndarray:
    return reference.n_step_returns(*made[0], N_STEPS, GAMMA)


def n_step_loop(
    reward: np.ndarray, value: np.ndarray, last: np.ndarray, done: np.ndarray, final: np.ndarray
) -> Callable[[], Any]:
    """The first k rewards of all rows at once, for k = 1 to n."""

    def call() -> np.ndarray:
        following = np.where(done, final, np.concatenate([value[1:], last[None]]))
        returns = reward + np.float32(GAMMA) * following
        for _ in range(N_STEPS - 1):
            longer = reward[:-1] + np.float32(GAMMA) * np.where(done[:-1], final[:-1], returns[1:])
            returns = np.concatenate([longer, returns[-1:]])
        return returns

    return call


def n_step_layout(r: Rollout) -> Arrays:
    done = r.terminated | r.truncated
    return r.reward, r.value, r.last_value, done, r.final_value * ~r.terminated


def tianshou_layout(r: Rollout) -> Arrays:
    """One series, as its buffer keeps it, of which every row's window is asked for."""
    T, N = r.reward.shape
    ends = r.terminated | r.truncated
    ends[-1] = True
    following = np.where(r.truncated, r.final_value, np.concatenate([r.value[1:], r.last_value[None]])) * ~r.terminated
    series = [x.T.ravel().astype(np.float64) for x in (r.reward, ends, following)]
    indices = [np.arange(T * N)]
    for _ in range(N_STEPS - 1):
        indices.append(indices[-1] + (series[1][indices[-1]] == 0))
    return series[0], series[1], series[2][indices[-1]][:, None], np.stack(indices)


def tianshou_n_step(reward: np.ndarray, ends: np.ndarray, target: np.ndarray, rows: np.ndarray) -> Callable[[], Any]:
    try:
        from tianshou.algorithm.algorithm_base import _nstep_return
    except ImportError:
        from tianshou.policy.base import _nstep_return

    return partial(_nstep_return, reward, ends, target, rows, GAMMA, N_STEPS)


# V-trace. The ratio of π to μ is e to the value, which is as random as anything.


def vtrace_layout(r: Rollout) -> Arrays:
    return (*as_it_is(r), np.exp(r.value))


def reference_vtrace(made: list[Rollout]) -> np.ndarray:
    return reference.vtrace(*made[0], np.exp(made[0].value), GAMMA, 1.0, 1.0, 1.0, 1.0)[1]


def our_vtrace(*own: np.ndarray) -> Callable[[], Any]:
    return partial(vtrace, *own[:-1], ratios=own[-1], gamma=GAMMA)


def torchrl_vtrace_layout(r: Rollout) -> Arrays:
    value, *rest = torchrl_layout(r)
    return (value, np.zeros_like(value), value, *rest)


def torchrl_vtrace(*own: np.ndarray) -> Callable[[], Any]:
    import torch
    from torchrl.objectives.value.functional import vtrace_advantage_estimate

    return partial(vtrace_advantage_estimate, GAMMA, *map(torch.from_numpy, own))


def rlox_vtrace_layout(r: Rollout) -> Arrays:
    columns = (r.value, r.reward, r.value, (r.terminated | r.truncated).astype(np.float32))
    return (*(np.ascontiguousarray(x.T) for x in columns), r.last_value)


def rlox_vtrace(*own: np.ndarray) -> Callable[[], Any]:
    import rlox

    *columns, last = own

    def call() -> list[np.ndarray]:
        """It takes one environment's series a call."""
        series = zip(*columns, last.tolist(), strict=True)
        return [rlox.compute_vtrace(*rows, bootstrap, GAMMA)[1] for *rows, bootstrap in series]

    return call


def vtrace_by_environment(size: tuple[int, int]) -> Callable[[Any], np.ndarray]:
    return lambda result: result[0][..., 0].numpy().T


def made_of(layout: Any, bind: Any, read: Any = same, **options: Any) -> Implementation:
    return Implementation(partial(work, layout, bind, read), **options)


def in_series(layout: Any, bind: Any, **options: Any) -> Implementation:
    """Whose result is one environment after the other."""
    return Implementation(lambda made: work(layout, bind, by_environment(made[0].reward.shape), made), **options)


def missing(why: str) -> Implementation:
    def make(made: list[Rollout]) -> Work:
        raise Missing(why)

    return Implementation(make)


NO_TIME_LIMIT = "takes a time limit for a terminal state"
DISCOUNTED = Operation(
    "discounted returns", CASES, made_rollouts, reference_discounted,
    {
        "fastrl": made_of(rewards_layout, lambda *own: partial(discounted_returns, *own, gamma=GAMMA), role="ours"),
        "NumPy": made_of(python_layout, python_loop, role="plain"),
        "Stable-Baselines3": made_of(
            gae.sb3_layout, partial(gae.stable_baselines3, gae_lambda=1.0), of_gae, needs=("stable_baselines3",)
        ),
        "CleanRL": missing("no script of its own wants them"),
        "rlox": Implementation(rlox_returns, needs=("rlox",), why=NO_TIME_LIMIT),
        "Tianshou": in_series(gae.tianshou_layout, tianshou_returns, needs=("tianshou",)),
        "TorchRL": in_series(reward2go_layout, torchrl_reward2go, needs=("torchrl",)),
    },
)  # fmt: skip
N_STEP = Operation(
    f"returns over {N_STEPS} steps", CASES, made_rollouts, reference_n_step,
    {
        "fastrl": made_of(
            lambda r: r, lambda *own: partial(n_step_returns, *own, n_steps=N_STEPS, gamma=GAMMA), role="ours"
        ),
        "NumPy": made_of(n_step_layout, n_step_loop, role="plain"),
        "Stable-Baselines3": missing("has them in replay buffers only"),
        "CleanRL": missing("has them in a replay buffer only, inside a script"),
        "rlox": missing("has none"),
        "Tianshou": in_series(tianshou_layout, tianshou_n_step, needs=("tianshou",)),
        "TorchRL": missing("has them for replay only, where its windows replace the transitions"),
    },
)  # fmt: skip
VTRACE = Operation(
    "V-trace", CASES, made_rollouts, reference_vtrace,
    {
        "fastrl": made_of(vtrace_layout, our_vtrace, lambda result: result[1], role="ours"),
        "Stable-Baselines3": missing("has no V-trace"),
        "CleanRL": missing("has no V-trace"),
        "rlox": made_of(rlox_vtrace_layout, rlox_vtrace, np.transpose, needs=("rlox",), why=NO_TIME_LIMIT),
        "TorchRL": Implementation(
            lambda made: work(torchrl_vtrace_layout, torchrl_vtrace, vtrace_by_environment(made[0].reward.shape), made),
            needs=("torchrl",),
        ),
        "Tianshou": missing("has no V-trace"),
    },
)  # fmt: skip
