"""The Torch learner: acting and updating by autograd, with any module, on any device.

The algorithm owns the random numbers: it hands over the noise for acting and the indices of each minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from fastrl.checks import diverged
from fastrl.kernels.losses import standardisation
from fastrl.learners import parallel
from fastrl.learners.optimizers import make_adam
from fastrl.networks import ActorCritic, Head, QNetwork
from fastrl.perceptron import Bounds, Statistics
from fastrl.ranks import Ranks


@contextmanager
def one_thread(enabled: bool) -> Iterator[None]:
    """Keep Torch to one thread, if `enabled`: for small networks, waking others costs more than they do."""
    before = torch.get_num_threads()
    if enabled:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchLearner:
    """A policy module, its optimiser, and one clipped gradient step.

    `adam` is Adam's ε, or an optimiser of the module's parameters.
    """

    engine: ClassVar[str] = "torch"
    ranks = Ranks()  # those that update the same policy together

    def __init__(self, policy: nn.Module, device: torch.device, adam: float | torch.optim.Optimizer) -> None:
        self.policy, self.device = policy.to(device).eval(), device
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = adam if isinstance(adam, torch.optim.Optimizer) else make_adam(self.parameters, adam, device)

    def bind(self) -> str | None:
        """Look at the modules anew, whatever was done to them; the reason why this engine cannot go on, if so."""
        return None

    def begin(self) -> str | None:
        """Begin an iteration, in which nobody but this learner changes the weights; a reason as of `bind`."""
        self.check_dtype()
        return None

    def check_dtype(self) -> None:
        """Raise a ValueError where a network of ours is not of float32: observations are."""
        if isinstance(self.policy, (ActorCritic, QNetwork)):
            for name, p in self.policy.named_parameters():
                if p.dtype != torch.float32:
                    raise ValueError(f"the policy's {name} is {p.dtype}; it must be float32: call model.policy.float()")

    def end(self) -> None:
        """End the iteration."""

    def release(self) -> None:
        """Leave the modules and the optimiser as ordinary ones, for another engine."""

    def has_predict_one(self) -> bool:
        """Whether `predict_one` can be called, now."""
        return False

    def predict_one(
        self, obs: np.ndarray, noise: np.ndarray | None, statistics: Statistics | None, bounds: Bounds | None
    ) -> np.ndarray | None:
        """The action [c] for one observation, float32 [obs_dim], contiguous and writable; None where it is not finite.

        Drawn with `noise` [c], or the likeliest. The observation is normalised (in place) by `statistics`, and the
        action kept within `bounds`, where given.
        """
        raise NotImplementedError

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """`array` on the learner's device; on the CPU it shares the array's memory."""
        return torch.from_numpy(array).to(self.device)

    def descend(self, loss: torch.Tensor, learning_rate: float, max_grad_norm: float | None) -> None:
        """One step of the optimiser down the gradient of `loss`, its global norm clipped.

        Raises a ValueError, before anything is changed, where the loss or that norm is not finite.
        """
        self.backward(loss)
        self.step(loss.item(), learning_rate, max_grad_norm)

    def backward(self, loss: torch.Tensor) -> None:
        """Put the gradient of `loss` in place of the last one."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def step(self, loss: float, learning_rate: float, max_grad_norm: float | None) -> None:
        """The second half of `descend`, down the gradient that is there."""
        if max_grad_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters, max_grad_norm)
        else:
            norm = torch.stack([p.grad.norm() for p in self.parameters if p.grad is not None]).norm()
        if not (math.isfinite(loss) and math.isfinite(norm.square().item())):  # Adam keeps the square
            raise diverged()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()


