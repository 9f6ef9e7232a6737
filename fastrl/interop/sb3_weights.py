"""Models that Stable-Baselines3 saved: their weights and hyperparameters, and nothing that would have to be unpickled.

Its file is a zip of `data`, JSON in which whatever is no plain value is a pickle with some words about it, and of
Torch's files of weights. The JSON's pickles are left alone; Torch reads the weights without any code of theirs.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from gymnasium.spaces import Dict, MultiBinary
from torch import nn

from fastrl import spaces
from fastrl.algorithms.dqn import DQN
from fastrl.algorithms.ppo import PPO
from fastrl.algorithms.saving import MissingFunction
from fastrl.checkpoint import ModelFileError
from fastrl.envs.stepper import EnvLike, make_stepper
from fastrl.interop.sb3_spaces import NotTold, read_space
from fastrl.learners.engine import Engine
from fastrl.learners.optimizers import load_optimizer_tensors
from fastrl.learners.torch import QLearner
from fastrl.networks import ACTIVATIONS

__all__ = ["load"]

MOST_TIMES, MOST_BESIDES = 20, 2**24  # what a file may hold: this many times its size, and so many bytes more
TAKEN_OVER: dict[type, tuple[str, ...]] = {
    PPO: ("n_steps", "batch_size", "n_epochs", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm",
          "normalize_advantage", "target_kl", "seed"),
    DQN: ("buffer_size", "learning_starts", "batch_size", "tau", "gamma", "gradient_steps", "target_update_interval",
          "exploration_fraction", "exploration_initial_eps", "exploration_final_eps", "max_grad_norm", "n_steps",
          "seed"),
}  # fmt: skip
OF_TORCH = {"activation_fn": "activation", "optimizer_class": "optimiser"}
HIDDEN = {"pi": "mlp_extractor.policy_net.", "vf": "mlp_extractor.value_net.", "shared": "mlp_extractor.shared_net."}
SCHEDULES: dict[type, tuple[str, ...]] = {
    PPO: ("learning_rate", "clip_range", "clip_range_vf"),
    DQN: ("learning_rate",),
}
OTHERS = {  # by what is in their weights or their JSON
    "A2C": "use PPO, its successor",
    "SAC": "PPO takes Box actions",
    "TD3": "PPO takes Box actions",
    "DDPG": "PPO takes Box actions",
    "QRDQN": "use DQN",
    "TRPO": "use PPO",
    "RecurrentPPO": "there is no recurrent policy",
    "MaskablePPO": "a module of your own can set the logits of what may not be done to -inf",
}  # fmt: skip


def load(
    path: str | os.PathLike[str], env: EnvLike | None = None, *, policy_kwargs: dict[str, Any] | None = None,
    device: str = "auto", engine: Engine = "auto", n_envs: int = 1, **hyperparameters: Any,
) -> PPO | DQN:  # fmt: skip
    """The PPO or DQN of a file that Stable-Baselines3 saved: it predicts the same actions, and can go on learning.

    Weights, the target network, Adam's moments and the counters are read; layers' widths are those of the weights.
    Schedules that were functions, DQN's `train_freq`, its replay buffer and the random state are not.

    Args:
        path: what `model.save` wrote there; ".zip" is put behind if there is no such file without.
        env: as of `PPO` and `DQN`; its spaces must be those of the file. Needed to learn, and where the file describes
            its spaces in pickles alone.
        policy_kwargs: what the file keeps in a pickle alone: an `activation_fn` or a `features_extractor_class` of
            one's own.
        device, engine, n_envs: as of `PPO` and `DQN`.
        hyperparameters: in place of the file's.

    Raises:
        FileNotFoundError: where there is no file.
        ModelFileError: for a damaged or foreign file, other algorithms', gSDE, or spaces that are not told.
        ValueError, TypeError: for arguments as of `PPO` and `DQN`.
    """
    file = Path(path) if Path(path).is_file() else Path(f"{path}.zip")
    if not file.is_file():
        raise FileNotFoundError(f"no model file at {path}")
    data, weights, optimizer = _read(file)
    cls = _algorithm(file, data, weights)
    about = _spaces(file, data) if env is None else make_stepper(env, n_envs, engine != "torch")
    arguments = {**_hyperparameters(cls, data), **hyperparameters}
    try:
        options = {**_policy_kwargs(cls, data, weights), **(policy_kwargs or {})}
    except ModelFileError as error:
        raise ModelFileError(f"{file}: {error}") from error
    for name, what in OF_TORCH.items():
        if options.get(name, what) is None:
            raise ModelFileError(f"{file} has an {what} of one's own: pass policy_kwargs=dict({name}=...)")
    sizes = {n for tensor in weights.values() for n in tensor.shape}
    if spaces.flat_dim(about.action_space) not in sizes:  # before memory is asked for them
        raise ModelFileError(f"{file} has no weights for the action space {about.action_space}")
    policy = _policy(about.observation_space, weights)
    if policy == "MlpPolicy" and spaces.is_channels_last(about.observation_space):
        raise ModelFileError(f"{file} is a perceptron for images with their channels first: pass such an env=")
    try:
        model: PPO | DQN = cls(policy, about, policy_kwargs=options, device=device, engine=engine, **arguments)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise type(error)(f"{file}: {error}") from error
    except (MemoryError, OverflowError) as error:
        raise ModelFileError(
            f"{file} asks for more memory than there is ({error}): pass a smaller buffer_size="
        ) from error
    names = _names(cls, weights, model.policy)
    _copy(file, model.policy, names, weights, about.action_space, cls is PPO)
    if isinstance(model.learner, QLearner):
        behind = {ours: theirs.replace("q_net.", "q_net_target.", 1) for ours, theirs in names.items()}
        _copy(file, model.learner.target, behind, weights, about.action_space, False)
    _copy_optimizer(file, model, names, weights, optimizer)
    model.num_timesteps, model.n_updates = _count(data, "num_timesteps"), _count(data, "_n_updates")
    model.total_timesteps, model.num_episodes = _count(data, "_total_timesteps"), _count(data, "_episode_num")
    return model


def _read(file: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, Any]]:
    most = MOST_TIMES * file.stat().st_size + MOST_BESIDES
    try:
        with zipfile.ZipFile(file) as parts:
            _check_sizes(parts, most)
            data = json.loads(parts.read("data"))
            weights = _tensors(parts.read("policy.pth"), most)
            has_optimizer = "policy.optimizer.pth" in parts.namelist()
            optimizer = _tensors(parts.read("policy.optimizer.pth"), most) if has_optimizer else {"state": {}}
        if not isinstance(data, dict) or not all(isinstance(x, torch.Tensor) for x in weights.values()):
            raise ValueError("it holds something else")
    except MemoryError:
        raise
    except Exception as error:  # a file may hold anything, and each way of failing on it is this one error
        raise ModelFileError(f"{file} is no model that Stable-Baselines3 saved, or damaged: {error}") from error
    return data, weights, optimizer


def _check_sizes(parts: zipfile.ZipFile, most: int) -> None:
    size = sum(part.file_size for part in parts.infolist())
    if size > most:
        raise ValueError(f"it would unpack to {size:,} bytes, far more than Stable-Baselines3 would write")


def _tensors(content: bytes, most: int) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as parts:  # Torch's files are zips too
        _check_sizes(parts, most)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _algorithm(file: Path, data: dict[str, Any], weights: dict[str, torch.Tensor]) -> type[PPO] | type[DQN]:
    policy_class = data.get("policy_class")
    home = str(policy_class.get("__module__")) if isinstance(policy_class, dict) else ""
    name = None
    if any(key.startswith("q_net.q_net.") for key in weights) and "exploration_fraction" in data:
        return DQN
    if "action_net.weight" in weights and "lstm_actor" not in str(weights.keys()) and "clip_range" in data:
        if data.get("use_sde"):
            raise ModelFileError(f"{file} was trained with use_sde=True; there is no such exploration here")
        if not home.startswith("sb3_contrib"):
            return PPO
        name = "MaskablePPO"
    elif any(key.startswith("lstm") for key in weights):
        name = "RecurrentPPO"
    elif any(key.startswith("quantile_net") for key in weights):
        name = "QRDQN"
    elif any(key.startswith("actor.") for key in weights):
        name = "SAC" if "ent_coef" in data else "DDPG" if data.get("policy_delay") == 1 else "TD3"
    elif "action_net.weight" in weights:
        name = "TRPO" if "cg_max_steps" in data else "A2C"
    advice = f", of an algorithm that fastrl does not have: {OTHERS[name]}" if name else "; only PPO's and DQN's are"
    raise ModelFileError(f"{file} holds {'a model of ' + name if name else 'a model that cannot be read'}{advice}")


def _spaces(file: Path, data: dict[str, Any]) -> spaces.Spaces:
    found = {}
    for name in ("observation_space", "action_space"):
        try:
            found[name] = read_space(data.get(name))
        except NotTold as error:
            raise ModelFileError(f"{file} does not tell its {name} in words ({error}): pass env=") from error
    return spaces.Spaces(**found, num_envs=max(_count(data, "n_envs"), 1), env_id=None)


def _hyperparameters(cls: type, data: dict[str, Any]) -> dict[str, Any]:
    plain = {name: data[name] for name in TAKEN_OVER[cls] if name in data and _is_plain(data[name])}
    for name in SCHEDULES[cls]:
        told = data.get(name)
        if isinstance(told, dict):
            constant = re.fullmatch(r"ConstantSchedule\(val=([-+.\de]+)\)", str(told.get("value_schedule")))
            plain[name] = float(constant[1]) if constant else MissingFunction(name)
        elif name in data and _is_plain(told):
            plain[name] = told
    return {name: value for name, value in plain.items() if value is not None or name in ("max_grad_norm", "target_kl")}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _policy_kwargs(cls: type, data: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the weights and the words about policy_kwargs say."""
    if cls is DQN:
        options: dict[str, Any] = {"net_arch": _widths(weights, "q_net.q_net.")[:-1]}
    else:
        sizes = {ours: _widths(weights, theirs) for ours, theirs in HIDDEN.items()}
        options = {"net_arch": sizes if sizes["shared"] else {key: sizes[key] for key in ("pi", "vf")}}
    told = data.get("policy_kwargs")
    told = told if isinstance(told, dict) else {}
    for name, known in (("activation_fn", ACTIVATIONS), ("optimizer_class", vars(torch.optim))):
        if name in told:  # None where it is of the user's own: `policy_kwargs` has to bring it
            found = re.fullmatch(r"<class 'torch\.(?:nn|optim)\.[\w.]*?(\w+)'>", str(told[name]))
            options[name] = known.get(found[1]) if found else None
    if isinstance(told.get("optimizer_kwargs"), dict):
        options["optimizer_kwargs"] = told["optimizer_kwargs"]
    for name in ("share_features_extractor", "normalize_images", "features_extractor_kwargs"):
        if name in told:
            options[name] = _literal(told[name])
    return options


