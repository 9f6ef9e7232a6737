"""What starting costs: imports, and the way to the first update, whole processes from their start to their end.

The first process that imports something is not timed: it reads what the next ones find in memory. What compiles for
ten seconds, ours with an empty cache and SBX in every process, is an operation of its own, measured once.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benches.operation import Implementation, Missing, NoPart, Operation, Work, checked_first

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


def timed(run: Callable[[], Started]) -> Work:
    return Work(run, lambda ran: ran.printed, seconds=lambda ran: ran.seconds)


def starts(code: str, **variables: str) -> Work:
    """A process a call."""
    return timed(partial(start, code, **variables))


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
RLOX = {  # minibatches of a rollout's size: of 256, as by default, none would fit into it
    "PPO": f"""
from rlox.algorithms.ppo import PPO
PPO("CartPole-v1", n_envs=1, n_steps={STEPS}, batch_size={STEPS}, seed=0).train({STEPS})
print({STEPS})
""",
    "DQN": f"""
from rlox.algorithms.dqn import DQN
DQN("CartPole-v1", learning_starts={STEPS // 2}, batch_size={STEPS // 2}, seed=0).train({STEPS})
print({STEPS})
""",
}
OURS: dict[str, str] = {"library": "fastrl", "env": "'CartPole-v1'", "options": ""}
AGENTS = {
    "fastrl": OURS,
    "fastrl, Gymnasium's CartPole": {**OURS, "env": "__import__('gymnasium').make('CartPole-v1')"},
    "fastrl, engine torch": {**OURS, "options": ", engine='torch'"},
    "Stable-Baselines3": {**OURS, "library": "stable_baselines3", "options": ", device='cpu'"},
    "SBX": {**OURS, "library": "sbx"},
}
NOTHING = f"print({STEPS})"
TORCH = {"bare Python": NOTHING, "import torch": f"import torch; {NOTHING}"}
FIRST = {
    "Q-learning": {"fastrl": TABLE, "bare Python": NOTHING},
    "PPO": {**{name: PPO.format(**how) for name, how in AGENTS.items()}, "rlox": RLOX["PPO"], **TORCH},
    "DQN": {**{name: DQN.format(**how) for name, how in AGENTS.items()}, "rlox": RLOX["DQN"], **TORCH},
}

# The first action of a model that lies in a file. The process ends there, without tidying up.

SAVE = """
from {library} import {algorithm}
{algorithm}("MlpPolicy", "CartPole-v1", seed=0{options}).learn({steps}).save("{path}")
"""
ACTED = """
import numpy as np, os
policy.predict(np.zeros(4, np.float32))
print("acted", flush=True)
os._exit(0)
"""
LOADED = {
    "fastrl": "from fastrl import load_policy; policy = load_policy('{path}')",
    "fastrl, the full model": "from fastrl import {algorithm}; policy = {algorithm}.load('{path}')",
    "Stable-Baselines3": "from stable_baselines3 import {algorithm}; policy = {algorithm}.load('{path}', device='cpu')",
}


@functools.cache
def saved(library: str, algorithm: str) -> tuple[tempfile.TemporaryDirectory[str], str]:
    """A folder, kept until the end, and the model file in it."""
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/model.zip"
    options = ", device='cpu'" if library != "fastrl" else ""
    start(SAVE.format(library=library, algorithm=algorithm, steps=STEPS, path=path, options=options))
    return folder, path


def first_action(name: str, algorithm: str) -> Work:
    """With machine code that lies there already, as from the second process on."""
    if name not in LOADED:
        return starts(TORCH[name].replace(NOTHING, "print('acted')"))
    _, path = saved("stable_baselines3" if name == "Stable-Baselines3" else "fastrl", algorithm)
    return timed(checked_first(partial(start, LOADED[name].format(path=path, algorithm=algorithm) + ACTED)))


class Cache(NamedTuple):
    """A folder for Numba's machine code that was empty before `first` ran."""

    case: str
    folder: tempfile.TemporaryDirectory[str]
    first: Started


@functools.cache
def cache(case: str) -> Cache:
    """Kept until the end: both operations want it, and it takes ten seconds."""
    start("from fastrl import PPO")  # reads what all of ours read
    folder = tempfile.TemporaryDirectory()
    return Cache(case, folder, start(FIRST[case]["fastrl"], NUMBA_CACHE_DIR=folder.name))


def first_steps(name: str, case: str) -> Work:
    """With machine code that lies there already, as from the second process on."""
    if name in NO_PROGRAM:
        raise Missing(f"no program that trains by {name} is written here; its import is timed")
    if name == "SBX":
        raise NoPart(f"compiles in every process; it is beside ours in “{EMPTY_TITLE}”")
    run = partial(start, program(name, case), NUMBA_CACHE_DIR=cache(case).folder.name)
    return timed(run if IMPLEMENTATIONS[name][0] == "bound" else checked_first(run))


def first_steps_ever(name: str, case: str) -> Work:
    """Compiling all that is to be compiled, in one process; what compiles nothing has had an untimed one before."""
    if name == "fastrl":
        return timed(lambda: cache(case).first)
    if name == "SBX":
        run = partial(start, program(name, case))
        start("from sbx import PPO")
        return timed(functools.cache(run))
    return starts(program(name, case))


def program(name: str, case: str) -> str:
    if name not in FIRST[case]:
        raise NoPart(f"has no part in {case}")
    return FIRST[case][name]


NO_PROGRAM = ("Tianshou", "TorchRL")
EMPTY_TITLE = "First steps and update, nothing compiled before"
IMPLEMENTATIONS: dict[str, tuple[str, str]] = {  # role, module
    "fastrl": ("ours", "fastrl"),
    "fastrl, Gymnasium's CartPole": ("ours", "fastrl"),
    "fastrl, engine torch": ("ours", "torch"),
    "fastrl, the full model": ("ours", "torch"),
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


def operation(title: str, cases: Mapping[str, Any], printed: str, make: Any, names: Iterable[str], note: str,
              rounds: int = 2) -> Operation:  # fmt: skip
    implementations = {
        name: Implementation(partial(make, name), (module,), role)
        for name, (role, module) in IMPLEMENTATIONS.items()
        if name in names
    }
    return Operation(
        title, {case: case for case in cases}, lambda case: case, lambda _: printed, implementations, equal,
        unit="start", rounds=(rounds, rounds), note=note,
    )  # fmt: skip


IMPORT = operation(
    "Import", IMPORTS, "imported", imports, {name for case in IMPORTS.values() for name in case},
    "Whole processes, from their start to their end, after one of each that is not timed.",
)  # fmt: skip
COLD_START = operation(
    "First steps and update", FIRST, str(STEPS), first_steps, (*FIRST["PPO"], *NO_PROGRAM),
    f"Whole processes that import, take {STEPS} steps and update once; ours finds its machine code in the cache.",
)  # fmt: skip
COLD_START_EMPTY = operation(
    EMPTY_TITLE, FIRST, str(STEPS), first_steps_ever, ("fastrl", "Stable-Baselines3", "SBX", "rlox", "bare Python"),
    "One process each, therefore no spread. Ours compiles once for an installation, SBX in every process.", rounds=1,
)  # fmt: skip
FIRST_ACTION = operation(
    "First action of a saved model", {"PPO": "PPO", "DQN": "DQN"}, "acted", first_action, (*LOADED, *TORCH),
    "From the process's start to its first action, machine code in the cache; the bounds import and act not at all.",
    rounds=5,
)  # fmt: skip
