"""Buffers for Stable-Baselines3 beside its own: the same calls and the same random state, hence the same numbers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")

import torch
from stable_baselines3.common import buffers as theirs
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from fastrl.interop import sb3 as ours

SPACES = {
    "float32": Box(-10, 10, (3,), np.float32),
    "float64": Box(-10, 10, (2, 2), np.float64),
    "uint8": Box(0, 255, (2, 3), np.uint8),
    "discrete": Discrete(5),
    "multi": MultiDiscrete([3, 4]),
    "binary": MultiBinary(3),
    "dict": Dict(a=Box(-1, 1, (2,), np.float32), b=Discrete(4), c=Box(0, 255, (2, 2), np.uint8)),
}
ACTIONS = {
    "discrete": Discrete(4),
    "box": Box(-1, 1, (2,), np.float32),
    "box64": Box(-1, 1, (2, 2), np.float64),
    "multi": MultiDiscrete([3, 4]),
    "binary": MultiBinary(2),
}
COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def batch(space, n, rng):
    """`n` random elements, as vector environments stack them."""
    if isinstance(space, Dict):
        return {key: batch(part, n, rng) for key, part in space.spaces.items()}
    if isinstance(space, Box) and space.dtype.kind == "f":
        return rng.standard_normal((n, *space.shape)).astype(space.dtype)
    if isinstance(space, Box):
        return rng.integers(0, 256, (n, *space.shape)).astype(space.dtype)
    high = {Discrete: lambda: space.n, MultiBinary: lambda: 2, MultiDiscrete: lambda: space.nvec}[type(space)]()
    return rng.integers(0, high, (n, *space.shape)).astype(space.dtype)


def assert_same(got, want):
    """Equal types, dtypes, shapes and bits, in nested tuples and dicts."""
    assert type(got) is type(want)
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, tuple):
        for g, w in zip(got, want, strict=True):
            assert_same(g, w)
    elif isinstance(want, torch.Tensor):
        assert got.dtype == want.dtype and got.shape == want.shape and got.device == want.device
        assert got.is_contiguous()
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    elif isinstance(want, np.ndarray):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    else:
        assert got == want


def normaliser(space, n_envs, rng):
    """A VecNormalize with statistics of its own, that steps nothing."""
    import gymnasium as gym

    class Still(gym.Env):
        observation_space, action_space = space, Discrete(2)

    env = VecNormalize(DummyVecEnv([Still] * n_envs), norm_obs_keys=["a"] if isinstance(space, Dict) else None)
    for rms in env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]:
        rms.mean, rms.var = rng.standard_normal(rms.mean.shape), rng.random(rms.var.shape) + 0.5
    env.ret_rms.var = 3.0
    return env


class ReplayBesideTheirs(RuleBasedStateMachine):
    """Any sequence of calls on both; NumPy's global stream is set to the same state before each draw."""

    @initialize(
        size=st.integers(1, 23), n_envs=st.integers(1, 3), obs=st.sampled_from(sorted(SPACES)),
        action=st.sampled_from(sorted(ACTIONS)), shared=st.booleans(), timeouts=st.booleans(), n_step=st.integers(0, 9),
        seed=st.integers(0, 2**32 - 1),
    )  # fmt: skip
    def make(self, size, n_envs, obs, action, shared, timeouts, n_step, seed):
        self.rng, self.n_envs = np.random.default_rng(seed), n_envs
        self.obs_space, self.action_space = SPACES[obs], ACTIONS[action]
        name, keywords = "ReplayBuffer", dict(handle_timeout_termination=timeouts)
        if obs == "dict":
            name = "DictReplayBuffer"
        elif n_step:
            name, keywords = "NStepReplayBuffer", dict(keywords, n_steps=n_step, gamma=float(self.rng.random()))
        elif shared:
            keywords = dict(optimize_memory_usage=True, handle_timeout_termination=False)
        arguments = (size, self.obs_space, self.action_space)
        self.mine, self.other = (
            getattr(module, name)(*arguments, device="cpu", n_envs=n_envs, **keywords) for module in (ours, theirs)
        )
        self.env = None
        if obs in ("float32", "float64", "dict"):
            self.env = normaliser(self.obs_space, n_envs, self.rng)

    def step(self):
        n, rng = self.n_envs, self.rng
        reward = rng.standard_normal(n).astype(rng.choice(["f4", "f8"]))
        infos = [{"TimeLimit.truncated": bool(cut)} if cut < 2 else {} for cut in rng.integers(0, 3, n)]
        obs, next_obs = batch(self.obs_space, n, rng), batch(self.obs_space, n, rng)
        return obs, next_obs, batch(self.action_space, n, rng), reward, rng.random(n) < 0.3, infos

    @rule(n=st.integers(1, 12))
    def add(self, n):
        for _ in range(n):
            step = self.step()
            for buffer in (self.other, self.mine):
                buffer.add(*copy.deepcopy(step))

    @rule()
    def extend(self):
        steps = list(zip(*[self.step() for _ in range(3)], strict=True))
        for buffer in (self.other, self.mine):
            buffer.extend(*copy.deepcopy(steps))

    @precondition(lambda self: self.other.size() > self.other.optimize_memory_usage)
    @rule(n=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), normalise=st.booleans())
    def sample(self, n, seed, normalise):
        drawn, after = [], []
        for buffer in (self.mine, self.other):
            np.random.seed(seed)
            drawn.append(buffer.sample(n, env=self.env if normalise else None))
            after.append(np.random.random())
        assert_same(*drawn)
        assert after[0] == after[1]
        assert all(part.data_ptr() % 64 == 0 for part in drawn[0] if isinstance(part, torch.Tensor))

    @precondition(lambda self: self.other.size() > 0)
    @rule(where=st.floats(0, 1, exclude_max=True), name=st.sampled_from(("dones", "timeouts", "rewards")))
    def write_into_a_column(self, where, name):
        if name == "timeouts" and not self.other.handle_timeout_termination:
            return  # theirs then never writes that column, ours writes zeros
        for buffer in (self.mine, self.other):
            column = getattr(buffer, name)
            column[int(where * buffer.size())] = 1

    @rule()
    def reset(self):
        self.mine.reset()
        self.other.reset()

    @rule()
    def pickle_and_copy(self):
        self.mine = copy.deepcopy(pickle.loads(pickle.dumps(self.mine)))

    @invariant()
    def columns_are_equal(self):
        if not hasattr(self, "mine"):
            return
        assert (self.mine.pos, self.mine.full, self.mine.size()) == (self.other.pos, self.other.full, self.other.size())
        for name in COLUMNS:
            assert hasattr(self.mine, name) == hasattr(self.other, name)
            if hasattr(self.other, name):
                assert_same(getattr(self.mine, name), getattr(self.other, name))


