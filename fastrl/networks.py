"""Torch modules: the multilayer perceptrons that "MlpPolicy" builds, and the heads that turn outputs into actions.

Any module can stand in their place. For DQN: `forward(obs) -> q_values [B, n_actions]`. For PPO and REINFORCE:
`forward(obs) -> (params, value)`, with `value` [B] and `params` the logits of all actions side by side, or the
means of Box actions, in which case the module has a parameter `log_std` [action_dim]. `obs` is [B, obs_dim] float32,
as `fastrl.spaces.flatten` makes it.
Modules are kept in evaluation mode: dropout would make the policy that is updated another than the one that acted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in ("Tanh", "ReLU", "ELU", "GELU", "SiLU", "LeakyReLU", "Softplus", "Sigmoid")
}
ELSEWHERE = {
    "predict": "use model.predict", "optimizer": "it is model.learner.optimizer", "q_net": "this is the Q-network",
    "evaluate_actions": "call the module for (params, value); fastrl.networks.make_head has their log_prob",
    "obs_to_tensor": "use torch.as_tensor", "mlp_extractor": "its layers are pi and vf",
}  # fmt: skip
Unflatten = Callable[[torch.Tensor], Any]
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def mlp(sizes: Sequence[int], activation: type[nn.Module], gains: Sequence[float] | None = None) -> nn.Sequential:
    """Linear layers of `sizes` with `activation` between them.

    With `gains`, one a layer, weights are orthogonal and biases 0; else they have Torch's initialisation.
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(n_in, n_out)
        if gains is not None:
            nn.init.orthogonal_(linear.weight, gains[i])
            nn.init.zeros_(linear.bias)
        layers += [activation(), linear] if i else [linear]
    return nn.Sequential(*layers)


class Network(nn.Module):
    """What both have in common: they say where to find what Stable-Baselines3's policies have."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if name not in ELSEWHERE:
                raise
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}: {ELSEWHERE[name]}") from error


class QNetwork(Network):
    """Q(s, ·) for every action: [B, obs_dim] -> [B, n_actions]. Mnih et al. 2015.

    With a `features_extractor` the perceptron stands on its features of `unflatten(obs)`: obs_dim is their number.
    """

    def __init__(self, obs_dim: int, n_actions: int, net_arch: Sequence[int] = (64, 64),
                 activation_fn: type[nn.Module] = nn.ReLU, features_extractor: nn.Module | None = None,
                 unflatten: Unflatten | None = None) -> None:  # fmt: skip
        super().__init__()
        self.features_extractor, self.unflatten = features_extractor, unflatten
        self.q = mlp([obs_dim, *net_arch, n_actions], activation_fn)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Action values [B, n_actions]."""
        if self.features_extractor is not None:
            obs = self.features_extractor(obs if self.unflatten is None else self.unflatten(obs))
        return self.q(obs)


