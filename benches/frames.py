"""A batch of stacks of four 84x84 frames, as agents that see Atari games draw it.

Ours, cpprb's and Tianshou's buffers keep a frame once; Stable-Baselines3's keeps each stack as it is, TorchRL's both
stacks of each transition. All hold the same transitions, as many of them.

Each frame has its number in its first pixels, so that a stack says which frames it is made of. The end of the ring is
the end of an episode. What a terminal transition's next stack is does not matter, and is not compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from benches.buffers import TENSORS, cleanrl, our_buffers, their_buffers
from benches.operation import Implementation, Missing, Operation, Work
from benches.transitions import reading_once
from fastrl import ReplayBuffer

STACK, SIDE = 4, 84
EPISODE = 200  # steps at most
CHUNK = 500


class Case(NamedTuple):
    batch: int
    capacity: int

    def __str__(self) -> str:
        return f"{STACK}x{SIDE}x{SIDE}, batch {self.batch} of {self.capacity:,}"


class Data(NamedTuple):
    case: Case
    frames: np.ndarray  # [frames, 84, 84] uint8
    stack: np.ndarray  # [capacity, 4] int64, the frames of an observation, newest last
    next_stack: np.ndarray
    action: np.ndarray  # [capacity] int64
    reward: np.ndarray  # [capacity] float32
    terminated: np.ndarray  # [capacity] bool


class Stacks(NamedTuple):
    """Arrays [B, ...]."""

    obs: Any  # [B, 4, 84, 84]
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any


def data(case: Case) -> Data:
    """Episodes begin with their first frame repeated, as Gymnasium's FrameStackObservation has it."""
    rng, lengths = np.random.default_rng(0), []
    while sum(lengths) < case.capacity:
        lengths.append(min(int(rng.integers(1, EPISODE)), case.capacity - sum(lengths)))
    starts = np.cumsum([0, *(length + 1 for length in lengths)])  # in frames; an episode has one more than steps
    step = np.concatenate([np.arange(length) for length in lengths])
    first = np.repeat(starts[:-1], lengths)[:, None]
    stack, next_stack = (np.maximum(step[:, None] + k + np.arange(1 - STACK, 1), 0) + first for k in (0, 1))
    terminated = np.zeros(case.capacity, bool)
    terminated[np.cumsum(lengths) - 1] = True
    frames = rng.integers(0, 256, (starts[-1], SIDE, SIDE), np.uint8)
    frames[:, 0, :4] = np.arange(len(frames), dtype="<u4")[:, None].view(np.uint8)
    action, reward = rng.integers(0, 6, case.capacity), rng.standard_normal(case.capacity, np.float32)
    return Data(case, frames, stack, next_stack, action, reward, terminated)


def episodes(data: Data) -> Iterator[slice]:
    ends = np.flatnonzero(data.terminated) + 1
    yield from map(slice, [0, *ends[:-1]], ends)


def space(*shape: int) -> Box:
    return Box(0, 255, shape, np.uint8)


def work(case: Case, sample: Callable[[], Any], read: Callable[[Any], Stacks]) -> Work:
    return Work(sample, read, reading_once(sample, case.batch, case.capacity, STACK * SIDE * SIDE))


def chunks(case: Case) -> list[slice]:
    return [slice(first, min(first + CHUNK, case.capacity)) for first in range(0, case.capacity, CHUNK)]


def ours(data: Data, device: str | None = None) -> Work:
    case = data.case
    kept: dict[str, Any] = {"frame_stack": STACK, "device": device}
    buffer = ReplayBuffer(case.capacity, space(STACK, SIDE, SIDE), Discrete(6), seed=0, **kept)
    for rows in chunks(case):
        obs, next_obs = data.frames[data.stack[rows]], data.frames[data.next_stack[rows]]
        buffer.add_batch(obs, data.action[rows], data.reward[rows], next_obs, data.terminated[rows])
    return work(case, partial(buffer.sample, case.batch), lambda batch: Stacks(*batch[:5]))


def stable_baselines3(data: Data, module: Callable[[], ModuleType]) -> Work:
    """It keeps the stacks as they are, and takes the next row's observation for `next_obs`."""
    case = data.case
    buffer = module().ReplayBuffer(
        case.capacity, space(STACK, SIDE, SIDE), Discrete(6), device="cpu", optimize_memory_usage=True,
        handle_timeout_termination=False,
    )  # fmt: skip
    for rows in chunks(case):
        buffer.observations[rows, 0] = data.frames[data.stack[rows]]
    buffer.actions[:, 0, 0], buffer.rewards[:, 0], buffer.dones[:, 0] = data.action, data.reward, data.terminated
    buffer.full = True
    return work(
        case,
        partial(buffer.sample, case.batch),
        lambda x: Stacks(x.observations, x.actions, x.rewards, x.next_observations, x.dones),
    )


