"""How each library trains: a fresh model, `steps` steps, timed without its construction.

The score of a run is its evaluation where that was asked for, else the mean return of its last training episodes, at
most 100; rlox tells neither.

python -m benches.peers JSON runs one of them as `benches.training` asks for it: a process for each, so that each may
have an interpreter of its own and none meets another's threads.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from benches.jobs import WARM_UP, Job, linear, policy_kwargs, require, timed, training_return
from benches.learning import Run, Train, Watch, curve, evaluate
from benches.operation import Missing
from benches.programs import cleanrl, purejaxrl, rltools


def fastrl(job: Job, engine: str) -> Train:
    import torch

    import fastrl

    torch.set_num_threads(1)
    algorithm = getattr(fastrl, job.algorithm)
    options = policy_kwargs(job.options)
    if "engine" in inspect.signature(algorithm).parameters:
        options["engine"] = engine
    elif engine not in ("auto", "torch"):
        raise Missing(f"this fastrl has no engine {engine!r}")
    if job.env.startswith("envpool:"):
        require("envpool")

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        env: Any = job.env
        if env.startswith("envpool:"):
            import envpool

            env = envpool.make(env[8:], "gymnasium", num_envs=job.n_envs, num_threads=job.env_threads, seed=seed)
        n_envs = job.n_envs if isinstance(env, str) else 1
        model = algorithm("MlpPolicy", env, n_envs=n_envs, seed=seed, **options)
        seconds = timed(lambda: model.learn(steps, callback=watch))
        return Run(model.num_timesteps, *seconds, evaluate(model, job.env) if job.scored else training_return(model))

    return train


def stable_baselines3(job: Job, engine: str = "", library: str = "stable_baselines3") -> Train:
    for module in ("stable_baselines3", library):
        require(module)
    import torch
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    if job.env.startswith("envpool:"):
        require("envpool")
        from benches.pooled import pooled
    algorithm = getattr(__import__(library), job.algorithm)
    options = policy_kwargs(job.options)
    normalize, kwargs = options.pop("normalize", False), options.get("policy_kwargs", {})
    if isinstance(kwargs.get("net_arch"), dict):
        kwargs["net_arch"] = dict(kwargs["net_arch"])
    for name in ("learning_rate", "clip_range"):
        if isinstance(options.get(name), str):
            options[name] = linear(float(options[name].removeprefix("lin_")))
    if options.get("max_grad_norm", 0) is None:
        options["max_grad_norm"] = float("inf")

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        if job.env.startswith("envpool:"):
            env: Any = pooled(job.env[8:], job.n_envs, job.env_threads, seed)
        else:  # its default, to be ready for pictures, has LunarLander make particles: a step then costs ten times
            env = make_vec_env(job.env, n_envs=job.n_envs, seed=seed, env_kwargs={"render_mode": None})
        if normalize:
            env = VecNormalize(env, gamma=options["gamma"])
        model = algorithm("MlpPolicy", env, seed=seed, device="cpu", **options)
        if library == "sbx":  # every model of SBX compiles anew, in its first updates
            model.learn(WARM_UP)
        callback = None if watch is None else (lambda names, _: watch(names["self"]))
        seconds = timed(lambda: model.learn(steps, callback=callback))
        scored = job.scored and not normalize
        return Run(model.num_timesteps, *seconds, evaluate(model, job.env) if scored else training_return(model))

    return train


def sbx(job: Job, engine: str = "") -> Train:
    return stable_baselines3(job, library="sbx")


def rlox(job: Job, engine: str = "") -> Train:
    """PPO with rlox's own defaults, which `job` has to repeat; DQN with the options of `job`."""
    require("rlox")
    import torch
    from rlox.algorithms.dqn import DQN
    from rlox.algorithms.ppo import PPO
    from rlox.callbacks import Callback

    class Count(Callback):
        """Of steps, by what is called after each of DQN and after each rollout of PPO."""

        steps = 0

        def on_step(self, *, algo: Any, **_: Any) -> bool:
            self.steps += algo.n_envs if job.algorithm == "DQN" else algo.config.n_envs * algo.config.n_steps
            return True

    torch.set_num_threads(1)
    options = dict(job.options)
    if job.algorithm == "DQN":
        (width, _), interval = options.pop("policy_kwargs")["net_arch"], options.pop("target_update_interval")
        options.update(hidden=width, target_update_freq=interval, double_dqn=False)

    def train(seed: int, steps: int, watch: Watch | None = None) -> Run:
        count = Count()
        if job.algorithm == "DQN":
            model = DQN(job.env, seed=seed, callbacks=[count], **options)
        else:
            model = PPO(job.env, n_envs=job.n_envs, seed=seed, callbacks=[count])
        seconds = timed(lambda: model.train(steps))
        return Run(count.steps, *seconds)

    return train


PEERS: dict[str, Callable[[Job, str], Train]] = {
    made.__name__: made for made in (fastrl, stable_baselines3, sbx, rlox, cleanrl, purejaxrl, rltools)
}


def main() -> None:
    """Answer each line of the standard input, "speed" or "curve" and a seed, by a line of JSON; first, the warm-up.

    The last answer may be {"missing": why} or {"failed": why}. Nothing else reaches the output: neither what Python
    prints nor what C++ does.
    """
    asked = json.loads(sys.argv[1])
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        try:
            for answer in answered(asked):
                print(json.dumps(answer), file=answers, flush=True)
        except Missing as error:
            print(json.dumps({"missing": str(error)}), file=answers, flush=True)
        except Exception as error:  # the library's own
            print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:300]}), file=answers, flush=True)


def answered(asked: dict[str, Any]) -> Iterator[Any]:
    """The seconds of the first call, then what each line of the standard input asks for."""
    train, steps = PEERS[asked["peer"]](Job(**asked["job"]), asked["engine"]), asked["steps"]
    began = time.perf_counter()
    train(0, steps if asked["peer"] == "purejaxrl" else WARM_UP, None)
    yield {"first": time.perf_counter() - began}
    for line in sys.stdin:
        wanted, seed = line.split()
        yield curve(train, int(seed), steps) if wanted == "curve" else train(int(seed), steps, None)


if __name__ == "__main__":
    main()
