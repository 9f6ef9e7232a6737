"""The processes that train one model together: the group of torch.distributed, as training needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrl.checks import check_int


class RankLost(RuntimeError):
    """Another process of the group has ended, or has not answered within the group's timeout."""


class Ranks:
    """One of `size` processes; alone where there is no group.

    Everything but `share` and `largest_of` is for all ranks to call in the same order, and waits for all of them.
    Arrays lie in the memory of the host, tensors on any device that the group's backend serves.

    Attributes:
        rank: from 0; the first one writes files and speaks.
        size: how many there are.

    Raises:
        RankLost: from every method that waits, where another rank has ended or does not answer.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def here(cls) -> Ranks:
        """Those of the default process group, if there is one. Torch is not imported for it."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
            return cls()
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, name: str, total: int) -> int:
        """This rank's part of `total`, which is called `name`; ValueError where it cannot be shared evenly."""
        if self.size == 1:
            return total
        check_int(name, total)
        if total % self.size:
            raise ValueError(
                f"{name} is {total}, over all ranks, and {self.size} ranks cannot share that evenly: it must be a "
                f"multiple of {self.size}, such as {(total // self.size + 1) * self.size}"
            )
        return total // self.size

    def add_up(self, x: Any) -> None:
        """x ← Σ over all ranks of x, an array or a tensor, contiguous; the same bits on every rank."""
        self._collective(lambda dist, on: _in_place(dist.all_reduce, x, on))

    def greatest(self, *numbers: float) -> list[float]:
        """The greatest over all ranks of each of several numbers, as float64."""
        x = np.array(numbers, np.float64)
        self._collective(lambda dist, on: _in_place(dist.all_reduce, x, on, op=dist.ReduceOp.MAX))
        return [float(number) for number in x]

    def spread(self, x: Any) -> None:
        """x ← rank 0's x, an array or a tensor, contiguous."""
        self._collective(lambda dist, on: _in_place(dist.broadcast, x, on, src=0))

    def rows(self, row: np.ndarray) -> np.ndarray:
        """[size, n] of everybody's `row` [n], which is as long on every rank."""
        table = np.zeros((self.size, *row.shape), row.dtype)
        table[self.rank] = row
        self.add_up(table)
        return table

    def gather(self, data: bytes, everywhere: bool = True) -> list[bytes]:
        """Everybody's `data`, of any lengths, by rank; without `everywhere` on rank 0 alone, elsewhere nothing."""
        if self.size == 1:
            return [data]
        lengths = self.rows(np.array([len(data)], np.int64))[:, 0]
        own = np.zeros(max(1, lengths.max()), np.uint8)
        own[: len(data)] = np.frombuffer(data, np.uint8)
        if everywhere:
            table = self.rows(own)
        else:
            table = self._collective(lambda dist, on: _gather(dist, own, self.rank, self.size, on))
        return [table[r, :n].tobytes() for r, n in enumerate(lengths)] if len(table) else []

    def first(self, data: bytes) -> bytes:
        """Rank 0's `data`."""
        length = np.array([len(data)], np.int64)
        self.spread(length)
        sent = np.frombuffer(data, np.uint8).copy() if self.is_first else np.zeros(int(length[0]), np.uint8)
        if len(sent):
            self.spread(sent)
        return sent.tobytes()

    def together(self, make: Callable[[], Any], tell: Callable[[BaseException], str] = str) -> Any:
        """What `make` gives, where it succeeds on every rank.

        Raises:
            ValueError: where it fails on another rank, with that rank and what `tell` says of its error. A rank on
                which it fails raises the error itself.
        """
        made, failure = None, None
        try:
            made = make()
        except Exception as error:
            failure = error
        told = self.gather(b"" if failure is None else tell(failure).encode() or b"?")
        if failure is not None:
            raise failure
        for rank, text in enumerate(told):
            if text:
                raise ValueError(f"rank {rank}: {text.decode()}")
        return made

    def _collective(self, call: Callable[[Any, str], Any]) -> Any:
        if self.size == 1:
            return None
        import torch.distributed as dist

        try:
            return call(dist, "cuda" if dist.get_backend() == "nccl" else "cpu")
        except RuntimeError as error:
            raise RankLost(
                f"rank {self.rank} of {self.size} waits for another one in vain, which has ended or is too slow: look "
                f"for what that one says ({str(error).splitlines()[0]})"
            ) from error


def _in_place(call: Callable[..., Any], x: Any, on: str, **options: Any) -> None:
    """`call` with `x` as a tensor: arrays are moved to where the backend can reach them, and back."""
    import torch

    if not isinstance(x, np.ndarray):
        call(x, **options)
        return
    own = torch.from_numpy(x)
    there = own.to(on)
    call(there, **options)
    if there is not own:
        own.copy_(there)


def _gather(dist: Any, own: np.ndarray, rank: int, size: int, on: str) -> Any:
    import torch

    there = torch.from_numpy(own).to(on)
    parts = [torch.empty_like(there) for _ in range(size)] if rank == 0 else None
    dist.gather(there, parts, dst=0)
    return np.stack([part.cpu().numpy() for part in parts]) if parts else ()


def largest_difference(texts: Sequence[dict[str, Any]]) -> str | None:
    """Where the settings of ranks differ from those of rank 0, in words; None where they do not."""
    for rank, settings in enumerate(texts):
        for name in {**texts[0], **settings}:
            if settings.get(name) != texts[0].get(name):
                return f"{name} is {texts[0].get(name)!r} on rank 0, but {settings.get(name)!r} on rank {rank}"
    return None
