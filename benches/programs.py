"""How those train that are no Python libraries: two of them are run where an environment variable says where they lie.

    FASTRL_BENCH_CLEANRL     a checkout of CleanRL; its cleanrl/ppo.py runs as it stands, with its defaults
    FASTRL_BENCH_PUREJAXRL   a checkout of PureJaxRL (and jax, flax, gymnax 0.0.9, distrax installed)

RLtools is C++ that its Python package compiles; pip install -e ".[rltools]" brings that and the BLAS that it wants.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from benches.jobs import Job, require, timed
from benches.learning import Run, Train, Watch, evaluate
from benches.operation import Missing


def checkout(of: str) -> Path:
    """Where the environment variable says that a checkout lies."""
    variable = f"FASTRL_BENCH_{of.upper()}"
    if variable not in os.environ:
        raise Missing(f"{variable} is not set, to the path of a checkout of {of}")
    path = Path(os.environ[variable]).expanduser()
    if not path.exists():
        raise Missing(f"{variable} is {path}, and nothing is there")
    return path


def cleanrl(job: Job, engine: str = "") -> Train:
    """The script in a process of its own; its seconds are those that it counts itself."""
    script = checkout("CleanRL").resolve() / "cleanrl" / "ppo.py"

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        command = [sys.executable, str(script), "--no-cuda", f"--total-timesteps={steps}", f"--seed={seed}"]
        with tempfile.TemporaryDirectory() as folder:  # for its logs
            run = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        rates = re.findall(r"SPS: (\d+)", run.stdout)  # printed after each rollout
        steps = 512 * len(rates)
        seconds = steps / float(rates[-1])
        returns = [float(x) for x in re.findall(r"episodic_return=\[?([-\d.]+)", run.stdout)[-100:]]
        return Run(steps, seconds, seconds, statistics.fmean(returns) if returns else None)

    return train


def purejaxrl(job: Job, engine: str = "") -> Train:
    """purejaxrl/ppo.py as it stands: the whole training is one XLA program, compiled for a number of steps."""
    folder = checkout("PureJaxRL").resolve() / "purejaxrl"
    for module in ("jax", "flax", "optax", "gymnax", "distrax"):
        require(module)
    import jax
    import numpy as np

    # Its wrappers.py imports these for other scripts.
    unused = ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix")
    sys.modules.update({name: MagicMock() for name in unused if name not in sys.modules})
    sys.path.insert(0, str(folder))
    try:
        import ppo
    finally:
        sys.path.remove(str(folder))
    config = dict(LR=2.5e-4, NUM_ENVS=4, NUM_STEPS=128, UPDATE_EPOCHS=4,
                  NUM_MINIBATCHES=4, GAMMA=0.99, GAE_LAMBDA=0.95, CLIP_EPS=0.2, ENT_COEF=0.01, VF_COEF=0.5,
                  MAX_GRAD_NORM=0.5, ACTIVATION="tanh", ENV_NAME=job.env, ANNEAL_LR=True, DEBUG=False)  # fmt: skip
    programs: dict[int, Any] = {}
    finished: list[Any] = []

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        steps = max(512, steps - steps % 512)
        if steps not in programs:
            made = ppo.make_train({**config, "TOTAL_TIMESTEPS": steps})
            programs[steps] = jax.jit(made).lower(jax.random.PRNGKey(0)).compile()
        key = jax.random.PRNGKey(seed)
        seconds = timed(lambda: finished.append(jax.block_until_ready(programs[steps](key))))
        episodes = jax.tree.map(np.asarray, finished.pop()["metrics"])
        returns = episodes["returned_episode_returns"][episodes["returned_episode"]][-100:]
        return Run(episodes["returned_episode"].size, *seconds, float(returns.mean()) if len(returns) else None)

    return train


RLTOOLS_PENDULUM = """
#include <rl_tools/rl/environments/pendulum/operations_cpu.h>
namespace environments = rl_tools::rl::environments;
template <typename T, typename TI>
using ENVIRONMENT_FACTORY = environments::Pendulum<environments::pendulum::Specification<T, TI>>;
"""


def rltools(job: Job, engine: str = "") -> Train:
    """RLtools' Python package, which compiles C++ for these options, around RLtools' own Pendulum.

    Without a BLAS it would be five times as slow.
    """
    for module in ("rltools", "pybind11"):
        require(module)
    for package in ("mkl", "mkl-include"):
        try:
            version(package)
        except PackageNotFoundError:
            raise Missing(f'{package}, its BLAS, is not installed; pip install -e ".[rltools]" brings it') from None
    import numpy as np
    import rltools

    o, folder = job.options, tempfile.TemporaryDirectory()
    (Path(folder.name) / "environment.h").write_text(RLTOOLS_PENDULUM)
    program = rltools.PPO(
        dict(path=folder.name, action_dim=1, observation_dim=3),
        enable_evaluation=False, interface_name="fastrl_benches",
        GAMMA=o["gamma"], N_EPOCHS=o["n_epochs"], BATCH_SIZE=o["batch_size"], OPTIMIZER_ALPHA=o["learning_rate"],
        N_ENVIRONMENTS=job.n_envs, ON_POLICY_RUNNER_STEPS_PER_ENV=o["n_steps"], TOTAL_STEP_LIMIT=job.steps,
        INITIAL_ACTION_STD=2.0, ACTION_ENTROPY_COEFFICIENT=0.0, NORMALIZE_OBSERVATIONS=True,
    )  # fmt: skip

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        state, iterations = program.State(seed), 0

        def learn() -> None:
            nonlocal iterations
            finished = False
            while not finished:
                finished, iterations = state.step(), iterations + 1

        def predict(obs: Any, deterministic: bool) -> tuple[Any, None]:
            return np.stack([2 * np.clip(state.action(each), -1, 1) for each in obs]), None

        seconds = timed(learn)
        model = SimpleNamespace(predict=predict)
        return Run(iterations * job.n_envs * o["n_steps"], *seconds, evaluate(model, job.env) if job.scored else None)

    return train
