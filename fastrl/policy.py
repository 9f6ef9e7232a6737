"""A trained policy without what trained it: `load_policy` reads a model file and predicts by kernels, without Torch."""

from __future__ import annotations

import math
import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from fastrl import spaces
from fastrl.checkpoint import ModelFileError, part, read_model
from fastrl.checks import check_int, check_number
from fastrl.exploration import exploration_rate, explore, explore_one
from fastrl.kernels.activations import CODES, IDENTITY
from fastrl.kernels.mlp import Layer
from fastrl.kernels.normalize import normalize
from fastrl.perceptron import Perceptron, Statistics
from fastrl.predictor import Predictor

FLOAT32 = np.dtype(np.float32)
ANY = (Discrete, MultiDiscrete, MultiBinary, Box)
ACTIONS: dict[str, tuple[type, ...]] = {"PPO": ANY, "REINFORCE": ANY, "DQN": (Discrete,)}
# The options of "MlpPolicy" that say how it is trained or what it is built of, not how it predicts.
KNOWN = {
    "net_arch", "activation_fn", "ortho_init", "log_std_init", "optimizer_class", "optimizer_kwargs",
    "share_features_extractor",
}  # fmt: skip


class Policy(Predictor):
    """A policy that acts as the model of its file does: the same actions, drawn from the same random stream.

    Deterministic predictions may come from several threads at once; drawn ones advance one random stream, so that
    threads that want them reproducible take a policy each. It can be copied and pickled.

    Attributes:
        observation_space, action_space: Gymnasium's, of the environment that it was trained in.
        algorithm: "PPO", "REINFORCE" or "DQN".
        env_id: the environment's id; None where the model was trained on an object.
        num_timesteps: how many steps it was trained for.
        exploration_rate: DQN's ε, the share of drawn actions that are explored; 0 for others.
    """

    def __init__(self, header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        self.algorithm: str = header["algorithm"]
        self.env_id: str | None = header["env_id"]
        self.num_timesteps = int(header["counters"]["num_timesteps"])
        weights = part(tensors, "policy")
        activation = _activation(header)
        widest = max(n for x in weights.values() for n in (*x.shape, 0))  # no space is larger than its layer
        super().__init__(*(spaces.from_json(header[f"{name}_space"], widest) for name in ("observation", "action")))
        spaces.check_observation_space(self.observation_space)
        spaces.check_action_space(self.action_space, ACTIONS[self.algorithm], self.algorithm)
        self._net = _network(weights, activation, self.observation_space, self.action_space, self.algorithm)
        self.exploration_rate = _exploration_rate(header) if self.algorithm == "DQN" else 0.0
        self._n_actions = int(self._net.head[-1])
        normalizes, n_in = header["hyperparameters"]["normalize"], self._net.layers[0].n_in
        self._stats = _statistics(part(tensors, "normalizer"), n_in) if normalizes else None
        self._predict_rng = np.random.default_rng(0)
        self._predict_rng.bit_generator.state = header["random"]["_predict_rng"]

    def __repr__(self) -> str:
        return f"<fastrl.Policy: {self.algorithm} of {self.env_id}, {self.num_timesteps:,} steps>"

    def _features(self, obs: Any) -> np.ndarray:
        flat = spaces.flatten(self.observation_space, obs)
        if self._stats is not None and not spaces.is_image(self.observation_space):
            normalize(flat, *self._stats[:2], flat)
        return flat

    def _act_one(self, obs: np.ndarray, deterministic: bool) -> np.ndarray | None:
        if self.algorithm != "DQN":
            return self._net.predict_one(obs, None if deterministic else self._noise(), self._stats, self._bounds)
        action = self._net.predict_one(obs, None, self._stats, None)
        if action is not None and not deterministic:
            explore_one(action, self._predict_rng.random(), self.exploration_rate, self._n_actions)
        return action

    def _act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        if self.algorithm != "DQN":
            return self._net.predict(obs, None if deterministic else self._noise(len(obs)))
        greedy = self._net.predict(obs, None)
        if deterministic:
            return greedy
        action, explored = explore(self._predict_rng.random((len(obs), 1)), self.exploration_rate, self._n_actions)
        return np.where(explored, action, greedy)

    def _noise(self, *n: int) -> np.ndarray:
        """What drawing needs for n observations, or for one: normal for Box actions, uniform for others."""
        draw = self._predict_rng.standard_normal if isinstance(self.action_space, Box) else self._predict_rng.random
        return draw((*n, self._net.n_components), np.float32)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """The policy of a model file, ready to predict, without Torch: what robots and services need.

    It predicts as `PPO.load(path)`, `DQN.load(path)` or `REINFORCE.load(path)` would do by the compiled engine, to
    the last bit, drawn actions too. It cannot learn.

    Args:
        path: what `save` wrote.

    Raises:
        FileNotFoundError: where there is no file.
        ModelFileError: for a damaged or foreign file, a later version, and for a policy that kernels do not know: a
            module of one's own, or layers other than linear ones and the activations that they know.
    """
    header, tensors = read_model(path, "np", ("policy", "normalizer"))
    try:
        return Policy(header, tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path} {error}") from None
    except Exception as error:  # a file may hold anything, and each way of failing on it is this one error
        raise ModelFileError(f"{path} cannot be restored: {error}") from error


def _activation(header: dict[str, Any]) -> int:
    """The code of the network's activation, where it is one that kernels know."""
    algorithm, kind = header["algorithm"], header["policy"]
    options = header["hyperparameters"]["policy_kwargs"] or {}
    if algorithm not in ACTIONS:
        raise ModelFileError(f"holds a {algorithm!r}; load_policy knows {', '.join(ACTIONS)}")
    others = sorted(name for name in options if name not in KNOWN)
    default = {"activation": "ReLU" if algorithm == "DQN" else "Tanh"}
    activation = options.get("activation_fn", default)["activation"]
    why = None
    if kind != "MlpPolicy":
        why = "a module of your own" if kind == "custom" else f"a {kind}"
    elif others:
        why = f"the policy_kwargs {', '.join(others)}"
    elif activation not in CODES:
        why = f"the activation {activation}"
    if why is not None:
        raise ModelFileError(f"was made with {why}, which needs Torch: use fastrl.{algorithm}.load")
    return CODES[activation]


def _network(
    weights: dict[str, np.ndarray], activation: int, observations: gym.Space, actions: gym.Space, algorithm: str
) -> Perceptron:
    """The network of "MlpPolicy", all of it checked: kernels do not look where they read and write."""
    for name, x in weights.items():
        if x.dtype != FLOAT32:
            raise ValueError(f"its {name} is {x.dtype}, not float32")
    stack = _Stack(weights, activation, spaces.flat_dim(observations))
    nvec = _choices(actions)
    n_params = sum(nvec) or spaces.flat_dim(actions)
    if algorithm == "DQN":
        policy = value = stack.chain("q", -1)
        log_std = -1
    else:
        log_std = -1 if nvec else stack.take("log_std", (n_params,))
        trunk = stack.chain("shared", -1, ends_active=True) if "shared.0.weight" in weights else -1
        policy, value = stack.chain("pi", trunk), stack.chain("vf", trunk)
        if stack.layers[value].n_out != 1:
            raise ValueError(f"its value is of {stack.layers[value].n_out} numbers, not of one")
    if stack.layers[policy].n_out != n_params:
        raise ValueError(f"its network gives {stack.layers[policy].n_out} numbers; {actions} needs {n_params}")
    return Perceptron(stack.layers, [policy, value, log_std, *nvec], stack.end_to_end())


def _choices(space: gym.Space) -> list[int]:
    """How many choices each component of an action has; none for a Box."""
    if isinstance(space, Box):
        return []
    if isinstance(space, MultiBinary):
        return [2] * math.prod(space.shape)
    return np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec).tolist()  # type: ignore[attr-defined]


