"""What an iteration of data-parallel PPO takes: measured in processes of their own, one a rank.

python -m benches.scaling.runs '{"env_us": 1000, "ranks": 2}'     prints the medians of one configuration as JSON
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import fastrl
from benches.scaling.hosts import two_hosts
from fastrl.distributed import process_group

ROOT = Path(__file__).parents[2]
WARM_UP, LONGEST = 2, 600  # iterations; seconds


@dataclass(frozen=True)
class Run:
    """What is measured; counts are over all ranks, as in PPO's constructor."""

    env_us: int | None = None  # of computing in each step of an environment in Python; None for compiled CartPole
    n_envs: int = 8
    n_steps: int = 128
    batch_size: int = 256
    n_epochs: int = 4
    width: int = 64
    ranks: int = 1
    average: str = "gradients"
    delay_ms: float | None = None  # between two hosts, one way; None for one host
    iterations: int = 8

    @property
    def minibatches(self) -> int:
        """Steps down a gradient in an iteration."""
        return self.n_epochs * -(-self.n_steps * self.n_envs // self.batch_size)

    @property
    def parameters(self) -> int:
        """Of the two networks of two hidden layers."""
        observations, actions, w = (4 if self.env_us is None else Busy.DIM), 2, self.width
        return 2 * (observations * w + w + w * w + w) + (actions + 1) * (w + 1)


class Busy(gym.Env[np.ndarray, np.int64]):
    """An environment whose steps cost so many microseconds of computing, in episodes of 200."""

    DIM = 8
    observation_space = gym.spaces.Box(-1, 1, (DIM,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, us: int) -> None:
        self.seconds = us * 1e-6

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        self.steps += 1
        return self._look(), float(action), False, self.steps >= 200, {}

    def _look(self) -> np.ndarray:
        return self.np_random.uniform(-1, 1, self.DIM).astype(np.float32)


class Clock(fastrl.BaseCallback):
    """When iterations began, when their rollouts had ended, and when they had."""

    each_step = False

    def __init__(self) -> None:
        super().__init__()
        self.times: list[list[float]] = []

    def _on_rollout_start(self) -> None:
        self.times.append([time.perf_counter()])

    def _on_rollout_end(self) -> None:
        self.times[-1].append(time.perf_counter())

    def _on_step(self) -> bool:
        self.times[-1].append(time.perf_counter())
        return True

    def medians(self) -> dict[str, float]:
        """Seconds of an iteration, of its rollout, and of its update."""
        starts = np.array([t[0] for t in self.times])
        whole, rollout = np.diff(starts)[WARM_UP:], np.array([t[1] - t[0] for t in self.times[WARM_UP:-1]])
        medians = {"iteration": whole, "rollout": rollout, "update": whole - rollout}
        return {name: statistics.median(x) for name, x in medians.items()}


def carry_out(run: Run) -> dict[str, float] | None:
    """The medians of `run` in this process, which is one of its ranks; None on all but the first."""
    env: Any = "CartPole-v1" if run.env_us is None else lambda: Busy(run.env_us or 0)
    with process_group(120):
        model = fastrl.PPO(
            "MlpPolicy", env, n_envs=run.n_envs, n_steps=run.n_steps, batch_size=run.batch_size, n_epochs=run.n_epochs,
            policy_kwargs=dict(net_arch=[run.width, run.width]), average=run.average, seed=0,  # type: ignore[arg-type]
        )  # fmt: skip
        clock = Clock()
        model.learn(run.n_steps * run.n_envs * (run.iterations + WARM_UP + 1), clock)
        return clock.medians() if model.ranks.is_first else None


def measure(run: Run) -> dict[str, float]:
    """The medians of `run`, in as many processes as it has ranks."""
    with ExitStack() as held:
        hosts = None if run.delay_ms is None else held.enter_context(two_hosts(run.delay_ms))
        port = _free_port()
        processes = []
        for rank in range(run.ranks):
            own = {"RANK": str(rank), "WORLD_SIZE": str(run.ranks), "MASTER_PORT": str(port)}
            own["MASTER_ADDR"] = "127.0.0.1" if hosts is None else hosts[0].address
            if hosts is not None:
                own["GLOO_SOCKET_IFNAME"] = hosts[rank].interface
            popen = subprocess.Popen if hosts is None else hosts[rank].popen
            processes.append(popen(
                [sys.executable, "-m", "benches.scaling.runs", json.dumps(asdict(run))], cwd=ROOT, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(own if run.ranks > 1 else {})},
            ))  # fmt: skip
        try:
            said = [process.communicate(timeout=LONGEST) for process in processes]
        finally:
            for process in processes:
                process.kill()
    if any(process.returncode for process in processes):
        raise RuntimeError(f"{run}: {said}")
    found: dict[str, float] = json.loads(said[0][0])
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    found = carry_out(Run(**json.loads(sys.argv[1])))
    if found is not None:
        print(json.dumps(found))
