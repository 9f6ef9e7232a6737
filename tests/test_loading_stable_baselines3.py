"""`fastrl.interop.sb3.load`: models that Stable-Baselines3 saved act here as they do there, and no pickle is read."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

import fastrl
from fastrl import ModelFileError
from fastrl.interop.sb3 import load
from fastrl.interop.sb3_spaces import NotTold, read_space


class Still(gym.Env):
    """Random observations; nothing depends on anything."""

    def __init__(self, action_space, observation_space, length=5):
        self.action_space, self.observation_space, self.length = action_space, observation_space, length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(self.t), self.t >= self.length, False, {}


IMAGE = Box(0, 255, (36, 40, 3), np.uint8)
VECTOR = Box(-1, 1, (3,), np.float32)


@pytest.fixture(scope="module")
def sb3():
    return pytest.importorskip("stable_baselines3", reason="stable-baselines3 is not installed")


def observations(space, n=16):
    space.seed(3)
    rows = [space.sample() for _ in range(n)]
    return {key: np.stack([row[key] for row in rows]) for key in space} if isinstance(space, Dict) else np.stack(rows)


def shuffled(model):
    """Weights that are far from the symmetric ones of the start, and moments."""
    with torch.no_grad():
        for p in model.policy.parameters():
            p += 0.3 * torch.randn_like(p)
    return model


def turned(obs):
    """Observations as Stable-Baselines3's wrapper turns them: images with their channels first."""
    if isinstance(obs, dict):
        return {key: turned(part) for key, part in obs.items()}
    return obs.transpose(0, 3, 1, 2) if obs.ndim == 4 else obs


PPO_CASES = [
    (VECTOR, Discrete(3), {}),
    (VECTOR, Discrete(3), dict(net_arch=[])),
    (VECTOR, Discrete(3), dict(net_arch=[16, 8, 4], activation_fn=torch.nn.ReLU)),
    (VECTOR, Box(-1, 1, (2,)), dict(net_arch=dict(pi=[16], vf=[8, 8]))),
    (VECTOR, Box(-2, 2, (1,)), dict(net_arch=dict(pi=[], vf=[8]), activation_fn=torch.nn.ELU, log_std_init=-1.0)),
    (VECTOR, MultiDiscrete([2, 3]), dict(net_arch=dict(pi=[8]))),
    (VECTOR, MultiBinary(3), {}),
    (Discrete(5), Discrete(2), {}),
    (MultiDiscrete([3, 2]), MultiBinary(2), dict(net_arch=[8])),
    (IMAGE, Discrete(2), dict(features_extractor_kwargs=dict(features_dim=32))),
    (IMAGE, Box(-1, 1, (2,)), dict(share_features_extractor=False, net_arch=[8],
                                   features_extractor_kwargs=dict(features_dim=16))),
    (Dict(a=VECTOR, b=Discrete(3)), Discrete(3), {}),
    (Dict(b=IMAGE, a=VECTOR), MultiBinary(2), dict(net_arch=[8], features_extractor_kwargs=dict(cnn_output_dim=16))),
]  # fmt: skip


def policy_of(space):
    return "MultiInputPolicy" if isinstance(space, Dict) else "CnnPolicy" if space is IMAGE else "MlpPolicy"


