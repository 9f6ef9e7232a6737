"""How processes that torchrun started become one group, also after some of them were killed."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from fastrl.checks import check_number
from fastrl.ranks import Ranks

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TIMEOUT = 600.0  # seconds
MOMENT = 0.02  # seconds between two looks at the store


class Group(Ranks):
    """The ranks that `process_group` has joined.

    Attributes:
        told: whether rank 0 has told the others what to do.
    """

    def __init__(self, rank: int, size: int, store: Any) -> None:
        super().__init__(rank, size)
        self.told, self._store = False, store

    def remember(self, key: str, text: str) -> None:
        """Keep `text` for later attempts, in the memory of torchrun."""
        self._store.set(f"fastrl/{key}", text)

    def recall(self, key: str) -> str | None:
        """What an earlier attempt, or this one, has kept."""
        return self._store.get(f"fastrl/{key}").decode() if self._store.check([f"fastrl/{key}"]) else None


def launched() -> bool:
    """Whether this process is one of several, or of a group of one, that torchrun or its like has started.

    Raises:
        ValueError: where the environment says so by halves.
    """
    if not {"RANK", "WORLD_SIZE"} & set(os.environ):
        return False
    if missing := [name for name in NEEDED if name not in os.environ]:
        raise ValueError(f"of {', '.join(NEEDED)} the environment lacks {', '.join(missing)}: start it by torchrun")
    return True


@contextmanager
def process_group(timeout: float = TIMEOUT, backend: str | None = None) -> Iterator[Group]:
    """A block in which this process is one rank of torch.distributed's default group.

    For processes that torchrun starts, or that find RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment;
    others are a group of one, without torch.distributed, so that one script serves both. Unlike `init_process_group`
    alone, it finds the others again where torchrun has restarted them all after one was killed: what earlier attempts
    have left in the store is not taken for what the present ones say.

    Args:
        timeout: seconds after which a rank gives up waiting for another one, at the start and later. An iteration of
            the slowest rank, and what rank 0 does between two (a callback's evaluation), have to be shorter.
        backend: of torch.distributed; None for gloo, and nccl beside it where there are GPUs. Rank r of a machine then
            uses GPU r.

    Raises:
        ValueError: where the environment says by halves which rank this is, or `timeout` is no positive number.
        ConnectionError: where nobody answers at MASTER_ADDR:MASTER_PORT, or not all ranks arrive.
    """
    check_number("timeout", timeout)
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}; it must be a positive number of seconds")
    if not launched():
        yield Group(0, 1, None)
        return
    import torch
    import torch.distributed as dist

    rank, size, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    host, patience = os.environ["MASTER_ADDR"], timedelta(seconds=timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    elif backend is None:
        backend = "gloo"
    try:
        hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = dist.TCPStore(host, port, size, hosts_store, patience, wait_for_workers=False)
        own = dist.PrefixStore(_meet(store, rank, size, timeout), store)
        dist.init_process_group(backend, store=own, rank=rank, world_size=size, timeout=patience)
    except RuntimeError as error:
        raise ConnectionError(
            f"rank {rank} of {size} cannot join the others at {host}:{port} within {timeout:.0f} s: are all of them "
            f"started, and is the port open? ({str(error).splitlines()[0]})"
        ) from error
    try:
        yield Group(rank, size, store)
    finally:
        dist.destroy_process_group()


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise ValueError(f"{name} is {os.environ[name]!r} in the environment; it must be a number") from None


def _meet(store: Any, rank: int, size: int, timeout: float) -> str:
    """A prefix for keys that the present processes agree upon, and that no earlier ones have used.

    torchrun's own count of restarts will not do: the agents of several machines may count differently. So every process
    shows a token of its own, rank 0 says which ones it sees, each says that its own is among them, and rank 0 closes
    the list. RuntimeError where that takes longer than `timeout` seconds.
    """
    own, last = secrets.token_hex(8), time.monotonic() + timeout
    store.set(f"fastrl/token/{rank}", own)
    while time.monotonic() < last:
        if rank == 0 and store.check([f"fastrl/token/{r}" for r in range(size)]):
            store.set("fastrl/list", ",".join(store.get(f"fastrl/token/{r}").decode() for r in range(size)))
        listed = store.get("fastrl/list").decode() if store.check(["fastrl/list"]) else ""
        if listed.split(",")[rank : rank + 1] == [own]:
            store.set(f"fastrl/{listed}/{rank}", "seen")
            if rank == 0 and store.check([f"fastrl/{listed}/{r}" for r in range(size)]):
                store.set(f"fastrl/{listed}", "closed")
            if store.check([f"fastrl/{listed}"]):
                return f"fastrl/{listed}"
        time.sleep(MOMENT)
    raise RuntimeError(f"not all of {size} ranks have come")
