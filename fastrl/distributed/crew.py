"""Ape-X's processes besides the learner: who is asked for what, what is under way, and who takes the place of the dead.

An actor's batch holds one of its `SLOTS` from when it is asked for until it is stored. So no more than that many
batches, and `PREFETCH` messages of minibatches, exist at a time, however slow whoever is to take them.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrl.distributed.actors import Actor, Receipt, Replay, actor_epsilon
from fastrl.envs.base import EnvironmentFailure

SLOTS = 2  # batches of an actor that are asked for and not stored yet
PREFETCH, MINIBATCHES = 2, 16  # messages of minibatches that are under way or begun, and how many are in one
FALLS = 3  # lives without a sign of use, after which a worker is not replaced any more
ROOM_PATIENCE = 5.0  # seconds for CPUs that somebody has just left to be free


@dataclass(eq=False)
class Worker:
    """One life of an actor, or (index None) of the replay memory."""

    index: int | None
    life: int
    falls: int  # lives before this one, in a row, that were of no use
    handle: Any = None
    is_ready: bool = False

    def __str__(self) -> str:
        return "the replay memory" if self.index is None else f"actor {self.index}"


@dataclass(eq=False)
class Slot:
    """A batch on its way: asked for, then (with a receipt) to be stored."""

    index: int
    steps: int
    batch: Any  # reference to it
    receipt: Receipt | None = None


class Crew:
    """`size` actors and the replay memory; a context, at whose end they are gone.

    Args:
        ray: the module, connected.
        seed: integers from which all streams flow.
        actor, replay: arguments of `Actor` and `Replay`, but for the seed.
    """

    def __init__(self, ray: Any, size: int, seed: list[int], actor: dict[str, Any], replay: dict[str, Any]) -> None:
        self._ray, self._seed, self._for_actor, self._for_replay = ray, seed, actor, replay
        self._steps: int = actor["steps"]
        self.size, self.asked, self.stored = size, 0, 0  # steps asked for in all, transitions stored in all
        self.minibatches: deque[Any] = deque()
        self.learnt: list[tuple[np.ndarray, np.ndarray]] = []  # (indices, priorities) that replay is not told yet
        self.losses = dict.fromkeys(("lost_actors", "lost_steps", "lost_replays", "lost_transitions"), 0)
        self._calls: dict[Any, tuple[str, Worker, Slot | None]] = {}  # by the reference to what they return
        self._slots: list[Slot] = []
        self._turns = [0] * size
        errors = ray.exceptions  # how Ray says that a process has ended, or cannot begin
        self._deaths = (errors.RayActorError, errors.OutOfMemoryError, errors.RuntimeEnvSetupError,
                        errors.ActorUnschedulableError)  # fmt: skip
        self.replay, self._workers = Worker(None, 0, 0), list[Worker]()

    def __enter__(self) -> Crew:
        self._check_room()
        home = self._ray.get_runtime_context().get_node_id()
        near = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(home, soft=True)
        own = {"max_restarts": 0, "max_task_retries": 0}
        self._make_actor = self._ray.remote(Actor).options(num_cpus=1, scheduling_strategy="SPREAD", **own)
        self._make_replay = self._ray.remote(Replay).options(num_cpus=0, scheduling_strategy=near, **own)
        try:
            self._start(self.replay)
            self._workers += [self._start(Worker(i, 0, 0)) for i in range(self.size)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.clear()
        self._slots.clear()
        for worker in [self.replay, *self._workers]:
            self._kill(worker)

    def _check_room(self) -> None:
        deadline = time.monotonic() + ROOM_PATIENCE
        while (free := self._ray.available_resources().get("CPU", 0)) < self.size and time.monotonic() < deadline:
            time.sleep(0.1)
        if free < self.size:
            there = self._ray.cluster_resources().get("CPU", 0)
            raise RuntimeError(
                f"{self.size} actors take {self.size} CPUs; of the cluster's {there:.0f}, {free:.0f} are free: use "
                "fewer actors, or say num_cpus= where this machine may run more processes than it has cores"
            )

    def _start(self, worker: Worker) -> Worker:
        seed = [*self._seed, 0 if worker.index is None else worker.index + 1, worker.life]
        if worker.index is None:
            worker.handle = self._make_replay.remote(seed=seed, **self._for_replay)
        else:
            worker.handle = self._make_actor.remote(seed=seed, **self._for_actor)
        self._calls[worker.handle.ready.remote()] = "start", worker, None
        return worker

    def _kill(self, worker: Worker) -> None:
        with contextlib.suppress(Exception):  # it may be dead, or its node gone
            self._ray.kill(worker.handle)

    # -- actors and what they send -------------------------------------------------------------------------------

    def has_room(self, clock: int) -> bool:
        """Whether an actor may be asked for steps beyond those until `clock`, where the learner is."""
        ahead = self.asked - clock >= self.size * self._steps and self.stored > 0
        return not ahead and bool(self._free())

    def _free(self) -> list[Worker]:
        used = [0] * self.size
        for slot in self._slots:
            used[slot.index] += 1
        found = [w for w in self._workers if w.is_ready and w.index is not None and used[w.index] < SLOTS]
        return sorted(found, key=lambda w: (used[w.index or 0], self._turns[w.index or 0]))

    def ask(self, weights: Any, epsilon: float) -> None:
        """Let the actor that has the least to do collect a batch."""
        worker = self._free()[0]
        assert worker.index is not None
        self._turns[worker.index] += 1
        receipt, batch = worker.handle.collect.options(num_returns=2).remote(
            weights, actor_epsilon(epsilon, worker.index, self.size)
        )
        slot = Slot(worker.index, self._steps, batch)
        self._slots.append(slot)
        self._calls[receipt] = "collect", worker, slot
        self.asked += slot.steps

    def put(self, value: Any) -> Any:
        """A reference to a copy of `value` in the object store, which goes when nobody holds the reference."""
        return self._ray.put(value)

    # -- the replay memory -----------------------------------------------------------------------------------------

    def order(self, batch_size: int, beta: float) -> None:
        """Have minibatches sent ahead of their use, and replay told what was learnt from others."""
        if not self.replay.is_ready or not self.stored:
            return
        messages = -(-len(self.minibatches) // MINIBATCHES)  # begun, or waiting
        under_way = sum(kind == "sample" for kind, _, _ in self._calls.values())
        for _ in range(messages + under_way, PREFETCH):
            learnt = tuple(map(np.concatenate, zip(*self.learnt, strict=True))) if self.learnt else None
            self.learnt.clear()
            minibatches = self.replay.handle.sample.remote(MINIBATCHES, batch_size, beta, learnt)
            self._calls[minibatches] = "sample", self.replay, None

    def _store(self, slot: Slot) -> None:
        if self.replay.is_ready:
            self._calls[self.replay.handle.add.remote(slot.batch)] = "add", self.replay, slot

    def save(self) -> None:
        """Let replay write its snapshot; a warning where it is dead."""
        try:
            self._ray.get(self.replay.handle.save.remote())
        except self._deaths as error:
            warnings.warn(f"the last snapshot of the replay memory is not the newest: {error}", stacklevel=2)

    # -- what comes back -------------------------------------------------------------------------------------------

    def receive(self, patience: float) -> list[Receipt]:
        """Take what has come, after `patience` seconds at most; returns the receipts of batches that are stored."""
        if not self._calls:
            return []
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=patience, fetch_local=False)
        if ready and len(self._calls) > 1:
            ready, _ = self._ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0, fetch_local=False)
        receipts = []
        for ref in ready:
            if ref in self._calls:  # or else its worker has died meanwhile
                receipts += self._take(ref, *self._calls.pop(ref))
        return receipts

    def _take(self, ref: Any, kind: str, worker: Worker, slot: Slot | None) -> list[Receipt]:
        errors = self._ray.exceptions
        try:
            value = self._ray.get(ref)
        except errors.RayTaskError as error:
            if kind != "add" or not isinstance(error.cause, errors.ObjectLostError):
                what = f"{worker} raised {type(error.cause).__name__}: {error.cause}"
                raise _as_here(kind, error.cause)(what) from error
            self._drop(slot)  # the batch was lost with its node
        except self._deaths as error:
            if kind == "add" and slot is not None:
                self._calls[ref] = kind, worker, slot  # so that it is among those of the dead
            self._replace(worker, error, slot)
        except errors.RayError as error:
            if kind == "start":
                self._replace(worker, error, slot)
            self._drop(slot)
        else:
            return self._took(value, kind, worker, slot)
        return []

    def _took(self, value: Any, kind: str, worker: Worker, slot: Slot | None) -> list[Receipt]:
        if kind == "start":
            worker.is_ready = True
            if worker.index is None:
                self.losses["lost_transitions"] += max(0, self.stored - value)
                self.stored = value
                for waiting in self._slots:
                    if waiting.receipt is not None:
                        self._store(waiting)
        elif kind == "sample":
            worker.falls = 0
            self.minibatches.extend(value)
        elif slot is not None and kind == "collect":
            worker.falls, slot.receipt = 0, value
            self._store(slot)
        elif slot is not None and slot.receipt is not None:
            worker.falls, self.stored = 0, value
            self._slots.remove(slot)
            return [slot.receipt]
        return []

    def _drop(self, slot: Slot | None) -> None:
        if slot is not None and slot in self._slots:
            self._slots.remove(slot)
            self.asked -= slot.steps
            self.losses["lost_steps"] += slot.steps

    def _replace(self, worker: Worker, error: Exception, slot: Slot | None) -> None:
        """Another life for who died: an actor begins new episodes, replay goes on from its snapshot."""
        if worker.falls + 1 >= FALLS:
            raise RuntimeError(f"{worker} died {FALLS} times without having been of use: {error}") from error
        reason = str(error).partition("\n")[0]
        warnings.warn(f"{worker} died, life {worker.life}; another takes its place: {reason}", stacklevel=2)
        self._kill(worker)
        calls = [(ref, call) for ref, call in self._calls.items() if call[1] is worker]
        for ref, _ in calls:
            del self._calls[ref]
        successor = self._start(Worker(worker.index, worker.life + 1, worker.falls + 1))
        if worker.index is None:  # batches wait in their slots for it
            self.replay = successor
            self.minibatches.clear()
            self.learnt.clear()
            self.losses["lost_replays"] += 1
        else:
            self._workers[worker.index] = successor
            self.losses["lost_actors"] += 1
            for lost in {slot, *(call[2] for _, call in calls)}:
                self._drop(lost)


def _as_here(kind: str, error: BaseException) -> type[Exception]:
    """What the error of a worker is raised as."""
    if isinstance(error, EnvironmentFailure):
        return EnvironmentFailure
    return ValueError if kind == "start" and isinstance(error, ValueError) else RuntimeError
