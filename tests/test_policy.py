"""`load_policy`: the same actions as the full model's, without Torch, and nothing but an error from a bad file."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import fastrl
from fastrl import DQN, PPO, REINFORCE, ModelFileError, checkpoint, load_policy
from fastrl.learners.plan import ACTIVATIONS, plan_of
from tests.envs import Identity
from tests.test_algorithms import ALGORITHMS, SMALL, Linear, make
from tests.test_saving import DAMAGE, damaged

pytestmark = pytest.mark.usefixtures("few_threads")

OBSERVATIONS = [Box(-9, 9, (5,)), Box(-9, 9, (2, 3)), Box(-9, 9, ()), Box(-9, 9, (3,), np.float64),
                Box(0, 255, (4, 3, 2), np.uint8), Discrete(7, start=-2), MultiDiscrete([2, 4], start=[1, 0]),
                MultiBinary([2, 2])]  # fmt: skip
ACTIONS = [Discrete(1), Discrete(3, start=-4), Discrete(20), MultiDiscrete([2, 3], start=[1, 0]),
           MultiBinary([2, 2]), Box(np.float32([-0.1, 0]), np.float32([0.1, 3])), Box(-1, 1, (2, 2)),
           Box(-1, 1, (2,), np.float64)]  # fmt: skip


def saved(path, cls, observation, action, *, seed=0, normalize=False, **policy_kwargs):
    """A model with random weights, statistics and counters, and the file of it."""
    model = make(cls, Identity(action, observation), normalize=normalize, engine="compiled", seed=seed,
                 policy_kwargs=policy_kwargs)  # fmt: skip
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in model.policy.parameters():
            p.copy_(torch.from_numpy(np.float32(rng.normal(0, 0.7, p.shape))))
    model.total_timesteps, model.num_timesteps, model.num_episodes = 1000, int(rng.integers(200)), 9
    if normalize:
        model.normalizer.observe(3 * rng.standard_normal((50, model.obs_dim)) + 1)
    model.save(path)
    return model


def same(model, policy, space, n=12):
    """Whether both predict the same, of one observation and of many, in any order."""
    space.seed(0)
    for i in range(n):
        one, many = space.sample(), np.stack([space.sample() for _ in range(1 + i * 9)])
        for obs in (one, many, one.tolist()):
            for deterministic in (True, False):
                expected, found = (m.predict(obs, "state", deterministic=deterministic) for m in (model, policy))
                assert found[1] == "state" and type(found[0]) is type(expected[0])
                assert found[0].dtype == expected[0].dtype
                np.testing.assert_array_equal(found[0], expected[0])
    assert policy._predict_rng.bit_generator.state == model._predict_rng.bit_generator.state


widths = st.lists(st.integers(1, 70), max_size=3)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), cls=st.sampled_from(ALGORITHMS), observation=st.sampled_from(OBSERVATIONS),
       action=st.sampled_from(ACTIONS), normalize=st.booleans(), seed=st.integers(0, 2**20),
       activation=st.sampled_from(list(ACTIVATIONS)))  # fmt: skip
def test_it_predicts_what_the_model_does(tmp_path, data, cls, observation, action, normalize, seed, activation):
    assume(cls is not DQN or isinstance(action, Discrete))
    arch = data.draw(widths if cls is DQN else st.fixed_dictionaries(dict.fromkeys(("pi", "vf", "shared"), widths)))
    options = dict(net_arch=arch, activation_fn=activation)
    saved(tmp_path / "m", cls, observation, action, seed=seed, normalize=normalize, **options)
    model, policy = cls.load(tmp_path / "m"), load_policy(tmp_path / "m")
    plan = plan_of(model.policy, None if cls is DQN else model.head)
    assert (policy._net.layers, policy._net.head.tolist()) == (plan.layers, plan.head)
    same(model, policy, observation, 4)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_after_training(cls, tmp_path):
    model = make(cls, "CartPole-v1", normalize=True, engine="compiled").learn(300)
    model.predict(np.zeros(4, np.float32))  # the random stream goes on from where it was saved
    model.save(tmp_path / "m")
    policy = load_policy(tmp_path / "m")
    for name in ("observation_space", "action_space", "env_id", "num_timesteps"):
        assert getattr(policy, name) == getattr(model, name)
    assert policy.algorithm == cls.__name__
    assert policy.exploration_rate == (model.exploration_rate if cls is DQN else 0)
    same(model, policy, model.observation_space)


def test_the_rate_of_exploration_by_episodes(tmp_path):
    model = make(DQN, exploration_decay=0.9).learn(300)
    model.save(tmp_path / "m")
    assert load_policy(tmp_path / "m").exploration_rate == DQN.load(tmp_path / "m").exploration_rate


def test_observations_are_checked(tmp_path):
    saved(tmp_path / "m", PPO, Box(-1, 1, (4,)), Discrete(2))
    policy = load_policy(tmp_path / "m")
    for bad, message in (([0, np.nan, 0, 0], "NaN or infinity"), ([0, np.inf, 0, 0], "NaN"), ([0, 0, 0], "shape")):
        with pytest.raises(ValueError, match=message):
            policy.predict(np.float32(bad))
    with pytest.raises(TypeError, match="numbers"):
        policy.predict("left")


def test_copies_pickles_and_threads(tmp_path):
    saved(tmp_path / "m", PPO, Box(-9, 9, (5,)), Box(-1, 1, (2,)), normalize=True)
    policy = load_policy(tmp_path / "m")
    obs = np.float32(np.random.default_rng(0).normal(size=(300, 5)))
    expected = policy.predict(obs, deterministic=True)[0]
    one = np.array([policy.predict(x, deterministic=True)[0] for x in obs])
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: policy.predict(obs, deterministic=True)[0], range(50)):
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(list(pool.map(lambda x: policy.predict(x, deterministic=True)[0], obs)), one)
    others = [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]
    drawn = policy.predict(obs)[0]
    for other in others:
        np.testing.assert_array_equal(other.predict(obs)[0], drawn)


def test_it_needs_no_torch(tmp_path):
    saved(tmp_path / "m", PPO, Box(-9, 9, (5,)), Discrete(2), normalize=True)
    code = f"""
