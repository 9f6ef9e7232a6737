"""`fastrl export`: the ONNX file acts as the agent does."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch import nn

import fastrl
from tests.commands import printed, refused, saved_agent, without

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
INFINITE = np.inf


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Random(gym.Env):
    """Observations and rewards of any spaces, at random."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space, self.t = observation_space, action_space, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t == 9, False, {}


def as_trained(observation_space, action_space, algorithm="PPO", policy="MlpPolicy", **arguments):
    """Writes the file of a model that has learnt a little."""
    options = {"n_steps": 16, "batch_size": 16} if algorithm == "PPO" else {"learning_starts": 0, "buffer_size": 100}
    model = getattr(fastrl, algorithm)(
        policy, lambda: Random(observation_space, action_space), seed=0, **options, **arguments
    )  # fmt: skip
    model.learn(64).save("model.fastrl")


def same_actions(capsys, n=200, seed=1, algorithm=fastrl.PPO):
    printed(capsys, "export model.fastrl --onnx policy.onnx --force")
    model, session = algorithm.load("model.fastrl"), onnxruntime.InferenceSession("policy.onnx")
    space = model.observation_space
    space.seed(seed)
    samples = [space.sample() for _ in range(n)]
    parts = {k: np.stack([s[k] for s in samples]) for k in space} if isinstance(space, Dict) else {
        "obs": np.stack([np.asarray(s) for s in samples])
    }  # fmt: skip
    feed = {k: x.astype(np.float32) if x.dtype.kind == "f" else x for k, x in parts.items()}
    (found,) = session.run(None, feed)
    expected, _ = model.predict(parts if isinstance(space, Dict) else parts["obs"], deterministic=True)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(found)) > 1 or expected.size < 3  # an agent that always does the same proves nothing
    (one,) = session.run(None, {k: x[:1] for k, x in feed.items()})
    np.testing.assert_allclose(one, found[:1], rtol=1e-4, atol=1e-5)


VECTOR = Box(-INFINITE, INFINITE, (4,), np.float32)
NETWORK = dict(net_arch=[32], activation_fn=nn.ReLU, ortho_init=False)  # of PPO: actions that differ


@pytest.mark.parametrize(
    "observation_space",
    [VECTOR, Box(-1, 1, (2, 3), np.float64), Discrete(5, start=2), MultiDiscrete([3, 4]), MultiBinary(6),
     Box(-5, 9, (3,), np.int32)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("normalize", [False, True])
def test_observations_of_every_kind(observation_space, normalize, capsys):
    as_trained(observation_space, Box(-INFINITE, INFINITE, (2,), np.float32), normalize=normalize)
    same_actions(capsys)


@pytest.mark.parametrize(
    "action_space",
    [Discrete(4, start=-2), MultiDiscrete([3, 2, 4]), MultiBinary(3), Box(-0.01, 0.02, (2,), np.float32),
     Box(-INFINITE, INFINITE, (2, 2), np.float32)],
    ids=str,
)  # fmt: skip
def test_actions_of_every_kind(action_space, capsys):
    as_trained(VECTOR, action_space, normalize=True, policy_kwargs=NETWORK)
    same_actions(capsys)


@pytest.mark.parametrize("normalize", [False, True])
def test_dqn(normalize, capsys):
    as_trained(VECTOR, Discrete(3, start=1), "DQN", normalize=normalize)
    same_actions(capsys, algorithm=fastrl.DQN)


def test_a_dict_of_observations(capsys):
    space = Dict({"camera": Box(0, 255, (36, 36, 3), np.uint8), "joints": VECTOR, "gear": Discrete(4)})
    as_trained(space, Discrete(3), policy="MultiInputPolicy", normalize=True)
    same_actions(capsys, n=50)
    as_trained(Dict({"inner": Dict({"x": VECTOR})}), Discrete(3), policy="MultiInputPolicy")
    assert "cannot be exported" in refused(capsys, "export model.fastrl --onnx nested.onnx")


@pytest.mark.parametrize("shape", [(36, 36, 3), (1, 40, 36)])
def test_images(shape, capsys):
    as_trained(Box(0, 255, shape, np.uint8), Box(-INFINITE, INFINITE, (2,), np.float32), policy="CnnPolicy")
    same_actions(capsys, n=20)


def test_what_it_says_and_leaves(capsys):
    saved_agent("model.fastrl")
    out = printed(capsys, "export model.fastrl")
    assert out.startswith("model.onnx: obs float32 [batch, 4] -> action int64 [batch], ")
    assert sorted(os.listdir()) == ["model.fastrl", "model.onnx"]
    assert "model.onnx exists" in refused(capsys, "export .")
    printed(capsys, "export . --force")


def test_a_policy_that_would_act_otherwise_is_refused(capsys, monkeypatch):
    from fastrl.commands import export

    saved_agent("model.fastrl")
    forward = export.Greedy.forward
    monkeypatch.setattr(export.Greedy, "forward", lambda self, *parts: 1 - forward(self, *parts))
    assert "cannot be exported" in refused(capsys, "export model.fastrl")
    assert os.listdir() == ["model.fastrl"]


def test_mistakes_are_one_line(capsys, monkeypatch):
    saved_agent("model.fastrl")
    assert "needs a model file" in refused(capsys, "export")
    assert "nothing.fastrl" in refused(capsys, "export nothing.fastrl")
    assert "must end in .onnx" in refused(capsys, "export model.fastrl --onnx policy.pt")
    assert "did you mean --onnx?" in refused(capsys, "export model.fastrl --onx policy.onnx")
    data = Path("model.fastrl").read_bytes()
    later = data.replace(b'{\\"format\\": 1', b'{\\"format\\": 9')
    assert later != data
    Path("later.fastrl").write_bytes(later)
    assert "install a newer fastrl" in refused(capsys, "export later.fastrl")
    without(monkeypatch, "onnx")
    assert 'pip install "fastrl[onnx]"' in refused(capsys, "export model.fastrl")
    assert sorted(os.listdir()) == ["later.fastrl", "model.fastrl"]
