"""Ape-X. Horgan et al. 2018, "Distributed Prioritized Experience Replay": many actors, one replay memory, one learner.

    actors ──batches, priorities──> replay ──minibatches──> learner (this process)
       ^                              ^──── priorities ────────┤
       └───────────── weights (object store) ──────────────────┘
"""

from __future__ import annotations

import copy
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastrl import spaces
from fastrl.algorithms import running
from fastrl.algorithms.dqn import DQN
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int, check_number
from fastrl.distributed.cluster import connected
from fastrl.distributed.crew import Crew
from fastrl.distributed.learning import Learner
from fastrl.envs.stepper import is_made, make_stepper
from fastrl.learners.torch import one_thread

PATIENCE = 0.1  # seconds of waiting, after which Ctrl-C is heard


def apex(
    model: DQN, total_timesteps: int, *, env: Any = None, actors: int = 2, envs_per_actor: int | None = None,
    address: str | None = None, num_cpus: int | None = None, alpha: float = 0.6,
    beta: float | tuple[float, float] = (0.4, 1.0), batch: int = 100,
    weights_every: int = 16, snapshot: str | os.PathLike[str] | None = None, snapshot_every: int = 50_000,
    callback: Any = None, log_interval: int | None = None, progress_bar: bool = False,
    reset_num_timesteps: bool = True,
) -> DQN:  # fmt: skip
    """Train `model` by actors in other processes, on this machine or a Ray cluster, and a prioritised replay memory.

    Actor i of N explores with ε^(1 + 7 i / (N − 1)), where ε is the model's own; the paper's ladder is that of
    exploration_initial_eps = exploration_final_eps = 0.4. The model's `buffer_size` is that of the replay memory,
    its other arguments mean what they mean to `learn`; updates keep the same pace with the steps, however fast the
    machines. `model.metrics` tells, beside the usual, how many actors, steps and transitions were lost.

    Args:
        model: what learns, in place. Not with normalize, optimize_memory_usage, or intervals in episodes.
        total_timesteps: steps of all actors together.
        env: an id or a callable that makes an environment, for the actors; None for the model's, where that is an id.
        actors: processes N that act; each takes one CPU of the cluster.
        envs_per_actor: environments in each; None for as many as the model has.
        address, num_cpus: as `fastrl.distributed.cluster.connected` takes them. None starts Ray on this machine.
        alpha, beta: exponents of the priorities and of the importance weights (Schaul et al. 2016, section 3.4);
            (first, last) moves linearly over the run. The paper of Ape-X keeps 0.4.
        batch: steps, at least, that an actor sends at once.
        weights_every: updates, at least, between two copies of the weights for the actors.
        snapshot: file of the replay memory's snapshots, on storage that all nodes see; a later run with
            reset_num_timesteps=False goes on from it. None for a temporary one on this machine.
        snapshot_every: transitions between two snapshots: so many are lost, at most, with the replay's process.
        callback, log_interval, progress_bar, reset_num_timesteps: as of `DQN.learn`; no callbacks of every step.

    Returns:
        `model`. Ctrl-C ends the run early with `model.interrupted` set; a second one raises KeyboardInterrupt.

    Raises:
        ValueError, TypeError: for an argument or a model that does not fit, before anything is started or changed;
            as `DQN.learn` for training that diverges; for a snapshot of another kind of buffer.
        ImportError, ConnectionError: as `connected`.
        RuntimeError: where the cluster has no room for the actors; for an actor or a replay memory that dies again
            and again; and where an environment or anything else raises in an actor, with its number. The error is
            the cause then.
    """
    if not isinstance(model, DQN):
        raise TypeError(f"apex trains a fastrl.DQN; got a {type(model).__name__}")
    _check_model(model)
    for name, number in (("actors", actors), ("batch", batch), ("weights_every", weights_every),
                         ("snapshot_every", snapshot_every)):  # fmt: skip
        check_int(name, number)
    for name, given in (("envs_per_actor", envs_per_actor), ("num_cpus", num_cpus)):
        if given is not None:
            check_int(name, given)
    check_number("alpha", alpha, 0, 1)
    betas = beta if isinstance(beta, (tuple, list)) else (beta, beta)
    if len(betas) != 2:
        raise ValueError(f"beta is {beta!r}; it must be a number, or a pair: the first, and the last of the run")
    for b in betas:
        check_number("beta", b, 0, 1)
    n_envs = model.num_envs if envs_per_actor is None else envs_per_actor
    if (steps := -(-batch // n_envs) * n_envs) > model.buffer_size:
        raise ValueError(f"a batch of {steps} steps does not fit into the replay memory: buffer_size is "
                         f"{model.buffer_size}")  # fmt: skip
    env = _check_env(model, env)
    run = running.Run(model, total_timesteps, callback, log_interval, progress_bar)
    if run.callback.each_step:
        raise ValueError("a callback wants to be told of every step, but these are taken in other processes: use a "
                         "function of the model, or set each_step = False")  # fmt: skip
    if snapshot is not None and reset_num_timesteps and Path(snapshot).exists():
        raise ValueError(f"there is a snapshot already: {snapshot}. Go on from it by reset_num_timesteps=False, or "
                         "remove it")  # fmt: skip
    if snapshot is not None and not reset_num_timesteps and model.num_timesteps and not Path(snapshot).exists():
        raise ValueError(f"there is no snapshot to go on from: {snapshot}. Leave out snapshot=, or "
                         "reset_num_timesteps=False")  # fmt: skip

    with ExitStack() as closing:
        path = snapshot or Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="fastrl-"))) / "replay.npz"
        ray = closing.enter_context(connected(address, num_cpus))
        seed = int(model.rng.integers(2**32)) if model.seed is None else model.seed
        crew = Crew(
            ray, actors, [seed, 0 if reset_num_timesteps else model.num_timesteps],
            actor={"options": _options(model, env, n_envs), "steps": steps},
            replay={"observation_space": model.observation_space, "action_space": model.action_space,
                    "capacity": model.buffer_size, "alpha": alpha, "snapshot": str(Path(path).absolute()),
                    "every": snapshot_every},
        )  # fmt: skip
        closing.enter_context(crew)
        _train(model, run, crew, (betas[0], betas[1]), weights_every, reset_num_timesteps)
        if snapshot is not None:
            crew.save()
    return model


