"""Ray, where it is needed: found, of a version that is known to work, and connected to."""

from __future__ import annotations

import importlib
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OLDEST, NEXT_MAJOR = (2, 40), 3  # as in pyproject.toml
INSTALL = 'pip install "fastrl[ray]"'
PATIENCE = 5.0  # seconds for an address to answer


def import_ray() -> Any:
    """Ray's module.

    Raises:
        ImportError: where Ray is missing, or of a version that this does not work with, with the command to run.
    """
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(f"this needs Ray, which cannot be imported ({error}): {INSTALL}") from error
    found = tuple(int(n) for n in re.findall(r"\d+", str(ray.__version__))[:2])
    if not OLDEST <= found < (NEXT_MAJOR,):
        wanted = f"{'.'.join(map(str, OLDEST))} or later, before {NEXT_MAJOR}"
        raise ImportError(f"Ray is of version {ray.__version__}; it must be {wanted}: {INSTALL}")
    return ray


@contextmanager
def connected(address: str | None = None, num_cpus: int | None = None) -> Iterator[Any]:
    """A block in which Ray is connected to; yields its module.

    Where the process is connected already, that cluster is used and left as it is. Otherwise it joins the cluster at
    `address`, or with None starts one of this machine alone; what was started or joined here is left at the end, and
    nothing of a cluster of this machine goes on running.

    Args:
        address: "auto" for the cluster that runs on this machine, or "host:port" of a head node.
        num_cpus: processes that a cluster of this machine may run at once; None for the number of its cores.

    Raises:
        ImportError: as `import_ray`.
        ValueError: for an address that is none, or that another cluster than the connected one has.
        ConnectionError: where nobody answers at the address.
    """
    ray = import_ray()
    if ray.is_initialized():
        if address is not None:
            raise ValueError(f"Ray is connected already: leave out the address {address}, or call ray.shutdown() first")
        yield ray
        return
    if address is not None and address != "auto":
        _knock(address)
    try:
        own = {"include_dashboard": False, "num_cpus": num_cpus} if address is None else {}
        ray.init(address=address or "local", logging_level="warning", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"there is no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise unless somebody listens at "host:port": Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ValueError(f'the address of a Ray cluster is {address!r}; it must be "auto" or "host:port"')
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address} within {PATIENCE:.0f} s ({error}): is `ray start --head` running "
            "there, and the port open?"
        ) from error
