"""DQN's rounds of steps and updates by one kernel, where environments, network and replay buffer allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastrl.buffers.replay import ReplayBuffer
from fastrl.envs.fused import CompiledStepper
from fastrl.kernels.q_loop import Batch, Ring, Settings, q_loop
from fastrl.learners.compiled import CompiledQ, limit
from fastrl.normalize import NO_NORMALIZATION
from fastrl.schedules import schedule_value

if TYPE_CHECKING:
    from fastrl.algorithms.dqn import DQN

STEPS = 256  # of one call at most: between calls Ctrl-C is heard


def applies(model: DQN) -> bool:
    """Whether `run` does what `model` is to do."""
    buffer = model.replay_buffer
    columns = buffer._records.dtype
    return (
        isinstance(model.env, CompiledStepper)
        and isinstance(model.learner, CompiledQ)
        and model.train_freq[1] == "step"
        and type(buffer) is ReplayBuffer
        and not buffer.share_next_obs
        and buffer._file is None
        and buffer.num_envs == model.num_envs
        and columns["obs"].base == np.float32
        and columns["obs"].shape == (model.obs_dim,)
    )


def run(model: DQN, patient: bool) -> dict[str, float]:
    """One round, or where `patient` as many as one call may take; returns training metrics."""
    env, learner, buffer = model.env, model.learner, model.replay_buffer
    assert isinstance(env, CompiledStepper) and isinstance(learner, CompiledQ)
    n, of_a_round = model.num_envs, -(-model.train_freq[0] // model.num_envs)
    rounds = -(-(model.total_timesteps - model.num_timesteps) // (of_a_round * n))
    rounds = max(1, min(rounds, STEPS // of_a_round)) if patient else 1
    learner.reserve(max(model.batch_size, n))
    settings = Settings(
        model.train_freq[0], model.gradient_steps, model.learning_starts, *_interval(model), model.tau, model.double_q,
        model.loss == "huber", learner.optimizer.param_groups[0]["eps"], limit(model.max_grad_norm),
        model.total_timesteps, model.exploration_initial_eps, model.exploration_final_eps, model.exploration_fraction,
        -1.0 if model.exploration_decay is None else model.exploration_decay,
    )  # fmt: skip
    counts = np.array([model.num_timesteps, model.num_episodes, buffer._added, learner.steps_taken, 0, 0])
    ended = np.empty((rounds * of_a_round * n, 2))
    norm = NO_NORMALIZATION if model.normalizer is None else model.normalizer.for_kernels()
    u = model.rng.random((rounds * of_a_round, n))
    with buffer._lock:
        ring = Ring(*(buffer._records[name] for name in Ring._fields[:6]), buffer.rng_state, model.n_steps, model.gamma)
        try:
            losses = env.run(
                q_loop, learner.networks(), ring, _batch(model), norm, settings, u, _rates(model, rounds, of_a_round * n),
                counts, ended,
            )  # fmt: skip
        finally:
            _, _, buffer._added, steps_taken, _, n_ended = counts.tolist()
            buffer._rng.state = ring.rng
            learner.count(steps_taken)
    env.after(rounds * of_a_round, ended[:n_ended])
    model._obs = env.observations()
    model._count(rounds * of_a_round * n)
    n_updates = int(counts[4])
    model.n_updates += n_updates
    metrics = {"exploration_rate": model.exploration_rate}
    return {**metrics, "loss": losses / n_updates} if n_updates else metrics


def _interval(model: DQN) -> tuple[int, bool]:
    count, unit = model.target_update_interval
    return count, unit == "episode"


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
