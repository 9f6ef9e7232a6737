"""Acting as a rollout asks for it: drawn actions, their log-probabilities, and values, or no values yet.

All have the same weights. Some libraries work out values only after a rollout, for all its rows at once: they are timed
without values, beside those that can do without too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, NoPart, Operation, Work, close

Case = tuple[int, int, bool]  # observations, width, with values
Bind = Callable[[Weights, int, np.ndarray], Callable[[], Any]]
DRAWS = 2048  # that the frequencies of drawn actions are checked on, of networks of 64 units; fewer of wide ones


class Batches(NamedTuple):
    """What a rollout asks; a batch in each round."""

    weights: Weights  # π, then V
    obs: np.ndarray  # [rounds, n, 4] float32
    values: bool


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
    """The matrix products of a forward pass, NumPy's, into memory that is there.

    No floor at small widths: a call of NumPy's costs more there than the arithmetic that it does.
    """
    matrices = [np.ascontiguousarray(w.T) for w in weights[::2]]
    outs = [np.empty((n, w.shape[1]), np.float32) for w in matrices]

    def call(obs: np.ndarray) -> Any:
        h = obs.reshape(n, OBS)
        for w, out in zip(matrices, outs, strict=True):
            h = np.dot(h, w, out=out)
        return h

    return call


def batches(case: Case) -> Batches:
    n, width, values = case
    rng = np.random.default_rng(0)
    return Batches(networks.actor_critic_weights(width, rng), rng.standard_normal((25, n, OBS), np.float32), values)


def reference(asked: Batches) -> Chances:
    obs = asked.obs[0]
    log_p = log_softmax(outputs(asked.weights[:6], obs))
    return Chances(log_p, outputs(asked.weights[6:], obs)[:, 0] if asked.values else None)


def compare(result: tuple[Any, ...], expected: Chances) -> None:
    """Values, the log-probabilities of the actions that were drawn, and how often they were.

    Only where no values are asked for may log-probabilities be left for later, too.
    """
    action, log_prob, value = result
    if expected.value is not None:
        assert value is not None and log_prob is not None, "no values, or no log-probabilities"
        close(value, np.broadcast_to(expected.value, value.shape))
    if log_prob is not None:
        close(log_prob, expected.log_p[np.arange(len(expected.log_p)), action])
    frequencies(action, expected.log_p)


def acting(whole: Bind | str, without: Bind | str, **options: Any) -> Implementation:
    """Of what makes the call, of weights, width and the array [n, 4] that the observations lie in.

    Args:
        whole: of a call that returns actions, log-probabilities and values, or why there is none.
        without: of one whose values are not looked at, nor its log-probabilities where they are None.
        options: of the implementation.
    """

    def make(asked: Batches) -> Work:
        bind = whole if asked.values else without
        if isinstance(bind, str):
            raise NoPart(bind)
        own = asked.obs[0].copy()
        width = len(asked.weights[2])
        call = bind(asked.weights, width, own)

        def many(_: Any) -> tuple[Any, ...]:
            repeats = max(8, DRAWS // (len(own) * max(1, width // 64)))
            fields = zip(*(call() for _ in range(repeats)), strict=True)
            action, log_prob, value = (None if x[0] is None else rows(x) for x in fields)
            return rows(action).astype(int), log_prob, value

        def rows(field: Any) -> np.ndarray:
            return np.array([np.asarray(x).reshape(len(own)) for x in field])

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


def stable_baselines3_draws(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    policy = networks.stable_baselines3("stable_baselines3", "PPO", width, weights, n_steps=2, batch_size=2).policy

    def call() -> Any:
        with torch.no_grad():
            distribution = policy.get_distribution(torch.as_tensor(obs))
            action = distribution.get_actions()
            log_prob = distribution.log_prob(action)
        return action.cpu().numpy(), log_prob, None

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


def rlox_draws(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    policy = networks.rlox_policy(width, weights)

    def call() -> Any:
        with torch.no_grad():
            action, log_prob = policy.get_action_and_logprob(torch.as_tensor(obs, dtype=torch.float32))
        return action.cpu().numpy(), log_prob, None

    return call


def tianshou_draws(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    """As its Collector does: what it makes of log-probabilities it asks for later."""
    import torch
    from tianshou.data import Batch, to_numpy

    policy = networks.tianshou_policy("PPO", width, weights)

    def call() -> Any:
        with torch.no_grad():
            return to_numpy(policy(Batch(obs=obs, info={})).act), None, None

    return call


def torchrl_draws(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    """As its collectors do, which have the actor alone."""
    import torch
    from tensordict import TensorDict

    actor, _ = networks.torchrl_modules(width, weights)

    def call() -> Any:
        with torch.no_grad():
            asked = actor(TensorDict({"observation": torch.from_numpy(obs)}, [len(obs)]))
        return asked["action"].numpy(), asked["action_log_prob"], None

    return call


def products_of_both(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    both = [products(half, len(obs)) for half in (weights[:6], weights[6:])]
    return lambda: [each(obs) for each in both]


def products_of_policy(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    return partial(products(weights[:6], len(obs)), obs)


def operations(case: Case) -> int:
    """Multiplications and additions of the matrix products: both networks', or the policy's alone without values."""
    n, width, values = case
    return 2 * n * ((1 + values) * (OBS * width + width * width) + width * (ACTIONS + values))


LATER = "its rollouts work values out afterwards, for all rows at once: it is timed without values"
TOGETHER = "draws actions with their log-probabilities only where it works out values too"
CASES: dict[str, Case] = {f"{n} at once": (n, 64, True) for n in (8, 1, 64)}
CASES |= {f"{n} at once, without values": (n, 64, False) for n in (8, 64)}
by_torch = partial(fastrl_acts, engine="torch")

ACT = Operation(
    "PPO acts", CASES, batches, reference, {
        "fastrl": acting(fastrl_acts, fastrl_acts, role="ours"),
        "fastrl, engine torch": acting(by_torch, by_torch, role="ours"),
        "Stable-Baselines3": acting(stable_baselines3_acts, stable_baselines3_draws, needs=("stable_baselines3",)),
        "SBX": acting(sbx_acts, TOGETHER, needs=("sbx",)),
        "CleanRL": acting(cleanrl_acts, TOGETHER, needs=("torch",)),
        "rlox": acting(rlox_acts, rlox_draws, needs=("rlox",)),
        "Tianshou": acting(LATER, tianshou_draws, needs=("tianshou",)),
        "TorchRL": acting(LATER, torchrl_draws, needs=("torchrl",)),
        "matrix products alone": acting(products_of_both, products_of_policy, role="bound"),
    }, compare, operations=operations,
    sweeps={
        "environments": {n: (n, 64, True) for n in (1, 4, 16, 64, 256, 1024)},
        "width": {width: (8, width, True) for width in (32, 128, 512, 1024, 2048)},
    },
    note="Without values, fastrl works them out all the same, and Tianshou leaves log-probabilities for later too. "
    "Matrix products alone are NumPy's calls, no floor at small widths: a call costs more there than its arithmetic.",
)  # fmt: skip
