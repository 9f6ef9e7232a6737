"""What it costs to be told of a training: the bar, the table, CSV and TensorBoard, all at once."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from functools import partial
from typing import Any, NamedTuple

from benches.operation import Implementation, Operation, Work, identity


class Training(NamedTuple):
    """Of a model on the compiled CartPole."""

    algorithm: str
    steps: int
    options: dict[str, Any]


TRAININGS = {
    "PPO, iterations of 256 steps": Training(
        "PPO", 2**17, dict(n_envs=8, n_steps=32, batch_size=256, n_epochs=20, learning_rate=1e-3)
    ),
    "PPO, Stable-Baselines3's defaults": Training("PPO", 2**17, {}),
    "DQN": Training("DQN", 300_000, dict(buffer_size=50_000)),
}


class Trained(NamedTuple):
    """What came of it."""

    steps: int
    seconds: float  # of the processor: what other programs do meanwhile makes more difference than what is measured


def train(training: Training, told: bool) -> Trained:
    """Train a new model."""
    import fastrl

    algorithm, steps, options = training
    model = getattr(fastrl, algorithm)("MlpPolicy", "CartPole-v1", seed=0, **options)
    with (
        tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere),
    ):  # fmt: skip
        began = time.process_time()
        if told:
            model.set_logger(fastrl.configure(folder, ["stdout", "csv", "tensorboard"]))
        model.learn(steps, progress_bar=told)
        model.logger.close()
        seconds = time.process_time() - began
    return Trained(int(model.num_timesteps), seconds)


def work(told: bool, training: Training) -> Work:
    return Work(partial(train, training, told), lambda ran: ran.steps, seconds=lambda ran: ran.seconds)


def whole(steps: int, expected: int) -> None:
    assert steps >= expected, f"only {steps} of {expected} steps"


LOGGING = Operation(
    "Being told of a training", TRAININGS, identity, lambda training: training.steps,
    {
        "fastrl": Implementation(partial(work, False), role="ours"),
        "fastrl, bar, table and files": Implementation(partial(work, True), ("tensorboard",), role="ours"),
    },
    whole, unit="training", rounds=(15, 15),
    note="Whole trainings in silence, and with the bar, the table, CSV and TensorBoard at once: processor time.",
)  # fmt: skip