TestReplayBesideTheirs = ReplayBesideTheirs.TestCase
TestReplayBesideTheirs.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@settings(max_examples=40)
@given(
    n_steps=st.integers(1, 12), n_envs=st.integers(1, 4), obs=st.sampled_from(sorted(SPACES)),
    action=st.sampled_from(sorted(ACTIONS)), batch_size=st.none() | st.integers(1, 50),
    gamma=st.floats(0, 1), gae_lambda=st.floats(0, 1), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_rollouts_beside_theirs(n_steps, n_envs, obs, action, batch_size, gamma, gae_lambda, seed):
    rng = np.random.default_rng(seed)
    space, action_space = SPACES[obs], ACTIONS[action]
    name = "DictRolloutBuffer" if obs == "dict" else "RolloutBuffer"
    keywords = dict(device="cpu", gamma=gamma, gae_lambda=gae_lambda, n_envs=n_envs)
    mine, other = (getattr(module, name)(n_steps, space, action_space, **keywords) for module in (ours, theirs))
    for _ in range(2):  # the second rollout writes over the first
        mine.reset()
        other.reset()
        for _ in range(n_steps):
            step = (batch(space, n_envs, rng), batch(action_space, n_envs, rng), rng.standard_normal(n_envs),
                    rng.random(n_envs) < 0.3, torch.from_numpy(rng.standard_normal((n_envs, 1), np.float32)),
                    torch.from_numpy(rng.standard_normal(n_envs, np.float32)))  # fmt: skip
            for buffer in (other, mine):
                buffer.add(*copy.deepcopy(step))
        last, dones = torch.from_numpy(rng.standard_normal((n_envs, 1), np.float32)), rng.random(n_envs) < 0.3
        names = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns")
        for buffer in (other, mine):
            buffer.compute_returns_and_advantage(last, dones)
        for column in names:
            assert_same(getattr(mine, column), getattr(other, column))
        for _ in range(2):
            batches = []
            for buffer in (mine, other):
                np.random.seed(seed)
                batches.append(tuple(buffer.get(batch_size)))
            assert_same(*batches)
        for column in names:
            assert_same(getattr(mine, column), getattr(other, column))


@pytest.mark.parametrize("kind", ["ReplayBuffer", "NStepReplayBuffer"])
def test_steps_outside_the_buffer_are_refused(kind):
    buffer = getattr(ours, kind)(8, Box(-9, 9, (3,), np.float32), Discrete(2), "cpu")
    for steps in ([8], [-1], [10**12]):
        with pytest.raises(IndexError):
            buffer._get_samples(np.array(steps))
    buffer.pos = 10**12
    with pytest.raises(IndexError):
        buffer.sample(4)
