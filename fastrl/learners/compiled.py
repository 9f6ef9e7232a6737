"""The compiled learners: acting and updating by kernels, on the parameters of an ordinary module in place.

Each is its Torch twin with the same methods, for modules that `plan_of` knows. Where a module has changed since, so
that kernels no longer know it, acting falls back on the twin, and `bind` says why.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch

from fastrl.checks import diverged
from fastrl.kernels import updates
from fastrl.kernels.collect import Policy as PolicyArrays
from fastrl.kernels.heads import POLICY, VALUE
from fastrl.kernels.losses import PPOSettings
from fastrl.kernels.q_loop import Networks
from fastrl.learners import parallel
from fastrl.learners.network import FlatNetwork
from fastrl.learners.plan import Refused
from fastrl.learners.torch import ActorCriticLearner, Batch, QLearner
from fastrl.perceptron import ROWS, Bounds, Statistics


class CompiledActorCritic(ActorCriticLearner):
    """An `ActorCriticLearner` by kernels, over the module and the optimiser of another learner."""

    engine: ClassVar[str] = "compiled"

    def __init__(self, other: ActorCriticLearner) -> None:
        super().__init__(other.policy, other.head, other.device, other.optimizer)
        self.net = FlatNetwork(self.policy, self.optimizer, self.head)
        self._scratch = np.zeros(6), np.zeros(6), np.zeros(3)

    def bind(self) -> str | None:
        self.net.optimizer = self.optimizer
        return self.net.bind()

    def begin(self) -> str | None:
        reason = None if self.net.flat.is_untouched() else self.bind()
        self.net.held, self.net.fresh = reason is None, False
        return reason

    def end(self) -> None:
        self.net.held = self.net.fresh = False

    def release(self) -> None:
        self.net.flat.release()

    def batch(self, *arrays: np.ndarray) -> Batch:
        return Batch(*map(np.ascontiguousarray, arrays))

    def act(self, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        net = self.net
        return net.act(obs, noise, net.plan, net.work) if net.prepare() else super().act(obs, noise)

    def arrays(self) -> PolicyArrays:
        """The network as kernels take it, its copies refreshed."""
        if not self.net.prepare():
            raise ValueError(f"the policy cannot be run by kernels any more: {self.bind()}")
        return PolicyArrays(self.net.flat.params, self.net.plan, self.net.work, self.net.head)

    def value(self, obs: np.ndarray) -> np.ndarray:
        net = self.net
        return net.outputs(obs, net.head[VALUE], net.plan, net.work)[:, 0] if net.prepare() else super().value(obs)

    def predict(self, obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        if not self.net.is_bound():
            return super().predict(obs, noise)
        return self.net.predict(obs, noise)

    def has_predict_one(self) -> bool:
        return self.net.is_bound()

    def predict_one(
        self, obs: np.ndarray, noise: np.ndarray | None, statistics: Statistics | None, bounds: Bounds | None
    ) -> np.ndarray | None:
        return self.net.predict_one(obs, noise, statistics, bounds)

    def update_ppo(
        self, batch: Batch, epochs: np.ndarray, *, batch_size: int, learning_rate: float, clip_range: float,
        clip_range_vf: float | None, normalize_advantage: bool, ent_coef: float, vf_coef: float,
        max_grad_norm: float | None, target_kl: float | None,
    ) -> dict[str, float]:  # fmt: skip
        """As the Torch learner's, for a batch of arrays."""
        net = self._for_update(min(batch_size, len(batch.value)))
        flat = net.flat
        settings = PPOSettings(
            float(learning_rate), self._adam_eps(), limit(max_grad_norm), float(clip_range), limit(clip_range_vf),
            float(ent_coef), float(vf_coef), limit(target_kl), bool(normalize_advantage),
        )  # fmt: skip
        if self.ranks.size > 1:
            n_updates, seen = parallel.update_ppo(
                net, batch, epochs, batch_size, settings, self.ranks, *self._scratch[:2]
            )
        else:
            n_updates, seen = updates.update_ppo(
                epochs, batch_size, *batch, flat.params, flat.grads, flat.exp_avg, flat.exp_avg_sq, net.plan, net.work,
                net.head, int(flat.steps[0]), settings, *self._scratch,
            )  # fmt: skip
        flat.steps += n_updates
        net.fresh = False
        if seen == updates.DIVERGED:
            raise diverged()
        names = ("loss", "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")
        return {**dict(zip(names, (self._scratch[0] / seen).tolist(), strict=True)), "n_updates": n_updates}

    def update_reinforce(
        self, batch: Batch, *, learning_rate: float, baseline: bool, vf_coef: float, ent_coef: float,
        max_grad_norm: float | None, total: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """As the Torch learner's, for a batch of arrays."""
        if baseline and self.net.is_bound() and self.net.flat.steps[0] != self.net.flat.steps[-1]:
            # The value begins to learn when the policy has learnt for long: one count of steps does not serve both.
            return super().update_reinforce(
                Batch(*map(self.tensor, batch)), learning_rate=learning_rate, baseline=True, vf_coef=vf_coef,
                ent_coef=ent_coef, max_grad_norm=max_grad_norm, total=total,
            )  # fmt: skip
        net = self._for_update(ROWS)
        flat, trained = net.flat, len(net.flat.params) if baseline else net.value_only
        # Without a baseline the value's own layers stay as they are, and so do their moments.
        kept = [(x, x[trained:].copy()) for x in (flat.params, flat.exp_avg, flat.exp_avg_sq)]
        weights = limit(max_grad_norm), float(ent_coef), float(vf_coef) if baseline else 0.0
        if self.ranks.size > 1:
            finite = parallel.update_reinforce(
                net, batch, total or len(batch.obs), learning_rate, self._adam_eps(), *weights, self.ranks,
                self._scratch[2],
            )  # fmt: skip
        else:
            finite = updates.update_reinforce(
                np.arange(len(batch.obs)), batch.obs, batch.action, batch.advantage, batch.returns, flat.params,
                flat.grads, flat.exp_avg, flat.exp_avg_sq, net.plan, net.work, net.head, int(flat.steps[0]),
                learning_rate, self._adam_eps(), *weights, self._scratch[2],
            )  # fmt: skip
        if not finite:
            raise diverged()
        for x, values in kept:
            x[trained:] = values
        flat.steps[: len(flat.steps) if baseline else net.to_policy] += 1
        net.fresh = False
        policy_loss, value_loss, entropy_loss = (self._scratch[2] / (total or len(batch.value))).tolist()
        loss = policy_loss + ent_coef * entropy_loss + (vf_coef * value_loss if baseline else 0.0)
        metrics = {"loss": loss, "policy_gradient_loss": policy_loss, "entropy_loss": entropy_loss}
        return {**metrics, "value_loss": value_loss} if baseline else metrics

    def _adam_eps(self) -> float:
        return self.optimizer.param_groups[0]["eps"]

    def _for_update(self, rows: int) -> FlatNetwork:
        if not self.net.is_bound():
            raise ValueError(f"the policy cannot be updated by kernels any more: {self.bind()}")
        self.net.reserve(rows)
        return self.net


class CompiledQ(QLearner):
    """A `QLearner` by kernels, over the modules and the optimiser of another learner."""

    engine: ClassVar[str] = "compiled"

    def __init__(self, other: QLearner) -> None:
        super().__init__(other.policy, other.target, other.device, other.optimizer)
        self.net = FlatNetwork(self.policy, self.optimizer, None)
        self.target_net = FlatNetwork(self.target, None, None)
        if self.net.layers != self.target_net.layers:
            raise Refused("its target network has other layers")

    def bind(self) -> str | None:
        self.net.optimizer = self.optimizer
        reason = self.net.bind() or self.target_net.bind()
        if reason is None and self.net.layers != self.target_net.layers:
            return "its target network has other layers"
        return reason

    def begin(self) -> str | None:
        untouched = self.net.flat.is_untouched() and self.target_net.flat.is_untouched()
        reason = None if untouched else self.bind()
        for net in (self.net, self.target_net):
            net.held, net.fresh = reason is None, False
        return reason

    def end(self) -> None:
        for net in (self.net, self.target_net):
            net.held = net.fresh = False

    def release(self) -> None:
        self.net.flat.release()
        self.target_net.flat.release()

    def networks(self) -> Networks:
        """Both networks as kernels take them, their copies refreshed."""
        if not (self.net.prepare() and self.target_net.prepare()):
            raise ValueError(f"the policy cannot be run by kernels any more: {self.bind()}")
        net, flat, target = self.net, self.net.flat, self.target_net
        return Networks(flat.params, flat.grads, flat.exp_avg, flat.exp_avg_sq, net.plan, net.work, net.head,
                        target.flat.params, target.work)  # fmt: skip

    @property
    def steps_taken(self) -> int:
        """How many steps the optimiser has taken."""
        return int(self.net.flat.steps[0])

    def count(self, steps_taken: int) -> None:
        """Say how many steps a kernel has brought the optimiser to."""
        self.net.flat.steps[:] = steps_taken
        self.net.fresh = False

    def q_values(self, obs: np.ndarray) -> np.ndarray:
        net = self.net
        return net.outputs(obs, net.head[POLICY], net.plan, net.work) if net.prepare() else super().q_values(obs)

    def predict(self, obs: np.ndarray) -> np.ndarray:
        if not self.net.is_bound():
            return super().predict(obs)
        return self.net.predict(obs, None)[:, 0]

    def has_predict_one(self) -> bool:
        return self.net.is_bound()

    def predict_one(
        self, obs: np.ndarray, noise: np.ndarray | None, statistics: Statistics | None, bounds: Bounds | None
    ) -> np.ndarray | None:
        return self.net.predict_one(obs, noise, statistics, bounds)

    def update(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray | np.float32,
        next_obs: np.ndarray, terminated: np.ndarray, *, learning_rate: float, double_q: bool, huber: bool,
        max_grad_norm: float | None,
    ) -> Any:  # fmt: skip
        n = len(obs)
        self.reserve(n)
        nets = self.networks()
        loss = updates.update_q(
            obs, action, reward, np.full(n, discount, np.float32), next_obs, terminated,
            self._weights[:n], bool(double_q), huber, nets.params, nets.grads, nets.exp_avg, nets.exp_avg_sq, nets.plan,
            nets.work, nets.target_work, nets.head, self.steps_taken, learning_rate,
            self.optimizer.param_groups[0]["eps"], limit(max_grad_norm), self._y[:n], self._td_error[:n],
        )  # fmt: skip
        if loss == updates.DIVERGED:
            raise diverged()
        if loss < 0:
            raise ValueError("an action of the batch is none of the network's")
        self.count(self.steps_taken + 1)
        return loss

    def update_target(self, tau: float) -> None:
        if not (self.net.is_bound() and self.target_net.is_bound()):
            return super().update_target(tau)
        params, kept = self.net.flat.params, self.target_net.flat.params
        torch.from_numpy(kept).lerp_(torch.from_numpy(params), tau)
        self.target_net.fresh = False
        return None

    def reserve(self, rows: int) -> None:
        """Have memory for batches of `rows`."""
        if rows > getattr(self, "_rows", 0):
            self._weights, self._y, self._td_error = np.ones(rows, np.float32), *np.zeros((2, rows), np.float32)
            self._rows = rows
        self.net.reserve(rows)
        self.target_net.reserve(rows)


def limit(value: float | None) -> float:
    return math.inf if value is None else float(value)
