"""CleanRL's conventions: its formula in Torch's own operations, and the plainest buffer with its random numbers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given
from hypothesis import strategies as st

from fastrl import compute_gae
from fastrl.interop.cleanrl import ReplayBuffer, gae


def loop(rewards, values, dones, next_value, next_done, gamma, gae_lambda):
    """The recurrence from the last step to the first, each operation on tensors of N."""
    advantages, carry = torch.zeros_like(rewards), 0
    following = torch.cat([values[1:], next_value.reshape(1, -1)])
    live = 1.0 - torch.cat([dones[1:], next_done.reshape(1, -1)])
    for t in range(len(rewards) - 1, -1, -1):
        delta = rewards[t] + gamma * following[t] * live[t] - values[t]
        advantages[t] = carry = delta + gamma * gae_lambda * live[t] * carry
    return advantages, advantages + values


def rollout(T, N, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rewards, values = (torch.randn(T, N, generator=generator, dtype=dtype) for _ in range(2))
    dones, next_done = ((torch.rand(*shape, generator=generator) < 0.2).to(dtype) for shape in ((T, N), (N,)))
    return rewards, values, dones, torch.randn(1, N, generator=generator, dtype=dtype), next_done


@given(
    T=st.integers(1, 40), N=st.integers(1, 9), seed=st.integers(0, 2**31), gamma=st.floats(0, 1),
    gae_lambda=st.floats(0, 1), dtype=st.sampled_from((torch.float32, torch.float64)),
)  # fmt: skip
def test_gae_is_the_loop_bit_for_bit(T, N, seed, gamma, gae_lambda, dtype):
    arguments = rollout(T, N, seed, dtype)
    want = loop(*arguments, gamma, gae_lambda)
    for got, expected in zip(gae(*arguments, gamma, gae_lambda), want, strict=True):
        assert got.dtype == dtype and torch.equal(got, expected)
    for got, expected in zip(gae(*(x.numpy() for x in arguments), gamma, gae_lambda), want, strict=True):
        assert isinstance(got, np.ndarray) and (got == expected.numpy()).all()


def test_dones_say_that_an_observation_begins_an_episode():
    """One step later than `compute_gae`'s flags, which say that a transition ended one."""
    rewards, values, dones, next_value, next_done = rollout(30, 3, 1)
    ended = torch.cat([dones[1:], next_done[None]]) == 1
    want = compute_gae(rewards, values, next_value[0], ended, gamma=0.9, gae_lambda=0.8)
    for got, expected in zip(gae(rewards, values, dones, next_value, next_done, 0.9, 0.8), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_gae_leaves_its_arguments_alone_and_takes_strided_ones():
    arguments = rollout(20, 4, 2)
    before = [x.clone() for x in arguments]
    strided = [x.t().contiguous().t() if x.ndim == 2 else x for x in arguments]
    for got, want in zip(gae(*strided, 0.99, 0.95), gae(*arguments, 0.99, 0.95), strict=True):
        assert torch.equal(got, want)
    assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        (dict(gamma=1.1), ValueError, "gamma is 1.1"),
        (dict(gae_lambda=-0.1), ValueError, "gae_lambda is -0.1"),
        (dict(rewards=torch.zeros(5)), ValueError, "must be"),
        (dict(rewards=torch.zeros(0, 2)), ValueError, "at least one step"),
        (dict(values=torch.zeros(5, 3)), ValueError, "shapes"),
        (dict(next_value=torch.zeros(3)), ValueError, "shapes"),
        (dict(next_done=torch.zeros(1)), ValueError, "shapes"),
        (dict(values=torch.zeros(5, 2, dtype=torch.float64)), TypeError, "values float64"),
        (dict(rewards=np.zeros((5, 2), object)), TypeError, "rewards has the dtype object"),
        (dict(rewards=torch.zeros(5, 2, device="meta")), ValueError, "on meta"),
    ],
)
def test_gae_says_what_is_wrong(wrong, error, match):
    names = ("rewards", "values", "dones", "next_value", "next_done")
    good = dict(zip(names, rollout(5, 2, 0), strict=True), gamma=0.9, gae_lambda=0.9)
    with pytest.raises(error, match=match):
        gae(**{**good, **wrong})


class Listed:
    """The same buffer as a list of steps, from NumPy's documented functions."""

    def __init__(self, steps, shared):
        self.capacity, self.shared, self.history = steps, shared, []

    def sample(self, n, n_envs):
        """(obs, action, next_obs, done, reward) of each, in the order in which they are drawn."""
        size = min(len(self.history), self.capacity)
        oldest = len(self.history) - size
        if self.shared and len(self.history) >= self.capacity:
            steps = (np.random.randint(1, self.capacity, n) + len(self.history)) % self.capacity
        else:
            steps = np.random.randint(0, size, n)
        steps = [oldest + (slot - oldest) % self.capacity for slot in steps]
        envs = np.random.randint(0, n_envs, n)
        for step, env in zip(steps, envs, strict=True):
            obs, next_obs, action, reward, done, cut = (column[env] for column in self.history[step])
            if self.shared and step + 1 < len(self.history):
                next_obs = self.history[step + 1][0][env]
            yield obs, action, next_obs, float(done and not cut), reward


