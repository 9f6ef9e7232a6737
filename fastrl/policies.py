"""What "MlpPolicy", "CnnPolicy" and "MultiInputPolicy" mean: names, options, and the modules made of them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Dict
from torch import nn

from fastrl import spaces
from fastrl.extractors import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    Unflatten,
    channels_first,
    is_flattening,
)  # fmt: skip
from fastrl.learners.optimizers import make_optimizer
from fastrl.networks import ActorCritic, GaussianHead, Head, QNetwork

MlpPolicy = "MlpPolicy"
"""Linear layers over the flattened observation."""
CnnPolicy = "CnnPolicy"
"""Convolutions before the layers, for images."""
MultiInputPolicy = "MultiInputPolicy"
"""Each part of a Dict observation as its kind asks for."""
EXTRACTORS: dict[str, type[BaseFeaturesExtractor]] = {
    MlpPolicy: FlattenExtractor, CnnPolicy: NatureCNN, MultiInputPolicy: CombinedExtractor,
}  # fmt: skip

FOR_MODULES = ("normalize_images", "optimizer_class", "optimizer_kwargs")
FOR_Q = ("net_arch", "activation_fn", "features_extractor_class", "features_extractor_kwargs", *FOR_MODULES)
FOR_ACTOR_CRITIC = (*FOR_Q, "ortho_init", "log_std_init", "share_features_extractor")
NO_EXPLORATION = "there is no state-dependent exploration (gSDE); leave it out, and set log_std_init or ent_coef"
ELSEWHERE = {  # options that policies have in Stable-Baselines3: what leaves everything as it is, and what to do else
    "use_sde": (False, NO_EXPLORATION),
    "full_std": (True, NO_EXPLORATION),
    "use_expln": (False, NO_EXPLORATION),
    "sde_net_arch": (None, NO_EXPLORATION),
    "squash_output": (False, "actions are clipped to their bounds; for others rescale them, with "
                             "gymnasium.wrappers.RescaleAction"),
    "n_critics": (None, "it belongs to SAC and TD3; PPO and DQN have one network for the value"),
    "n_quantiles": (None, "it belongs to QR-DQN; DQN learns the mean"),
    "lstm_hidden_size": (None, "there are no recurrent policies; stack observations, with "
                               "gymnasium.wrappers.FrameStackObservation"),
}  # fmt: skip


def check_policy(policy: Any) -> None:
    """Raise a ValueError or TypeError unless `policy` is a module or one of the names, saying which is meant."""
    if isinstance(policy, nn.Module) or (isinstance(policy, str) and policy in EXTRACTORS):
        return
    known = ", ".join(f'"{name}"' for name in EXTRACTORS)
    if isinstance(policy, type):
        raise TypeError(
            f"policy is the class {policy.__name__}; it must be {known} or an instance of a torch.nn.Module: to change "
            "what stands before the layers, give policy_kwargs=dict(features_extractor_class=...)"
        )
    if not isinstance(policy, str):
        raise TypeError(f"policy is {policy!r}; it must be {known} or a torch.nn.Module")
    if "lstm" in policy.lower():
        raise ValueError(
            f'policy is "{policy}"; there are no recurrent policies: stack observations, with '
            "gymnasium.wrappers.FrameStackObservation"
        )
    lower = {name.lower(): name for name in EXTRACTORS}
    nearest = get_close_matches(policy.lower(), lower, 1)
    meant = f'; did you mean "{lower[nearest[0]]}"?' if nearest else ""
    raise ValueError(f'policy is "{policy}"; it must be {known} or a torch.nn.Module{meant}')


def check_options(policy: Any, policy_kwargs: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """`policy_kwargs` as a dict, without the options of Stable-Baselines3 that change nothing.

    Raises:
        TypeError: for what is no dict, an unknown option, or another type of an option.
        ValueError: for an option that cannot apply, saying what to use.
    """
    if policy_kwargs is not None and not isinstance(policy_kwargs, Mapping):
        raise TypeError(f"policy_kwargs is {policy_kwargs!r}; it must be a dict, such as dict(net_arch=[64, 64])")
    options = dict(policy_kwargs or {})
    for name in [name for name in options if name in ELSEWHERE]:
        neutral, advice = ELSEWHERE[name]
        value = options.pop(name)
        if value != neutral:
            raise ValueError(f"policy_kwargs has {name}={value!r}: {advice}")
    if isinstance(policy, nn.Module):
        known = FOR_MODULES
    for name in options:
        if name not in known:
            owner = "with a module of your own" if isinstance(policy, nn.Module) else "here"
            nearest = get_close_matches(str(name), known, 1)
            meant = f"; did you mean {nearest[0]}?" if nearest else ""
            raise TypeError(f"policy_kwargs has {name!r}; {owner} it takes {list(known)}{meant}")
    for name in ("normalize_images", "ortho_init", "share_features_extractor"):
        if not isinstance(options.get(name, True), (bool, np.bool_)):
            raise TypeError(f"policy_kwargs has {name}={options[name]!r}; it must be True or False")
    for name in ("features_extractor_kwargs", "optimizer_kwargs"):
        if not isinstance(options.get(name) or {}, Mapping):
            raise TypeError(f"policy_kwargs has {name}={options[name]!r}; it must be a dict")
    if "lr" in (options.get("optimizer_kwargs") or {}):
        raise ValueError("optimizer_kwargs has lr; the learning rate is the model's learning_rate")
    _check_class(options, "activation_fn", nn.Module, "torch.nn.ReLU")
    _check_class(options, "features_extractor_class", nn.Module, "a subclass of fastrl.BaseFeaturesExtractor")
    _check_class(options, "optimizer_class", torch.optim.Optimizer, "torch.optim.RMSprop")
    return options


def _check_class(options: dict[str, Any], name: str, base: type, example: str) -> None:
    found = options.get(name, base)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(
            f"policy_kwargs has {name}={found!r}; {name} must be a class of {base.__module__}.{base.__name__}'s kind, "
            f"such as {example}"
        )


def check_fits(policy: Any, space: gym.Space, options: dict[str, Any]) -> None:
    """Raise a ValueError where the policy of that name takes no such observations, naming the one that does."""
    if not isinstance(policy, str):
        return
    right = CnnPolicy if spaces.is_image(space) else MultiInputPolicy if isinstance(space, Dict) else MlpPolicy
    takes_dicts = policy == MultiInputPolicy
    if takes_dicts != isinstance(space, Dict):
        raise ValueError(f'"{policy}" takes {"" if takes_dicts else "no "}Dict observations; for {space} use "{right}"')
    images = spaces.is_image(space) or (not options.get("normalize_images", True) and len(space.shape or ()) == 3)
    if policy == CnnPolicy and not images and "features_extractor_class" not in options:
        raise ValueError(f'"CnnPolicy" takes images, a Box of uint8 with three axes; for {space} use "MlpPolicy"')


def layer_sizes(net_arch: Any) -> list[int]:
    """`net_arch` as a list of hidden layers' widths.

    Raises:
        ValueError: unless it is a list of positive ints.
    """
    if not isinstance(net_arch, (list, tuple)) or not all(
        isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in net_arch
    ):
        raise ValueError(f"net_arch is {net_arch!r}; it must be a list of layer widths such as [64, 64]")
    return [int(n) for n in net_arch]


def actor_critic_sizes(net_arch: Any) -> dict[str, list[int]]:
    """`net_arch` as {"pi": [...], "vf": [...]}, with or without "shared": one list serves pi and vf.

    A dict may leave out what has no hidden layer. Widths before a dict, in a list, are those of shared layers.

    Raises:
        ValueError: unless it is a list of positive ints, or a dict of such lists under "pi", "vf" and, for layers
            that both stand on, "shared"; or a list that ends in such a dict.
    """
    if isinstance(net_arch, (list, tuple)) and net_arch and isinstance(net_arch[-1], dict):
        *shared, net_arch = net_arch
        net_arch = {"shared": shared, **net_arch} if shared else net_arch
    if not isinstance(net_arch, dict):
        return {"pi": layer_sizes(net_arch), "vf": layer_sizes(net_arch)}
    if not set(net_arch) <= {"pi", "vf", "shared"}:
        raise ValueError(f"net_arch is {net_arch!r}; a dict has the keys pi, vf and shared, and may leave some out")
    return {"pi": [], "vf": [], **{key: layer_sizes(sizes) for key, sizes in net_arch.items()}}


def make_q_network(policy: str, space: gym.Space, n_actions: int, options: dict[str, Any]) -> QNetwork:
    """The Q-network that a policy's name and options mean."""
    extractor, n_features = _extractor(policy, space, options)
    sizes = layer_sizes(_net_arch(policy, options))
    given = {name: options[name] for name in ("activation_fn",) if name in options}
    return QNetwork(n_features, n_actions, sizes, **given, **_before(space, extractor))


