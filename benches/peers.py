"""How each library trains: a fresh model, `steps` steps, timed without its construction.

The score of a run is its evaluation where that was asked for, else the mean return of its last training episodes, at
most 100; rlox tells neither.

Libraries are imported where they are installed. Three are no libraries, and are run where an environment variable
says where they lie:

    FASTRL_BENCH_CLEANRL     a checkout of CleanRL; its cleanrl/ppo.py runs as it stands, with its defaults
    FASTRL_BENCH_PUREJAXRL   a checkout of PureJaxRL (and jax, flax, gymnax 0.0.9, distrax installed)
    FASTRL_BENCH_RLTOOLS     a program that trains RLtools' Pendulum example with the seed of its first argument, and
                             prints the steps, the seconds of the training loop and the final return

python -m benches.peers JSON runs one of them as `benches.training` asks for it: a process for each, so that each may
have an interpreter of its own and none meets another's threads.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

from benches.conditions import THREAD_VARIABLES
from benches.learning import Run, Train, Watch, curve, evaluate, recent_returns
from benches.operation import Missing

WARM_UP = 2000  # steps, or one iteration of the algorithm where that is more
ONE_THREAD = {
    **dict.fromkeys(THREAD_VARIABLES, "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


class Job(NamedTuple):
    """What to train; `options` bear Stable-Baselines3's names, schedules and activations are strings."""

    algorithm: str
    env: str  # an id; "envpool:<id>" is EnvPool's, stepped by two threads
    n_envs: int
    options: dict[str, Any]
    steps: int
    scored: bool = False  # evaluate what was learnt


def _timed(learn: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    learn()
    return time.perf_counter() - wall, time.process_time() - processor


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise Missing(f"{module} is not installed")


def _path(variable: str) -> Path:
    if variable not in os.environ:
        raise Missing(f"{variable} is not set")
    path = Path(os.environ[variable]).expanduser()
    if not path.exists():
        raise Missing(f"{variable} is {path}, and nothing is there")
    return path


def _policy_kwargs(options: dict[str, Any]) -> dict[str, Any]:
    """`options` with the activation as a class."""
    from torch import nn

    kwargs = dict(options.get("policy_kwargs", {}))
    if "activation_fn" in kwargs:
        kwargs["activation_fn"] = getattr(nn, kwargs["activation_fn"])
    return {**options, "policy_kwargs": kwargs} if kwargs else dict(options)


def _linear(first: float) -> Callable[[float], float]:
    """Stable-Baselines3's form of "lin_<first>"."""
    return lambda remaining: remaining * first


def _training_return(model: Any) -> float | None:
    returns = recent_returns(model)
    return statistics.fmean(returns) if returns else None


def fastrl(job: Job, engine: str) -> Train:
    import torch

    import fastrl

    torch.set_num_threads(1)
    algorithm = getattr(fastrl, job.algorithm)
    options = _policy_kwargs(job.options)
    if "engine" in inspect.signature(algorithm).parameters:
        options["engine"] = engine
    elif engine not in ("auto", "torch"):
        raise Missing(f"this fastrl has no engine {engine!r}")
    if job.env.startswith("envpool:"):
        _require("envpool")

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        env: Any = job.env
        if env.startswith("envpool:"):
            import envpool

            env = envpool.make(env[8:], "gymnasium", num_envs=job.n_envs, num_threads=2, seed=seed)
        n_envs = job.n_envs if isinstance(env, str) else 1
        model = algorithm("MlpPolicy", env, n_envs=n_envs, seed=seed, **options)
        seconds = _timed(lambda: model.learn(steps, callback=watch))
        return Run(model.num_timesteps, *seconds, evaluate(model, job.env) if job.scored else _training_return(model))

    return train


def stable_baselines3(job: Job, engine: str = "", library: str = "stable_baselines3") -> Train:
    for module in ("stable_baselines3", library):
        _require(module)
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    algorithm = getattr(__import__(library), job.algorithm)
    options = _policy_kwargs(job.options)
    normalize, kwargs = options.pop("normalize", False), options.get("policy_kwargs", {})
    if isinstance(kwargs.get("net_arch"), dict):
        kwargs["net_arch"] = dict(kwargs["net_arch"])
    for name in ("learning_rate", "clip_range"):
        if isinstance(options.get(name), str):
            options[name] = _linear(float(options[name].removeprefix("lin_")))
    if options.get("max_grad_norm", 0) is None:
        options["max_grad_norm"] = float("inf")

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        env: Any = make_vec_env(job.env.removeprefix("envpool:"), n_envs=job.n_envs, seed=seed)
        if normalize:
            env = VecNormalize(env, gamma=options["gamma"])
        model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **options)
        if library == "sbx":  # every model of SBX compiles anew, in its first updates
            model.learn(WARM_UP)
        callback = None if watch is None else (lambda names, _: watch(names["self"]))
        seconds = _timed(lambda: model.learn(steps, callback=callback))
        scored = job.scored and not normalize
        return Run(model.num_timesteps, *seconds, evaluate(model, job.env) if scored else _training_return(model))

    return train


