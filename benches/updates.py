"""Updates of PPO, DQN and REINFORCE on rows that are given: every library has the same weights and the same rows.

What has to come out is what Torch's derivatives and Adam, written out in float64, make of the loss as it stands in the
papers: how far the parameters have moved, and Adam's first moment, which is the mean of the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, Work

BATCHES = 4  # of one size, that take turns
EPOCHS = 4  # of PPO, each of them one minibatch of all rows
GAMMA = 0.99
TOLERANCE = 0.01  # of norms
PPO = dict(
    learning_rate=3e-4, clip_range=0.2, clip_range_vf=None, normalize_advantage=True, ent_coef=0.01, vf_coef=0.5,
    max_grad_norm=100.0, target_kl=None,
)  # fmt: skip
DQN = dict(learning_rate=1e-4, double_q=False, huber=True, max_grad_norm=10.0)
REINFORCE = dict(learning_rate=1e-3, vf_coef=0.5, max_grad_norm=100.0)
PPO_EPS, ADAM_EPS = 1e-5, 1e-8
Case = tuple[int, int]  # width, batch


class Rows(NamedTuple):
    """Of a rollout; float32 but for `action`, int64."""

    obs: np.ndarray  # [B, 4]
    action: np.ndarray  # [B]
    log_prob: np.ndarray
    value: np.ndarray
    advantage: np.ndarray
    returns: np.ndarray


class Transitions(NamedTuple):
    """Of a replay buffer; float32 but for `action`, int64, and `terminated`, bool."""

    obs: np.ndarray  # [B, 4]
    action: np.ndarray  # [B]
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray


class Task(NamedTuple):
    weights: Weights
    target: Weights  # of DQN's target network
    batches: list[Any]
    settings: dict[str, Any]

    @property
    def width(self) -> int:
        return len(self.weights[2])


class Learner(NamedTuple):
    """The call, and how to read the parameters and Adam's first moments, in the order of the weights."""

    call: Callable[[], Any]
    state: Callable[[], tuple[list[np.ndarray], list[np.ndarray]]]


def rollouts(case: Case, settings: dict[str, Any]) -> Task:
    """The policy has moved since it acted, some ratios beyond the clip range."""
    (width, batch), rng = case, np.random.default_rng(0)
    weights, batches = networks.actor_critic_weights(width, rng), []
    for _ in range(BATCHES):
        obs, (a, b, c, d) = rng.standard_normal((batch, OBS), np.float32), rng.standard_normal((4, batch), np.float32)
        action, value = rng.integers(ACTIONS, size=batch), outputs(weights[6:], obs)[:, 0].astype(np.float32) + a
        log_prob = log_softmax(outputs(weights[:6], obs))[np.arange(batch), action].astype(np.float32)
        batches.append(Rows(obs, action, log_prob + np.float32(0.2) * b, value, 2 * c + 1, value + d))
    return Task(weights, [], batches, settings)


def transitions(case: Case, settings: dict[str, Any]) -> Task:
    (width, batch), rng = case, np.random.default_rng(0)
    weights, target = (networks.random_weights(width, ACTIONS, rng) for _ in range(2))
    batches = []
    for _ in range(BATCHES):
        obs, next_obs = rng.standard_normal((2, batch, OBS), np.float32)
        action, terminated = rng.integers(ACTIONS, size=batch), rng.random(batch) < 0.1
        batches.append(Transitions(obs, action, rng.standard_normal(batch, np.float32), next_obs, terminated))
    return Task(weights, target, batches, settings)


# -- what has to come out ----------------------------------------------------------------------------------------


def descend(task: Task, loss: Callable[[Any], Any], steps: int, eps: float) -> np.ndarray:
    """So many steps of Adam (Kingma and Ba 2015) down a loss of one vector, whose gradient is clipped by its norm.

    Returns (change of the vector in learning rates, first moment).
    """
    import torch

    start = theta = torch.from_numpy(np.concatenate([w.ravel() for w in task.weights]).astype(np.float64))
    m = v = torch.zeros_like(theta)
    for t in range(1, steps + 1):
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

    return descend(task, loss, EPOCHS, PPO_EPS)


def reinforce_reference(task: Task) -> np.ndarray:
    """Williams 1992, the value fitted to the returns as a baseline."""
    import torch

    rows, s = task.batches[0], task.settings
    advantage, returns = (torch.from_numpy(x).double() for x in (rows.advantage, rows.returns))

    def loss(theta: Any) -> Any:
        log_prob, entropy, value = policy(theta, task, rows)
        fit = s["vf_coef"] * ((value - returns) ** 2).mean() if s["baseline"] else 0.0
        return -(log_prob * advantage).mean() + fit - s["ent_coef"] * entropy.mean()

    return descend(task, loss, 1, ADAM_EPS)


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

    return descend(task, loss, 1, ADAM_EPS)