def make_actor_critic(policy: str, space: gym.Space, head: Head, options: dict[str, Any]) -> ActorCritic:
    """The actor-critic that a policy's name and options mean."""
    extractor, n_features = _extractor(policy, space, options)
    sizes = actor_critic_sizes(_net_arch(policy, options))
    names = ("activation_fn", "ortho_init", "log_std_init")
    given: dict[str, Any] = {name: options[name] for name in names if name in options}
    if isinstance(head, GaussianHead):
        given.setdefault("log_std_init", 0.0)
    arguments: dict[str, Any] = {**sizes, **given, **_before(space, extractor)}
    if extractor is not None and not options.get("share_features_extractor", True):
        if sizes.get("shared"):
            raise ValueError("net_arch has shared layers, which need share_features_extractor=True")
        arguments["vf_features_extractor"], _ = _extractor(policy, space, options)
    return ActorCritic(n_features, head.n_params, **arguments)


def make_policy_optimizer(
    module: nn.Module, options: dict[str, Any], adam_eps: float, device: torch.device
) -> float | torch.optim.Optimizer:
    """What a learner takes: Adam's ε, or the optimiser that the options ask for."""
    kind, arguments = options.get("optimizer_class", torch.optim.Adam), options.get("optimizer_kwargs")
    if kind is torch.optim.Adam and arguments is None:
        return adam_eps
    return make_optimizer(module, kind, arguments, adam_eps, device)


