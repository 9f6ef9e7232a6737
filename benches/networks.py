"""The networks that act and learn in the benchmarks: the same weights for every library, and what they make of inputs.

CartPole's 4 numbers and 2 actions, two hidden layers of one width: tanh for PPO, ReLU for DQN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

OBS, ACTIONS = 4, 2
Weights = list[np.ndarray]  # float32: W [out, in] and b [out] of each layer in turn


def random_weights(width: int, outputs: int, rng: np.random.Generator) -> Weights:
    """Of such a size that all outputs are about as large as the inputs."""
    made = []
    for n_in, n_out in ((OBS, width), (width, width), (width, outputs)):
        shapes = (n_out, n_in), (n_out,)
        made += [rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(n_in)) for shape in shapes]
    return made


def actor_critic_weights(width: int, rng: np.random.Generator) -> Weights:
    """π, then V."""
    return random_weights(width, ACTIONS, rng) + random_weights(width, 1, rng)


def outputs(weights: Weights, obs: np.ndarray, relu: bool = False) -> np.ndarray:
    """Float64 [n, outputs]: the obvious forward pass."""
    h = obs.astype(np.float64)
    for i in range(0, len(weights), 2):
        h = h @ weights[i].T.astype(np.float64) + weights[i + 1]
        if i + 2 < len(weights):
            h = np.maximum(h, 0) if relu else np.tanh(h)
    return h


def log_softmax(logits: np.ndarray) -> np.ndarray:
    above = logits - logits.max(1, keepdims=True)
    return above - np.log(np.exp(above).sum(1, keepdims=True))


def load(parameters: Iterable[Any], weights: Weights) -> list[Any]:
    """Copy the weights into a module's parameters, which come in the same order."""
    import torch

    found = list(parameters)
    with torch.no_grad():
        for parameter, array in zip(found, weights, strict=True):
            parameter.copy_(torch.from_numpy(array))
    return found


def perceptron(width: int, n_out: int, relu: bool = False) -> Any:
    """The module, as anyone writes it in Torch."""
    from torch import nn

    kind = nn.ReLU if relu else nn.Tanh
    return nn.Sequential(nn.Linear(OBS, width), kind(), nn.Linear(width, width), kind(), nn.Linear(width, n_out))


def flax(weights: Weights) -> dict[str, Any]:
    """The same as a tree of Flax's dense layers, whose kernels are [in, out]."""
    import jax.numpy as jnp

    layers = enumerate(zip(weights[::2], weights[1::2], strict=True))
    return {"params": {f"Dense_{i}": {"kernel": jnp.array(w.T), "bias": jnp.array(b)} for i, (w, b) in layers}}


def ours(weights: Weights, width: int, engine: Any, adam_eps: float = 1e-5) -> Any:
    """Our learner of π and V, as within an iteration."""
    import torch

    from fastrl.learners.engine import with_engine
    from fastrl.learners.torch import ActorCriticLearner
    from fastrl.networks import ActorCritic, CategoricalHead

    module = ActorCritic(OBS, ACTIONS, pi=[width, width], vf=[width, width], ortho_init=False)
    load(module.parameters(), weights)
    learner = ActorCriticLearner(module, CategoricalHead([ACTIONS]), torch.device("cpu"), adam_eps)
    learner = with_engine(learner, engine)
    learner.begin()
    return learner


def stable_baselines3(
    library: str, algorithm: str, width: int, weights: Weights, target: Weights | None = None, **options: Any
) -> Any:
    """A model of Stable-Baselines3 or SBX."""
    import importlib

    options.setdefault("policy_kwargs", dict(net_arch=[width, width]))
    made = getattr(importlib.import_module(library), algorithm)
    model = made("MlpPolicy", options.pop("env", "CartPole-v1"), device="cpu", seed=0, **options)
    policy = model.policy
    if library == "sbx":
        if algorithm == "PPO":
            policy.actor_state = policy.actor_state.replace(params=flax(weights[:6]))
            policy.vf_state = policy.vf_state.replace(params=flax(weights[6:]))
        else:
            policy.qf_state = policy.qf_state.replace(params=flax(weights), target_params=flax(target or weights))
    elif algorithm == "PPO":
        load(stable_baselines3_parameters(policy), weights)
    else:
        load(policy.q_net.parameters(), weights)
        load(policy.q_net_target.parameters(), target or weights)
    return model


def stable_baselines3_parameters(policy: Any) -> list[Any]:
    """Those of π, then of V."""
    hidden = policy.mlp_extractor
    modules = hidden.policy_net, policy.action_net, hidden.value_net, policy.value_net
    return [p for module in modules for p in module.parameters()]


def cleanrl_agent(width: int, weights: Weights) -> Any:
    """Two networks and one method, as CleanRL's scripts have them."""
    from torch import nn
    from torch.distributions.categorical import Categorical

    class Agent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = perceptron(width, ACTIONS), perceptron(width, 1)

        def get_action_and_value(self, x: Any, action: Any = None) -> Any:
            distribution = Categorical(logits=self.actor(x))
            if action is None:
                action = distribution.sample()
            return action, distribution.log_prob(action), distribution.entropy(), self.critic(x)

    agent = Agent()
    load(agent.parameters(), weights)
    return agent


def rlox_policy(width: int, weights: Weights) -> Any:
    from rlox.policies import DiscretePolicy

    policy = DiscretePolicy(OBS, ACTIONS, hidden=width)
    load(policy.parameters(), weights)
    return policy


def tianshou_policy(
    algorithm: str, width: int, weights: Weights, lr: float = 0.0, eps: float = 1e-8, deterministic: bool = False,
    **options: Any,
) -> Any:  # fmt: skip
    """A policy of Tianshou's; `options` are its own."""
    import torch
    from tianshou.policy import DQNPolicy, PGPolicy, PPOPolicy
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import Actor, Critic

    if algorithm == "DQN":
        network = Net(OBS, ACTIONS, [width, width])
        found = load(network.parameters(), weights)
        policy = DQNPolicy(network, torch.optim.Adam(found, lr, eps=eps), is_double=False, **options)
    else:
        actor, critic = (Net(OBS, 0, [width, width], activation=torch.nn.Tanh) for _ in range(2))
        modules = [Actor(actor, [ACTIONS], softmax_output=False)]
        if algorithm == "PPO":
            modules.append(Critic(critic))
        found = load([p for module in modules for p in module.parameters()], weights)
        options |= dict(dist_fn=lambda logits: torch.distributions.Categorical(logits=logits))
        options |= dict(deterministic_eval=deterministic, action_scaling=False, action_bound_method="")
        kind: Any = PPOPolicy if algorithm == "PPO" else PGPolicy
        policy = kind(*modules, torch.optim.Adam(found, lr, eps=eps), **options)
        policy.action_type = "discrete"
    policy.eval()
    return policy


def torchrl_modules(width: int, weights: Weights) -> tuple[Any, Any]:
    """TorchRL's actor and critic."""
    import torch
    from tensordict.nn import InteractionType, TensorDictModule
    from torchrl.modules import ProbabilisticActor, ValueOperator

    pi, vf = perceptron(width, ACTIONS), perceptron(width, 1)
    load([*pi.parameters(), *vf.parameters()], weights)
    actor = ProbabilisticActor(
        TensorDictModule(pi, ["observation"], ["logits"]), in_keys=["logits"], return_log_prob=True,
        distribution_class=torch.distributions.Categorical, default_interaction_type=InteractionType.RANDOM,
    )  # fmt: skip
    return actor, ValueOperator(vf, ["observation"])
