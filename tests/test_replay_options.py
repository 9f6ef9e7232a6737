"""What a replay buffer's options change, against the list, which keeps every transition whole."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastrl import ReplayBuffer
from tests.reference import replay as reference
from tests.test_replay import EXTRA, SPACES, assert_same, columns_of, transitions

GAMMA = 0.9


def assign(batch, i, value):
    """batch[i] = value, in nested arrays."""
    if isinstance(batch, dict):
        for key in batch:
            assign(batch[key], i, value[key])
    elif isinstance(batch, tuple):
        for part, one in zip(batch, value, strict=True):
            assign(part, i, one)
    else:
        batch[i] = value


def next_stack(stack, rng):
    """What a step may make of a stack: one new frame, mostly; frames are few, so that many are equal by chance."""
    if rng.random() < 0.1:
        return rng.integers(0, 3, stack.shape).astype(stack.dtype)
    return np.concatenate([stack[1:], rng.integers(0, 3, (1, *stack.shape[1:]))]).astype(stack.dtype)


def first_stack(like, rng):
    """Stacks that episodes may begin with: copies of one frame, zeros in front of it, or anything."""
    stack = rng.integers(0, 3, like.shape).astype(like.dtype)
    padding = rng.integers(3)
    stack[:-1] = stack[-1:] if padding == 0 else 0 if padding == 1 else stack[:-1]
    return stack


STACKS = {3: (Box(0, 255, (3, 2), np.uint8), Discrete(5)), 4: (Box(0, 9, (4,), np.float32), Box(-1, 1, (2,)))}


def by_slot(expected):
    """The columns of what the list holds, by slot, as the buffer's views give them."""
    columns = expected.slots()
    names = ("obs", "action", "reward", "next_obs", "terminated", "truncated")
    return {**dict(zip(names, columns, strict=False)), **columns[6]}


