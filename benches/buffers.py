"""Everyone's replay buffer, filled with the same transitions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benches.operation import Missing
from benches.transitions import Data, Rows, chunks, spaces
from fastrl import ReplayBuffer

NAMES = ("obs", "act", "rew", "obs_next", "terminated", "truncated")  # as some peers have them


class Filled(NamedTuple):
    """A library's buffer that holds `Data.stored`."""

    add: Callable[[], Any]
    newest: Callable[[Any], Rows]  # of what `add` returned
    sample: Callable[[], Any]
    read: Callable[[Any], Rows]  # of what `sample` returned


def first_row(own: Rows) -> list[Any]:
    """As an environment that is not a vector of them gives it: views of the observations, and numbers."""
    return [x[0] if x.ndim > 1 else x[0].item() for x in own]


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


def cleanrl(data: Any) -> Any:
    raise Missing("its scripts import Stable-Baselines3's buffers, or a copy of them")


TENSORS = "fastrl, tensors"  # what buffers that hand out tensors are compared with
BUFFERS: dict[str, tuple[Callable[[Data], Filled], dict[str, Any]]] = {
    "fastrl": (ours, {"role": "ours"}),
    TENSORS: (partial(ours, device="cpu"), {"role": "ours", "needs": ("torch",)}),
    "fastrl for Stable-Baselines3": (
        partial(stable_baselines3, module=our_buffers), {"role": "ours", "needs": ("stable_baselines3",)},
    ),
    "Stable-Baselines3": (partial(stable_baselines3, module=their_buffers), {"needs": ("stable_baselines3",)}),
    "CleanRL": (cleanrl, {}),
    "rlox": (rlox, {"needs": ("rlox",)}),
    "cpprb": (cpprb, {"needs": ("cpprb",)}),
    "Tianshou": (tianshou, {"needs": ("tianshou",)}),
    "TorchRL": (torchrl, {"needs": ("torchrl", "tensordict")}),
}  # fmt: skip
OF_TENSORS = ("fastrl for Stable-Baselines3", "Stable-Baselines3", "TorchRL")  # whose batches are
