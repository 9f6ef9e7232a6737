"""Acting as a rollout asks for it: drawn actions, their log-probabilities, and values. All have the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, Missing, Operation, Work, close

DRAWS = 2048  # that the frequencies of drawn actions are checked on, of networks of 64 units; fewer of wide ones


class Batches(NamedTuple):
    """What a rollout asks; a batch in each round."""

    weights: Weights  # π, then V
    obs: np.ndarray  # [rounds, n, 4] float32


class Chances(NamedTuple):
    """What has to come out of actions that are drawn: log π(a|s) [n, 2]; V [n] where it is asked."""

    log_p: np.ndarray
    value: Any = None


def frequencies(action: np.ndarray, log_p: np.ndarray) -> None:
    """Drawn actions [rows, n] are as frequent as they should be, within five standard deviations."""
    assert set(np.unique(action)) <= set(range(ACTIONS)), "actions that are none"
    for some in np.array_split(np.argsort(log_p[:, 1]), min(8, len(log_p))):  # observations that are alike
        p = np.exp(log_p[some, 1])
        miss = abs((action[:, some] - p).sum()) / np.sqrt(len(action) * (p * (1 - p)).sum())
        assert miss < 5, f"frequencies of actions are {miss:.0f} standard deviations off"


def products(weights: Weights, n: int) -> Callable[[np.ndarray], Any]:
    """The matrix products of a forward pass, into memory that is there."""
    matrices = [np.ascontiguousarray(w.T) for w in weights[::2]]
    outs = [np.empty((n, w.shape[1]), np.float32) for w in matrices]

    def call(obs: np.ndarray) -> Any:
        h = obs.reshape(n, OBS)
        for w, out in zip(matrices, outs, strict=True):
            h = np.dot(h, w, out=out)
        return h

    return call


def batches(case: tuple[int, int]) -> Batches:
    n, width = case
    rng = np.random.default_rng(0)
    return Batches(networks.actor_critic_weights(width, rng), rng.standard_normal((25, n, OBS), np.float32))


def reference(asked: Batches) -> Chances:
    obs = asked.obs[0]
    return Chances(log_softmax(outputs(asked.weights[:6], obs)), outputs(asked.weights[6:], obs)[:, 0])


def compare(result: tuple[np.ndarray, ...], expected: Chances) -> None:
    """Values, the log-probabilities of the actions that were drawn, and how often they were."""
    action, log_prob, value = result
    rows = np.arange(len(expected.log_p))
    close(value, np.broadcast_to(expected.value, value.shape))
    close(log_prob, expected.log_p[rows, action])
    frequencies(action, expected.log_p)


def acting(bind: Callable[[Weights, int, np.ndarray], Callable[[], Any]], **options: Any) -> Implementation:
    """Of what makes the call: weights, width and the array [n, 4] that the observations lie in."""

    def make(asked: Batches) -> Work:
        own = asked.obs[0].copy()
        width = len(asked.weights[2])
        call = bind(asked.weights, width, own)

        def many(_: Any) -> tuple[np.ndarray, ...]:
            repeats = max(8, DRAWS // (len(own) * max(1, width // 64)))
            rows = [[np.asarray(x).reshape(len(own)) for x in call()] for _ in range(repeats)]
            action, log_prob, value = map(np.array, zip(*rows, strict=True))
            return action.astype(int), log_prob, value

        return Work(call, many, lambda r: np.copyto(own, asked.obs[r % len(asked.obs)]))

    return Implementation(make, **options)


def fastrl_acts(weights: Weights, width: int, obs: np.ndarray, engine: Any = "compiled") -> Callable[[], Any]:
    learner, rng = networks.ours(weights, width, engine), np.random.default_rng(1)
    return lambda: learner.act(obs, learner.head.noise(rng, len(obs)))


def stable_baselines3_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    policy = networks.stable_baselines3("stable_baselines3", "PPO", width, weights, n_steps=2, batch_size=2).policy

    def call() -> Any:
        with torch.no_grad():
            action, value, log_prob = policy(torch.as_tensor(obs))
        return action.cpu().numpy(), log_prob, value

    return call


def sbx_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    policy = networks.stable_baselines3("sbx", "PPO", width, weights).policy

    def call() -> Any:
        policy.reset_noise()
        return tuple(map(np.array, policy.predict_all(policy.prepare_obs(obs)[0], policy.noise_key)))

    return call


def cleanrl_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    agent = networks.cleanrl_agent(width, weights)

    def call() -> Any:
        with torch.no_grad():
            action, log_prob, _, value = agent.get_action_and_value(torch.Tensor(obs))
            value = value.flatten()
        return action.cpu().numpy(), log_prob, value

    return call


def rlox_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    policy = networks.rlox_policy(width, weights)

    def call() -> Any:
        with torch.no_grad():
            action, log_prob, value = policy.get_action_value(torch.as_tensor(obs, dtype=torch.float32))
        return action.cpu().numpy(), log_prob, value

    return call


def tianshou_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    raise Missing("asks for actions alone while it acts, for log-probabilities and values later")


def torchrl_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch
    from tensordict import TensorDict

    actor, critic = networks.torchrl_modules(width, weights)

    def call() -> Any:
        with torch.no_grad():
            asked = critic(actor(TensorDict({"observation": torch.from_numpy(obs)}, [len(obs)])))
        return asked["action"].numpy(), asked["action_log_prob"], asked["state_value"]

    return call


def products_of_both(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    both = [products(half, len(obs)) for half in (weights[:6], weights[6:])]
    return lambda: [each(obs) for each in both]


def operations(case: tuple[int, int]) -> int:
    """Multiplications and additions of both networks' matrix products."""
    n, width = case
    return 2 * n * (2 * (OBS * width + width * width) + width * (ACTIONS + 1))


ACT = Operation(
    "PPO acts", {f"{n} at once": (n, 64) for n in (8, 1, 64)}, batches, reference, {
        "fastrl": acting(fastrl_acts, role="ours"),
        "fastrl, engine torch": acting(partial(fastrl_acts, engine="torch"), role="ours"),
        "Stable-Baselines3": acting(stable_baselines3_acts, needs=("stable_baselines3",)),
        "SBX": acting(sbx_acts, needs=("sbx",)),
        "CleanRL": acting(cleanrl_acts, needs=("torch",)),
        "rlox": acting(rlox_acts, needs=("rlox",)),
        "Tianshou": acting(tianshou_acts, needs=("tianshou",)),
        "TorchRL": acting(torchrl_acts, needs=("torchrl",)),
        "matrix products alone": acting(products_of_both, role="bound"),
    }, compare, operations=operations,
    sweeps={
        "environments": {n: (n, 64) for n in (1, 4, 16, 64, 256, 1024)},
        "width": {width: (8, width) for width in (32, 128, 512, 1024, 2048)},
    },
)  # fmt: skip
