"""What has to come out of an update.

Torch's derivatives of the loss as it stands in the papers, and Adam, both written out in float64: how far the
parameters have moved, and Adam's first moment, which is the mean of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benches.networks import outputs
from benches.updates import ADAM_EPS, GAMMA, PPO_EPS, Rows, Task, flat

TOLERANCE = 0.01  # of norms


def descend(task: Task, loss: Callable[[Any], Any], eps: float) -> np.ndarray:
    """Steps of Adam (Kingma and Ba 2015) down a loss of one vector, whose gradient is clipped by its norm.

    Returns (change of the vector in learning rates, first moment).
    """
    import torch

    start = theta = torch.from_numpy(flat(task.weights).astype(np.float64))
    m = v = torch.zeros_like(theta)
    for t in range(1, task.epochs + 1):
        theta = theta.detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(theta), theta)
        g = g * min(1.0, task.settings["max_grad_norm"] / float(g.norm()))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + eps)
        theta = theta.detach() - task.settings["learning_rate"] * step
    return np.stack([(theta - start).numpy() / task.settings["learning_rate"], m.numpy()])


def network(theta: Any, task: Task, obs: np.ndarray, first: int = 0, relu: bool = False) -> Any:
    """What the three layers from array `first` on make of the observations, where all arrays lie in one vector."""
    import torch

    parts = [x.view(w.shape) for x, w in zip(theta.split([w.size for w in task.weights]), task.weights, strict=True)]
    h = torch.from_numpy(obs).double()
    for i in range(first, first + 6, 2):
        h = h @ parts[i].T + parts[i + 1]
        if i < first + 4:
            h = h.relu() if relu else h.tanh()
    return h


def policy(theta: Any, task: Task, rows: Rows) -> tuple[Any, Any, Any]:
    """log π(a|s), entropy and V."""
    import torch

    log_p = network(theta, task, rows.obs).log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return log_p[range(len(rows.obs)), torch.from_numpy(rows.action)], entropy, network(theta, task, rows.obs, 6)[:, 0]


def ppo_reference(task: Task) -> np.ndarray:
    """Schulman et al. 2017, eq. 7 and 9."""
    import torch

    rows, s = task.batches[0], task.settings
    old, advantage, returns = (torch.from_numpy(x).double() for x in (rows.log_prob, rows.advantage, rows.returns))
    advantage = (advantage - advantage.mean()) / advantage.std()

    def loss(theta: Any) -> Any:
        log_prob, entropy, value = policy(theta, task, rows)
        ratio = (log_prob - old).exp()
        clipped = ratio.clamp(1 - s["clip_range"], 1 + s["clip_range"])
        surrogate = torch.minimum(ratio * advantage, clipped * advantage).mean()
        return -surrogate + s["vf_coef"] * ((value - returns) ** 2).mean() - s["ent_coef"] * entropy.mean()

    return descend(task, loss, PPO_EPS)


def reinforce_reference(task: Task) -> np.ndarray:
    """Williams 1992, the value fitted to the returns as a baseline."""
    import torch

    rows, s = task.batches[0], task.settings
    advantage, returns = (torch.from_numpy(x).double() for x in (rows.advantage, rows.returns))

    def loss(theta: Any) -> Any:
        log_prob, entropy, value = policy(theta, task, rows)
        fit = s["vf_coef"] * ((value - returns) ** 2).mean() if s["baseline"] else 0.0
        return -(log_prob * advantage).mean() + fit - s["ent_coef"] * entropy.mean()

    return descend(task, loss, ADAM_EPS)


def dqn_reference(task: Task) -> np.ndarray:
    """Mnih et al. 2015; the errors' squares, or Huber's function of them."""
    import torch

    rows = task.batches[0]
    best = outputs(task.target, rows.next_obs, relu=True).max(1)
    y = torch.from_numpy(rows.reward + GAMMA * ~rows.terminated * best)

    def loss(theta: Any) -> Any:
        q = network(theta, task, rows.obs, relu=True)[range(len(y)), torch.from_numpy(rows.action)]
        error = (q - y).abs()
        if not task.settings["huber"]:
            return (error**2).mean()
        return torch.where(error < 1, error**2 / 2, error - 0.5).mean()

    return descend(task, loss, ADAM_EPS)


def compare(result: np.ndarray, expected: np.ndarray) -> None:
    """A gradient that is not clipped, or another loss, shows in its size; signs alone would be Adam's."""
    for name, got, wanted in zip(("step", "mean gradient"), result, expected, strict=True):
        miss = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        assert miss < TOLERANCE, f"the {name} is {miss:.1%} off"
