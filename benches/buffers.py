"""Everyone's replay buffer, filled with the same transitions, whose first number is the row's own.

So a row that was drawn says which one it is, and has to be that one in all its parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl import ReplayBuffer

CHUNK = 10_000  # rows that are added at once while filling
ADDED = 8  # sets of transitions that take turns in being added
NAMES = ("obs", "act", "rew", "obs_next", "terminated", "truncated")  # as some peers have them


class Rows(NamedTuple):
    """Transitions, arrays [n, ...]; `obs[:, 0]` is the number of the row."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any = None  # which not all peers hand out

    def at(self, rows: Any) -> Rows:
        return Rows(*(x[rows] for x in self))


class Case(NamedTuple):
    obs: int  # numbers, float32
    batch: int
    capacity: int
    envs: int = 1  # transitions that are added at once

    @property
    def row_bytes(self) -> int:
        """Of a record, padded to eight bytes."""
        return (8 * self.obs + 14 + 7) // 8 * 8

    def __str__(self) -> str:
        drawn = f"batch {self.batch} of" if self.envs == 1 else f"{self.envs} environments, capacity"
        return f"obs {self.obs}, {drawn} {self.capacity:,}"


class Data(NamedTuple):
    case: Case
    stored: Rows  # [capacity]
    new: Rows  # [ADDED * envs]
    own: Rows  # [envs], what is added: some of the new ones, changed in place


class Filled(NamedTuple):
    """A library's buffer that holds `Data.stored`."""

    add: Callable[[], Any]
    newest: Callable[[Any], Rows]  # of what `add` returned
    sample: Callable[[], Any]
    read: Callable[[Any], Rows]  # of what `sample` returned


def named(*cases: Case) -> dict[str, Case]:
    return {str(case): case for case in cases}


def transitions(first: int, n: int, obs_size: int, ends: float = 0.1) -> Rows:
    """Of these, so many parts are terminated, and as many truncated."""
    rng = np.random.default_rng(first)
    obs, next_obs = (rng.standard_normal((n, obs_size), np.float32) for _ in range(2))
    obs[:, 0] = np.arange(first, first + n)
    end = rng.random(n)
    flags = end < ends, (end >= ends) & (end < 2 * ends)
    return Rows(obs, rng.integers(0, 2, n), rng.standard_normal(n, np.float32), next_obs, *flags)


def data(case: Case) -> Data:
    new = transitions(case.capacity, ADDED * case.envs, case.obs)
    new.terminated[0], new.truncated[0] = True, False  # so that the check of one row sees the flag
    return Data(case, transitions(0, case.capacity, case.obs), new, Rows(*(x[: case.envs].copy() for x in new)))


def spaces(case: Case) -> tuple[Box, Discrete]:
    return Box(-np.inf, np.inf, (case.obs,), np.float32), Discrete(2)


