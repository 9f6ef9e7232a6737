"""Updates of PPO, DQN and REINFORCE on rows that are given: the same weights and rows for all, and ours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, Work

BATCHES = 4  # of one size, that take turns
GAMMA = 0.99
PPO = dict(
    learning_rate=3e-4, clip_range=0.2, clip_range_vf=None, normalize_advantage=True, ent_coef=0.01, vf_coef=0.5,
    max_grad_norm=100.0, target_kl=None,
)  # fmt: skip
DQN = dict(learning_rate=1e-4, double_q=False, huber=True, max_grad_norm=10.0)
REINFORCE = dict(learning_rate=1e-3, vf_coef=1.0, max_grad_norm=100.0)
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
    epochs: int = 1

    @property
    def width(self) -> int:
        return len(self.weights[2])


class Learner(NamedTuple):
    """The call, and how to read the parameters and Adam's first moments, in the order of the weights."""

    call: Callable[[], Any]
    state: Callable[[], tuple[list[np.ndarray], list[np.ndarray]]]


def epochs(case: Case) -> int:
    """Of PPO in a call, each of them one minibatch of all rows; one where that takes long enough by itself."""
    return 4 if case[0] <= 512 else 1


def rollouts(case: Case, settings: dict[str, Any]) -> Task:
    """The policy has moved since it acted, some ratios beyond the clip range."""
    (width, batch), rng = case, np.random.default_rng(0)
    weights, batches = networks.actor_critic_weights(width, rng), []
    for _ in range(BATCHES):
        obs, (a, b, c, d) = rng.standard_normal((batch, OBS), np.float32), rng.standard_normal((4, batch), np.float32)
        action, value = rng.integers(ACTIONS, size=batch), outputs(weights[6:], obs)[:, 0].astype(np.float32) + a
        log_prob = log_softmax(outputs(weights[:6], obs))[np.arange(batch), action].astype(np.float32)
        batches.append(Rows(obs, action, log_prob + np.float32(0.2) * b, value, 2 * c + 1, value + d))
    return Task(weights, [], batches, settings, epochs(case))


def transitions(case: Case, settings: dict[str, Any]) -> Task:
    (width, batch), rng = case, np.random.default_rng(0)
    weights, target = (networks.random_weights(width, ACTIONS, rng) for _ in range(2))
    batches = []
    for _ in range(BATCHES):
        obs, next_obs = rng.standard_normal((2, batch, OBS), np.float32)
        action, terminated = rng.integers(ACTIONS, size=batch), rng.random(batch) < 0.1
        batches.append(Transitions(obs, action, rng.standard_normal(batch, np.float32), next_obs, terminated))
    return Task(weights, target, batches, settings)


def learning(layout: Callable[[Any], tuple[np.ndarray, ...]], bind: Callable[..., Learner], **options: Any) -> Any:
    """Of the arrays that it takes of a batch, and what binds them to the call that is timed."""

    def make(task: Task) -> Work:
        own = tuple(np.array(x) for x in layout(task.batches[0]))
        learner = bind(task, *own)

        def result(_: Any) -> np.ndarray:
            parameters, moments = map(flat, learner.state())
            return np.stack([(parameters - flat(task.weights)) / task.settings["learning_rate"], moments])

        def fresh(round: int) -> None:
            for mine, new in zip(own, layout(task.batches[round % BATCHES]), strict=True):
                np.copyto(mine, new)

        return Work(learner.call, result, fresh)

    return Implementation(make, **options)


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([x.ravel() for x in arrays])


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
    """The order of the rows is drawn within the call, as the algorithm does."""
    from fastrl.kernels.sampling import permutations

    learner, state = ours(task, engine, PPO_EPS)
    rng, batch, n = np.random.default_rng(0), learner.batch(*own), len(own[0])
    update = partial(learner.update_ppo, batch_size=n, **task.settings)
    return Learner(lambda: update(batch, permutations(rng, task.epochs, n)), state)


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
    call = partial(learner.update, *fields, **task.settings)
    return Learner(call, partial(torch_state, parameters, learner.optimizer))


def operations(case: Case, outs: int, nets: int, passes: int) -> int:
    """Multiplications and additions of the matrix products of one update.

    A product forward is two backward, but for the first layer, whose input needs no derivative: that is three
    `passes`. DQN's target network goes forward too: four.
    """
    width, batch = case
    first, rest = OBS * width, width * width
    return 2 * batch * (nets * (passes * rest + (passes - 1) * first) + passes * width * outs)


def products(task: Task, obs: np.ndarray, *_: np.ndarray) -> Learner:
    """The matrix products of as many updates, Torch's, into memory that is there.

    No floor at small widths: a call of Torch's costs more there than the arithmetic that it does.
    """
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
    for weight in task.target[::2]:
        h = add(h, torch.from_numpy(weight).T)

    def call() -> None:
        for _ in range(task.epochs):
            for each in calls:
                each()

    return Learner(call, lambda: ([], []))