def _kind(policy: str, options: dict[str, Any]) -> type[nn.Module]:
    return options.get("features_extractor_class", EXTRACTORS[policy])


def _net_arch(policy: str, options: dict[str, Any]) -> Any:
    default: list[int] = [] if _kind(policy, options) is NatureCNN else [64, 64]
    found = options.get("net_arch")
    return default if found is None else found


def _extractor(policy: str, space: gym.Space, options: dict[str, Any]) -> tuple[nn.Module | None, int]:
    """The extractor, None where it would give the flat observation as it is, and how many features there are."""
    kind, arguments = _kind(policy, options), dict(options.get("features_extractor_kwargs") or {})
    normalize_images = options.get("normalize_images", True)
    if is_flattening(kind, space, normalize_images) and not arguments:
        return None, spaces.flat_dim(space)
    if not normalize_images and issubclass(kind, (NatureCNN, CombinedExtractor)):
        arguments["normalized_image"] = True
    try:
        extractor = kind(channels_first(space), **arguments)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}(observation_space, **{arguments}) failed: {error}") from error
    n_features = getattr(extractor, "features_dim", None)
    if not isinstance(n_features, (int, np.integer)):
        raise TypeError(
            f"{kind.__name__} has the features_dim {n_features!r}; make it a subclass of fastrl.BaseFeaturesExtractor"
        )
    return extractor, int(n_features)


def _before(space: gym.Space, extractor: nn.Module | None) -> dict[str, Any]:
    return {} if extractor is None else {"features_extractor": extractor, "unflatten": Unflatten(space)}


def try_out(module: nn.Module, space: gym.Space, to_tensor: Any) -> Any:
    """What `module` makes of two observations of zeros; a ValueError that gives their shape where it fails."""
    n = spaces.flat_dim(space)
    zeros = to_tensor(np.zeros((2, n), np.float32))
    try:
        with torch.no_grad():
            return module(zeros)
    except Exception as error:
        raise ValueError(
            f"the policy, a {type(module).__name__}, failed on 2 observations of {n} numbers, float32 [2, {n}], flat "
            f"as {space} gives them: {error}"
        ) from error