def _literal(told: Any) -> Any:
    try:
        return ast.literal_eval(str(told))
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ModelFileError(f"its policy_kwargs have {str(told)[:60]!r}: pass policy_kwargs=") from error


def _widths(weights: dict[str, torch.Tensor], prefix: str) -> list[int]:
    layers = [key for key in weights if re.fullmatch(re.escape(prefix) + r"\d+\.weight", key)]
    return [len(weights[key]) for key in sorted(layers, key=lambda key: int(key.split(".")[-2]))]


def _policy(space: gym.Space, weights: dict[str, torch.Tensor]) -> str:
    if isinstance(space, Dict):
        return "MultiInputPolicy"
    return "CnnPolicy" if any("features_extractor." in key for key in weights) else "MlpPolicy"


def _names(cls: type, weights: dict[str, torch.Tensor], module: nn.Module) -> dict[str, str]:
    """Our names of the policy's parameters, and Stable-Baselines3's of the same."""
    if cls is DQN:
        return {ours: re.sub(r"^(q\.)?", lambda m: "q_net.q_net." if m[1] else "q_net.", ours)
                for ours in module.state_dict()}  # fmt: skip
    last = {ours: 2 * len(_widths(weights, f"mlp_extractor.{theirs}_net."))
            for ours, theirs in (("pi", "policy"), ("vf", "value"))}  # fmt: skip
    heads = {f"pi.{last['pi']}.": "action_net.", f"vf.{last['vf']}.": "value_net."}
    rest = {f"{ours}.": theirs for ours, theirs in HIDDEN.items()}
    names = {}
    for ours in module.state_dict():
        prefix = next((p for p in (*heads, *rest) if ours.startswith(p)), "")
        names[ours] = {**heads, **rest, "": ""}[prefix] + ours[len(prefix) :]
    return names


