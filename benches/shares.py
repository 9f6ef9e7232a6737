"""Where the time of a run of PPO goes: Stable-Baselines3's, ours by Torch, by kernels, and with a compiled environment.

    python -m benches shares

CartPole-v1, Stable-Baselines3's defaults (one environment, 2048 steps, 10 epochs of minibatches of 64), one thread.
Functions are timed where the library calls them; what is left is everything around them. A compiled rollout is one
call: what the environment takes of it is measured by stepping it alone, the rest of it is acting and storing.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import torch

from benches.environments import in_a_kernel
from benches.walks import world
from fastrl import PPO
from fastrl.kernels import returns

PARTS = ("update", "acting", "environment", "storing", "advantages", "order and noise", "the rest")
ITERATIONS = 10  # of the compiled run: one takes a hundredth of a second
Seconds = dict[str, float]


class Clock:
    """Seconds spent in functions that it was put around, by the part that they belong to."""

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: Seconds = {}
        self.timer = timer
        self._restore: list[Callable[[], None]] = []

    def around(self, owner: Any, name: str, part: str) -> None:
        """Time `owner.name`, which must call no other timed function."""
        function = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            start = self.timer()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[part] = self.seconds.get(part, 0.0) + self.timer() - start

        setattr(owner, name, timed)
        self._restore.append(lambda: setattr(owner, name, function))

    def learn(self, model: Any, steps: int) -> Seconds:
        """Seconds a step by part, of a run of so many; "the rest" is what they leave of it."""
        self.seconds = {}
        start = self.timer()
        model.learn(steps)
        whole = self.timer() - start
        parts = {**self.seconds, "the rest": whole - sum(self.seconds.values())}
        return {part: seconds / steps for part, seconds in parts.items()}

    def restore(self) -> None:
        """Leave the functions as they were."""
        while self._restore:
            self._restore.pop()()


class Generator:
    """A NumPy generator with a method that can be timed: its own ones cannot be replaced."""

    def __init__(self, rng: Any) -> None:
        self._rng, self.permutation = rng, rng.permutation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)


def stable_baselines3(clock: Clock, steps: int) -> Callable[[], Seconds]:
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env("CartPole-v1", seed=0, env_kwargs={"render_mode": None})
    model = PPO("MlpPolicy", env, seed=0, device="cpu", n_steps=steps).learn(steps)
    clock.around(env, "step", "environment")
    clock.around(model, "train", "update")
    clock.around(model.policy, "forward", "acting")
    clock.around(model.rollout_buffer, "add", "storing")
    clock.around(model.rollout_buffer, "compute_returns_and_advantage", "advantages")
    return lambda: clock.learn(model, steps)


def _ours(clock: Clock, steps: int, engine: Any, env: Any = "CartPole-v1") -> Any:
    model = PPO("MlpPolicy", env, engine=engine, n_steps=steps, seed=0).learn(steps)
    clock.around(model.learner, "update_ppo", "update")
    clock.around(model.head, "noise", "order and noise")
    rng: Any = Generator(model.rng)
    clock.around(rng, "permutation", "order and noise")
    model.rng = rng
    return model


def stepped(clock: Clock, steps: int, engine: str) -> Callable[[], Seconds]:
    """Gymnasium's own environment, stepped in Python."""
    model = _ours(clock, steps, engine, gym.make("CartPole-v1"))
    clock.around(model.learner, "act", "acting")
    clock.around(model, "_step", "environment")
    return lambda: clock.learn(model, steps)


def compiled(clock: Clock, steps: int) -> Callable[[], Seconds]:
    model, alone = _ours(clock, steps, "compiled"), in_a_kernel(world(("CartPole-v1", 1), steps)).call
    clock.around(model.env, "collect", "acting")
    alone()

    def once() -> Seconds:
        start = time.perf_counter()
        for _ in range(100):
            alone()
        environment = (time.perf_counter() - start) / (100 * steps)
        found = clock.learn(model, ITERATIONS * steps)
        return {**found, "acting": found["acting"] - environment, "environment": environment}

    return once


RUNS: dict[str, Callable[[Clock, int], Callable[[], Seconds]]] = {
    "Stable-Baselines3": stable_baselines3,
    "fastrl by Torch": partial(stepped, engine="torch"),
    "fastrl, engine compiled": partial(stepped, engine="compiled"),
    "fastrl, environment too": compiled,
}  # fmt: skip


def shares(rounds: int, steps: int = 2048) -> dict[str, dict[str, float]]:
    """Microseconds a step of each part of each run that is here, medians of interleaved rounds."""
    absent = () if importlib.util.find_spec("stable_baselines3") else ("Stable-Baselines3",)
    clock = Clock()
    try:
        runs = {name: make(clock, steps) for name, make in RUNS.items() if name not in absent}
        clock.around(returns, "gae", "advantages")
        found: dict[str, list[Seconds]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, once in runs.items():
                found[name].append(once())
    finally:
        clock.restore()
    return {
        name: {part: statistics.median(x.get(part, 0.0) for x in each) * 1e6 for part in PARTS}
        for name, each in found.items()
    }


def main(rounds: int = 9) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    found = shares(rounds)
    print("μs a step, and the share of the run\n")
    print("| |", " | ".join(found), "|\n|---|" + "---|" * len(found))
    wholes = {name: sum(parts.values()) for name, parts in found.items()}
    for part in PARTS:
        cells = [
            f"{parts[part]:.3g} ({100 * parts[part] / wholes[name]:.1f} %)" if parts[part] else "–"
            for name, parts in found.items()
        ]
        print(f"| {part} |", " | ".join(cells), "|")
    print("| a step |", " | ".join(f"{whole:.3g}" for whole in wholes.values()), "|")
    print("| steps/s |", " | ".join(f"{1e6 / whole:,.0f}" for whole in wholes.values()), "|")
