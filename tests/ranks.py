"""Processes that are ranks of one group: how tests start them, and what they save.

A job is (the name of a function of `tests.rank_scripts`, its options); the same processes do all jobs of a call.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
TIMEOUT = 240  # seconds


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(rank, size, port, host="127.0.0.1"):
    """The variables that torchrun would set."""
    return {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "MASTER_ADDR": host,
            "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip


def start(folder, jobs, size=2, hosts=None, timeout=60.0):
    """Processes that do `jobs`, {name: job}, in folders of their names. Rank r runs on hosts[r], if given."""
    port, processes = free_port(), []
    for rank in range(size):
        words = [sys.executable, "-m", "tests.ranks", str(folder), json.dumps(jobs), str(timeout)]
        variables = environment(rank, size, port, hosts[0].address if hosts else "127.0.0.1")
        if hosts:
            variables["GLOO_SOCKET_IFNAME"] = hosts[rank].interface
        popen = hosts[rank].popen if hosts else subprocess.Popen
        processes.append(
            popen(words, env=variables, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    return processes


def finish(processes):
    """(exit codes, what each wrote on stderr); none is left running."""
    try:
        said = [process.communicate(timeout=TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], [err for _, err in said]


def run(folder, jobs, size=2, hosts=None):
    """{name: what each rank has saved}; an error that ended a job is saved as `error`."""
    codes, said = finish(start(folder, jobs, size, hosts))
    assert codes == [0] * size, "\n".join(said)
    return {name: [dict(np.load(folder / name / f"{rank}.npz")) for rank in range(size)] for name in jobs}


def main(folder, jobs, timeout):
    from fastrl.distributed import process_group

    scripts = importlib.import_module("tests.rank_scripts")
    with process_group(timeout) as ranks:
        for name, (function, options) in jobs.items():
            own = folder / name
            own.mkdir(exist_ok=True)
            try:
                saved = getattr(scripts, function)(ranks, own, **options)
            except ValueError as error:
                if function in scripts.FATAL:
                    raise
                traceback.print_exc()
                saved = {"error": str(error)}
            np.savez(own / f"{ranks.rank}.npz", **saved)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3]))
