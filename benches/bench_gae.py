"""GAE: one call on filled float32 arrays [T, N], ours, the peers' and a C loop's.

python -m benches.bench_gae           prints medians of interleaved rounds and their ratios
pytest benches/bench_gae.py           the same work under pytest-benchmark; --benchmark-disable: once
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from benches.bench_replay import medians
from benches.limits import library
from fastrl import compute_gae

SHAPES = [(2048, 1), (128, 8), (2048, 16), (128, 64), (2048, 256)]
GAMMA, LAMBDA = 0.99, 0.95
Call = Callable[[], Any]


class Rollout(NamedTuple):
    """Float32 [T, N], the flags bool; `last_value` [N]. Nothing is truncated: not everybody knows of it."""

    reward: np.ndarray
    value: np.ndarray
    last_value: np.ndarray
    terminated: np.ndarray


def rollout(shape: tuple[int, int]) -> Rollout:
    rng = np.random.default_rng(0)
    reward, value, last = (rng.standard_normal(size, np.float32) for size in (shape, shape, shape[1:]))
    return Rollout(reward, value, last, rng.random(shape) < 0.01)


# Each makes the call to be timed, and a function that brings its result to advantages [T, N].


def ours(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    return partial(compute_gae, *r, gamma=GAMMA, gae_lambda=LAMBDA), lambda result: result[0]


def ours_out(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    out = np.empty_like(r.reward), np.empty_like(r.reward)
    return partial(compute_gae, *r, gamma=GAMMA, gae_lambda=LAMBDA, out=out), lambda result: result[0]


def c_loop(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    loops = library()
    assert loops is not None
    out = np.empty_like(r.reward), np.empty_like(r.reward)
    arrays = [*r[:3], r.terminated.astype(np.float32)]
    columns, targets = ([np.ctypeslib.as_ctypes(a) for a in group] for group in (arrays, out))  # which keep them alive
    numbers = [ctypes.c_float(x) for x in (GAMMA, GAMMA * LAMBDA)]
    call = partial(loops.gae, *columns, *numbers, *targets, *map(ctypes.c_long, r.reward.shape))
    return call, lambda _: out[0]


def stable_baselines3(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    import torch
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import RolloutBuffer

    T, N = r.reward.shape
    buffer = RolloutBuffer(T, Box(-1, 1, (1,)), Box(-1, 1, (1,)), gae_lambda=LAMBDA, gamma=GAMMA, n_envs=N)
    buffer.rewards, buffer.values = r.reward, r.value
    buffer.episode_starts = np.roll(r.terminated, 1, 0).astype(np.float32)
    last = torch.from_numpy(r.last_value)
    return partial(buffer.compute_returns_and_advantage, last, r.terminated[-1]), lambda _: buffer.advantages


def rlox(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    import rlox

    T, N = r.reward.shape
    if N == 1:  # its function for one environment takes float64
        columns = [x[:, 0].astype(np.float64) for x in (r.reward, r.value, r.terminated)]
        call = partial(rlox.compute_gae, *columns, float(r.last_value[0]), GAMMA, LAMBDA)
        return call, lambda result: np.asarray(result[0])[:, None]
    columns = [np.ascontiguousarray(x.T, np.float32).ravel() for x in (r.reward, r.value, r.terminated)]
    call = partial(rlox.compute_gae_batched_f32, *columns, r.last_value, T, GAMMA, LAMBDA)
    return call, lambda result: np.asarray(result[0]).reshape(N, T).T


def tianshou(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    gae_return = tianshou_function()
    T, N = r.reward.shape
    # One series, environment after environment, whose ends are marked; float64, as its collector stores them.
    following = np.concatenate([r.value[1:], r.last_value[None]]) * ~r.terminated
    ends = r.terminated.copy()
    ends[-1] = True
    columns = [x.T.ravel().astype(np.float64) for x in (r.value, following, r.reward, ends)]
    return partial(gae_return, *columns, GAMMA, LAMBDA), lambda result: result.reshape(N, T).T


def tianshou_function() -> Any:
    try:
        from tianshou.algorithm.algorithm_base import _gae_return
    except ImportError:
        from tianshou.policy.base import _gae_return
    return _gae_return


def torchrl(r: Rollout) -> tuple[Call, Callable[[Any], Any]]:
    import torch
    from torchrl.objectives.value.functional import vec_generalized_advantage_estimate

    following = np.concatenate([r.value[1:], r.last_value[None]])
    value, after, reward, done = (
        torch.from_numpy(np.ascontiguousarray(x.T))[..., None] for x in (r.value, following, r.reward, r.terminated)
    )
    call = partial(vec_generalized_advantage_estimate, GAMMA, LAMBDA, value, after, reward, done, done)
    return call, lambda result: result[0][..., 0].numpy().T


MAKERS: dict[str, tuple[str, Callable[[Rollout], tuple[Call, Callable[[Any], Any]]]]] = {
    "fastrl": ("numpy", ours),
    "fastrl, out=": ("numpy", ours_out),
    "C loop": ("numpy", c_loop),
    "rlox": ("rlox", rlox),
    "tianshou": ("tianshou", tianshou),
    "torchrl": ("torchrl", torchrl),
    "stable_baselines3": ("stable_baselines3", stable_baselines3),
}


def installed(name: str) -> bool:
    return library() is not None if name == "C loop" else importlib.util.find_spec(MAKERS[name][0]) is not None


def make(name: str, r: Rollout) -> Call:
    """The call to be timed, after its result was compared with ours."""
    package, maker = MAKERS[name]
    if package not in ("numpy", "rlox"):
        import torch

        torch.set_num_threads(1)
    call, advantages = maker(r)
    expected = compute_gae(*r, gamma=GAMMA, gae_lambda=LAMBDA)[0]
    np.testing.assert_allclose(advantages(call()), expected, rtol=1e-3, atol=1e-3)
    return call


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_gae(benchmark: Any, name: str, shape: tuple[int, int]) -> None:
    if not installed(name):
        pytest.skip(f"{name} is not here")
    benchmark(make(name, rollout(shape)))


def main() -> None:
    """Print the table."""
    names = [name for name in MAKERS if installed(name)]
    absent = [name for name in MAKERS if name not in names]
    print("microseconds a call, and how many times as long as fastrl's", f"(absent: {absent})" if absent else "", "\n")
    print("| (T, N) |", " | ".join(names), "|\n|---|" + "---|" * len(names))
    for shape in SHAPES:
        r = rollout(shape)
        times = medians({name: make(name, r) for name in names})
        cells = [f"{t:.1f} ({t / times['fastrl']:.1f}x)" for t in times.values()]
        print(f"| {shape} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
