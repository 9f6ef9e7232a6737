"""Two network namespaces joined as two hosts, with a delay between them where one is wanted. Linux, as root.

python -m benches.scaling.hosts measure [--delay MS ...]     what the connection does: round trips, bytes, all-reduces
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "benches.scaling.hosts")
INTERFACE, ADDRESSES, PORT = "eth0", ("10.77.0.1", "10.77.0.2"), 29500
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
TAP, NO_PACKET_INFO, WITH_HEADER = 0x0002, 0x1000, 0x4000
UNSUMMED, SEGMENTS_4, SEGMENTS_6 = 0x01, 0x02, 0x04
FRAME = 1 << 17  # bytes; more than the 64 KiB of the largest segment and its headers
EARLY = 1e-4  # seconds; the kernel wakes a sleeper about this late
PINGS, BYTES, FLOATS, ALL_REDUCES = 300, 50_000_000, 10_000, 200
numbers = itertools.count()


class Unavailable(RuntimeError):
    """Namespaces, or the devices that join them, cannot be made here."""


@dataclass
class Host:
    """A network namespace, with an address the other host reaches."""

    name: str
    address: str
    interface: str = INTERFACE
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """subprocess.Popen inside the namespace; what still runs when the hosts go is killed."""
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)
        self.processes.append(process)
        return process

    def kill(self) -> None:
        """End every process in the namespace."""
        for process in self.processes:
            process.kill()  # does nothing to one that has been waited for
            process.wait()
        inside = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for pid in inside.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@contextlib.contextmanager
def two_hosts(delay_ms: float = 0.0) -> Iterator[tuple[Host, Host]]:
    """Two joined hosts. Whatever one sends, the other has `delay_ms` later: one way, so a round trip takes twice that.

    Without a delay they are joined by a veth pair; with one, by a process that holds every frame for as long, and
    that needs a share of the processors. Raises Unavailable where this cannot be done.
    """
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("ip") is None:
        raise Unavailable("network namespaces need Linux, root and the command ip")
    run = f"fastrl-{os.getpid()}-{next(numbers)}"
    hosts = Host(f"{run}-a", ADDRESSES[0]), Host(f"{run}-b", ADDRESSES[1])
    with contextlib.ExitStack() as stack:
        for host in hosts:
            stack.callback(subprocess.run, ["ip", "netns", "del", host.name], capture_output=True, check=False)
            ip("netns", "add", host.name)
        if delay_ms > 0:
            stack.enter_context(joined_by_relay(hosts, delay_ms))
        else:
            ip("-n", hosts[0].name, "link", "add", INTERFACE, "type", "veth", "peer", INTERFACE, "netns", hosts[1].name)
        for host in hosts:
            bring_up(host)
            stack.callback(host.kill)
        yield hosts


def ip(*arguments: str) -> None:
    """Run ip; Unavailable where it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def bring_up(host: Host) -> None:
    """Give the interface its address, and start it and the loopback."""
    ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
    ip("-n", host.name, "link", "set", INTERFACE, "addrgenmode", "none")  # no IPv6 address
    for interface in ("lo", INTERFACE):
        ip("-n", host.name, "link", "set", interface, "up")


@contextlib.contextmanager
def joined_by_relay(hosts: tuple[Host, Host], delay_ms: float) -> Iterator[None]:
    """Put one end of a relay, as a process of its own, into each namespace."""
    with contextlib.ExitStack() as stack:
        devices = [tap(host, stack) for host in hosts]
        command = [*PROGRAM, "relay", str(round(delay_ms * 1e3)), *map(str, devices)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=devices, cwd=ROOT, start_new_session=True
        )
        stack.enter_context(process)  # waits for it
        stack.callback(process.kill)
        if process.stdout is None or not process.stdout.readline():
            raise Unavailable("the relay did not start")
        yield