def clipped_surrogate(ratio: torch.Tensor, advantage: torch.Tensor, clip_range: float) -> torch.Tensor:
    """L^CLIP = min(r A, clip(r, 1 − ε, 1 + ε) A), elementwise. Schulman et al. 2017, eq. 7."""
    return torch.min(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def normalized(x: torch.Tensor, moments: np.ndarray | None = None) -> torch.Tensor:
    """Zero mean and unit deviation, by its own or by `moments` of several ranks; a single number is left as it is."""
    if moments is not None:
        mean, scale = standardisation(moments)
        return (x - mean) * scale
    return (x - x.mean()) / (x.std() + 1e-8) if len(x) > 1 else x


class Batch(NamedTuple):
    """Transitions of a rollout, flattened: what the updates of PPO and REINFORCE read. Tensors, or arrays."""

    obs: Any  # [M, obs_dim] float32
    action: Any  # [M, n_components] int64, or [M, action_dim] float32
    log_prob: Any  # [M] float32, of the policy that acted
    value: Any  # [M] float32
    advantage: Any  # [M] float32
    returns: Any  # [M] float32


class ActorCriticLearner(TorchLearner):
    """Acts with π and V, and updates both."""

    def __init__(
        self, policy: nn.Module, head: Head, device: torch.device, adam: float | torch.optim.Optimizer
    ) -> None:
        super().__init__(policy, device, adam)
        self.head = head

    def batch(self, *arrays: np.ndarray) -> Batch:
        """The fields of a Batch as the updates of this learner take them."""
        return Batch(*map(self.tensor, arrays))

    @torch.no_grad()
    def act(self, obs: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(action [N, n_components], log_prob [N], value [N]) for observations [N, obs_dim]."""
        params, value = self.policy(self.tensor(obs))
        action, log_prob = self.head.sample(self.policy, params, self.tensor(noise))
        return action.cpu().numpy(), log_prob.cpu().numpy(), value.cpu().numpy()

    @torch.no_grad()
    def value(self, obs: np.ndarray) -> np.ndarray:
        """V [N] of observations [N, obs_dim]."""
        return self.policy(self.tensor(obs))[1].cpu().numpy()

    @torch.no_grad()
    def predict(self, obs: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Actions [N, n_components]: drawn with `noise`, or the likeliest."""
        params, _ = self.policy(self.tensor(obs))
        if noise is None:
            return self.head.mode(params).cpu().numpy()
        return self.head.sample(self.policy, params, self.tensor(noise))[0].cpu().numpy()

    def update_ppo(
        self, batch: Batch, epochs: np.ndarray, *, batch_size: int, learning_rate: float,
        clip_range: float, clip_range_vf: float | None, normalize_advantage: bool, ent_coef: float, vf_coef: float,
        max_grad_norm: float | None, target_kl: float | None,
    ) -> dict[str, float]:  # fmt: skip
        """Descend −L^CLIP + c_v (V − R)² − c_e H over minibatches (Schulman et al. 2017, eq. 9).

        `epochs` [K, M] int64 is the order in which each epoch visits the batch. Stops before the first step whose
        approximate KL divergence exceeds 1.5 · target_kl. Returns means over the minibatches, under
        Stable-Baselines3's names, and "n_updates".
        """
        totals, n_updates, seen, moments = torch.zeros(6), 0, 0, None
        if self.ranks.size > 1:
            moments = parallel.advantage_moments(batch.advantage.cpu().numpy(), epochs, batch_size, self.ranks)
        for mini in self._minibatches(batch, epochs, batch_size):
            params, value = self.policy(mini.obs)
            log_prob, entropy = self.head.evaluate(self.policy, params, mini.action)

            log_ratio = log_prob - mini.log_prob
            ratio = log_ratio.exp()
            common = None if moments is None else moments[seen]
            advantage = normalized(mini.advantage, common) if normalize_advantage else mini.advantage
            policy_loss = -clipped_surrogate(ratio, advantage, clip_range).mean()
            if clip_range_vf is not None:
                value = mini.value + (value - mini.value).clamp(-clip_range_vf, clip_range_vf)
            value_loss = mse_loss(value, mini.returns)
            entropy_loss = -entropy.mean()
            loss = policy_loss + vf_coef * value_loss + ent_coef * entropy_loss

            with torch.no_grad():
                approx_kl = (ratio - 1 - log_ratio).mean()  # Schulman's k3, "Approximating KL Divergence"
                clipped = ((ratio - 1).abs() > clip_range).float().mean()
                parts = torch.stack([loss, policy_loss, value_loss, entropy_loss, approx_kl, clipped])
            if self.ranks.size > 1:
                self.backward(loss)
                parts = parallel.add_up_gradients(self.parameters, parts, 1 / self.ranks.size, self.ranks)
            totals += (parts := parts.cpu())
            seen += 1
            if target_kl is not None and parts[4] > 1.5 * target_kl:
                break
            if self.ranks.size == 1:
                self.backward(loss)
            self.step(parts[0].item(), learning_rate, max_grad_norm)
            n_updates += 1
        names = ("loss", "policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")
        return {**dict(zip(names, (totals / seen).tolist(), strict=True)), "n_updates": n_updates}

    def _minibatches(self, batch: Batch, epochs: np.ndarray, batch_size: int) -> Iterator[Batch]:
        for order in epochs:
            indices = self.tensor(order)
            shuffled = Batch(*(x[indices] for x in batch))
            yield from map(Batch._make, zip(*(x.split(batch_size) for x in shuffled), strict=True))

    def update_reinforce(
        self, batch: Batch, *, learning_rate: float, baseline: bool, vf_coef: float, ent_coef: float,
        max_grad_norm: float | None, total: int | None = None,
    ) -> dict[str, float]:  # fmt: skip
        """One step along ∇ log π(a|s) · A (Williams 1992); with a baseline also down (V − G)².

        `total` is the number of rows of all ranks.
        """
        params, value = self.policy(batch.obs)
        log_prob, entropy = self.head.evaluate(self.policy, params, batch.action)
        policy_loss = -(log_prob * batch.advantage).mean()
        entropy_loss = -entropy.mean()
        loss = policy_loss + ent_coef * entropy_loss
        parts = {"policy_gradient_loss": policy_loss, "entropy_loss": entropy_loss}
        if baseline:
            parts["value_loss"] = value_loss = mse_loss(value, batch.returns)
            loss = loss + vf_coef * value_loss
        told = torch.stack([loss, *parts.values()]).detach()
        self.backward(loss)
        if self.ranks.size > 1:
            weight = len(batch.obs) / (total or len(batch.obs))
            told = parallel.add_up_gradients(self.parameters, told, weight, self.ranks)
        metrics = dict(zip(("loss", *parts), told.tolist(), strict=True))
        self.step(metrics["loss"], learning_rate, max_grad_norm)
        return metrics


class QLearner(TorchLearner):
    """A Q-network, its target, and the temporal-difference update."""

    def __init__(
        self, policy: nn.Module, target: nn.Module, device: torch.device, adam: float | torch.optim.Optimizer
    ) -> None:
        super().__init__(policy, device, adam)
        self.target = target.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def q_values(self, obs: np.ndarray) -> np.ndarray:
        """Q [N, n_actions] of observations [N, obs_dim]."""
        return self.policy(self.tensor(obs)).cpu().numpy()

    def predict(self, obs: np.ndarray) -> np.ndarray:
        """The actions [N] of the greatest Q, from 0, for observations [N, obs_dim]."""
        return self.q_values(obs).argmax(1)

    def update(
        self, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray | np.float32,
        next_obs: np.ndarray, terminated: np.ndarray, *, learning_rate: float, double_q: bool, huber: bool,
        max_grad_norm: float | None,
    ) -> Any:  # fmt: skip
        """One step towards y = r + γ (1 − terminated) Q̂(s', a'); returns the loss, not yet synchronised.

        `discount` is γ, one for all or [B] for windows of several steps, whose rewards are summed already.

        a' maximises the target network Q̂ (Mnih et al. 2015), or with `double_q` the online network
        (van Hasselt et al. 2016). `action` counts from 0.
        """
        with torch.no_grad():
            next_states = self.tensor(next_obs)
            next_q = self.target(next_states)
            best = self.policy(next_states).argmax(1, keepdim=True) if double_q else next_q.argmax(1, keepdim=True)
            going_on = 1 - self.tensor(terminated).float()
            following = self.tensor(np.asarray(discount)) * going_on * next_q.gather(1, best).squeeze(1)
            y = self.tensor(reward) + following
        q = self.policy(self.tensor(obs)).gather(1, self.tensor(action)[:, None]).squeeze(1)
        loss = smooth_l1_loss(q, y) if huber else mse_loss(q, y)
        self.descend(loss, learning_rate, max_grad_norm)
        return loss.detach()

    @torch.no_grad()
    def update_target(self, tau: float) -> None:
        """θ⁻ ← τ θ + (1 − τ) θ⁻, buffers copied."""
        for old, new in zip(self.target.parameters(), self.policy.parameters(), strict=True):
            old.lerp_(new, tau)
        for kept, now in zip(self.target.buffers(), self.policy.buffers(), strict=True):
            kept.copy_(now)