def reading_once(sample: Callable[[], Any], batch: int, rows: int, row_bytes: int) -> Callable[[int], None]:
    """Before the first round, draw until hardly a page of the buffer is left that was not read since it was filled.

    The first reading of a page takes a microsecond more on virtual machines, which is nothing of the buffer's.
    """
    pages = min(rows, rows * row_bytes // 4096)

    def fresh(round: int) -> None:
        for _ in range(5 * pages // batch + 1 if round == 0 else 0):
            sample()

    return fresh


def chunks(case: Case) -> list[slice]:
    return [slice(first, min(first + CHUNK, case.capacity)) for first in range(0, case.capacity, CHUNK)]


def first_row(own: Rows) -> list[Any]:
    """As an environment that is not a vector of them gives it: views of the observations, and numbers."""
    return [x[0] if x.ndim > 1 else x[0].item() for x in own]


def whole(result: Rows, stored: Rows) -> None:
    """Every row is one of those stored, in all its parts; few are drawn twice."""
    drawn = np.asarray(result.obs)
    rows = drawn[:, 0].astype(np.int64) - int(stored.obs[0, 0])
    assert ((rows >= 0) & (rows < len(stored.obs))).all(), "rows that were never stored"
    assert len(np.unique(rows)) > min(len(rows), len(stored.obs)) / 2, "the same rows again and again"
    for name in Rows._fields[:5]:
        expected = getattr(stored, name)[rows]
        given = np.asarray(getattr(result, name)).reshape(expected.shape)
        np.testing.assert_array_equal(given, expected, err_msg=f"{name} is not that of its row")


def ours(data: Data, device: str | None = None) -> Filled:
    case, own = data.case, data.own
    buffer = ReplayBuffer(case.capacity, *spaces(case), num_envs=case.envs, seed=0, device=device)
    for rows in chunks(case):
        buffer.add_batch(*data.stored.at(rows))
    step = own if case.envs > 1 else first_row(own)
    return Filled(
        partial(buffer.add, *step), lambda _: Rows(*buffer.recent(case.envs)[:6]),
        partial(buffer.sample, case.batch), lambda batch: Rows(*batch[:6]),
    )  # fmt: skip


def fill_sb3(buffer: Any, stored: Rows) -> None:
    obs, action, reward, next_obs, terminated, truncated = (x.reshape(-1, buffer.n_envs, *x.shape[1:]) for x in stored)
    buffer.observations[:], buffer.next_observations[:], buffer.actions[..., 0] = obs, next_obs, action
    buffer.rewards[:], buffer.dones[:], buffer.timeouts[:] = reward, terminated | truncated, truncated
    buffer.full = True


def stable_baselines3(data: Data, module: Callable[[], ModuleType]) -> Filled:
    case, own = data.case, data.own
    buffer = module().ReplayBuffer(case.capacity, *spaces(case), device="cpu", n_envs=case.envs)
    fill_sb3(buffer, data.stored)
    infos = [{"TimeLimit.truncated": bool(cut)} for cut in own.truncated]
    step = own.obs, own.next_obs, own.action, own.reward, own.terminated | own.truncated, infos

    def newest(_: Any) -> Rows:
        k = buffer.pos - 1
        ended = buffer.dones[k] * (1 - buffer.timeouts[k])
        return Rows(buffer.observations[k], buffer.actions[k], buffer.rewards[k], buffer.next_observations[k], ended)

    return Filled(partial(buffer.add, *step), newest, partial(buffer.sample, case.batch), read_sb3)


def read_sb3(batch: Any) -> Rows:
    return Rows(batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.dones)


def their_buffers() -> ModuleType:
    from stable_baselines3.common import buffers

    return buffers


def our_buffers() -> ModuleType:
    from fastrl.interop import sb3

    return sb3


def as_rlox(rows: Rows) -> tuple[np.ndarray, ...]:
    """What its `push_batch` takes: actions are float32."""
    obs, action, reward, next_obs, *flags = rows
    return obs.ravel(), next_obs.ravel(), action.astype(np.float32), reward, *(x.view(np.uint8) for x in flags)


def rlox(data: Data) -> Filled:
    import rlox

    case, own, seeds = data.case, data.own, itertools.count()
    buffer = rlox.ReplayBuffer(case.capacity, case.obs, 1)
    for rows in chunks(case):
        buffer.push_batch(*as_rlox(data.stored.at(rows)))
    obs, _, reward, next_obs, *flags = first_row(own)
    add = partial(buffer.push, obs, own.action.astype(np.float32), reward, *flags, next_obs)
    if case.envs > 1:
        add = partial(buffer.push_batch, *as_rlox(own))

    def newest(_: Any) -> Rows:
        drawn = [read_rlox(buffer.sample_recent(case.envs, case.envs, seed)) for seed in range(16)]  # so each of them
        return Rows(*(np.concatenate(x) for x in list(zip(*drawn, strict=True))[:5]))

    return Filled(add, newest, lambda: buffer.sample(case.batch, next(seeds)), read_rlox)


def read_rlox(batch: dict[str, Any]) -> Rows:
    return Rows(*(batch[name] for name in ("obs", "actions", "rewards", "next_obs", "terminated")))


CPPRB = ("obs", "act", "rew", "next_obs", "terminated", "truncated")


def cpprb_fields(obs_size: int) -> dict[str, dict[str, Any]]:
    kinds = {"act": np.int64, "terminated": np.bool_, "truncated": np.bool_}
    return {x: {"shape": obs_size if "obs" in x else 1, "dtype": kinds.get(x, np.float32)} for x in CPPRB}


def cpprb(data: Data) -> Filled:
    import cpprb

    case = data.case
    buffer = cpprb.ReplayBuffer(case.capacity, cpprb_fields(case.obs))
    for rows in chunks(case):
        buffer.add(**dict(zip(CPPRB, data.stored.at(rows), strict=True)))
    step = data.own if case.envs > 1 else first_row(data.own)

    def newest(_: Any) -> Rows:
        k = (buffer.get_next_index() - np.arange(1, case.envs + 1)) % case.capacity
        return read_cpprb({name: x[k] for name, x in buffer.get_all_transitions().items()})

    add = partial(buffer.add, **dict(zip(CPPRB, step, strict=True)))
    return Filled(add, newest, partial(buffer.sample, case.batch), read_cpprb)


def read_cpprb(batch: dict[str, Any]) -> Rows:
    return Rows(*(batch[name] for name in CPPRB[:5]))


def tianshou_batch(stored: Rows) -> Any:
    """All that its buffer holds: rewards are float64 there."""
    from tianshou.data import Batch

    columns = dict(zip(NAMES, stored._replace(reward=stored.reward.astype(np.float64)), strict=True))
    return Batch(**columns, done=stored.terminated | stored.truncated, info=Batch())


def tianshou(data: Data) -> Filled:
    from tianshou.data import Batch, ReplayBuffer, VectorReplayBuffer

    case = data.case
    if case.envs > 1:
        buffer = VectorReplayBuffer(case.capacity, case.envs)
        step, parts = dict(zip(NAMES, data.own, strict=True)), buffer.buffers
    else:
        buffer = ReplayBuffer(case.capacity)
        step, parts = dict(zip(NAMES, first_row(data.own), strict=True)), [buffer]
        step["rew"] = np.float64(step["rew"])
    buffer.set_batch(tianshou_batch(data.stored))
    for part in {id(x): x for x in (*parts, buffer)}.values():
        part._size = part.maxsize
    add = partial(buffer.add, Batch(**step, info=Batch()))
    if case.envs > 1:
        add = partial(add, buffer_ids=np.arange(case.envs))
    return Filled(
        add, lambda added: read_tianshou(buffer[added[0]]),
        partial(buffer.sample, case.batch), lambda drawn: read_tianshou(drawn[0]),
    )  # fmt: skip


def read_tianshou(batch: Any) -> Rows:
    return Rows(batch.obs, batch.act, batch.rew, batch.obs_next, batch.terminated)


def torchrl_rows(rows: Rows) -> Any:
    """On the same memory."""
    import torch
    from tensordict import TensorDict

    return TensorDict({name: torch.from_numpy(x) for name, x in rows._asdict().items()}, [len(rows.obs)])


def torchrl(data: Data) -> Filled:
    from torchrl.data import LazyTensorStorage, ReplayBuffer

    case = data.case
    buffer = ReplayBuffer(storage=LazyTensorStorage(case.capacity), batch_size=case.batch)
    for rows in chunks(case):
        buffer.extend(torchrl_rows(data.stored.at(rows)))
    own = torchrl_rows(data.own)
    add = partial(buffer.extend, own) if case.envs > 1 else partial(buffer.add, own[0])
    return Filled(add, lambda k: read_torchrl(buffer[k].reshape(-1)), buffer.sample, read_torchrl)


def read_torchrl(batch: Any) -> Rows:
    return Rows(*(batch[name] for name in Rows._fields))


BUFFERS: dict[str, tuple[Callable[[Data], Filled], dict[str, Any]]] = {
    "fastrl": (ours, {"role": "ours"}),
    "fastrl, tensors": (partial(ours, device="cpu"), {"role": "ours", "needs": ("torch",)}),
    "fastrl for Stable-Baselines3": (
        partial(stable_baselines3, module=our_buffers), {"role": "ours", "needs": ("stable_baselines3",)},
    ),
    "Stable-Baselines3": (partial(stable_baselines3, module=their_buffers), {"needs": ("stable_baselines3",)}),
    "rlox": (rlox, {"needs": ("rlox",)}),
    "cpprb": (cpprb, {"needs": ("cpprb",)}),
    "Tianshou": (tianshou, {"needs": ("tianshou",)}),
    "TorchRL": (torchrl, {"needs": ("torchrl", "tensordict")}),
}  # fmt: skip