@given(
    size=st.integers(2, 40), n_envs=st.integers(1, 3), n_steps=st.integers(1, 60), shared=st.booleans(),
    discrete=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_buffer_is_a_list_of_steps(size, n_envs, n_steps, shared, discrete, seed):
    rng = np.random.default_rng(seed)
    actions = Discrete(4) if discrete else Box(-1, 1, (2,), np.float32)
    steps = max(size // n_envs, 1)
    if shared and steps == 1:
        return
    buffer = ReplayBuffer(size, Box(-9, 9, (3,), np.float32), actions, torch.device("cpu"), n_envs=n_envs,
                          optimize_memory_usage=shared, handle_timeout_termination=not shared)  # fmt: skip
    reference = Listed(steps, shared)
    for _ in range(n_steps):
        obs, next_obs = rng.standard_normal((2, n_envs, 3)).astype("f4")
        action = rng.integers(0, 4, n_envs) if discrete else rng.random((n_envs, 2), np.float32)
        reward, done, cut = rng.standard_normal(n_envs), rng.random(n_envs) < 0.4, rng.random(n_envs) < 0.4
        buffer.add(obs, next_obs, action, reward, done, [{"TimeLimit.truncated": bool(c)} for c in cut])
        cut = cut & (not shared)
        reference.history.append((obs, next_obs, action.reshape(n_envs, -1), reward.astype("f4"), done, cut))
    np.random.seed(seed)
    want = [np.stack([np.asarray(x) for x in column]) for column in zip(*reference.sample(30, n_envs), strict=True)]
    np.random.seed(seed)
    got = buffer.sample(30)
    assert got._fields == ("observations", "actions", "next_observations", "dones", "rewards")
    assert got.dones.shape == got.rewards.shape == (30, 1)
    assert got.actions.dtype == (torch.int64 if discrete else torch.float32)
    for tensor, array in zip(got, want, strict=True):
        assert (tensor.numpy().reshape(30, -1) == array.reshape(30, -1)).all()


def full(**keywords):
    buffer = ReplayBuffer(4, Box(-9, 9, (3,), np.float32), Discrete(2), "cpu", **keywords)
    for k in range(4):
        buffer.add(np.full((1, 3), k), np.full((1, 3), k + 1), np.array([1]), np.array([0.5]), np.array([False]), [{}])
    return buffer


def test_what_is_handed_out_and_taken_in_is_copied():
    buffer = full()
    before = buffer.observations.copy()
    batch = buffer.sample(16)
    for tensor in batch:
        tensor.zero_()
    assert (buffer.observations == before).all() and (buffer.rewards == 0.5).all()
    obs = np.ones((1, 3), np.float32)
    buffer.add(obs, obs, np.array([0]), np.array([1.0]), np.array([True]), [{}])
    obs[:] = 7
    assert (buffer.observations[0] == 1).all() and (buffer.next_observations[0] == 1).all()


def test_float64_input_is_rounded_and_columns_may_be_assigned():
    buffer = full()
    third = np.full((1, 3), 1 / 3)
    buffer.add(third, third, np.array([0]), np.array([1 / 3]), np.array([True]), [{"TimeLimit.truncated": np.True_}])
    assert buffer.observations[0, 0, 0] == buffer.rewards[0, 0] == np.float32(1 / 3)
    assert buffer.dones[0, 0] == buffer.timeouts[0, 0] == 1
    buffer.rewards = np.arange(4.0)[:, None]
    assert sorted(set(buffer.sample(100).rewards.flatten().tolist())) == [0, 1, 2, 3]


def test_the_buffer_is_emptied_extended_and_copied():
    buffer = full()
    again = pickle.loads(pickle.dumps(buffer))
    np.random.seed(0)
    batch = buffer.sample(9)
    np.random.seed(0)
    assert all(map(torch.equal, batch, again.sample(9)))
    assert again.size() == 4 and again.full
    again.reset()
    assert again.size() == 0 and not again.full and buffer.size() == 4
    zeros = np.zeros((2, 1, 3))
    again.extend(zeros, zeros, np.ones((2, 1), int), np.ones((2, 1)), np.zeros((2, 1), bool), [[{}], [{}]])
    assert again.size() == 2 and (again.rewards[:2] == 1).all()
    array = np.arange(3.0)
    assert not np.shares_memory(again.to_torch(array).numpy(), array)


ROW = dict(obs=np.zeros((2, 3), np.float32), next_obs=np.zeros((2, 3), np.float32), action=np.zeros(2, int),
           reward=np.zeros(2), done=np.zeros(2, bool), infos=[{}, {}])  # fmt: skip


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        (dict(obs=np.zeros((2, 1), np.float32)), ValueError, "observations has the shape"),
        (dict(obs=np.zeros(3, np.float32)), ValueError, "observations has the shape"),
        (dict(next_obs=np.zeros((3, 2), np.float32)), ValueError, "next_observations has the shape"),
        (dict(obs=np.full((2, 3), None)), TypeError, "Python objects"),
        (dict(obs=np.zeros((2, 3), complex)), TypeError, "complex"),
        (dict(obs=np.array([[0, 0, 0], [0, np.nan, 0]])), ValueError, "observations of environment 1 is not finite"),
        (dict(reward=np.array([np.inf, 0])), ValueError, "rewards of environment 0 is not finite"),
        (dict(reward=np.float32(1)), ValueError, "rewards has the shape"),
        (dict(action=np.array([0.5, 1.5])), TypeError, "actions is float64"),
        (dict(action=np.zeros(3, int)), ValueError, "actions has the shape"),
        (dict(infos=[{}]), ValueError, "timeouts has the shape"),
        (dict(infos={"final_info": None}), TypeError, "list of dicts"),
    ],
)
def test_add_says_what_is_wrong_and_changes_nothing(wrong, error, match):
    buffer = ReplayBuffer(8, Box(-9, 9, (3,), np.float32), Discrete(2), "cpu", n_envs=2)
    buffer.add(**ROW)
    before = pickle.dumps((buffer._memory, buffer.pos))
    with pytest.raises(error, match=match):
        buffer.add(**{**ROW, **wrong})
    assert pickle.dumps((buffer._memory, buffer.pos)) == before


