"""A batch of n-step transitions from a full buffer: R = Σ_{k<m} γ^k r_{t+k}, and what the state m ≤ n steps on counts.

Libraries hand this out in different parts. What they have in common is the target R + γ^m (1 - terminated) V(s_{t+m}),
which is compared, for a V that is the second number of an observation. Episodes end (Sutton and Barto 2018, eq. 7.1;
Pardo et al. 2018 on time limits), and the newest transition has no successors: where no episode ends, the windows that
this cuts short are not compared, for to some libraries they are no windows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benches import buffers
from benches.buffers import TENSORS
from benches.operation import Implementation, Missing, Operation, Work
from benches.transitions import Case, Rows, chunks, reading_once, spaces, transitions
from fastrl import ReplayBuffer
from tests.reference.returns import n_step_window

GAMMA = 0.99


class NStep(NamedTuple):
    case: Case
    n_step: int
    ends: str  # "terminal", "time limits" too, or "none"

    def __str__(self) -> str:
        return f"{self.n_step} steps, {self.case}"


class Data(NamedTuple):
    case: Case
    n_step: int
    stored: Rows  # [capacity], one environment's steps
    compared: int  # of these rows the windows


class Targets(NamedTuple):
    obs: Any  # [B, ...]
    action: Any
    target: Any


def data(work: NStep) -> Data:
    stored = transitions(0, work.case.capacity, work.case.obs, ends=0.01)
    nowhere = np.zeros_like(stored.terminated)
    if work.ends != "time limits":
        stored = stored._replace(truncated=nowhere)
    if work.ends == "none":
        stored = stored._replace(terminated=nowhere)
    compared = work.case.capacity - (work.n_step - 1 if work.ends == "none" else 0)
    return Data(work.case, work.n_step, stored, compared)


def value(obs: Any) -> Any:
    return np.asarray(obs)[:, 1]


def target(reward: Any, discount: Any, terminated: Any, next_obs: Any) -> np.ndarray:
    reward, discount, terminated = (np.asarray(x, np.float64).reshape(-1) for x in (reward, discount, terminated))
    return reward + discount * (1 - terminated) * value(next_obs)


CHECKED = 1000  # rows, for few windows are cut short


def work(sample: Callable[[], Any], read: Callable[[Any], Targets], data: Data) -> Work:
    """With several more draws in what is checked."""

    def result(drawn: Any) -> Targets:
        draws = [read(drawn), *(read(sample()) for _ in range(CHECKED // data.case.batch))]
        return Targets(*(np.concatenate(part) for part in zip(*draws, strict=True)))

    fresh = reading_once(sample, data.case.batch, data.case.capacity, data.case.row_bytes)
    return Work(sample, result, fresh)


def right(result: Targets, data: Data) -> None:
    stored, drawn = data.stored, np.asarray(result.obs)
    rows = drawn[:, 0].astype(np.int64)
    assert len(np.unique(rows)) > len(rows) / 2, "the same rows again and again"
    np.testing.assert_array_equal(drawn, stored.obs[rows], err_msg="obs is not that of its row")
    np.testing.assert_array_equal(np.asarray(result.action).reshape(-1), stored.action[rows])
    wanted, known = [], rows < data.compared
    for row in rows[known]:
        window = slice(row, row + data.n_step)
        steps = [x[window].tolist() for x in (stored.reward, stored.terminated, stored.truncated)]
        total, discount, last = n_step_window(list(zip(*steps, strict=True)), 0, data.n_step, GAMMA)
        wanted.append(total + discount * (1 - stored.terminated[row + last]) * stored.next_obs[row + last, 1])
    np.testing.assert_allclose(np.asarray(result.target)[known], wanted, rtol=1e-4, atol=1e-4)


def ours(data: Data, device: str | None = None) -> Work:
    case = data.case
    buffer = ReplayBuffer(case.capacity, *spaces(case), seed=0, n_step=data.n_step, gamma=GAMMA, device=device)
    for rows in chunks(case):
        buffer.add_batch(*data.stored.at(rows))

    def read(x: Any) -> Targets:
        return Targets(x.obs, x.action, target(x.reward, x.discount, x.terminated, x.next_obs))

    return work(partial(buffer.sample, case.batch), read, data)


def stable_baselines3(data: Data, module: Callable[[], ModuleType]) -> Work:
    case = data.case
    buffer = module().NStepReplayBuffer(case.capacity, *spaces(case), device="cpu", n_steps=data.n_step, gamma=GAMMA)
    buffers.fill_sb3(buffer, data.stored)

    def read(x: Any) -> Targets:
        return Targets(x.observations, x.actions, target(x.rewards, x.discounts, x.dones, x.next_observations))

    return work(partial(buffer.sample, case.batch), read, data)


def cpprb(data: Data) -> Work:
    """It makes the windows when transitions are added, which must be told of each end."""
    import cpprb

    case, stored = data.case, data.stored
    fields = {**buffers.cpprb_fields(case.obs), "done": {}}
    n_step = {"size": data.n_step, "gamma": GAMMA, "rew": "rew", "next": "next_obs"}
    buffer = cpprb.ReplayBuffer(case.capacity, fields, Nstep=n_step)
    ends = [*(np.flatnonzero(stored.terminated | stored.truncated) + 1), case.capacity]
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        episode = Rows(*(x.copy() for x in stored.at(slice(first, end))))  # it writes into what it is given
        buffer.add(**dict(zip(buffers.CPPRB, episode, strict=True)), done=episode.terminated)
        buffer.on_episode_end()
    discount = GAMMA**data.n_step

    def read(x: dict[str, Any]) -> Targets:
        return Targets(x["obs"], x["act"], target(x["rew"], [discount] * case.batch, x["done"], x["next_obs"]))

    return work(partial(buffer.sample, case.batch), read, data)


def tianshou(data: Data) -> Work:
    """As its algorithms do: the target itself, of a function that gathers the observations in which windows end."""
    import torch
    from tianshou.data import ReplayBuffer

    try:
        from tianshou.policy.base import BasePolicy
    except ImportError as error:
        raise Missing("its n-step returns are elsewhere in this version of Tianshou") from error
    case = data.case
    buffer = ReplayBuffer(case.capacity)
    buffer.set_batch(buffers.tianshou_batch(data.stored))
    buffer._size, buffer.last_index[0] = case.capacity, case.capacity - 1

    def values(buffer: Any, rows: np.ndarray) -> Any:
        return torch.from_numpy(value(buffer[rows].obs_next))

    def call() -> Any:
        batch, rows = buffer.sample(case.batch)
        return BasePolicy.compute_nstep_return(batch, buffer, rows, values, GAMMA, data.n_step)

    return work(call, lambda x: Targets(x.obs, x.act, np.asarray(x.returns).reshape(-1)), data)


def torchrl(data: Data) -> Work:
    """It too makes the windows when transitions are added."""
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, ReplayBuffer
    from torchrl.envs.transforms import MultiStepTransform

    case = data.case
    obs, action, reward, next_obs, terminated, truncated = map(torch.from_numpy, data.stored)
    following = {"obs": next_obs, "reward": reward, "done": terminated | truncated, "terminated": terminated}
    columns = {"obs": obs, "action": action, "next": {**following, "truncated": truncated}}
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(case.capacity), batch_size=case.batch,
        transform=MultiStepTransform(data.n_step, GAMMA),
    )  # fmt: skip
    for part in TensorDict(columns, [case.capacity]).split(1000):  # of more than that its time is not linear
        buffer.extend(part)

    def read(x: Any) -> Targets:
        parts = (x["next", "reward"], x["gamma"], x["next", "terminated"], x["next", "obs"])
        return Targets(x["obs"], x["action"], target(*parts))

    return work(buffer.sample, read, data)


def cleanrl(data: Data) -> Work:
    raise Missing("its one buffer of n-step returns is for Atari's frames, by priority, inside a script")


def rlox(data: Data) -> Work:
    raise Missing("its buffers have no n-step returns")


SB3, CPPRB, TORCHRL = ("stable_baselines3",), ("cpprb",), ("torchrl", "tensordict")
IMPLEMENTATIONS = {
    "fastrl": Implementation(ours, role="ours"),
    TENSORS: Implementation(partial(ours, device="cpu"), role="ours", needs=("torch",)),
    "fastrl for Stable-Baselines3": Implementation(
        partial(stable_baselines3, module=buffers.our_buffers), role="ours", needs=SB3, beside=TENSORS
    ),
    "Stable-Baselines3": Implementation(
        partial(stable_baselines3, module=buffers.their_buffers), needs=SB3, beside=TENSORS
    ),
    "CleanRL": Implementation(cleanrl),
    "rlox": Implementation(rlox, needs=("rlox",)),
    "cpprb": Implementation(
        cpprb, needs=CPPRB, why="does not mark a whole window whose last step ends the episode, and gives no discounts"
    ),
    "Tianshou": Implementation(tianshou, needs=("tianshou",)),
    "TorchRL": Implementation(
        torchrl, needs=TORCHRL, why="keeps the flags of a window's first step, not its last", beside=TENSORS
    ),
}


def operation(title: str, ends: str, *cases: tuple[int, Case]) -> Operation:
    works = [NStep(case, n_step, ends) for n_step, case in cases]
    return Operation(title, {str(work): work for work in works}, data, lambda data: data, IMPLEMENTATIONS, right)


SMALL, LARGE = Case(4, 64, 100_000), Case(8, 256, 1_000_000)
REPLAY_N_STEP = operation("Replay: sample n-step transitions", "terminal", (3, SMALL), (8, SMALL), (3, LARGE))
REPLAY_N_STEP_TIME_LIMITS = operation(
    "Replay: sample n-step transitions, episodes cut by time limits", "time limits", (3, SMALL)
)
REPLAY_N_STEP_ENDLESS = operation("Replay: sample n-step transitions, no episode ends", "none", (3, SMALL))