def _as_ours(theirs: torch.Tensor, name: str, action_space: gym.Space) -> torch.Tensor:
    """One logit for each of MultiBinary's components is the second of two, of which the first is 0."""
    if not (isinstance(action_space, MultiBinary) and name.startswith("action_net.")):
        return theirs
    return torch.stack([torch.zeros_like(theirs), theirs], 1).flatten(0, 1)


def _copy(
    file: Path, module: nn.Module, names: dict[str, str], weights: dict[str, torch.Tensor], action_space: gym.Space,
    heads: bool,
) -> None:  # fmt: skip
    try:
        found = {ours: _as_ours(weights[theirs], theirs, action_space) for ours, theirs in names.items()}
    except KeyError as error:
        raise ModelFileError(f"{file} has no weights {error}: it may need policy_kwargs=") from error
    used = set(names.values())
    unused = [key for key in weights if key not in used and not re.match(r"q_net(_target)?\.|(pi|vf)_features", key)]
    expected, shapes = ({key: tuple(x.shape) for key, x in d.items()} for d in (module.state_dict(), found))
    if shapes != expected or (heads and unused):
        differing = {key: (shapes[key], expected[key]) for key in expected if shapes[key] != expected[key]}
        raise ModelFileError(
            f"{file} has weights of another policy (shape in the file, here): {differing or unused}; it may need env= "
            "or policy_kwargs="
        )
    module.load_state_dict(found)


def _copy_optimizer(
    file: Path, model: PPO | DQN, names: dict[str, str], weights: dict[str, torch.Tensor], optimizer: Any
) -> None:
    prefix = "q_net." if isinstance(model, DQN) else ""
    theirs = [key for key in weights if key.startswith(prefix) and key not in _repeated(weights, names)]
    tensors = {}
    try:
        for i, (ours, _) in enumerate(model.policy.named_parameters()):
            state = optimizer["state"].get(theirs.index(names[ours]), {})
            for key, value in state.items():
                tensors[f"{i}.{key}"] = _as_ours(value, names[ours], model.action_space) if value.ndim else value
        if tensors:
            load_optimizer_tensors(model.learner.optimizer, tensors)
    except Exception as error:
        raise ModelFileError(
            f"{file} has moments of another optimiser ({type(error).__name__}: {error}): pass the optimizer_class in "
            "policy_kwargs="
        ) from error


def _repeated(weights: dict[str, torch.Tensor], names: dict[str, str]) -> set[str]:
    """Second names of the same parameters: the actor's and the critic's extractor, where there is one for both."""
    return {key for key in weights if re.match(r"(pi|vf)_features_extractor\.", key) and key not in names.values()}


def _count(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
