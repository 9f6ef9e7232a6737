"""The two sides of Ape-X besides its learner, as plain classes: `fastrl.distributed.ape_x` makes Ray actors of them."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space

from fastrl.algorithms.dqn import DQN
from fastrl.buffers.prioritized import PrioritizedReplayBuffer, PrioritizedReplaySample
from fastrl.learners.torch import one_thread

SMALLEST_PRIORITY = 1e-6  # added to |TD error|: what has taught all it can is still drawn now and then
NEVER = 2**62  # steps
LADDER = 7  # α of the paper's section 4.1


class Receipt(NamedTuple):
    """What the learner is told of a batch, which itself goes to the replay memory."""

    steps: int
    episodes: list[tuple[float, int]]  # (return, length) of those that ended


class Batch(NamedTuple):
    """M transitions, of windows of several steps where the model has `n_steps` > 1, and how surprising each was."""

    columns: dict[str, Any]  # arguments of `PrioritizedReplayBuffer.add_batch`, with "bootstrap": γ^m, float32 [M]
    priority: np.ndarray  # float32 [M]


def actor_epsilon(epsilon: float, index: int, actors: int) -> float:
    """ε_i = ε^(1 + 7 i / (N − 1)): actor 0 explores most, the last one least. Horgan et al. 2018, section 4.1."""
    return float(epsilon ** (1 + LADDER * index / max(1, actors - 1)))


class Actor:
    """Environments of its own, and a copy of the network that acts in them. Horgan et al. 2018, Algorithm 1.

    Args:
        options: of the `fastrl.DQN` that acts: policy, env, n_envs, gamma, n_steps, policy_kwargs, engine.
        steps: at least so many in a batch, over all its environments.
        seed: integers from which its random stream flows.
    """

    def __init__(self, options: dict[str, Any], steps: int, seed: list[int]) -> None:
        self._options, self._steps, self._seed, self._sent = options, steps, seed, 0

    def ready(self) -> int:
        """The process that this runs in."""
        return os.getpid()

    @cached_property
    def model(self) -> DQN:
        """What acts: a DQN whose rounds have no updates; its replay buffer holds what is not sent yet."""
        n_envs, n_steps = self._options["n_envs"], self._options["n_steps"]
        steps = -(-self._steps // n_envs) * n_envs
        return DQN(
            **self._options, buffer_size=steps + (n_steps - 1) * n_envs, train_freq=steps, gradient_steps=0,
            learning_starts=0, target_update_interval=NEVER, exploration_fraction=0.0, stats_window_size=steps,
            seed=int(np.random.SeedSequence(self._seed).generate_state(1, np.uint64)[0] >> 1), device="cpu",
        )  # fmt: skip

    def collect(self, weights: dict[str, np.ndarray], epsilon: float) -> tuple[Receipt, Batch]:
        """Act ε-greedily by the network of these weights, as its state_dict has them, for a batch."""
        model = self.model
        model.policy.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in weights.items()})
        model.exploration_initial_eps = model.exploration_final_eps = epsilon
        before = model.total_timesteps = model.num_timesteps
        with one_thread(True):
            if model._obs is None:
                model._new_episodes()
            model._iteration()
            batch = self._unsent()
        episodes = list(model.episodes)
        model.episodes.clear()
        return Receipt(model.num_timesteps - before, episodes), batch

    def _unsent(self) -> Batch:
        """What was stored since the last batch and has all the steps of its window behind it, or its episode's end."""
        model = self.model
        first, self._sent = self._sent, max(0, model.num_timesteps - (model.n_steps - 1) * model.num_envs)
        found = model.replay_buffer.gather(np.arange(first, self._sent))
        bootstrap = np.full(len(found.reward), model.gamma, np.float32) if found.discount is None else found.discount
        names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
        columns = {name: getattr(found, name) for name in names} | {"bootstrap": bootstrap}
        return Batch(columns, self._surprise(columns))

    def _surprise(self, columns: dict[str, Any]) -> np.ndarray:
        """|R + γ^m (1 − terminated) max_a Q(s', a) − Q(s, a)|, by the network that acted."""
        model = self.model
        if not len(columns["reward"]):
            return np.empty(0, np.float32)
        q, next_q = (model.learner.q_values(model._features(columns[name])) for name in ("obs", "next_obs"))
        action = columns["action"].astype(np.int64) - int(model.action_space.start)  # type: ignore[attr-defined]
        y = columns["reward"] + columns["bootstrap"] * ~columns["terminated"] * next_q.max(1)
        surprise: np.ndarray = np.abs(y - q[np.arange(len(q)), action]) + np.float32(SMALLEST_PRIORITY)
        return surprise


class Replay:
    """The replay memory that all actors share. It goes on from its snapshot, where there is one.

    Args:
        observation_space, action_space, capacity, alpha, seed: of the `PrioritizedReplayBuffer`.
        snapshot: file that holds what was stored at the last snapshot.
        every: transitions between two snapshots.
    """

    def __init__(
        self, observation_space: Space[Any], action_space: Space[Any], capacity: int, alpha: float, seed: list[int],
        snapshot: str, every: int,
    ) -> None:  # fmt: skip
        fields = {"bootstrap": (np.float32, ())}
        self.buffer = PrioritizedReplayBuffer(
            capacity, observation_space, action_space, alpha=alpha, seed=seed, extra_fields=fields
        )
        self._added, self._snapshot, self._every = 0, Path(snapshot), every
        self._refused: Exception | None = None
        if self._snapshot.exists():
            try:
                self._take_up()
            except (OSError, ValueError) as error:  # told by `ready`: Ray takes what is raised here for a death
                self._refused = error
        self._saved = self._added

    def _take_up(self) -> None:
        fresh = self.buffer.rng_state
        self.buffer.load(self._snapshot)
        self.buffer.rng_state = fresh
        self._added = int(self.buffer.recent(1).indices[0]) + 1 if len(self.buffer) else 0

    def ready(self) -> int:
        """How many transitions were ever added, as far as they are remembered.

        Raises:
            OSError, ValueError: for a snapshot that is damaged, or of another kind of buffer.
        """
        if self._refused is not None:
            raise self._refused
        return self._added

    def add(self, batch: Batch) -> int:
        """Store a batch with its priorities; returns how many transitions were ever added."""
        n = len(batch.priority)
        if n:
            self.buffer.add_batch(**batch.columns)
            self.buffer.update_priorities(np.arange(self._added, self._added + n), batch.priority)
        self._added += n
        if self._added - self._saved >= self._every:
            self.save()
        return self._added

    def sample(
        self, n: int, batch_size: int, beta: float, learnt: tuple[np.ndarray, np.ndarray] | None = None
    ) -> list[PrioritizedReplaySample]:
        """`n` minibatches, each drawn by the priorities, after those of (indices, priorities) were set."""
        if learnt is not None:
            self.buffer.update_priorities(*learnt)
        return [self.buffer.sample(batch_size, beta) for _ in range(n)] if len(self.buffer) else []

    def save(self) -> None:
        """Write the snapshot, atomically. OSError where that fails."""
        self.buffer.save(self._snapshot)
        self._saved = self._added