def _train(
    model: DQN, run: running.Run, crew: Crew, beta: tuple[float, float], weights_every: int, reset: bool
) -> None:
    """The learner's loop, Algorithm 2, with what `learn` has around its iterations."""
    interrupt = GracefulInterrupt()
    if model.learner.bind() is not None:
        model.set_engine(model._wanted_engine)
    try:
        run.begin(reset, "APEX")
        learner = Learner(model, crew, weights_every)
        crew.asked = model.num_timesteps
        goal = learner.clock + -(-(model.total_timesteps - learner.clock) // learner.round) * learner.round
        few_threads = model.policy_name == "MlpPolicy" or model.engine == "compiled"
        with run, interrupt, one_thread(few_threads):
            while not interrupt.requested and (model.num_timesteps < goal or learner.can_catch_up()):
                run.before_iteration()

                # 1. Let actors act by the latest weights, as far ahead of the learner as is allowed.
                while crew.asked < goal and crew.has_room(learner.clock + learner.round):
                    crew.ask(learner.weights(), learner.epsilon(crew.asked))

                # 2. Let replay send minibatches ahead of their use, and take over the priorities of those used.
                if model.num_timesteps > model.learning_starts:
                    crew.order(model.batch_size, beta[1] + (beta[0] - beta[1]) * learner.left())

                # 3. See what has come: batches that are stored now, and minibatches.
                for receipt in crew.receive(0.0 if learner.can_go_on() else PATIENCE):
                    model.num_timesteps += receipt.steps
                    model.num_episodes += len(receipt.episodes)
                    model.episodes.extend(receipt.episodes)
                run.callback.on_rollout_end()

                # 4. Move Q towards R + γ^m max Q̂ on those, and compute their new priorities.
                model._train_metrics = {**model._train_metrics, **learner.learn(), **crew.losses}
                running.check_training(model._train_metrics)
                if not run.after_iteration():
                    break
    finally:
        model.interrupted = interrupt.requested
        model._obs = None  # the model's own environment took no part: the next run begins new episodes


def _check_model(model: DQN) -> None:
    """Raise a ValueError for what actors in other processes cannot do."""
    for name, problem, instead in (
        ("normalize", model.normalizer is not None, "normalise in the environment"),
        ("optimize_memory_usage", model.optimize_memory_usage, "make the model without"),
        ("train_freq", model.train_freq[1] != "step", "give a number of steps"),
        ("target_update_interval", model.target_update_interval[1] != "step", "give a number of steps"),
    ):
        if problem:
            raise ValueError(f"apex cannot train a model with {name}={getattr(model, name)!r}: {instead}")


def _check_env(model: DQN, env: Any) -> Any:
    """What makes the actors' environments; a ValueError where that cannot be, or makes others than the model's."""
    wanted = model.env_id if env is None else env
    if wanted is None or is_made(wanted):
        raise ValueError("actors make environments of their own, and this one exists already: pass env=, an id or a "
                         "callable that makes one")  # fmt: skip
    stepper = make_stepper(wanted, 1, model._wanted_engine != "torch")
    try:
        spaces.check_same_spaces(model, stepper)
        if env is None and _specs(stepper) != _specs(model.env):
            raise ValueError(f"the model's environment is not just {wanted}: pass env=, a callable that makes one as "
                             "it is, or the id")  # fmt: skip
    finally:
        stepper.close()
    return wanted


def _specs(stepper: Any) -> Any:
    return getattr(getattr(stepper, "envs", [getattr(stepper, "env", None)])[0], "spec", None)


def _options(model: DQN, env: Any, n_envs: int) -> dict[str, Any]:
    """Of the DQN that acts in each actor."""
    policy = copy.deepcopy(model.policy).cpu() if model.policy_name == "custom" else model.policy_name
    return {"policy": policy, "env": env, "n_envs": n_envs, "gamma": model.gamma, "n_steps": model.n_steps,
            "policy_kwargs": model.policy_kwargs, "engine": model._wanted_engine}  # fmt: skip