@pytest.mark.parametrize("space, action_space, options", PPO_CASES, ids=str)
@pytest.mark.parametrize("with_env", [True, False])
def test_ppo_acts_as_it_did(sb3, tmp_path, space, action_space, options, with_env):
    env = Still(action_space, space, length=5)
    theirs = sb3.PPO(policy_of(space), env, n_steps=16, batch_size=8, n_epochs=1, policy_kwargs=options, seed=0,
                     gamma=0.9, clip_range=0.3)  # fmt: skip
    shuffled(theirs.learn(16)).save(tmp_path / "model")
    ours = load(tmp_path / "model", Still(action_space, space, length=5) if with_env else None)
    assert isinstance(ours, fastrl.PPO) and ours.num_timesteps == 16 and ours.n_updates == theirs._n_updates
    assert (ours.gamma, ours.n_steps, ours.batch_size, ours.clip_range) == (0.9, 16, 8, 0.3)
    obs = observations(space)
    here = obs if with_env else turned(obs)
    expected, found = theirs.predict(obs, deterministic=True)[0], ours.predict(here, deterministic=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    value = theirs.policy.predict_values(theirs.policy.obs_to_tensor(obs)[0]).flatten().detach().numpy()
    with torch.no_grad():
        own = fastrl.spaces.flatten(ours.observation_space, _rows(ours.observation_space, here))
        np.testing.assert_allclose(ours.policy(torch.from_numpy(own))[1].numpy(), value, rtol=1e-4, atol=1e-4)
    if with_env:
        ours.learn(16)


def _rows(space, obs):
    from fastrl.envs import records

    return records.as_rows(space, 16, obs, "it", 0) if isinstance(space, Dict) else obs


DQN_CASES = [
    (VECTOR, {}),
    (VECTOR, dict(net_arch=[16], activation_fn=torch.nn.Tanh)),
    (IMAGE, dict(features_extractor_kwargs=dict(features_dim=16))),
    (Dict(a=VECTOR, b=Discrete(3)), dict(net_arch=[8])),
]


@pytest.mark.parametrize("space, options", DQN_CASES, ids=str)
def test_dqn_acts_as_it_did(sb3, tmp_path, space, options):
    theirs = sb3.DQN(policy_of(space), Still(Discrete(3), space, length=5), buffer_size=50, learning_starts=5,
                     batch_size=4, policy_kwargs=options, tau=0.5, target_update_interval=4, seed=0)  # fmt: skip
    shuffled(theirs.learn(20)).save(tmp_path / "model")
    ours = load(tmp_path / "model.zip", Still(Discrete(3), space, length=5))
    assert isinstance(ours, fastrl.DQN) and (ours.buffer_size, ours.tau, ours.num_timesteps) == (50, 0.5, 20)
    obs = observations(space)
    expected = theirs.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(ours.predict(obs, deterministic=True)[0], expected)
    for net, learner in ((theirs.q_net, ours.policy), (theirs.q_net_target, ours.learner.target)):
        q = net(theirs.policy.obs_to_tensor(obs)[0]).detach().numpy()
        flat = fastrl.spaces.flatten(ours.observation_space, _rows(ours.observation_space, obs))
        with torch.no_grad():
            np.testing.assert_allclose(learner(torch.from_numpy(flat)).numpy(), q, rtol=1e-4, atol=1e-4)
    ours.learn(8)


@pytest.mark.parametrize("algorithm, action_space", [("PPO", Box(-1, 1, (2,))), ("PPO", MultiBinary(2)),
                                                     ("DQN", Discrete(3))])  # fmt: skip
def test_moments_of_the_optimiser_come_along(sb3, tmp_path, algorithm, action_space):
    arguments = dict(n_steps=16, batch_size=8) if algorithm == "PPO" else dict(learning_starts=4, train_freq=1)
    theirs = getattr(sb3, algorithm)("MlpPolicy", Still(action_space, VECTOR), **arguments).learn(16)
    theirs.save(tmp_path / "model")
    ours = load(tmp_path / "model")
    state = theirs.policy.optimizer.state
    expected = sorted(float(x["exp_avg_sq"].sum()) for x in state.values())
    found = sorted(float(x["exp_avg_sq"].sum()) for x in ours.learner.optimizer.state.values())
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    by_shape = {tuple(p.shape): x["exp_avg"] for p, x in state.items()}
    for p, x in ours.learner.optimizer.state.items():
        if tuple(p.shape) in ((64, 3),):
            assert float(x["step"]) == float(next(iter(state.values()))["step"]) and by_shape[tuple(p.shape)].any()


def test_other_optimisers(sb3, tmp_path):
    class Slow(torch.optim.SGD):
        pass

    of_torch = dict(optimizer_class=torch.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9, eps=1e-4))
    for options in of_torch, dict(optimizer_kwargs=dict(betas=(0.8, 0.9))), dict(optimizer_class=Slow):
        theirs = sb3.PPO("MlpPolicy", Still(Discrete(2), VECTOR), n_steps=16, batch_size=8, policy_kwargs=options)
        theirs.learn(16).save(tmp_path / "model")
        own = options.get("optimizer_class") is Slow
        if own:
            with pytest.raises(ModelFileError, match="an optimiser of one's own: pass policy_kwargs"):
                load(tmp_path / "model")
        ours = load(tmp_path / "model", Still(Discrete(2), VECTOR), policy_kwargs=options if own else None)
        found, expected = ours.learner.optimizer, theirs.policy.optimizer
        assert type(found) is type(expected)
        settings = set(found.defaults) - {"lr", "fused", "foreach"}
        assert {k: str(found.defaults[k]).strip("[()]") for k in settings} == {
            k: str(expected.defaults[k]).strip("[()]") for k in settings}  # fmt: skip
        for x in ("square_avg", "exp_avg_sq"):
            sums = [sorted(float(s[x].sum()) for s in o.state.values() if x in s) for o in (found, expected)]
            np.testing.assert_allclose(*sums, rtol=1e-5)
        ours.learn(16)


