"""`predict` on one observation. All libraries have the same weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benches import networks
from benches.acting import DRAWS, Chances, frequencies, products
from benches.networks import ACTIONS, OBS, Weights, log_softmax, outputs
from benches.operation import Implementation, Missing, Operation, Work

ID = "CartPole-v1"
WIDTH = 64


class Policy(NamedTuple):
    """What `predict` is asked; π and V, or Q alone."""

    algorithm: str
    drawn: bool
    normalized: bool
    weights: Weights
    obs: np.ndarray  # [256, 4] float32, one of which is predicted
    mean: np.ndarray  # [4], of the normalisation
    var: np.ndarray


def policy(case: tuple[str, bool, bool]) -> Policy:
    rng = np.random.default_rng(0)
    weights = networks.actor_critic_weights(WIDTH, rng)
    mean, var = rng.standard_normal(OBS), rng.uniform(0.5, 2, OBS)
    obs = (mean + rng.standard_normal((256, OBS)) * np.sqrt(var)).astype(np.float32)
    return Policy(*case, weights if case[0] == "PPO" else weights[:6], obs, mean, var)


def reference(asked: Policy) -> Any:
    obs = (asked.obs - asked.mean) / np.sqrt(asked.var + 1e-8) if asked.normalized else asked.obs
    log_p = log_softmax(outputs(asked.weights[:6], obs, relu=asked.algorithm == "DQN"))
    return Chances(log_p) if asked.drawn else log_p.argmax(1)


def compare(result: np.ndarray, expected: Any) -> None:
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


def torchrl(asked: Policy) -> Callable[[np.ndarray], Any]:
    import torch
    from tensordict import TensorDict
    from torchrl.envs.utils import ExplorationType, set_exploration_type
    from torchrl.modules import QValueActor

    raw(asked)
    if asked.algorithm == "DQN":
        network = networks.perceptron(WIDTH, ACTIONS, relu=True)
        networks.load(network.parameters(), asked.weights)
        actor = QValueActor(network, in_keys=["observation"], action_space="categorical")
    else:
        actor, _ = networks.torchrl_modules(WIDTH, asked.weights)
    kind = ExplorationType.RANDOM if asked.drawn else ExplorationType.DETERMINISTIC

    def call(obs: np.ndarray) -> Any:
        with torch.no_grad(), set_exploration_type(kind):
            return actor(TensorDict({"observation": torch.from_numpy(obs)}, []))["action"].numpy()

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


ALGORITHMS = {f"{a}, {'drawn' if d else 'likeliest'}{', normalised' * z}": (a, d, z) for a, d, z in (
    ("PPO", False, False), ("PPO", True, False), ("PPO", False, True), ("DQN", False, False), ("DQN", False, True),
)}  # fmt: skip

PREDICT = Operation(
    "predict, one observation", ALGORITHMS, policy, reference, {
        "fastrl": predicting(fastrl, role="ours"),
        "fastrl, engine torch": predicting(partial(fastrl, engine="torch"), role="ours"),
        "Stable-Baselines3": predicting(stable_baselines3, needs=("stable_baselines3",)),
        "SBX": predicting(partial(stable_baselines3, library="sbx"), needs=("sbx",)),
        "CleanRL": predicting(cleanrl, needs=("torch",)),
        "rlox": predicting(rlox, needs=("rlox",)),
        "Tianshou": predicting(tianshou, needs=("tianshou",)),
        "TorchRL": predicting(torchrl, needs=("torchrl",)),
        "Torch": predicting(plain_torch, role="plain"),
        "matrix products alone": predicting(products_of_one, role="bound"),
    }, compare,
    note="Matrix products alone are NumPy's calls, no floor: a call costs more here than its arithmetic.",
)  # fmt: skip