class OptionsAgainstList(RuleBasedStateMachine):
    """Any sequence of calls leaves a buffer with these options and the list with the same transitions."""

    @initialize(
        spaces=st.sampled_from(SPACES),
        num_envs=st.integers(1, 3),
        spare=st.integers(0, 9),
        extra=st.booleans(),
        seed=st.integers(0, 2**32),
        n_step=st.sampled_from([1, 1, 2, 3, 7]),
        share=st.booleans(),
        stack=st.sampled_from([1, 1, *STACKS]),
    )
    def begin(self, spaces, num_envs, spare, extra, seed, n_step, share, stack):
        self.spaces, self.extra, self.rng = STACKS.get(stack, spaces), extra, np.random.default_rng(seed)
        self.make = lambda seed=None: ReplayBuffer(
            num_envs + spare, *self.spaces, num_envs=num_envs, seed=seed, extra_fields=EXTRA if extra else None,
            n_step=n_step, gamma=GAMMA, share_next_obs=share, frame_stack=stack,
        )  # fmt: skip
        self.buffer = self.make(seed)
        self.list = reference.EnvironmentsInStep(num_envs + spare, num_envs, n_step, GAMMA)

    def draw(self, steps):
        """Transitions of which most begin where the one before in their environment ended, whatever the flags say."""
        num_envs, rng = self.buffer.num_envs, self.rng
        n = steps * num_envs
        columns, extra = transitions(self.spaces, n, rng, self.extra)
        obs, next_obs = columns[0], columns[3]
        for i in range(n):
            if i >= num_envs:
                before = reference.row(next_obs, i - num_envs)
            else:
                before = self.list.history[i - num_envs][3] if len(self.list.history) >= num_envs else None
            if self.buffer.frame_stack > 1:
                assign(obs, i, first_stack(obs[i], rng) if before is None or rng.random() < 0.15 else before)
                assign(next_obs, i, next_stack(obs[i], rng))
            elif before is not None and rng.random() < 0.7:
                assign(obs, i, before)
        self.list.add((*columns, extra), n)
        return columns, extra

    @rule()
    def add(self):
        columns, extra = self.draw(1)
        self.buffer.add(*columns, **extra)

    @rule(steps=st.integers(0, 8))
    def add_batch(self, steps):
        columns, extra = self.draw(steps)
        self.buffer.add_batch(*columns, **extra)

    @precondition(lambda self: len(self.buffer))
    @rule()
    def end_episodes(self):
        self.buffer.end_episodes()
        for i in range(max(0, len(self.list.history) - self.buffer.num_envs), len(self.list.history)):
            *most, terminated, _, extra = self.list.history[i]
            self.list.history[i] = (*most, terminated, self.list.history[i][5] | ~terminated, extra)

    @rule()
    def clear(self):
        self.buffer.clear()
        self.list.clear()

    @precondition(lambda self: len(self.buffer))
    @rule(n=st.integers(1, 20), replace=st.booleans())
    def sample(self, n, replace):
        n = n if replace else min(n, len(self.buffer))
        sample = self.buffer.sample(n, replace=replace)
        self.same(sample, self.list.gather(sample.indices))
        again = self.buffer.gather(sample.indices[::-1].copy(), out=sample)
        assert again is sample
        self.same(sample, self.list.gather(sample.indices))

    @rule()
    def go_on_in_another_buffer(self):
        other = self.make()
        other.load_state_dict(self.buffer.state_dict())
        if len(other):
            assert_same(tuple(other.sample(5)), tuple(self.buffer.sample(5)))
        self.buffer = other

    @invariant()
    def same_contents(self):
        assert len(self.buffer) == len(self.list)
        if self.list.history:
            slots = by_slot(self.list)
            for name in ("action", "reward", "terminated", "truncated", *(EXTRA if self.extra else ())):
                assert_same(self.buffer[name], slots[name])
        if size := len(self.list):
            self.same(self.buffer.gather(self.list.indices), self.list.gather(self.list.indices))
            self.same(self.buffer.recent(), self.list.recent(size))

    def same(self, sample, want):
        got = columns_of(sample)
        if sample.discount is not None:
            assert sample.reward.dtype == sample.discount.dtype == np.float32
            np.testing.assert_allclose(sample.reward, want[2], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(sample.discount, want[7], rtol=1e-5)
            got, want = (*got[:2], *got[3:]), (*want[:2], *want[3:7])
        assert_same(got, want)


OptionsAgainstList.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestOptionsAgainstList = OptionsAgainstList.TestCase

SPACE = Box(-1, 1, (2,), np.float32)


def steps(n, num_envs=1, end=False):
    """`n` steps of environments that each count from 0 in their observations, and whose rewards are 1, 2, 3, …"""
    count = np.repeat(np.arange(n), num_envs)
    obs = np.stack([count, np.tile(np.arange(num_envs), n)], 1).astype(np.float32)
    last = count == (n - 1 if end else n)
    return obs, np.zeros(len(count), int), count + 1.0, obs + np.array([1, 0], np.float32), ~last & last, last


def test_n_step_by_hand():
    buffer = ReplayBuffer(8, SPACE, Discrete(2), num_envs=2, n_step=3, gamma=0.5)
    buffer.add_batch(*steps(5, 2))  # ten transitions; the first two of them are gone
    spans = buffer.recent()
    assert spans.obs[:, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4] and spans.obs[:, 1].tolist() == [0, 1] * 4
    for rewards in (spans.reward[::2], spans.reward[1::2]):
        assert rewards.tolist() == [2 + 3 / 2 + 4 / 4, 3 + 4 / 2 + 5 / 4, 4 + 5 / 2, 5]
    assert spans.discount.tolist() == [0.125] * 4 + [0.25] * 2 + [0.5] * 2
    assert spans.next_obs[:, 0].tolist() == [4, 4, 5, 5, 5, 5, 5, 5]
    assert buffer["reward"].tolist() == [5, 5, 2, 2, 3, 3, 4, 4]  # what is stored are single steps


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_spans_end_with_their_episode(flag):
    buffer = ReplayBuffer(10, SPACE, Discrete(2), n_step=4, gamma=0.5)
    for _ in range(2):
        obs, action, reward, next_obs, no, end = steps(3, end=True)
        buffer.add_batch(obs, action, reward, next_obs, **{"terminated": no, "truncated": no, flag: end})
    spans = buffer.recent()
    assert spans.next_obs[:, 0].tolist() == [3] * 6 and spans.discount.tolist() == [0.125, 0.25, 0.5] * 2
    assert getattr(spans, flag).all() and not (spans.terminated & spans.truncated).any()


def test_one_step_has_no_discount():
    buffer = ReplayBuffer(10, SPACE, Discrete(2))
    buffer.add_batch(*steps(3))
    assert buffer.sample(2).discount is None


def test_extra_fields_are_those_of_the_first_step():
    buffer = ReplayBuffer(10, SPACE, Discrete(2), n_step=2, extra_fields={"log_prob": (np.float32, ())})
    buffer.add_batch(*steps(3), log_prob=np.arange(3.0))
    assert buffer.recent().extra["log_prob"].tolist() == [0, 1, 2]


def test_long_records_and_many_rows():
    """More rows than windows are found at once, and more bytes than the GIL is held for."""
    space = Box(-1, 1, (3000,), np.float32)
    obs, *rest = steps(600)
    buffer = ReplayBuffer(500, space, Discrete(2), n_step=5, seed=0)
    long, long_next = (np.repeat(x[:, :1], 3000, axis=1) for x in (obs, rest[2]))
    buffer.add_batch(long, *rest[:2], long_next, *rest[3:])
    spans = buffer.sample(700)
    start = spans.obs[:, 0]
    assert (spans.obs == start[:, None]).all()
    assert (spans.next_obs == np.minimum(start + 5, 600)[:, None]).all()


def test_tensors():
    torch = pytest.importorskip("torch")
    buffer = ReplayBuffer(10, SPACE, Discrete(2), n_step=2, gamma=0.5, device="cpu")
    buffer.add_batch(*steps(4))
    sample = buffer.recent()
    assert isinstance(sample.discount, torch.Tensor) and sample.discount.tolist() == [0.25] * 3 + [0.5]
    assert buffer.gather([0, 1, 2, 3], out=sample) is sample


def test_environments_out_of_step_are_refused():
    buffer = ReplayBuffer(12, SPACE, Discrete(2), num_envs=3, n_step=2)
    buffer.add_batch(*steps(2, 3))
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=r"add_batch got 4 rows; with n_step 2 it takes a multiple of num_envs, 3"):
        buffer.add_batch(*(column[:4] for column in steps(2, 3)))
    ragged = ReplayBuffer(12, SPACE, Discrete(2), num_envs=3)
    ragged.load_state_dict(before)
    buffer.load_state_dict(ragged.state_dict())
    ragged.add_batch(*(column[:4] for column in steps(2, 3)))
    with pytest.raises(ValueError, match="not filled by all 3 environments in step"):
        buffer.load_state_dict(ragged.state_dict())
    np.testing.assert_equal(buffer.state_dict(), before)
    ragged.clear()
    buffer.load_state_dict(ragged.state_dict())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(n_step=0), ValueError, "n_step is 0; it must be at least 1"),
        (dict(n_step=2.0), TypeError, "n_step is 2.0; it must be an int"),
        (dict(n_step=2, gamma=1.5), ValueError, r"gamma is 1.5; it must lie in \[0, 1\]"),
        (dict(n_step=2, gamma=float("nan")), ValueError, "gamma is nan"),
        (dict(n_step=2, gamma="1"), TypeError, "gamma is '1'"),
    ],
)
def test_options_out_of_range(options, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(10, SPACE, Discrete(2), **options)