def cpprb(data: Data) -> Work:
    """Its frames are the last axis."""
    import cpprb

    case, kind = data.case, {"shape": (SIDE, SIDE, STACK), "dtype": np.uint8}
    fields = {"obs": kind, "act": {"dtype": np.int64}, "rew": {}, "done": {"dtype": np.bool_}}
    buffer = cpprb.ReplayBuffer(case.capacity, fields, next_of="obs", stack_compress="obs")
    for rows in episodes(data):
        obs, following = (np.moveaxis(data.frames[x[rows]], 1, -1) for x in (data.stack, data.next_stack))
        columns = {"act": data.action[rows], "rew": data.reward[rows], "done": data.terminated[rows]}
        buffer.add(obs=obs, next_obs=following, **columns)
        buffer.on_episode_end()

    def result(batch: dict[str, Any]) -> Stacks:
        obs, following = (np.moveaxis(batch[name], -1, 1) for name in ("obs", "next_obs"))
        return Stacks(obs, batch["act"], batch["rew"], following, batch["done"])

    return work(case, partial(buffer.sample, case.batch), result)


def tianshou(data: Data) -> Work:
    from tianshou.data import Batch, ReplayBuffer

    case = data.case
    buffer = ReplayBuffer(case.capacity, stack_num=STACK, ignore_obs_next=True, save_only_last_obs=True)
    flags = {"terminated": data.terminated, "truncated": np.zeros_like(data.terminated), "done": data.terminated}
    newest = data.frames[data.stack[:, -1]]
    buffer.set_batch(Batch(obs=newest, act=data.action, rew=data.reward.astype(float), **flags, info=Batch()))
    buffer._size, buffer.last_index[0] = case.capacity, case.capacity - 1
    return work(
        case,
        partial(buffer.sample, case.batch),
        lambda drawn: Stacks(drawn[0].obs, drawn[0].act, drawn[0].rew, drawn[0].obs_next, drawn[0].terminated),
    )


def rlox(data: Data) -> Work:
    raise Missing("its buffers hold float32 observations of one axis: 4.5 GB of these stacks")


def torchrl(data: Data) -> Work:
    """Both stacks of a transition whole, as its collectors hand them over."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    case = data.case
    buffer = ReplayBuffer(storage=LazyTensorStorage(case.capacity), batch_size=case.batch)
    for rows in chunks(case):
        obs, next_obs = (torch.from_numpy(data.frames[x[rows]]) for x in (data.stack, data.next_stack))
        action, reward, terminated = (torch.from_numpy(x[rows]) for x in (data.action, data.reward, data.terminated))
        following = {"obs": next_obs, "reward": reward, "terminated": terminated}
        buffer.extend(TensorDict({"obs": obs, "action": action, "next": following}, [len(action)]))

    def read(x: Any) -> Stacks:
        return Stacks(x["obs"], x["action"], x["next", "reward"], x["next", "obs"], x["next", "terminated"])

    return work(case, buffer.sample, read)


def memory_copy(data: Data) -> Work:
    """As many bytes as a batch's stacks have, from one place to another."""
    n = 2 * STACK * data.case.batch
    starts = np.random.default_rng(0).integers(0, len(data.frames) - n, 1024).tolist()
    places, out = itertools.cycle([data.frames[k : k + n] for k in starts]), np.empty_like(data.frames[:n])

    def call() -> None:
        np.copyto(out, next(places))

    return Work(call, fresh=reading_once(call, n, len(data.frames), SIDE * SIDE))


def right(result: Stacks, data: Data) -> None:
    obs, following = np.asarray(result.obs), np.asarray(result.next_obs)
    newest = np.ascontiguousarray(obs[:, -1, 0, :4]).view("<u4")[:, 0]
    row_of = np.full(len(data.frames), -1)
    row_of[data.stack[:, -1]] = np.arange(data.case.capacity)
    rows = row_of[newest]
    assert (rows >= 0).all() and len(np.unique(rows)) > len(rows) / 2, "rows that are none, or the same ones again"
    np.testing.assert_array_equal(obs, data.frames[data.stack[rows]])
    for name in ("action", "reward", "terminated"):
        given = np.asarray(getattr(result, name)).reshape(-1)
        np.testing.assert_array_equal(given, getattr(data, name)[rows], err_msg=f"{name} is not that of its row")
    going_on = ~data.terminated[rows]
    np.testing.assert_array_equal(following[going_on], data.frames[data.next_stack[rows[going_on]]])


SB3 = ("stable_baselines3",)
CASES = (Case(32, 10_000), Case(256, 10_000))
FRAME_STACKS = Operation(
    "Replay: sample stacks of frames", {str(case): case for case in CASES}, data, lambda data: data,
    {
        "fastrl": Implementation(ours, role="ours"),
        TENSORS: Implementation(partial(ours, device="cpu"), role="ours", needs=("torch",)),
        "fastrl for Stable-Baselines3": Implementation(
            partial(stable_baselines3, module=our_buffers), role="ours", needs=SB3, beside=TENSORS
        ),
        "Stable-Baselines3": Implementation(
            partial(stable_baselines3, module=their_buffers), needs=SB3, beside=TENSORS
        ),
        "CleanRL": Implementation(cleanrl),
        "rlox": Implementation(rlox, needs=("rlox",)),
        "cpprb": Implementation(cpprb, needs=("cpprb",)),
        "Tianshou": Implementation(tianshou, needs=("tianshou",)),
        "TorchRL": Implementation(torchrl, needs=("torchrl", "tensordict"), beside=TENSORS),
        "memory copy": Implementation(memory_copy, role="bound"),
    },
    right,
)  # fmt: skip
