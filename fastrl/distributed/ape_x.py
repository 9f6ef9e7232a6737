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

import numpy as np
import torch
from torch import nn

from fastrl import spaces
from fastrl.algorithms import running
from fastrl.algorithms.dqn import DQN
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int, check_number
from fastrl.distributed.actors import SMALLEST_PRIORITY
from fastrl.distributed.cluster import connected
from fastrl.distributed.crew import Crew
from fastrl.envs.stepper import is_made, make_stepper
from fastrl.exploration import exploration_rate
from fastrl.learners.compiled import CompiledQ
from fastrl.learners.torch import QLearner, one_thread
from fastrl.schedules import schedule_value

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
            as `DQN.learn` for training that diverges.
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
        few_threads = model.policy_name == "MlpPolicy" or model.engine == "compiled"
        with run, interrupt, one_thread(few_threads):
            while not interrupt.requested and (model.num_timesteps < model.total_timesteps or learner.can_catch_up()):
                run.before_iteration()

                # 1. Let actors act by the latest weights, as far ahead of the learner as is allowed.
                while crew.asked < model.total_timesteps and crew.has_room(learner.clock + learner.round):
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


class Learner:
    """θ, and its clock: the steps of all actors that it has dealt with, round by round, as `DQN.learn` does."""

    def __init__(self, model: DQN, crew: Crew, weights_every: int) -> None:
        self.model, self.crew, self.clock = model, crew, model.num_timesteps
        self.round = -(-model.train_freq[0] // model.num_envs) * model.num_envs
        self.per_round = self.round if model.gradient_steps == -1 else model.gradient_steps
        self.due = 0  # updates that this round still wants
        self._every, self._copied_at, self._copy = weights_every, -1, None

    def is_behind(self) -> bool:
        """Whether there are steps that it has not dealt with."""
        return self.due > 0 or self.clock + self.round <= self.model.num_timesteps

    def can_catch_up(self) -> bool:
        """Whether it is behind, and there is something to learn from."""
        return self.is_behind() and self.crew.stored > 0

    def can_go_on(self) -> bool:
        no_updates = not self.due and self.clock + self.round <= self.model.learning_starts
        return self.is_behind() and (no_updates or bool(self.crew.minibatches))

    def learn(self) -> dict[str, float]:
        """Rounds of updates while there are steps and minibatches for them; returns training metrics."""
        model, minibatches, losses = self.model, self.crew.minibatches, []
        if model.learner.begin() is not None:
            model.set_engine(model._wanted_engine)
        try:
            while self.is_behind():
                if not self.due:
                    self._begin_round()
                if self.due and not minibatches:
                    break
                if self.due:
                    losses.append(float(self._update(minibatches.popleft())))
                    self.due -= 1
        finally:
            model.learner.end()
        return {"loss": sum(losses) / len(losses), "learning_rate": self._rate()} if losses else {}

    def _begin_round(self) -> None:
        """As many steps as DQN takes between its updates are over; the target moves as it does in these."""
        model, interval = self.model, self.model.target_update_interval[0]
        for _ in range(self.round // model.num_envs):
            self.clock += model.num_envs
            if self.clock // interval != (self.clock - model.num_envs) // interval:
                model.learner.update_target(model.tau)
        self.due = self.per_round if self.clock > model.learning_starts else 0

    def left(self) -> float:
        """The share of the run that is to come."""
        return max(0.0, 1 - self.clock / self.model.total_timesteps)

    def _rate(self) -> float:
        return schedule_value("learning_rate", self.model.learning_rate, self.left())

    def _update(self, batch: Any) -> Any:
        model = self.model
        own = [np.array(x) for x in (batch.reward, batch.extra["bootstrap"], batch.terminated, batch.weights)]
        reward, discount, terminated, weights = own  # Ray's arrays are read-only
        action = batch.action.astype(np.int64) - int(model.action_space.start)  # type: ignore[attr-defined]
        obs, next_obs = (np.array(model._features(x)) for x in (batch.obs, batch.next_obs))
        loss, error = weighted_update(
            model.learner, weights, obs, action, reward, discount, next_obs, terminated, learning_rate=self._rate(),
            double_q=model.double_q, huber=model.loss == "huber", max_grad_norm=model.max_grad_norm,
        )  # fmt: skip
        self.crew.learnt.append((batch.indices, np.abs(error) + np.float32(SMALLEST_PRIORITY)))
        model.n_updates += 1
        return loss

    def weights(self) -> Any:
        """A reference to a copy of θ in the object store, a new one where the last is old. Only it is held here."""
        n = self.model.n_updates
        if self._copy is None or n - self._copied_at >= self._every:
            state = self.model.policy.state_dict()
            self._copy, self._copied_at = self.crew.put({key: x.detach().cpu().numpy() for key, x in state.items()}), n
        return self._copy

    def epsilon(self, steps: int) -> float:
        """The model's ε after `steps` of the run."""
        model = self.model
        return 1.0 if steps < model.learning_starts else exploration_rate(
            model.exploration_initial_eps, model.exploration_final_eps, model.exploration_fraction,
            model.exploration_decay, min(1.0, steps / model.total_timesteps), model.num_episodes,
        )  # fmt: skip


def weighted_update(
    learner: QLearner, weights: np.ndarray, obs: np.ndarray, action: np.ndarray, reward: np.ndarray,
    discount: np.ndarray, next_obs: np.ndarray, terminated: np.ndarray, *, learning_rate: float, double_q: bool,
    huber: bool, max_grad_norm: float | None,
) -> tuple[Any, np.ndarray]:  # fmt: skip
    """`QLearner.update` down the mean of w ℓ(Q − y) (Schaul et al. 2016, Algorithm 1); (loss, Q − y [B])."""
    if isinstance(learner, CompiledQ):
        n = len(obs)
        learner.reserve(n)
        learner._weights[:n] = weights
        try:
            loss = learner.update(
                obs, action, reward, discount, next_obs, terminated, learning_rate=learning_rate, double_q=double_q,
                huber=huber, max_grad_norm=max_grad_norm,
            )  # fmt: skip
        finally:
            learner._weights[:n] = 1
        return loss, learner._td_error[:n].copy()
    with torch.no_grad():
        next_states = learner.tensor(next_obs)
        next_q = learner.target(next_states)
        best = (learner.policy(next_states) if double_q else next_q).argmax(1, keepdim=True)
        going_on = 1 - learner.tensor(terminated).float()
        y = learner.tensor(reward) + learner.tensor(discount) * going_on * next_q.gather(1, best).squeeze(1)
    q = learner.policy(learner.tensor(obs)).gather(1, learner.tensor(action)[:, None]).squeeze(1)
    each = (nn.functional.smooth_l1_loss if huber else nn.functional.mse_loss)(q, y, reduction="none")
    total = (learner.tensor(weights) * each).mean()
    learner.descend(total, learning_rate, max_grad_norm)
    return total.detach(), (q.detach() - y).cpu().numpy()


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
