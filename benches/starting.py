"""What starting costs: imports, and the way to the first update, whole processes from their start to their end.

The first run of each, which is checked, is the first round too, for a round takes half a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benches.operation import Implementation, Missing, Operation, Work

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


def starts(code: str, **variables: str) -> Work:
    """A process a call."""
    checked: list[Started] = []

    def call() -> Started:
        if len(checked) == 1:  # the run that was checked is the first round
            checked.append(checked[0])
            return checked[0]
        ran = start(code, **variables)
        checked.extend([ran] * (not checked))
        return ran

    return Work(call, lambda ran: ran.printed, seconds=lambda ran: ran.seconds)


# Imports: what somebody would write who wants arrays of experience, or an agent.

IMPORTS = {
    "replay and returns": {
        "fastrl": "from fastrl import ReplayBuffer, compute_gae",
        "cpprb": "from cpprb import ReplayBuffer",
        "rlox": "from rlox import ReplayBuffer, compute_gae",
        "bare Python": "pass",
    },
    "an agent": {
        "fastrl": "from fastrl import PPO",
        "Stable-Baselines3": "from stable_baselines3 import PPO",
        "SBX": "from sbx import PPO",
        "rlox": "from rlox.algorithms.ppo import PPO",
        "Tianshou": "import tianshou",
        "TorchRL": "import torchrl",
        "import torch": "import torch",
    },
}


def imports(name: str, case: str) -> Work:
    if name not in IMPORTS[case]:
        raise Missing(f"not imported for this: {case}")
    return starts(IMPORTS[case][name] + "\nprint('done')")


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
FASTRL, SB3 = dict(library="fastrl", env="'CartPole-v1'", options=""), "Stable-Baselines3"
OWN = "__import__('gymnasium').make('CartPole-v1')"
AGENTS = {
    "fastrl": FASTRL,
    "fastrl, empty cache": FASTRL,
    "fastrl, Gymnasium's CartPole": {**FASTRL, "env": OWN},
    "fastrl, engine torch": {**FASTRL, "options": ", engine='torch'"},
    SB3: {**FASTRL, "library": "stable_baselines3", "options": ", device='cpu'"},
    "SBX": {**FASTRL, "library": "sbx"},
}
FIRST = {
    "Q-learning": {"fastrl": TABLE, "fastrl, empty cache": TABLE, "bare Python": f"print({STEPS})"},
    **{
        algorithm: {name: code.format(**how) for name, how in AGENTS.items()} | {"import torch": "import torch"}
        for algorithm, code in (("PPO", PPO), ("DQN", DQN))
    },
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
        raise Missing(f"does no {made.case}")
    if name == "fastrl, empty cache":  # measured once: that compiles for ten seconds
        return Work(lambda: made.first, lambda ran: ran.printed, seconds=lambda ran: ran.seconds)
    code = FIRST[made.case][name]
    if name.startswith("fastrl,"):
        start(code, NUMBA_CACHE_DIR=made.folder.name)  # compiles what it needs beyond the first
    return starts(code, NUMBA_CACHE_DIR=made.folder.name)


MODULES = {
    SB3: "stable_baselines3", "SBX": "sbx", "rlox": "rlox", "cpprb": "cpprb", "Tianshou": "tianshou",
    "TorchRL": "torchrl", "import torch": "torch",
}  # fmt: skip


def table(names: tuple[str, ...], make: object) -> dict[str, Implementation]:
    role = {"fastrl": "ours", "bare Python": "bound", "import torch": "bound"}
    return {
        name: Implementation(partial(make, name), (MODULES[name],) if name in MODULES else (), role.get(name.split(",")[0], "peer"))
        for name in names
    }


def equal(result: object, expected: object) -> None:
    assert result == expected, f"it printed {result}, not {expected}"


IMPORT = Operation(
    "Import", {case: case for case in IMPORTS}, lambda case: case, lambda case: "done",
    table(("fastrl", SB3, "SBX", "rlox", "cpprb", "Tianshou", "TorchRL", "bare Python", "import torch"), imports),
    equal, unit="start", rounds=(3, 3),
)  # fmt: skip
COLD_START = Operation(
    "First steps and update", {case: case for case in FIRST}, cache, lambda made: str(STEPS),
    table((*AGENTS, "bare Python", "import torch"), first_steps), equal, unit="start", rounds=(3, 3),
)  # fmt: skip
