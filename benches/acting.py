"""Acting: `predict` on one observation, and batches as a rollout asks for them. All libraries have the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, Missing, Operation, Work

ID = "CartPole-v1"
WIDTH = 64  # of predict
DRAWS = 2048  # that the frequencies of drawn actions are checked on, of networks of 64 units; fewer of wide ones


class Policy(NamedTuple):
    """What `predict` is asked; π and V, or Q alone."""

    algorithm: str
    drawn: bool
    normalized: bool
    weights: Weights
    obs: np.ndarray  # [256, 4] float32, one of which is predicted
    mean: np.ndarray  # [4], of the normalisation
    var: np.ndarray


class Batches(NamedTuple):
    """What a rollout asks; a batch in each round."""

    weights: Weights  # π, then V
    obs: np.ndarray  # [rounds, n, 4] float32


class Chances(NamedTuple):
    """What has to come out of actions that are drawn: log π(a|s) [n, 2]; V [n] where it is asked."""

    log_p: np.ndarray
    value: np.ndarray | None = None


def frequencies(action: np.ndarray, log_p: np.ndarray) -> None:
    """Drawn actions [rows, n] are as frequent as they should be, within five standard deviations."""
    assert set(np.unique(action)) <= set(range(ACTIONS)), "actions that are none"
    for some in np.array_split(np.argsort(log_p[:, 1]), min(8, len(log_p))):  # observations that are alike
        p = np.exp(log_p[some, 1])
        miss = abs((action[:, some] - p).sum()) / np.sqrt(len(action) * (p * (1 - p)).sum())
        assert miss < 5, f"frequencies of actions are {miss:.0f} standard deviations off"


def policy(case: tuple[str, bool, bool]) -> Policy:
    rng = np.random.default_rng(0)
    weights = networks.actor_critic_weights(WIDTH, rng)
    mean, var = rng.standard_normal(OBS), rng.uniform(0.5, 2, OBS)
    obs = (mean + rng.standard_normal((256, OBS)) * np.sqrt(var)).astype(np.float32)
    return Policy(*case, weights if case[0] == "PPO" else weights[:6], obs, mean, var)


def predict_reference(asked: Policy) -> Any:
    obs = (asked.obs - asked.mean) / np.sqrt(asked.var + 1e-8) if asked.normalized else asked.obs
    log_p = log_softmax(outputs(asked.weights[:6], obs, relu=asked.algorithm == "DQN"))
    return Chances(log_p) if asked.drawn else log_p.argmax(1)


def predict_compare(result: np.ndarray, expected: Any) -> None:
    if isinstance(expected, Chances):
        frequencies(result, expected.log_p)
    else:
        np.testing.assert_array_equal(result[0], expected)


def predicting(bind: Callable[[Policy], Callable[[np.ndarray], Any]], **options: Any) -> Implementation:
    """Of what makes `predict`: one observation, float32 [4], to an action."""

    def make(asked: Policy) -> Work:
        predict, own = bind(asked), asked.obs[0].copy()

        def all_of_them(_: Any) -> np.ndarray:
            rows = DRAWS // len(asked.obs) if asked.drawn else 1
            return np.array([[np.asarray(predict(x)).item() for x in asked.obs] for _ in range(rows)])

        return Work(partial(predict, own), all_of_them, lambda r: np.copyto(own, asked.obs[r % len(asked.obs)]))

    return Implementation(make, **options)


def fastrl(asked: Policy, engine: Any = "compiled") -> Callable[[np.ndarray], Any]:
    import fastrl

    kind: Any = {"PPO": fastrl.PPO, "DQN": fastrl.DQN}[asked.algorithm]
    model = kind("MlpPolicy", ID, normalize=asked.normalized, engine=engine, seed=0)
    networks.load(model.policy.parameters(), asked.weights)
    if asked.normalized:
        stats = model.normalizer.obs_stats
        stats.mean[:], stats.var[:] = asked.mean, asked.var
    return lambda obs: model.predict(obs, deterministic=not asked.drawn)[0]


def stable_baselines3(asked: Policy, library: str = "stable_baselines3") -> Callable[[np.ndarray], Any]:
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make_vec_env(ID))
    env.obs_rms.mean, env.obs_rms.var = asked.mean, asked.var
    options: dict[str, Any] = {} if asked.algorithm == "PPO" else dict(buffer_size=100)
    model = networks.stable_baselines3(library, asked.algorithm, WIDTH, asked.weights, **options)
    if asked.normalized:
        return lambda obs: model.predict(env.normalize_obs(obs), deterministic=not asked.drawn)[0]
    return lambda obs: model.predict(obs, deterministic=not asked.drawn)[0]


def raw(asked: Policy) -> None:
    """For libraries whose predict takes observations as they are."""
    if asked.normalized:
        raise Missing("normalises in its environments, not where it predicts")


def cleanrl(asked: Policy) -> Callable[[np.ndarray], Any]:
    import torch

    raw(asked)
    if asked.algorithm == "DQN":
        network = networks.perceptron(WIDTH, ACTIONS, relu=True)
        networks.load(network.parameters(), asked.weights)
        return lambda obs: torch.argmax(network(torch.Tensor(obs[None])), dim=1).cpu().numpy()
    if not asked.drawn:
        raise Missing("its PPO draws, also where it evaluates")
    agent = networks.cleanrl_agent(WIDTH, asked.weights)

    def call(obs: np.ndarray) -> Any:
        with torch.no_grad():
            return agent.get_action_and_value(torch.Tensor(obs[None]))[0].cpu().numpy()

    return call


def rlox(asked: Policy) -> Callable[[np.ndarray], Any]:
    raw(asked)
    if asked.algorithm == "DQN":
        from rlox.algorithms.dqn import DQN

        model = DQN(ID, hidden=WIDTH, buffer_size=100)
        networks.load(model.q_network.parameters(), asked.weights)
        return model.predict
    from rlox.algorithms.ppo import PPO

    model = PPO(ID, n_envs=1, policy=networks.rlox_policy(WIDTH, asked.weights))
    return partial(model.predict, deterministic=not asked.drawn)


def tianshou(asked: Policy) -> Callable[[np.ndarray], Any]:
    import torch
    from tianshou.data import Batch

    raw(asked)
    agent = networks.tianshou_policy(asked.algorithm, WIDTH, asked.weights, deterministic=not asked.drawn)

    def call(obs: np.ndarray) -> Any:
        with torch.no_grad():
            return agent(Batch(obs=obs[None], info={})).act

    return call


def plain_torch(asked: Policy) -> Callable[[np.ndarray], Any]:
    import torch

    raw(asked)
    module = networks.perceptron(WIDTH, ACTIONS, relu=asked.algorithm == "DQN")
    networks.load(module.parameters(), asked.weights[:6])

    @torch.no_grad()
    def call(obs: np.ndarray) -> int:
        logits = module(torch.from_numpy(obs))
        return int(torch.multinomial(logits.softmax(0), 1) if asked.drawn else logits.argmax())

    return call


def products_of_one(asked: Policy) -> Callable[[np.ndarray], Any]:
    return products(asked.weights[:6], 1)


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


# -- what a rollout asks for: drawn actions, their log-probabilities, and values ------------------------------------


def batches(case: tuple[int, int]) -> Batches:
    n, width = case
    rng = np.random.default_rng(0)
    return Batches(networks.actor_critic_weights(width, rng), rng.standard_normal((25, n, OBS), np.float32))


def act_reference(asked: Batches) -> Chances:
    obs = asked.obs[0]
    return Chances(log_softmax(outputs(asked.weights[:6], obs)), outputs(asked.weights[6:], obs)[:, 0])


def act_compare(result: tuple[np.ndarray, ...], expected: Chances) -> None:
    """Values, the log-probabilities of the actions that were drawn, and how often they were."""
    action, log_prob, value = result
    rows = np.arange(len(expected.log_p))
    tolerance = dict(rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(value, np.broadcast_to(expected.value, value.shape), **tolerance)
    np.testing.assert_allclose(log_prob, expected.log_p[rows, action], **tolerance)
    frequencies(action, expected.log_p)


def acting(bind: Callable[[Weights, int, np.ndarray], Callable[[], Any]], **options: Any) -> Implementation:
    """Of what makes the call: weights, width and the array [n, 4] that the observations lie in."""

    def make(asked: Batches) -> Work:
        own = asked.obs[0].copy()
        width = len(asked.weights[2])
        call = bind(asked.weights, width, own)

        def many(_: Any) -> tuple[np.ndarray, ...]:
            rows = [[np.asarray(x).reshape(len(own)) for x in call()] for _ in range(max(8, DRAWS * 64 // (len(own) * width)))]
            action, log_prob, value = map(np.array, zip(*rows, strict=True))
            return action.astype(int), log_prob, value

        return Work(call, many, lambda r: np.copyto(own, asked.obs[r % len(asked.obs)]))

    return Implementation(make, **options)


def fastrl_acts(weights: Weights, width: int, obs: np.ndarray, engine: Any = "compiled") -> Callable[[], Any]:
    learner, rng = networks.ours(weights, width, engine), np.random.default_rng(1)
    return lambda: learner.act(obs, learner.head.noise(rng, len(obs)))


def stable_baselines3_acts(weights: Weights, width: int, obs: np.ndarray) -> Callable[[], Any]:
    import torch

    policy = networks.stable_baselines3("stable_baselines3", "PPO", width, weights, n_steps=2).policy

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


ALGORITHMS = {f"{a}, {'drawn' if d else 'likeliest'}{', normalised' * z}": (a, d, z) for a, d, z in (
    ("PPO", False, False), ("PPO", True, False), ("PPO", False, True), ("DQN", False, False), ("DQN", False, True),
)}  # fmt: skip

PREDICT = Operation(
    "predict, one observation", ALGORITHMS, policy, predict_reference, {
        "fastrl": predicting(fastrl, role="ours"),
        "fastrl, engine torch": predicting(partial(fastrl, engine="torch"), role="ours"),
        "Stable-Baselines3": predicting(stable_baselines3, needs=("stable_baselines3",)),
        "SBX": predicting(partial(stable_baselines3, library="sbx"), needs=("sbx",)),
        "CleanRL": predicting(cleanrl, needs=("torch",)),
        "rlox": predicting(rlox, needs=("rlox",)),
        "Tianshou": predicting(tianshou, needs=("tianshou",)),
        "Torch": predicting(plain_torch, role="plain"),
        "matrix products alone": predicting(products_of_one, role="bound"),
    }, predict_compare,
)  # fmt: skip
ACT = Operation(
    "PPO acts", {f"{n} observations": (n, 64) for n in (8, 1, 64)}, batches, act_reference, {
        "fastrl": acting(fastrl_acts, role="ours"),
        "fastrl, engine torch": acting(partial(fastrl_acts, engine="torch"), role="ours"),
        "Stable-Baselines3": acting(stable_baselines3_acts, needs=("stable_baselines3",)),
        "SBX": acting(sbx_acts, needs=("sbx",)),
        "CleanRL": acting(cleanrl_acts, needs=("torch",)),
        "rlox": acting(rlox_acts, needs=("rlox",)),
        "Tianshou": acting(tianshou_acts, needs=("tianshou",)),
        "TorchRL": acting(torchrl_acts, needs=("torchrl",)),
        "matrix products alone": acting(products_of_both, role="bound"),
    }, act_compare, operations=operations,
    sweeps={
        "environments": {n: (n, 64) for n in (1, 4, 16, 64, 256, 1024)},
        "width": {width: (8, width) for width in (32, 64, 128, 256, 512, 1024, 2048)},
    },
)  # fmt: skip
