"""DQN's rounds of steps and updates by one kernel, where environments, network and replay buffer allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastrl.buffers.replay import ReplayBuffer
from fastrl.envs.fused import CompiledStepper
from fastrl.kernels.q_loop import Batch, Ring, Settings, q_loop
from fastrl.learners.compiled import CompiledQ, limit
from fastrl.normalize import NO_NORMALIZATION
from fastrl.schedules import schedule_value
from fastrl_ext.ring import COLUMNS

if TYPE_CHECKING:
    from fastrl.algorithms.dqn import DQN

STEPS = 256  # of one call at most: between calls Ctrl-C is heard


def applies(model: DQN) -> bool:
    """Whether `run` does what `model` is to do."""
    buffer = model.replay_buffer
    columns = buffer._records.dtype
    return (
        isinstance(model.env, CompiledStepper)
        and not model._stepwise
        and not (model._run is not None and model._run.callback.sees_rollouts)
        and isinstance(model.learner, CompiledQ)
        and model.train_freq[1] == "step"
        and type(buffer) is ReplayBuffer
        and not buffer.share_next_obs
        and buffer._file is None
        and buffer.num_envs == model.num_envs
        and not buffer._extra_names
        and columns["obs"].base == np.float32
        and columns["obs"].shape == (model.obs_dim,)
    )


def run(model: DQN) -> dict[str, float]:
    """As many rounds as one call may take and nobody looks in between, at least one; returns training metrics."""
    env, learner, buffer = model.env, model.learner, model.replay_buffer
    assert isinstance(env, CompiledStepper) and isinstance(learner, CompiledQ)
    n, of_a_round = model.num_envs, -(-model.train_freq[0] // model.num_envs)
    rounds = -(-(model.total_timesteps - model.num_timesteps) // (of_a_round * n))
    patience = STEPS if model._run is None else model._run.patience // n
    rounds = max(1, min(rounds, min(STEPS, patience) // of_a_round))
    learner.reserve(max(model.batch_size, n))
    settings = _settings(model)
    counts = np.array([model.num_timesteps, model.num_episodes, buffer._added, learner.steps_taken, 0, 0])
    ended = np.empty((rounds * of_a_round * n, 2))
    norm = NO_NORMALIZATION if model.normalizer is None else model.normalizer.for_kernels()
    rates, batch, networks = _rates(model, rounds, of_a_round * n), _batch(model), learner.networks()
    u = model.rng.random((rounds * of_a_round, n))
    with buffer._lock:
        columns: Any = {name: buffer._records[name] for name in COLUMNS}
        ring = Ring(**columns, rng=buffer.rng_state, n_step=buffer.n_step, gamma=float(model.gamma))
        rows: Any = {name: np.empty((n, *x.shape[1:]), x.dtype) for name, x in columns.items()}
        stage = ring._replace(**rows)
        try:
            loss = env.run(q_loop, networks, ring, batch, norm, settings, u, rates, counts, ended, stage)
        finally:  # where an environment fails, what came before stays
            timesteps, _, buffer._added, steps_taken, n_updates, n_ended = counts.tolist()
            buffer._rng.state = ring.rng
            learner.count(steps_taken)
            model.n_updates += n_updates
            env.after((timesteps - model.num_timesteps) // n, ended[:n_ended])
            model._count(timesteps - model.num_timesteps)
    model._obs = env.observations()
    return {"loss": loss, "learning_rate": float(rates[-1])} if n_updates else {}


def _settings(model: DQN) -> Settings:
    """Of one type each, whatever kind of number it was given as: another type would be compiled anew."""
    interval, unit = model.target_update_interval
    return Settings(
        int(model.train_freq[0]), int(model.gradient_steps), int(model.learning_starts), interval, unit == "episode",
        float(model.tau), bool(model.double_q), model.loss == "huber",
        float(model.learner.optimizer.param_groups[0]["eps"]), limit(model.max_grad_norm), model.total_timesteps,
        float(model.exploration_initial_eps), float(model.exploration_final_eps), float(model.exploration_fraction),
        -1.0 if model.exploration_decay is None else float(model.exploration_decay),
    )  # fmt: skip


def _rates(model: DQN, rounds: int, steps: int) -> np.ndarray:
    """Adam's learning rate in each round, as the progress after its steps has it."""
    if isinstance(model.learning_rate, (int, float)):
        return np.full(rounds, float(model.learning_rate))
    after = model.num_timesteps + steps * np.arange(1, rounds + 1)
    left = np.maximum(0.0, 1 - after / model.total_timesteps).tolist()
    return np.array([schedule_value("learning_rate", model.learning_rate, x) for x in left])


def _batch(model: DQN) -> Batch:
    B, f4 = model.batch_size, np.float32
    return Batch(
        np.empty((B, model.obs_dim), f4), np.empty(B, np.int64), np.empty(B, f4), np.empty(B, f4),
        np.empty((B, model.obs_dim), f4), np.empty(B, bool), np.ones(B, f4), np.empty(B, f4), np.empty(B, f4),
    )  # fmt: skip