def test_a_perceptron_for_images(sb3, tmp_path):
    space = Box(0, 255, (6, 5, 3), np.uint8)
    theirs = sb3.PPO("MlpPolicy", Still(Discrete(2), space), n_steps=16, batch_size=8)
    shuffled(theirs).save(tmp_path / "model")
    obs = observations(space)
    with pytest.raises(ModelFileError, match="channels first: pass such an env="):
        load(tmp_path / "model", Still(Discrete(2), space))
    found = load(tmp_path / "model").predict(turned(obs), deterministic=True)[0]
    np.testing.assert_array_equal(found, theirs.predict(obs, deterministic=True)[0])


def test_a_buffer_that_does_not_fit(sb3, tmp_path):
    theirs = sb3.DQN("MlpPolicy", Still(Discrete(3), VECTOR), buffer_size=50)
    theirs.buffer_size = 10**17
    theirs.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="pass a smaller buffer_size="):
        load(tmp_path / "model", Still(Discrete(3), VECTOR))
    load(tmp_path / "model", Still(Discrete(3), VECTOR), buffer_size=100).learn(8)


@pytest.mark.parametrize("name", ["A2C", "SAC", "TD3", "DDPG"])
def test_other_algorithms_are_named(sb3, tmp_path, name):
    space = Box(-1, 1, (2,))
    getattr(sb3, name)("MlpPolicy", Still(space, VECTOR)).save(tmp_path / "model")
    with pytest.raises(ModelFileError, match=f"holds a model of {name}, of an algorithm that fastrl does not have"):
        load(tmp_path / "model")


def test_what_the_file_does_not_tell_is_asked_for(sb3, tmp_path):
    class Sine(torch.nn.Module):
        def forward(self, x):
            return torch.sin(x)

    def rate(remaining):
        return 1e-3 * remaining

    env = Still(Discrete(2), VECTOR)
    theirs = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=8, learning_rate=rate,
                     policy_kwargs=dict(activation_fn=Sine))  # fmt: skip
    shuffled(theirs).save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="policy_kwargs=dict\\(activation_fn"):
        load(tmp_path / "model")
    ours = load(tmp_path / "model", env, policy_kwargs=dict(activation_fn=Sine))
    obs = observations(VECTOR)
    np.testing.assert_array_equal(ours.predict(obs, deterministic=True)[0], theirs.predict(obs, deterministic=True)[0])
    with pytest.raises(ValueError, match="learning_rate was a function"):
        ours.learn(8)
    load(tmp_path / "model", env, policy_kwargs=dict(activation_fn=Sine), learning_rate=rate).learn(8)
    sb3.PPO("MlpPolicy", Still(Box(-1, 1, (2,)), VECTOR), use_sde=True).save(tmp_path / "sde")
    with pytest.raises(ModelFileError, match="use_sde"):
        load(tmp_path / "sde")


@pytest.mark.parametrize("space", [
    VECTOR, IMAGE, Discrete(4), Discrete(3, start=-1), MultiDiscrete([2, 5]), MultiBinary(3), MultiBinary([2, 2]),
    Box(np.array([-1, -np.inf], np.float32), np.array([1e-7, 3.25], np.float32)),
    Box(-np.inf, np.inf, (2, 2), np.float64),
    Dict(a=VECTOR, b=Discrete(3), c=MultiBinary(2), d=Discrete(2, start=1), e=MultiDiscrete([2, 3])),
    gym.make("CartPole-v1").observation_space, gym.make("Pendulum-v1").observation_space,
], ids=str)  # fmt: skip
def test_spaces_are_read_from_words(sb3, space):
    from stable_baselines3.common.save_util import data_to_json

    assert read_space(json.loads(data_to_json({"space": space}))["space"]) == space


def test_spaces_that_are_not_told_in_full(sb3):
    from stable_baselines3.common.save_util import data_to_json

    low = np.arange(3000, dtype=np.float32)
    for space in (Box(low, low + 1), Dict(a=Box(low, low + 1)), Dict(a=Dict(b=Discrete(2)))):
        with pytest.raises(NotTold):
            read_space(json.loads(data_to_json({"space": space}))["space"])


# -- without Stable-Baselines3: files as it writes them ----------------------------------------------------------------