def compare(result: np.ndarray, expected: np.ndarray) -> None:
    """A gradient that is not clipped, or another loss, shows in its size; signs alone would be Adam's."""
    for name, got, wanted in zip(("step", "mean gradient"), result, expected, strict=True):
        miss = np.linalg.norm(got - wanted) / np.linalg.norm(wanted)
        assert miss < TOLERANCE, f"the {name} is {miss:.1%} off"


# -- what does it --------------------------------------------------------------------------------------------------


def learning(layout: Callable[[Any], tuple[np.ndarray, ...]], bind: Callable[..., Learner], **options: Any) -> Any:
    """Of the arrays that it takes of a batch, and what binds them to the call that is timed."""

    def make(task: Task) -> Work:
        own = tuple(np.array(x) for x in layout(task.batches[0]))
        learner = bind(task, *own)

        def result(_: Any) -> np.ndarray:
            now, before, moment = (np.concatenate([x.ravel() for x in xs]) for xs in (
                learner.state()[0], task.weights, learner.state()[1],
            ))  # fmt: skip
            return np.stack([(now - before) / task.settings["learning_rate"], moment])

        def fresh(round: int) -> None:
            for mine, new in zip(own, layout(task.batches[round % BATCHES]), strict=True):
                np.copyto(mine, new)

        return Work(learner.call, result, fresh)

    return Implementation(make, **options)


def torch_state(parameters: list[Any], optimizer: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a `Learner` by Torch tells. A gradient that there never was is none."""
    moments = [optimizer.state[p]["exp_avg"].numpy() if p in optimizer.state else np.zeros(p.shape) for p in parameters]
    return [p.detach().numpy() for p in parameters], moments


def columns(rows: Rows) -> tuple[np.ndarray, ...]:
    """Actions as a column."""
    return rows._replace(action=rows.action[:, None])


def ours(task: Task, engine: Any, eps: float) -> tuple[Any, Callable[[], Any]]:
    learner = networks.ours(task.weights, task.width, engine, eps)
    return learner, partial(torch_state, list(learner.policy.parameters()), learner.optimizer)


def our_ppo(task: Task, *own: np.ndarray, engine: Any = "compiled") -> Learner:
    learner, state = ours(task, engine, PPO_EPS)
    order = np.random.default_rng(0).permuted(np.tile(np.arange(len(own[0])), (EPOCHS, 1)), axis=1)
    call = partial(learner.update_ppo, learner.batch(*own), order, batch_size=len(own[0]), **task.settings)
    return Learner(call, state)


def our_reinforce(task: Task, *own: np.ndarray, engine: Any = "compiled") -> Learner:
    learner, state = ours(task, engine, ADAM_EPS)
    return Learner(partial(learner.update_reinforce, learner.batch(*own), **task.settings), state)


def our_dqn(task: Task, obs: np.ndarray, action: np.ndarray, reward: np.ndarray, next_obs: np.ndarray,
            terminated: np.ndarray, engine: Any = "compiled") -> Learner:  # fmt: skip
    import torch

    from fastrl.learners.engine import with_engine
    from fastrl.learners.torch import QLearner
    from fastrl.networks import QNetwork

    module, target = (QNetwork(OBS, ACTIONS, [task.width] * 2) for _ in range(2))
    parameters = networks.load(module.parameters(), task.weights)
    networks.load(target.parameters(), task.target)
    learner = with_engine(QLearner(module, target, torch.device("cpu"), ADAM_EPS), engine)
    learner.begin()  # as within an iteration
    fields = obs, action, reward, np.float32(GAMMA), next_obs, terminated
    return Learner(partial(learner.update, *fields, **task.settings), partial(torch_state, parameters, learner.optimizer))


def operations(case: Case, outs: int, networks: int, passes: int) -> int:
    """Multiplications and additions of the matrix products of one update.

    A product forward is two backward, but for the first layer, whose input needs no derivative: that is three
    `passes`. DQN's target network goes forward too: four.
    """
    width, batch = case
    first, rest = OBS * width, width * width
    return 2 * batch * (networks * (passes * rest + (passes - 1) * first) + passes * width * outs)


def products(task: Task, obs: np.ndarray, *_: np.ndarray, times: int = 1) -> Learner:
    """The matrix products of as many updates, Torch's, into memory that is there."""
    import torch

    n, calls = len(obs), []

    def add(a: Any, b: Any) -> Any:
        out = torch.empty(a.shape[0], b.shape[1])
        calls.append(partial(torch.mm, a, b, out=out))
        return out

    for first in range(0, len(task.weights), 6):
        matrices = [torch.from_numpy(w) for w in task.weights[first : first + 6 : 2]]
        inputs = [torch.from_numpy(obs)]
        for w in matrices:
            inputs.append(add(inputs[-1], w.T))
        d = torch.randn(n, len(matrices[-1]))
        for i in (2, 1, 0):
            add(d.T, inputs[i])
            d = add(d, matrices[i]) if i else d
    h = torch.from_numpy(obs)
    for w in task.target[::2]:
        h = add(h, torch.from_numpy(w).T)

    def call() -> None:
        for _ in range(times):
            for each in calls:
                each()

    return Learner(call, lambda: ([], []))
