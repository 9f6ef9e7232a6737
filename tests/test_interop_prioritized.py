"""Prioritised replay for Stable-Baselines3: the draws follow the priorities, the samples are the uniform buffer's."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

sb3 = pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed")

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from fastrl.interop.sb3 import PrioritizedReplayBuffer, ReplayBuffer
from tests.test_interop_sb3 import assert_same, normaliser

SPACE = Box(-1e9, 1e9, (1,), np.float64)


def make(size=20, n_envs=1, seed=0, kind=PrioritizedReplayBuffer, space=SPACE, **keywords):
    np.random.seed(seed)
    return kind(size, space, Discrete(3), device="cpu", n_envs=n_envs, **keywords)


def step(first, n_envs):
    """The transitions `first`, `first` + 1, … whose observations are their numbers, for `add`."""
    numbers = np.arange(first, first + n_envs)
    obs = numbers[:, np.newaxis].astype(np.float64)
    infos = [{"TimeLimit.truncated": bool(number % 6 == 0)} for number in numbers]
    return obs, -obs, numbers % 3, numbers * 0.5, numbers % 3 == 0, infos


def filled(count, size=20, n_envs=1, **keywords):
    buffer = make(size, n_envs, **keywords)
    for first in range(0, count, n_envs):
        buffer.add(*step(first, n_envs))
    return buffer


class AgainstDictionary(RuleBasedStateMachine):
    """Any sequence of calls leaves the priorities of a dictionary by number, and draws nothing but what is stored."""

    @initialize(
        size=st.integers(1, 40), n_envs=st.integers(1, 3), seed=st.integers(0, 2**32 - 1),
        alpha=st.sampled_from([0.0, 0.6, 1.0]), beta=st.sampled_from([0.0, 0.4, 1.0]), timeouts=st.booleans(),
    )  # fmt: skip
    def make(self, size, n_envs, seed, alpha, beta, timeouts):
        self.timeouts = timeouts
        self.buffer = make(size, n_envs, seed, alpha=alpha, beta=beta, handle_timeout_termination=timeouts)
        self.rng, self.added, self.priorities, self.highest = np.random.default_rng(seed), 0, {}, 1.0

    def grow(self, n_steps):
        n_envs = self.buffer.n_envs
        steps = [step(self.added + k * n_envs, n_envs) for k in range(n_steps)]
        self.priorities.update(dict.fromkeys(range(self.added, self.added + n_steps * n_envs), self.highest))
        self.added += n_steps * n_envs
        for old in range(self.added - self.buffer.buffer_size * n_envs):
            self.priorities.pop(old, None)
        return steps

    @rule(n=st.integers(1, 15))
    def add(self, n):
        for values in self.grow(n):
            self.buffer.add(*values)

    @rule(n=st.integers(1, 4))
    def extend(self, n):
        self.buffer.extend(*zip(*self.grow(n), strict=True))

    def tell(self, indices, priorities):
        for index, priority in zip(indices, priorities, strict=True):
            if index in self.priorities:
                self.priorities[index] = priority
                self.highest = max(self.highest, priority)

    @precondition(lambda self: self.added > 0)
    @rule(batch=st.integers(1, 50), late=st.integers(0, 30), column=st.booleans(), tensor=st.booleans())
    def sample_and_update(self, batch, late, column, tensor):
        sample = self.buffer.sample(batch)
        numbers, weights = self.buffer.indices, self.buffer.weights
        assert numbers.dtype == np.int64 and set(numbers) <= set(self.priorities)
        obs, next_obs, actions, rewards, dones, infos = step(0, self.added)
        cut = self.timeouts & np.array([info["TimeLimit.truncated"] for info in infos])
        want = (obs, actions[:, np.newaxis], next_obs, (dones & ~cut)[:, np.newaxis], rewards[:, np.newaxis])
        for got, all_of_them in zip(sample, want, strict=False):
            np.testing.assert_array_equal(got.numpy(), all_of_them[numbers])

        masses = {number: priority**self.buffer.alpha for number, priority in self.priorities.items()}
        ratios = min(masses.values()) / np.array([masses[number] for number in numbers])
        assert weights.dtype == torch.float32 and weights.shape == (batch, 1)
        np.testing.assert_allclose(weights[:, 0].numpy(), ratios**self.buffer.beta, rtol=1e-5)

        for values in self.grow(late):  # some of what was drawn may be overwritten before it is told
            self.buffer.add(*values)
        told = self.rng.lognormal(0, 2, (batch, 1) if column else batch).astype(np.float32)
        self.buffer.update_priorities(torch.from_numpy(told).requires_grad_() if tensor else told)
        self.tell(numbers.tolist(), told.ravel().tolist())

    @precondition(lambda self: self.added > 0)
    @rule(batch=st.integers(0, 30))
    def update_any(self, batch):
        indices = self.rng.integers(0, self.added, batch).tolist()
        told = self.rng.lognormal(0, 2, batch).astype(np.float32).tolist()
        self.buffer.update_priorities(told, indices)
        self.tell(indices, told)

    @rule()
    def reset(self):
        self.buffer.reset()
        self.added, self.priorities, self.highest = 0, {}, 1.0
        assert self.buffer.indices is None and self.buffer.weights is None

    @rule(deep=st.booleans())
    def copy(self, deep):
        other = copy.deepcopy(self.buffer) if deep else pickle.loads(pickle.dumps(self.buffer))
        if self.added:
            assert_same(other.sample(7), self.buffer.sample(7))
            np.testing.assert_array_equal(other.indices, self.buffer.indices)
            assert_same(other.weights, self.buffer.weights)
        self.buffer = other

    @invariant()
    def same_priorities(self):
        if hasattr(self, "buffer"):
            capacity = self.buffer.buffer_size * self.buffer.n_envs
            by_slot = [priority for _, priority in sorted((n % capacity, p) for n, p in self.priorities.items())]
            stored = self.buffer._trees.priorities(self.added)
            np.testing.assert_array_equal(stored, np.array(by_slot, np.float32))
            assert self.buffer._trees.highest == self.highest


TestAgainstDictionary = AgainstDictionary.TestCase
TestAgainstDictionary.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize(("alpha", "n_envs", "batch"), [(0.6, 1, 7), (1.0, 3, 32), (0.0, 2, 1)])
def test_frequencies_follow_the_priorities(alpha, n_envs, batch):
    buffer = filled(50, size=36, n_envs=n_envs, alpha=alpha)
    first = buffer._added - 36
    priorities = np.random.default_rng(1).lognormal(0, 1, 36)
    buffer.update_priorities(priorities, np.arange(first, first + 36))
    counts = np.zeros(36)
    for _ in range(30_000 // batch):
        buffer.sample(batch)
        counts += np.bincount(buffer.indices - first, minlength=36)
    expected = priorities**alpha / (priorities**alpha).sum() * counts.sum()
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected) + 1).all()


def test_the_stream_is_seeded_from_numpys_and_leaves_it_alone_afterwards():
    draws = []
    for seed in (1, 1, 2):
        buffer = filled(20, seed=seed)
        np.random.seed(0)
        buffer.sample(10)
        draws.append((buffer.indices.tolist(), np.random.random()))
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[2][0] and draws[0][1] == draws[2][1]


@pytest.mark.parametrize("keys", [False, True])
def test_samples_are_those_of_the_uniform_buffer_at_the_same_transitions(keys):
    rng = np.random.default_rng(0)
    space = Box(-10, 10, (3,), np.float32)
    space = Dict(a=space, b=Box(0, 255, (2,), np.uint8)) if keys else space
    env = normaliser(space, 2, rng)
    buffer, uniform = (make(24, 2, kind=kind, space=space) for kind in (PrioritizedReplayBuffer, ReplayBuffer))
    for _ in range(20):
        obs, next_obs = [], []
        for part in (obs, next_obs):
            arrays = {"a": rng.standard_normal((2, 3)).astype(np.float32), "b": rng.integers(0, 256, (2, 2), np.uint8)}
            part.append(arrays if keys else arrays["a"])
        rest = rng.integers(0, 3, 2), rng.standard_normal(2), rng.random(2) < 0.3, [{}, {"TimeLimit.truncated": True}]
        for each in (buffer, uniform):
            each.add(obs[0], next_obs[0], *rest)
    for normalise in (None, env):
        sample = buffer.sample(9, env=normalise)
        assert_same(sample, uniform._samples_at(buffer.indices % 24, normalise))


@pytest.mark.parametrize("keywords", [
    dict(alpha=-0.1), dict(alpha=1.5), dict(alpha=float("nan")), dict(beta=-0.1), dict(beta=1.5), dict(size=0),
    dict(optimize_memory_usage=True, handle_timeout_termination=False),
])  # fmt: skip
def test_bad_arguments_are_refused(keywords):
    with pytest.raises(ValueError, match=r"alpha|beta|size|optimize_memory_usage"):
        make(**keywords)


@pytest.mark.parametrize(("priorities", "indices", "error"), [
    ([0.0, 1.0], None, ValueError), ([1.0, -1.0], None, ValueError), ([np.nan, 1.0], None, ValueError),
    ([1.0, np.inf], None, ValueError), ([1.0, 1e300], None, ValueError), ([1.0, 1e-300], None, ValueError),
    ([1.0], None, ValueError), (np.ones((2, 2)), None, ValueError), (["a", "b"], None, TypeError),
    ([1.0, 2.0], [[1], [2]], ValueError), ([5.0, 2.0], [3, 30], IndexError), ([5.0, 2.0], [3, -1], IndexError),
    ([1.0, 2.0], [0.5, 1.5], TypeError),
])  # fmt: skip
def test_bad_updates_change_nothing(priorities, indices, error):
    buffer = filled(30)
    buffer.sample(2)
    buffer.update_priorities([0.25, 0.5])
    before = buffer._trees.levels(30)
    with pytest.raises(error):
        buffer.update_priorities(priorities, indices)
    np.testing.assert_equal(buffer._trees.levels(30), before)
    assert buffer._trees.highest == 1


def test_bad_calls_are_refused():
    buffer = make()
    with pytest.raises(ValueError, match="empty PrioritizedReplayBuffer"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="sample first"):
        buffer.update_priorities([1.0])
    buffer = filled(5)
    with pytest.raises(ValueError, match="batch_size is 0"):
        buffer.sample(0)
    with pytest.raises(ValueError, match="finite"):
        buffer.add(np.full((1, 1), np.nan), *step(5, 1)[1:])
    buffer.sample(40)
    assert buffer.indices.max() == 4  # what was refused is not counted
    buffer.beta = 2
    with pytest.raises(ValueError, match="beta is 2"):
        buffer.sample(1)


class PrioritizedDQN(sb3.DQN):
    """DQN that tells its buffer a priority of each transition it draws, and learns as its parent does."""

    def train(self, gradient_steps, batch_size=100):
        super().train(gradient_steps, batch_size)
        self.replay_buffer.update_priorities(self.replay_buffer.indices % 5 + 0.5)


RUNS = {
    "DQN": (sb3.DQN, "CartPole-v1", 1), "PrioritizedDQN": (PrioritizedDQN, "CartPole-v1", 3),
    "SAC": (sb3.SAC, "Pendulum-v1", 2), "TD3": (sb3.TD3, "Pendulum-v1", 1),
}  # fmt: skip


def model(run, seed=3):
    algorithm, env, n_envs = RUNS[run]
    envs = VecNormalize(make_vec_env(env, n_envs, seed=5))
    return algorithm(
        "MlpPolicy", envs, replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=0.7, beta=0.5),
        buffer_size=200, learning_starts=50, batch_size=16, policy_kwargs=dict(net_arch=[16]), seed=seed, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("run", RUNS)
def test_seeded_runs_of_stable_baselines3_repeat(run):
    runs = [model(run, seed).learn(300) for seed in (3, 3, 4)]
    parameters = [torch.cat([p.detach().ravel() for p in each.policy.parameters()]) for each in runs]
    assert torch.equal(parameters[0], parameters[1]) and not torch.equal(parameters[0], parameters[2])
    buffer = runs[0].replay_buffer
    assert (buffer.alpha, buffer.beta, buffer._added) == (0.7, 0.5, runs[0].num_timesteps)
    np.testing.assert_array_equal(buffer.indices, runs[1].replay_buffer.indices)
    assert (len(np.unique(buffer._trees.priorities(buffer._added))) > 1) == (run == "PrioritizedDQN")


def test_saved_replay_goes_on_where_it_was(tmp_path):
    first = model("PrioritizedDQN").learn(300)
    first.save_replay_buffer(tmp_path / "replay")
    second = model("PrioritizedDQN", seed=9)
    second.load_replay_buffer(tmp_path / "replay")
    one, other = first.replay_buffer, second.replay_buffer
    assert type(other) is PrioritizedReplayBuffer and one._added > 200
    np.testing.assert_equal(other._trees.levels(other._added), one._trees.levels(one._added))
    for _ in range(3):
        assert_same(one.sample(50), other.sample(50))
        np.testing.assert_array_equal(one.indices, other.indices)
        for buffer in (one, other):
            buffer.update_priorities(buffer.weights * 3)
    second.learn(50, reset_num_timesteps=False)