class ActorCritic(Network):
    """π(· | s) and V(s): [B, obs_dim] -> (params [B, n_params], value [B]).

    Two networks, which are separate or stand on a trunk of `shared` hidden layers. Orthogonal initialisation with
    gains √2 (hidden), 0.01 (policy) and 1 (value), as in Stable-Baselines3.

    With a `features_extractor` both stand on its features of `unflatten(obs)`, obs_dim of them, and its Linear and
    convolutional layers are initialised with gain √2 too; `vf_features_extractor` is one for the value alone.
    """

    def __init__(self, obs_dim: int, n_params: int, *, pi: Sequence[int] = (64, 64), vf: Sequence[int] = (64, 64),
                 shared: Sequence[int] = (), activation_fn: type[nn.Module] = nn.Tanh, ortho_init: bool = True,
                 log_std_init: float | None = None, features_extractor: nn.Module | None = None,
                 vf_features_extractor: nn.Module | None = None,
                 unflatten: Unflatten | None = None) -> None:  # fmt: skip
        super().__init__()
        self.features_extractor, self.unflatten = features_extractor, unflatten
        self.vf_features_extractor = vf_features_extractor
        for extractor in (features_extractor, vf_features_extractor):
            if extractor is not None and ortho_init:
                extractor.apply(_orthogonal)

        def build(n_in: int, hidden: Sequence[int], gain: float, *n_out: int) -> nn.Sequential:
            gains = [math.sqrt(2)] * len(hidden) + [gain] if ortho_init else None
            return mlp([n_in, *hidden, *n_out], activation_fn, gains)

        self.shared = build(obs_dim, shared, math.sqrt(2)).append(activation_fn()) if shared else None
        features = shared[-1] if shared else obs_dim
        self.pi = build(features, pi, 0.01, n_params)
        self.vf = build(features, vf, 1.0, 1)
        if log_std_init is not None:
            self.log_std = nn.Parameter(torch.full((n_params,), log_std_init))

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(params [B, n_params], value [B])."""
        shaped = obs if self.unflatten is None else self.unflatten(obs)
        features = obs if self.features_extractor is None else self.features_extractor(shaped)
        if self.shared is not None:
            features = self.shared(features)
        own = features if self.vf_features_extractor is None else self.vf_features_extractor(shaped)
        return self.pi(features), self.vf(own).squeeze(-1)


def _orthogonal(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.orthogonal_(layer.weight, math.sqrt(2))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class CategoricalHead:
    """Discrete, MultiDiscrete and MultiBinary actions: one categorical distribution for each component.

    Actions are int64 [B, n_components], counted from 0. Noise is uniform on [0, 1), of the same shape.
    """

    def __init__(self, nvec: Sequence[int]) -> None:
        self.nvec = list(nvec)
        self.n_params, self.n_components = sum(self.nvec), len(self.nvec)

    def noise(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
        """What `sample` needs for n observations; without n, the row for one."""
        return rng.random(self.n_components if n is None else (n, self.n_components), np.float32)

    def sample(self, policy: nn.Module, params: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw by the inverse of the cumulative distribution: (action, its log-probability [B])."""
        columns = []
        log_probs = torch.zeros(len(params), device=params.device)
        for i, logits in enumerate(params.split(self.nvec, dim=1)):
            log_p = logits.log_softmax(1)
            cumulative = log_p.exp().cumsum(1)
            # The last sum may fall short of 1 by rounding; the last action takes the rest.
            column = (noise[:, i, None] >= cumulative[:, :-1]).sum(1, keepdim=True)
            columns.append(column)
            log_probs = log_probs + log_p.gather(1, column).squeeze(1)
        return torch.cat(columns, 1), log_probs

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """The likeliest action."""
        return torch.stack([logits.argmax(1) for logits in params.split(self.nvec, dim=1)], 1)

    def evaluate(
        self, policy: nn.Module, params: torch.Tensor, action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probability of `action` [B], entropy [B])."""
        log_prob = entropy = torch.zeros((), device=params.device)
        for i, logits in enumerate(params.split(self.nvec, dim=1)):
            log_p = logits.log_softmax(1)
            log_prob = log_prob + log_p.gather(1, action[:, i, None]).squeeze(1)
            # a masked action has the logit −∞ and adds nothing: 0 · log 0 = 0
            entropy = entropy - (log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(1)
        return log_prob, entropy


class GaussianHead:
    """Box actions: independent normal distributions, mean by the network, deviation a parameter of its own.

    Actions are float32 [B, action_dim], unbounded: the environment gets them clipped to its bounds. Noise is
    standard normal, of the same shape.
    """

    def __init__(self, action_dim: int) -> None:
        self.n_params = self.n_components = action_dim

    def noise(self, rng: np.random.Generator, n: int | None = None) -> np.ndarray:
        """What `sample` needs for n observations; without n, the row for one."""
        return rng.standard_normal(self.n_components if n is None else (n, self.n_components), np.float32)

    def sample(self, policy: nn.Module, params: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """mean + deviation · noise, and the log-probability [B]."""
        log_std: torch.Tensor = policy.log_std  # type: ignore[assignment]
        log_prob = -0.5 * noise.square() - log_std - HALF_LOG_2PI
        return params + log_std.exp() * noise, log_prob.sum(1)

    def mode(self, params: torch.Tensor) -> torch.Tensor:
        """The mean."""
        return params

    def evaluate(
        self, policy: nn.Module, params: torch.Tensor, action: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(log-probability of `action` [B], entropy [B])."""
        log_std: torch.Tensor = policy.log_std  # type: ignore[assignment]
        z = (action - params) * (-log_std).exp()
        log_prob = (-0.5 * z.square() - log_std - HALF_LOG_2PI).sum(1)
        return log_prob, (log_std + 0.5 + HALF_LOG_2PI).sum().expand(len(params))


Head = CategoricalHead | GaussianHead


def make_head(space: gym.Space) -> Head:
    """The head for an action space: Discrete, MultiDiscrete, MultiBinary or Box."""
    if isinstance(space, Discrete):
        return CategoricalHead([int(space.n)])
    if isinstance(space, MultiDiscrete):
        return CategoricalHead([int(n) for n in space.nvec])
    if isinstance(space, MultiBinary):
        return CategoricalHead([2] * math.prod(space.shape))
    if isinstance(space, Box):
        return GaussianHead(math.prod(space.shape))
    raise TypeError(f"no action distribution for {space}")
