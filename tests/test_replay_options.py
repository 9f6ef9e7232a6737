"""What a replay buffer's options change, against the list, which keeps every transition whole."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastrl import PrioritizedReplayBuffer, ReplayBuffer
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


@pytest.mark.parametrize("options", [dict(), dict(share_next_obs=True), dict(num_envs=3)])
def test_spans_are_no_longer_than_the_ring(options):
    """However many steps they are said to have: what follows a transition in memory is looked at once."""
    num_envs = options.get("num_envs", 1)
    buffer = ReplayBuffer(10, SPACE, Discrete(2), n_step=2**31 - 1, gamma=0.5, **options)
    buffer.add_batch(*steps(7, num_envs))
    stored = min(10, 7 * num_envs)
    spans = buffer.recent()
    assert (spans.next_obs[:, 0] == 7).all()
    left = 1 + np.arange(stored)[::-1] // num_envs  # steps
    assert spans.discount.tolist() == (0.5**left).tolist()
    drawn = buffer.sample(1000)
    assert (drawn.next_obs[:, 0] == 7).all() and set(drawn.discount) == set(spans.discount)


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


@pytest.mark.parametrize("option", [dict(share_next_obs=True), dict(frame_stack=2)])
def test_shared_observations_of_environments_out_of_step_are_refused(option):
    buffer = ReplayBuffer(12, SPACE, Discrete(2), num_envs=3, **option)
    with pytest.raises(ValueError, match=rf"add_batch got 4 rows; with {next(iter(option))} .*a multiple of num_envs"):
        buffer.add_batch(*(column[:4] for column in steps(2, 3)))
    assert len(buffer) == 0


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


@pytest.mark.parametrize("option", [dict(n_step=3), dict(share_next_obs=True), dict(frame_stack=4, n_step=2)])
def test_priorities_combine_with_the_other_options(tmp_path, option):
    buffers = [cls(40, STACKS[4][0], Discrete(2), num_envs=2, seed=0, gamma=GAMMA, **option)
               for cls in (ReplayBuffer, PrioritizedReplayBuffer)]  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs = rng.integers(0, 3, (40, 4)).astype(np.float32)
        next_obs = np.concatenate([obs[2:], obs[:2]])
        rest = rng.integers(0, 2, 40), rng.normal(size=40), next_obs, rng.random(40) < 0.1, rng.random(40) < 0.1
        for buffer in buffers:
            buffer.add_batch(obs[:, :], *rest)
        uniform, by_priority = buffers
        drawn = by_priority.sample(30, 0.5)
        by_priority.update_priorities(drawn.indices, rng.random(30) + 0.1)
        assert_same(tuple(drawn[:9]), tuple(uniform.gather(drawn.indices)))
    by_priority.save(tmp_path / "buffer.npz")
    loaded = PrioritizedReplayBuffer(40, STACKS[4][0], Discrete(2), num_envs=2, gamma=GAMMA, **option)
    loaded.load(tmp_path / "buffer.npz")
    assert_same(tuple(loaded.sample(30, 0.5)), tuple(by_priority.sample(30, 0.5)))
    by_priority.clear()
    assert len(by_priority.priorities) == 0
    with pytest.raises(ValueError, match="path and priorities do not combine"):
        PrioritizedReplayBuffer(40, SPACE, Discrete(2), path=tmp_path / "file")


def kept_beside(buffer):
    """How many frames lie beside the records."""
    return len(buffer._frames_beside(min(buffer._added, len(buffer._records)))[2][0])


def test_shared_observations_are_kept_once_and_freed():
    """Beside the records lie the last observations of episodes, which are here the newest ones too."""
    buffer = ReplayBuffer(60, SPACE, Discrete(2), num_envs=2, share_next_obs=True)
    sizes = []
    for _ in range(40):
        buffer.add_batch(*steps(12, 2, end=True))
        assert kept_beside(buffer) == sum(buffer["truncated"])
        sizes.append(buffer.nbytes)
    assert len(set(sizes[5:])) == 1
    buffer.clear()
    assert buffer.nbytes == buffer._records.nbytes == 60 * 32


def test_the_first_observation_of_an_episode_is_never_the_last_of_another():
    """Whatever the flags say, and also where a user resets without telling."""
    buffer = ReplayBuffer(9, SPACE, Discrete(2), share_next_obs=True)
    for _ in range(3):
        buffer.add_batch(*steps(4))
    assert buffer.recent().next_obs[:, 0].tolist() == [4, 1, 2, 3, 4, 1, 2, 3, 4]


def test_numbers_that_are_equal_but_not_the_same():
    buffer = ReplayBuffer(9, SPACE, Discrete(2), share_next_obs=True)
    buffer.add([0, 0], 0, 0, [-0.0, 1], False)
    buffer.add([0, 1], 0, 0, [0, 0], False)
    assert np.signbit(buffer.recent().next_obs).tolist() == [[True, False], [False, False]]


def stacked(frames, length, padding):
    """One episode over `frames` [T + 1, *frame]: obs, next_obs [T, length, *frame], as frame-stacking wrappers give."""
    first = frames[:1] if padding == "reset" else np.zeros_like(frames[:1])
    padded = np.concatenate([*[first] * (length - 1), frames])
    stacks = np.stack([padded[t : t + length] for t in range(len(frames))])
    return stacks[:-1], stacks[1:]


@pytest.mark.parametrize("padding", ["reset", "zero"])
def test_stacks_cost_one_frame_a_step_and_one_an_episode(padding):
    rng = np.random.default_rng(0)
    space, length = Box(0, 255, (4, 20, 20), np.uint8), 100
    buffer = ReplayBuffer(1000, space, Discrete(2), frame_stack=4)
    expected = []
    for _ in range(23):
        obs, next_obs = stacked(rng.integers(1, 256, (length + 1, 20, 20), np.uint8), 4, padding)
        _, action, reward, _, terminated, truncated = steps(length, end=True)
        buffer.add_batch(obs, action, reward, next_obs, terminated, truncated)
        expected += list(zip(obs, next_obs, strict=True))
    assert kept_beside(buffer) == 11  # the last observations of ten episodes, and of one whose last frames are in use
    assert buffer.nbytes < 1.05 * 1000 * (20 * 20 + 24)
    sample = buffer.sample(500)
    for name, part in (("obs", 0), ("next_obs", 1)):
        np.testing.assert_array_equal(getattr(sample, name), np.stack([expected[i][part] for i in sample.indices]))


def test_an_atari_buffer_of_a_million_frames_fits_into_7_2_gigabytes():
    space = Box(0, 255, (4, 84, 84), np.uint8)
    buffer = ReplayBuffer(10**6, space, Discrete(18), num_envs=8, frame_stack=4)  # none of it touched
    naive = ReplayBuffer(10, space, Discrete(18)).nbytes / 10
    frame = 84 * 84
    assert buffer.nbytes <= 10**6 * (frame + 24) + 3 * 8 * (frame + 24) and naive > 56_000
    ends = 10**6 // 100  # of episodes of a hundred steps, each of which has one frame more, and room to grow
    assert buffer.nbytes + 1.125 * ends * (frame + 24) <= 7.2e9


def test_columns_of_frames_and_shared_observations():
    space = Box(0, 255, (2, 3), np.uint8)
    shared, stack = (ReplayBuffer(5, space, Discrete(2), **option) for option in (dict(share_next_obs=True),
                                                                                  dict(frame_stack=2)))  # fmt: skip
    obs = np.zeros((7, 2, 3), np.uint8)
    for buffer in (shared, stack):
        buffer.add_batch(obs, np.zeros(7, int), np.arange(7.0), obs, np.zeros(7, bool))
        assert buffer["reward"].tolist() == [5, 6, 2, 3, 4] and not buffer["reward"].flags.writeable
        with pytest.raises(KeyError, match="'next_obs' is no column in a buffer with"):
            buffer["next_obs"]
    assert shared["obs"].shape == (5, 2, 3)
    with pytest.raises(KeyError, match="'obs' is no column in a buffer with frame_stack 2: see gather"):
        stack["obs"]
    with pytest.raises(KeyError, match=r"no column 'x'; there are \['action', 'reward', 'terminated', 'truncated'\]"):
        stack["x"]


@pytest.mark.parametrize("option", [dict(share_next_obs=True), dict(frame_stack=2)])
def test_saved_links_are_checked(tmp_path, option):
    space = Box(0, 255, (2, 3), np.uint8)
    make = lambda: ReplayBuffer(8, space, Discrete(2), num_envs=2, seed=0, **option)  # noqa: E731
    saved, loaded = make(), make()
    obs = np.random.default_rng(0).integers(0, 255, (14, 2, 3), np.uint8)
    saved.add_batch(obs, np.zeros(14, int), np.arange(14.0), obs[::-1], np.zeros(14, bool))
    saved.save(tmp_path / "buffer.npz")
    loaded.load(tmp_path / "buffer.npz")
    before = loaded.state_dict()
    np.testing.assert_equal(saved.state_dict(), before)
    for name, value in [("_next", 0), ("_next", -1), ("_next", 3), ("_older", 9), ("_older", -4)]:
        if name in before:
            links = before[name].copy()
            links[-1] = value
            with pytest.raises(ValueError, match=r"observations that are not there|in the saved buffer; here"):
                loaded.load_state_dict({**before, name: links})
    with pytest.raises(ValueError, match="_beside/obs is uint8"):
        loaded.load_state_dict({**before, "_beside/obs": before["_beside/obs"][1:]})
    with pytest.raises(ValueError, match="the saved buffer has the arrays"):
        ReplayBuffer(8, space, Discrete(2), num_envs=2).load_state_dict(before)
    np.testing.assert_equal(loaded.state_dict(), before)


@pytest.mark.parametrize("padding", [0, 3])
def test_saved_links_stay_within_their_environment(padding):
    """Older frames are those of earlier records, of which the first ones have few."""
    make = lambda: ReplayBuffer(8, Box(0, 255, (3, 2), np.uint8), Discrete(2), num_envs=2, frame_stack=3)  # noqa: E731
    buffer, loaded = make(), make()
    frames = np.repeat(np.arange(1, 7, dtype=np.uint8), 2)  # two environments show the same
    first = np.maximum(frames[:, None].astype(int) + np.arange(-2, 1), 1).astype(np.uint8)
    obs = np.repeat(first[:, :, None], 2, axis=2)
    buffer.add_batch(obs, np.zeros(12, int), np.arange(12.0), obs + 1, np.zeros(12, bool))
    whole = buffer.state_dict()
    assert len(whole["_older"]) == 12
    loaded.load_state_dict(whole)
    for _ in range(2):
        buffer.add_batch(obs[:2], np.zeros(2, int), np.zeros(2), obs[:2] + 1, np.zeros(2, bool))
        loaded.load_state_dict(buffer.state_dict())  # the links of the oldest records may now lead to the newest
    for record in range(12):
        for reach in (1, 2):
            links = whole["_older"].copy()
            links[record] = -padding - reach
            if reach <= record // 2:
                loaded.load_state_dict({**whole, "_older": links})
                continue
            with pytest.raises(ValueError, match=f"record {record} of the saved buffer refers to observations that"):
                loaded.load_state_dict({**whole, "_older": links})


def test_stacks_never_refer_to_what_was_cleared():
    make = lambda: ReplayBuffer(1, Box(0, 9, (2,), np.uint8), Discrete(2), frame_stack=2)  # noqa: E731
    buffer, other = make(), make()
    for frame in (5, 6):
        buffer.add(np.array([frame, frame + 1], np.uint8), 0, 0, np.array([frame + 1, frame + 2], np.uint8), False)
    buffer.clear()
    buffer.add(np.array([7, 8], np.uint8), 0, 0, np.array([8, 9], np.uint8), False)
    other.load_state_dict(buffer.state_dict())
    assert other.recent().obs.tolist() == [[7, 8]] and other.recent().next_obs.tolist() == [[8, 9]]


@pytest.mark.parametrize("option", [dict(share_next_obs=True), dict(frame_stack=4)])
def test_threads_never_see_a_torn_observation(option):
    """Of long observations, which are copied without the GIL; every number follows from the action."""
    space = Box(-(2**62), 2**62, (4, 2000), np.int64)
    buffer = ReplayBuffer(50, space, Discrete(2**40), n_step=2, gamma=0, **option)
    stop, failures = threading.Event(), []

    def work(task):
        try:
            while not stop.is_set():
                task()
        except BaseException as error:
            failures.append(error)

    def adder(first):
        count = itertools.count(first)

        def task():
            start = next(count) * 40
            number = np.arange(start, start + 20)
            obs = np.broadcast_to((number[:, None] + np.arange(4))[:, :, None], (20, 4, 2000)).copy()
            buffer.add_batch(obs, number, number % 7, obs + 1, number < 0, number % 20 == 19)

        return task

    def sampler():
        sample = buffer.sample(16)
        want = sample.action[:, None, None] + np.arange(4)[:, None]
        assert (sample.obs == want).all() and (sample.reward == sample.action % 7).all()
        assert ((sample.next_obs - want) == (sample.next_obs - want)[:, :1, :1]).all()
        assert np.isin((sample.next_obs - want)[:, 0, 0], [1, 2]).all()

    first = adder(0)
    first()
    threads = [threading.Thread(target=work, args=(task,)) for task in (first, adder(10**6), sampler, sampler)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(n_step=0), ValueError, "n_step is 0; it must be at least 1"),
        (dict(n_step=2.0), TypeError, "n_step is 2.0; it must be an int"),
        (dict(n_step=2, gamma=1.5), ValueError, r"gamma is 1.5; it must lie in \[0, 1\]"),
        (dict(n_step=2, gamma=float("nan")), ValueError, "gamma is nan"),
        (dict(n_step=2, gamma="1"), TypeError, "gamma is '1'"),
        (dict(frame_stack=0), ValueError, "frame_stack is 0; it must be at least 1"),
        (dict(frame_stack=33), ValueError, "frame_stack is 33; it must be at most 32"),
        (dict(frame_stack=3), ValueError, r"must be a Box of shape \(3, ...\), newest frame last; got Box"),
        (dict(frame_stack=2, observation_space=Discrete(2)), ValueError, r"must be a Box .* got Discrete"),
        (dict(extra_fields={"_next": ("f4", ())}), ValueError, "cannot be named '_next'"),
        (dict(extra_fields={"_beside/obs": ("f4", ())}), ValueError, "cannot be named '_beside/obs'"),
    ],
)
def test_options_out_of_range(options, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(10, options.pop("observation_space", SPACE), Discrete(2), **options)