import sys, numpy as np
sys.modules["torch"] = None  # importing it raises
from fastrl import load_policy
policy = load_policy({os.fspath(tmp_path / "m")!r})
policy.predict(np.zeros(5, np.float32)), policy.predict(np.zeros((3, 5)), deterministic=True), policy.predict([0] * 5)
print(sorted(name for name in sys.modules if name.split(".")[0] == "torch"))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "['torch']\n"


def test_a_cache_that_cannot_be_written_is_read(tmp_path):
    """As in an image whose file system is read-only: no kernel is compiled, and none saved."""
    saved(tmp_path / "m", PPO, Box(-9, 9, (5,)), Discrete(2), normalize=True)
    code = f"""
import numpy as np, tempfile, sys
from numba.core import caching
if sys.argv[1:]:
    def refused(*args, **options): raise OSError(30, "Read-only file system")
    tempfile.TemporaryFile = caching.IndexDataCacheFile._open_for_write = refused
from fastrl import load_policy
from fastrl.kernels import predicting
policy = load_policy({os.fspath(tmp_path / "m")!r})
policy.predict(np.zeros(5, np.float32))
print(len(predicting.predict.stats.cache_hits), len(predicting.predict.stats.cache_misses))
policy.predict(np.zeros((2, 5), np.float32), deterministic=bool(sys.argv[1:]))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": os.fspath(tmp_path / "cache")}

    def start(*arguments):
        ran = [sys.executable, "-c", code, *arguments]
        return subprocess.run(ran, capture_output=True, text=True, check=True, env=environment).stdout.split()

    assert start()[:2] == ["0", "1"]
    files = sorted(path.name for path in (tmp_path / "cache").rglob("*"))
    assert start("read-only")[:2] == ["1", "0"]  # and what was never compiled is, without being saved
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*")) == files


# -- what it does not take ------------------------------------------------------------------------------------------


def test_what_needs_torch_says_so(tmp_path):
    PPO(Linear(), "CartPole-v1", **SMALL[PPO], seed=0).save(tmp_path / "own")
    make(DQN, policy_kwargs=dict(activation_fn=torch.nn.GELU)).save(tmp_path / "gelu")
    with pytest.raises(ModelFileError, match=r"own was made with a module of your own.*Torch: use fastrl\.PPO\.load"):
        load_policy(tmp_path / "own")
    with pytest.raises(ModelFileError, match=r"gelu was made with the activation GELU.*use fastrl\.DQN\.load"):
        load_policy(tmp_path / "gelu")


def test_no_file(tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match="no model file"):
            load_policy(path)


UNREAD = ("other moments", "missing counter", "unknown hyperparameter", "huge network")  # no part of a prediction


@pytest.mark.parametrize("kind", sorted(set(DAMAGE) - set(UNREAD)))
def test_a_damaged_or_foreign_file(kind, tmp_path):
    make(PPO).learn(40).save(tmp_path / "m")
    damaged(tmp_path / "m", kind)
    with pytest.raises(ModelFileError) as ours:
        load_policy(tmp_path / "m")
    with pytest.raises(ModelFileError) as theirs:
        PPO.load(tmp_path / "m")
    if kind not in ("missing weight", "other shape"):  # found before anything is made of it
        assert str(ours.value) == str(theirs.value)


HUGE = {"type": "Box", "low": 0, "high": 1, "shape": [2**40], "dtype": "float32"}


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
@pytest.mark.parametrize("space", [
    HUGE, {**HUGE, "shape": [2**62, 4]}, {**HUGE, "shape": [1], "dtype": "U1000000000"}, {**HUGE, "shape": [-1, -4]},
    {"type": "MultiBinary", "n": 2**40}, {"type": "MultiBinary", "n": [2**62, 4]}, {"type": "MultiBinary", "n": -4},
    {"type": "Discrete", "n": 2**40, "start": 0, "dtype": "int64"},
    {"type": "Discrete", "n": 0, "start": 0, "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [2**62, 2**62], "start": [0, 0], "dtype": "int64"},
    {"type": "MultiDiscrete", "nvec": [9, -5], "start": [0, 0], "dtype": "int64"}, {"type": "Tuple"}, {}, None, "Box",
], ids=str)  # fmt: skip
def test_spaces_that_the_weights_do_not_have(tmp_path, name, space):
    saved(tmp_path / "m", PPO, Box(-9, 9, (4,)), Discrete(2))
    header, tensors = checkpoint.read_model(tmp_path / "m")
    save_file(tensors, tmp_path / "m", {"fastrl": json.dumps({**header, name: space})})
    with pytest.raises(ModelFileError):
        load_policy(tmp_path / "m")


json_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]),
                        st.just({}), st.lists(st.integers(-3, 2**50), max_size=3),
                        st.sampled_from([0, -1, 1, 2, 3, 2**31, 2**62, "Tanh", "GELU", "DQN", "PPO"]))  # fmt: skip
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 65]), max_size=3)
dtypes = st.sampled_from([torch.float32] * 4 + [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])


def places(value, path=()):
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("cls", [PPO, REINFORCE, DQN])
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_tampered_with_predicts_or_is_refused(tmp_path, cls, data):
    """Headers and tensors changed at random places: a file either gives a policy that works, or a ModelFileError."""
    path, changed = tmp_path / "m", tmp_path / "changed"
    if not path.exists():
        actions = {PPO: MultiDiscrete([2, 3]), REINFORCE: Box(-1, 1, (2,)), DQN: Discrete(3)}
        saved(path, cls, Box(-9, 9, (4,)), actions[cls], normalize=True, net_arch=[5, 8])
    header, tensors = checkpoint.read_model(path, parts=("policy", "normalizer"))
    read = ("algorithm", "policy", "observation_space", "action_space", "random", "counters", "hyperparameters")
    for _ in range(data.draw(st.integers(0, 2))):
        where = data.draw(st.sampled_from(list(places({name: header[name] for name in read if name in header}))[1:]))
        inner = header
        for key in where[:-1]:
            inner = inner[key]
        inner[where[-1]] = data.draw(json_values)
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        change = data.draw(st.sampled_from(["drop", "rename", "replace", "nan"]))
        old = tensors.pop(name)
        if change == "rename":
            new = data.draw(st.sampled_from([*tensors, "policy.pi.6.weight", "policy.shared.0.weight", "policy.x"]))
            tensors[new] = old
        elif change == "replace":
            tensors[name] = torch.ones(data.draw(shapes)).to(data.draw(dtypes))
        elif change == "nan":
            tensors[name] = torch.full(old.shape, torch.nan)
        assume(tensors)
    save_file(tensors, changed, {"fastrl": json.dumps(header)})
    try:
        policy = load_policy(changed)
    except ModelFileError:
        return
    obs = policy.observation_space.sample()
    for deterministic in (True, False):
        action = policy.predict(obs, deterministic=deterministic)[0]
        assert action.shape == policy.action_space.shape
        many = policy.predict(np.stack([obs] * 70), deterministic=deterministic)[0]
        assert many.shape == (70, *policy.action_space.shape)
        if not isinstance(policy.action_space, Box):
            assert all(map(policy.action_space.contains, [action, *many]))


def test_it_is_a_public_name():
    assert fastrl.load_policy is load_policy and isinstance(fastrl.Policy, type)