class _Stack:
    """The layers found in a file's weights, and these end to end."""

    def __init__(self, weights: dict[str, np.ndarray], activation: int, n_in: int) -> None:
        self.left, self.activation, self.n_in = dict(weights), activation, n_in
        self.layers: list[Layer] = []
        self.arrays: list[np.ndarray] = []
        self.size = 0

    def take(self, name: str, shape: tuple[int | None, ...]) -> int:
        """The offset of the weights of that name, whose shape is `shape` where that is not None."""
        if name not in self.left:
            raise ValueError(f"it has no weights {name}")
        array = self.left.pop(name)
        fits = len(array.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
        if not fits or not array.size:
            raise ValueError(f"its {name} has the shape {array.shape}")
        self.arrays.append(array.ravel())
        self.size += array.size
        return self.size - array.size

    def chain(self, prefix: str, source: int, ends_active: bool = False) -> int:
        """Append the layers "<prefix>.0", "<prefix>.2", …, the first of which reads layer `source`; the last's index.

        Activations stand between them, and with `ends_active` after the last one.
        """
        i, more = 0, True
        while more:
            n_in = self.layers[source].n_out if source >= 0 else self.n_in
            weight = self.take(f"{prefix}.{i}.weight", (None, n_in))
            n_out = len(self.arrays[-1]) // n_in
            bias = self.take(f"{prefix}.{i}.bias", (n_out,))
            i += 2
            more = f"{prefix}.{i}.weight" in self.left
            activation = self.activation if more or ends_active else IDENTITY
            self.layers.append(Layer(source, n_in, n_out, weight, bias, activation))
            source = len(self.layers) - 1
        return source

    def end_to_end(self) -> np.ndarray:
        """All weights, in one vector."""
        if self.left:
            raise ValueError(f"its weights {sorted(self.left)} belong to none of the layers that kernels know")
        return np.concatenate(self.arrays)


def _statistics(arrays: dict[str, np.ndarray], n_in: int) -> Statistics:
    """Those by which observations are normalised."""
    mean, var, count = (arrays[f"obs.{name}"] for name in ("mean", "var", "count"))
    for x, shape in (mean, (n_in,)), (var, (n_in,)), (count, ()):
        if x.dtype != np.float64 or x.shape != shape:
            raise ValueError(f"its statistics are {x.dtype} of the shape {x.shape}, not float64 of the shape {shape}")
    return mean, var, count


def _exploration_rate(header: dict[str, Any]) -> float:
    """DQN's ε where the training of the file stood."""
    values, counters = header["hyperparameters"], header["counters"]
    initial, final, fraction, decay = (
        values[f"exploration_{name}"] for name in ("initial_eps", "final_eps", "fraction", "decay")
    )
    for name, share in (("initial_eps", initial), ("final_eps", final), ("fraction", fraction), ("decay", decay or 0)):
        check_number(f"exploration_{name}", share, 0, 1)
    for name, n in counters.items():
        check_int(name, n, 0)
    total = counters["total_timesteps"]
    done = 1 - max(0.0, 1 - counters["num_timesteps"] / total) if total else 0.0  # as `learn` rounds it
    return exploration_rate(initial, final, fraction, decay, done, counters["num_episodes"])