def tap(host: Host, stack: contextlib.ExitStack) -> int:
    """A descriptor of the frames of a new interface in the namespace; `stack` closes it.

    Each comes with a header that lets hosts hand over 64 KiB at a time, without checksums, as they do over veth.
    """
    import fcntl  # Windows has none

    request = struct.pack("16sH22x", b"fastrl%d", TAP | NO_PACKET_INFO | WITH_HEADER)  # the kernel fills in a number
    try:
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, device)
        name = fcntl.ioctl(device, TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        fcntl.ioctl(device, TUNSETOFFLOAD, UNSUMMED | SEGMENTS_4 | SEGMENTS_6)
    except OSError as error:
        raise Unavailable(f"a delay needs TAP devices: {error}") from error
    ip("link", "set", name, "netns", host.name, "name", INTERFACE)
    return device


def relay(microseconds: int, first: int, second: int) -> None:
    """Hand every frame of one device to the other so long after it came, until standard input ends."""
    with contextlib.suppress(OSError):  # a cable does not wait for a processor that is busy
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print("ready", flush=True)
    ways: list[tuple[int, int, deque[tuple[float, bytes]]]] = [(first, second, deque()), (second, first, deque())]
    while True:
        due = min((held[0][0] for _, _, held in ways if held), default=None)
        wait = None if due is None else max(0.0, due - EARLY - time.monotonic())
        ready = select.select([first, second, sys.stdin], [], [], wait)[0]
        if sys.stdin in ready:
            return
        for source, target, held in ways:
            if source in ready:
                held.append((time.monotonic() + microseconds / 1e6, os.read(source, FRAME)))
            while held and held[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # the interface is not up: lost, as a network may
                    os.write(target, held.popleft()[1])


def receive(connection: socket.socket, count: int) -> None:
    """Read `count` bytes."""
    while count:
        received = len(connection.recv(min(count, 1 << 20)))
        if not received:
            raise ConnectionError("the other host has gone")
        count -= received


def serve() -> None:
    """Answer one `ask`."""
    with socket.create_server((ADDRESSES[1], PORT)) as server:
        print("ready", flush=True)
        connection = server.accept()[0]
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for count in (*[1] * PINGS, BYTES):
            receive(connection, count)
            connection.sendall(b".")


def ask() -> None:
    """Time single bytes there and back, then many bytes with one back."""
    seconds = []
    with socket.create_connection((ADDRESSES[1], PORT), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for count in (*[1] * PINGS, BYTES):
            start = time.perf_counter()
            connection.sendall(bytes(count))
            receive(connection, 1)
            seconds.append(time.perf_counter() - start)
    *trips, transfer = seconds
    print(f"  round trip of a byte   {statistics.median(trips) * 1e3:.3f} ms (fastest {min(trips) * 1e3:.3f})")
    print(f"  {BYTES / 1e6:.0f} MB over TCP         {BYTES / 1e6 / transfer:.0f} MB/s")


def all_reduce(rank: int) -> None:
    """Be one of two ranks of gloo; the first tells the time of an all-reduce."""
    import torch.distributed

    store = torch.distributed.TCPStore(ADDRESSES[0], PORT + 1, 2, is_master=rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    seconds = []
    for _ in range(ALL_REDUCES):
        values = torch.ones(FLOATS)
        start = time.perf_counter()
        torch.distributed.all_reduce(values)
        seconds.append(time.perf_counter() - start)
        assert torch.all(values == 2)
    if rank == 0:
        print(f"  gloo, {FLOATS} floats     {statistics.median(seconds) * 1e3:.3f} ms an all-reduce")
    torch.distributed.destroy_process_group()


def measure(delay_ms: float) -> None:
    """Print what two hosts at this delay, one way, reach."""
    print(f"{delay_ms:g} ms one way", flush=True)
    env = {**os.environ, "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"}
    with two_hosts(delay_ms) as hosts:
        server = hosts[1].popen([*PROGRAM, "serve"], cwd=ROOT, stdout=subprocess.PIPE)
        if server.stdout is not None:
            server.stdout.readline()  # it listens
        processes = [hosts[0].popen([*PROGRAM, "ask"], cwd=ROOT)]
        if processes[0].wait(120) == 0:
            processes += [host.popen([*PROGRAM, "rank", str(i)], cwd=ROOT, env=env) for i, host in enumerate(hosts)]
        if any(process.wait(120) for process in processes):
            raise SystemExit("nothing came through")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benches.scaling.hosts", description="Two hosts in one computer.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="measure")
    commands.add_parser("measure").add_argument("--delay", type=float, nargs="+", default=[0.0, 5.0], metavar="MS")
    processes: dict[str, Callable[..., None]] = {"relay": relay, "serve": serve, "ask": ask, "rank": all_reduce}
    for name in processes:  # what the above starts
        commands.add_parser(name).add_argument("arguments", type=int, nargs="*")
    options = parser.parse_args()
    if options.command == "measure":
        for delay_ms in options.delay:
            measure(delay_ms)
    else:
        processes[options.command](*options.arguments)


if __name__ == "__main__":
    main()
