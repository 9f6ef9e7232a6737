"""What starting costs: imports, and the way to the first update, whole processes from their start to their end.

A round takes half a minute. So the first run of each, which is checked, is the first round too, and what compiles for
ten seconds, SBX and ours with an empty cache, is measured once.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benches.operation import Implementation, NoPart, Operation, Work, checked_first

ROOT = Path(__file__).parents[1]
STEPS = 64


class Started(NamedTuple):
    """Of one process."""

    seconds: float
    printed: str


def start(code: str, **variables: str) -> Started:
    """Run `code` in a fresh interpreter; subprocess.CalledProcessError if it fails."""
    began = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, **variables}, cwd=ROOT, text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    return Started(time.perf_counter() - began, ran.stdout.strip())


def starts(code: str, once: bool = False, **variables: str) -> Work:
    """A process a call, or all in all."""
    run = partial(start, code, **variables)
    call = functools.cache(run) if once else checked_first(run)
    return Work(call, lambda ran: ran.printed, seconds=lambda ran: ran.seconds)


# Imports: what somebody would write who wants a replay buffer, or an agent.

IMPORTS = {
    "replay": {
        "fastrl": "from fastrl import ReplayBuffer",
        "Stable-Baselines3": "from stable_baselines3.common.buffers import ReplayBuffer",
        "rlox": "from rlox import ReplayBuffer",
        "cpprb": "from cpprb import ReplayBuffer",
        "bare Python": "",
    },
    "an agent": {
        "fastrl": "from fastrl import PPO",
        "Stable-Baselines3": "from stable_baselines3 import PPO",
        "SBX": "from sbx import PPO",
        "rlox": "from rlox.algorithms.ppo import PPO",
        "Tianshou": "import tianshou",
        "TorchRL": "import torchrl",
        "bare Python": "",
        "import torch": "import torch",
    },
}


def imports(name: str, case: str) -> Work:
    if name not in IMPORTS[case]:
        raise NoPart(f"not what one imports for {case}")
    return starts(IMPORTS[case][name] + "\nprint('imported')")


# The first steps and the first update.

PPO = f"""
from {{library}} import PPO
print(PPO("MlpPolicy", {{env}}, n_steps={STEPS}, seed=0{{options}}).learn({STEPS}).num_timesteps)
"""
DQN = f"""
from {{library}} import DQN
print(DQN("MlpPolicy", {{env}}, learning_starts={STEPS // 2}, seed=0{{options}}).learn({STEPS}).num_timesteps)
"""
TABLE = f"""
from fastrl import q_learning
run = q_learning("FrozenLake-v1", {STEPS}, seed=0)
print(len(run.lengths))
"""
OURS: dict[str, str] = {"library": "fastrl", "env": "'CartPole-v1'", "options": ""}
AGENTS = {
    "fastrl": OURS,
    "fastrl, empty cache": OURS,
    "fastrl, Gymnasium's CartPole": {**OURS, "env": "__import__('gymnasium').make('CartPole-v1')"},
    "fastrl, engine torch": {**OURS, "options": ", engine='torch'"},
    "Stable-Baselines3": {**OURS, "library": "stable_baselines3", "options": ", device='cpu'"},
    "SBX": {**OURS, "library": "sbx"},
}
NOTHING = f"print({STEPS})"
TORCH = {"bare Python": NOTHING, "import torch": f"import torch; {NOTHING}"}
FIRST = {
    "Q-learning": {"fastrl": TABLE, "fastrl, empty cache": TABLE, "bare Python": NOTHING},
    "PPO": {**{name: PPO.format(**how) for name, how in AGENTS.items()}, **TORCH},
    "DQN": {**{name: DQN.format(**how) for name, how in AGENTS.items()}, **TORCH},
}


class Cache(NamedTuple):
    """A folder for Numba's machine code that was empty before `first` ran."""

    case: str
    folder: tempfile.TemporaryDirectory[str]
    first: Started


def cache(case: str) -> Cache:
    folder = tempfile.TemporaryDirectory()
    return Cache(case, folder, start(FIRST[case]["fastrl"], NUMBA_CACHE_DIR=folder.name))


def first_steps(name: str, made: Cache) -> Work:
    if name not in FIRST[made.case]:
        raise NoPart(f"has no part in {made.case}")
    if name == "fastrl, empty cache":
        return Work(lambda: made.first, lambda ran: ran.printed, seconds=lambda ran: ran.seconds)
    code = FIRST[made.case][name]
    if name.startswith("fastrl,"):
        start(code, NUMBA_CACHE_DIR=made.folder.name)  # compiles what it needs beyond the first
    return starts(code, name == "SBX", NUMBA_CACHE_DIR=made.folder.name)


IMPLEMENTATIONS: dict[str, tuple[str, str]] = {  # role, module
    "fastrl": ("ours", "fastrl"),
    "fastrl, empty cache": ("ours", "fastrl"),
    "fastrl, Gymnasium's CartPole": ("ours", "fastrl"),
    "fastrl, engine torch": ("ours", "torch"),
    "Stable-Baselines3": ("peer", "stable_baselines3"),
    "SBX": ("peer", "sbx"),
    "rlox": ("peer", "rlox"),
    "cpprb": ("peer", "cpprb"),
    "Tianshou": ("peer", "tianshou"),
    "TorchRL": ("peer", "torchrl"),
    "bare Python": ("bound", "sys"),
    "import torch": ("bound", "torch"),
}


def equal(result: str, expected: str) -> None:
    assert result == expected, f"it printed {result!r}, not {expected!r}"


def operation(
    title: str, cases: Mapping[str, Mapping[str, str]], data: Any, printed: str, make: Any, rounds: int
) -> Operation:
    """Of the implementations that have a part in one of the cases."""
    implementations = {
        name: Implementation(partial(make, name), (module,), role)
        for name, (role, module) in IMPLEMENTATIONS.items()
        if any(name in case for case in cases.values())
    }
    return Operation(
        title, {case: case for case in cases}, data, lambda _: printed, implementations, equal, unit="start",
        rounds=(rounds, rounds),
    )  # fmt: skip


IMPORT = operation("Import", IMPORTS, lambda case: case, "imported", imports, 3)
COLD_START = operation("First steps and update", FIRST, cache, str(STEPS), first_steps, 2)