def sbx(job: Job, engine: str = "") -> Train:
    return stable_baselines3(job, library="sbx")


def rlox(job: Job, engine: str = "") -> Train:
    """PPO with rlox's own defaults, which `job` has to repeat; DQN with the options of `job`."""
    _require("rlox")
    import torch
    from rlox.algorithms.dqn import DQN
    from rlox.algorithms.ppo import PPO

    torch.set_num_threads(1)
    options = dict(job.options)
    if job.algorithm == "DQN":
        (width, _), interval = options.pop("policy_kwargs")["net_arch"], options.pop("target_update_interval")
        options.update(hidden=width, target_update_freq=interval, double_dqn=False)

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        if job.algorithm == "DQN":
            model = DQN(job.env, seed=seed, **options)
        else:
            model = PPO(job.env, n_envs=job.n_envs, seed=seed)
            steps -= steps % (job.n_envs * model.config.n_steps) if steps > job.n_envs * model.config.n_steps else 0
        return Run(steps, *_timed(lambda: model.train(steps)))

    return train


def cleanrl(job: Job, engine: str = "") -> Train:
    """The script in a process of its own; its seconds are those that it counts itself."""
    script = _path("FASTRL_BENCH_CLEANRL").resolve() / "cleanrl" / "ppo.py"

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        steps = max(512, steps - steps % 512)  # it runs whole rollouts only
        command = [sys.executable, str(script), "--no-cuda", f"--total-timesteps={steps}", f"--seed={seed}"]
        with tempfile.TemporaryDirectory() as folder:  # for its logs
            run = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        seconds = steps / float(run.stdout.rsplit("SPS: ", 1)[1])
        returns = [float(x) for x in re.findall(r"episodic_return=\[?([-\d.]+)", run.stdout)[-100:]]
        return Run(steps, seconds, seconds, statistics.fmean(returns) if returns else None)

    return train


def purejaxrl(job: Job, engine: str = "") -> Train:
    """purejaxrl/ppo.py as it stands: the whole training is one XLA program, compiled for a number of steps."""
    folder = _path("FASTRL_BENCH_PUREJAXRL").resolve() / "purejaxrl"
    for module in ("jax", "flax", "optax", "gymnax", "distrax"):
        _require(module)
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
        seconds = _timed(lambda: finished.append(jax.block_until_ready(programs[steps](key))))
        episodes = jax.tree.map(np.asarray, finished.pop()["metrics"])
        returns = episodes["returned_episode_returns"][episodes["returned_episode"]][-100:]
        return Run(steps, *seconds, float(returns.mean()) if len(returns) else None)

    return train


def rltools(job: Job, engine: str = "") -> Train:
    program = _path("FASTRL_BENCH_RLTOOLS").resolve()

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        printed = subprocess.run([str(program), str(seed)], check=True, capture_output=True, text=True).stdout
        taken, seconds, score = printed.split()
        return Run(int(taken), float(seconds), float(seconds), float(score))

    return train


PEERS: dict[str, Callable[[Job, str], Train]] = {
    made.__name__: made for made in (fastrl, stable_baselines3, sbx, rlox, cleanrl, purejaxrl, rltools)
}


def main() -> None:
    """Answer each line of the standard input, "speed" or "curve" and a seed, by a line of JSON; first, the warm-up."""
    asked, answers = json.loads(sys.argv[1]), sys.stdout
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        job = Job(**asked["job"])
        try:
            train = PEERS[asked["peer"]](job, asked["engine"])
            began = time.perf_counter()
            train(0, asked["steps"] if asked["peer"] == "purejaxrl" else WARM_UP, None)
        except Exception as error:  # the peer's own, or Missing: one row of the table, not the end of it
            why = str(error) if isinstance(error, Missing) else f"{type(error).__name__}: {error}"
            print(json.dumps({"missing": why[:300]}), file=answers, flush=True)
            return
        print(json.dumps({"first": time.perf_counter() - began}), file=answers, flush=True)
        for line in sys.stdin:
            wanted, seed = line.split()
            if wanted == "curve":
                result: Any = curve(train, int(seed), asked["steps"])
            else:
                result = train(int(seed), asked["steps"], None)
            print(json.dumps(result), file=answers, flush=True)


if __name__ == "__main__":
    main()