def a_file(path, change=None, **parts):
    """A PPO for Box(3) and Discrete(2) without hidden layers, as Stable-Baselines3 writes it, with parts replaced."""
    box = {":type:": "<class 'gymnasium.spaces.box.Box'>", ":serialized:": "AAAA", "dtype": "float32", "_shape": [3],
           "low": "[-1. -1. -1.]", "high": "[1. 1. 1.]", "low_repr": "-1.0", "high_repr": "1.0"}  # fmt: skip
    discrete = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "2", "start": "0"}
    data = {
        "observation_space": box,
        "action_space": discrete,
        "clip_range": 0.2,
        "n_envs": 1,
        "learning_rate": 1e-3,
        "policy_kwargs": {},
        "policy_class": {":type:": "", "__module__": "stable_baselines3.common.policies"},
    }
    shapes = {"action_net.weight": (2, 3), "action_net.bias": (2,), "value_net.weight": (1, 3), "value_net.bias": (1,)}
    weights = {name: torch.arange(float(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}
    if change is not None:
        change(data, weights)
    contents = {"data": json.dumps(data).encode(), "policy.pth": as_file(weights),
                "policy.optimizer.pth": as_file({"state": {}, "param_groups": []}), **parts}  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            if content is not None:
                file.writestr(name, content)
    return path


def as_file(tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_file_without_the_library(tmp_path):
    code = (
        "import sys; sys.modules['stable_baselines3'] = None; from fastrl.interop.sb3 import load; "
        f"print(type(load(r'{a_file(tmp_path / 'm.zip')}')).__name__)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "PPO\n"
    model = load(tmp_path / "m")
    obs = observations(VECTOR)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], (3 * obs.sum(1) + 1 > 0).astype(int))


def test_nothing_is_unpickled(tmp_path):
    import base64

    mark = tmp_path / "mark"
    bomb = base64.b64encode(pickle.dumps(Evil(mark))).decode()

    def change(data, weights):
        for value in data.values():
            if isinstance(value, dict):
                value[":serialized:"] = bomb
        data["policy_class"][":serialized:"] = data["_last_obs"] = {":type:": "x", ":serialized:": bomb}

    load(a_file(tmp_path / "data.zip", change))
    for part in ("policy.pth", "policy.optimizer.pth"):
        for content in (pickle.dumps(Evil(mark)), as_file({"x": Evil(mark)})):
            with pytest.raises(ModelFileError):
                load(a_file(tmp_path / "evil.zip", **{part: content}))
    load(a_file(tmp_path / "variables.zip", **{"pytorch_variables.pth": as_file({"x": Evil(mark)})}))
    assert not mark.exists()


def _packed(name, size):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, bytes(size))
    return buffer.getvalue()


def _without(name):
    return lambda data, weights: (data.pop(name, None), weights.pop(name, None))


DAMAGED = [
    dict(data=b"no json"), dict(data=b"[]"), dict(data=None), {"policy.pth": None}, {"policy.pth": b""},
    {"policy.pth": as_file([1])}, {"policy.pth": as_file({"a": 1})}, {"policy.optimizer.pth": as_file({"state": 3})},
    {"policy.pth": _packed("archive/data.pkl", 2**26)}, dict(change=_without("action_net.weight")),
    dict(change=_without("value_net.bias")), dict(change=_without("observation_space")),
    dict(change=lambda data, weights: weights.update({"value_net.bias": torch.zeros(2)})),
    dict(change=lambda data, weights: weights.update({"more": torch.zeros(2)})),
    dict(change=lambda data, weights: data["action_space"].update(n="1000000000000")),
    dict(change=lambda data, weights: data.update(learning_rate=-1)),
    dict(change=lambda data, weights: data.update(policy_kwargs={"share_features_extractor": "__import__('os')"})),
]  # fmt: skip


@pytest.mark.parametrize("parts", DAMAGED, ids=lambda parts: ",".join(parts))
def test_damaged_and_foreign_files(tmp_path, parts):
    with pytest.raises((ModelFileError, ValueError, TypeError), match=r"m\.zip"):
        load(a_file(tmp_path / "m.zip", **parts))


def test_files_that_are_no_such_zip(tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "half.zip").write_bytes(a_file(tmp_path / "whole.zip").read_bytes()[:900])
    (tmp_path / "bomb.zip").write_bytes(_packed("data", 2**28))
    for name in ("text", "half", "bomb"):
        with pytest.raises(ModelFileError, match=name):
            load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")
    with pytest.raises(ModelFileError, match="no model that Stable-Baselines3 saved"):
        fastrl.PPO("MlpPolicy", "CartPole-v1").save(tmp_path / "own.zip")
        load(tmp_path / "own")
