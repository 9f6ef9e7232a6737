"""The learner of Ape-X: its clock, its rounds of updates as DQN's, and an update with importance weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fastrl.algorithms.dqn import DQN
from fastrl.distributed.actors import SMALLEST_PRIORITY
from fastrl.distributed.crew import Crew
from fastrl.exploration import exploration_rate
from fastrl.learners.compiled import CompiledQ
from fastrl.learners.torch import QLearner
from fastrl.schedules import schedule_value


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