def test_what_is_not_finite_may_be_let_in():
    buffer = ReplayBuffer(8, Box(-9, 9, (3,), np.float32), Discrete(2), "cpu", n_envs=2, check_finite=False)
    buffer.add(**{**ROW, "reward": np.array([np.nan, 1])})
    assert np.isnan(buffer.rewards[0, 0])


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        (dict(buffer_size=0), ValueError, "buffer_size is 0"),
        (dict(buffer_size=1e5), TypeError, "buffer_size is 100000.0"),
        (dict(buffer_size=2**50), MemoryError, "lower buffer_size"),
        (dict(n_envs=0), ValueError, "n_envs is 0"),
        (dict(optimize_memory_usage=True), ValueError, "handle_timeout_termination=False"),
        (dict(observation_space=Dict(a=Dict(b=Discrete(2)))), TypeError, "Dict"),
        (dict(action_space=Dict(a=Discrete(2))), TypeError, "actions"),
    ],
)
def test_construction_says_what_is_wrong(wrong, error, match):
    good = dict(buffer_size=8, observation_space=Box(-9, 9, (3,), np.float32), action_space=Discrete(2), device="cpu")
    with pytest.raises(error, match=match):
        ReplayBuffer(**{**good, **wrong})


def test_sampling_says_what_is_wrong():
    empty = ReplayBuffer(8, Box(-9, 9, (3,), np.float32), Discrete(2), "cpu")
    with pytest.raises(ValueError, match="empty ReplayBuffer"):
        empty.sample(4)
    for batch_size, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match=r"batch_size is|cannot be interpreted as an integer"):
            full().sample(batch_size)


def filled(shared):
    """Four steps in a ring that has turned, shared observations or not."""
    buffer = ReplayBuffer(4, Box(-9, 9, (3,), np.float32), Discrete(2), torch.device("cpu"),
                          optimize_memory_usage=shared, handle_timeout_termination=False)  # fmt: skip
    for k in range(6):
        obs = np.full((1, 3), k, np.float32)
        buffer.add(obs, obs + 1, np.array([1]), np.array([k]), np.array([False]), [{}])
    return buffer


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [dict(next_obs=np.zeros((1, 4), np.float32)), dict(next_obs=np.full((1, 3), np.nan, np.float32)),
     dict(done=np.array([np.nan])), dict(done=np.array([2])), dict(done=[0.5]), dict(reward=np.array([np.inf]))],
    ids=str,
)  # fmt: skip
def test_what_is_refused_changes_nothing(shared, wrong):
    buffer, obs = filled(shared), np.full((1, 3), 8, np.float32)
    before = [getattr(buffer, name).copy() for name in ("observations", "actions", "rewards", "dones", "timeouts")]
    good = dict(obs=obs, next_obs=obs, action=np.array([0]), reward=np.array([8.0]), done=np.array([True]), infos=[{}])
    with pytest.raises(ValueError):
        buffer.add(**{**good, **wrong})
    after = [getattr(buffer, name) for name in ("observations", "actions", "rewards", "dones", "timeouts")]
    assert buffer.pos == 2 and all(map(np.array_equal, before, after))
    buffer.add(**good)
    buffer.add(**{**good, "done": [1]})
