"""The replay buffer against a list, against Stable-Baselines3's, and by its properties."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import islice

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy.stats import chisquare

from fastrl import ReplayBuffer
from fastrl.buffers.replay import ReplaySample
from fastrl_ext.random import RandomStream
from tests.reference import replay as reference

CAMERA = Dict({"image": Box(0, 255, (2, 3, 1), np.uint8), "at": Tuple((Discrete(4, start=-2), Box(-1, 1, (2,))))})
SPACES = [
    (Box(-1, 1, (3,), np.float32), Discrete(5, start=-3)),
    (Box(-1, 1, (2, 2), np.float64), MultiDiscrete([3, 4])),
    (Box(0, 255, (2, 3, 1), np.uint8), MultiBinary(3)),
    (Box(-1, 1, (), np.float16), Box(-2, 2, (1,), np.float32)),
    (Box(0, 1, (0, 2), np.float32), MultiBinary((2, 2))),
    (Discrete(7, dtype=np.int32), Box(-5, 5, (), np.int16)),
    (CAMERA, Discrete(2)),
    (Tuple((MultiDiscrete([2, 3]), Dict(a=Box(-1, 1, (5,))))), Dict(push=Box(-1, 1, (2,)), turn=Discrete(3))),
]
EXTRA = {"log_prob": (np.float64, ()), "state": (np.int16, (2, 3))}


def transitions(spaces, n, rng, extra=False):
    """`n` random transitions as arrays [n, ...], in the order of `ReplaySample`'s columns; and the extra fields."""
    obs_space, action_space = spaces

    def batch(space):
        many = batch_space(space, max(n, 1))
        many.seed(int(rng.integers(2**31)))
        return cut(many.sample())

    def cut(value):
        if isinstance(value, dict):
            return {key: cut(part) for key, part in value.items()}
        return tuple(map(cut, value)) if isinstance(value, tuple) else value[:n]

    columns = (batch(obs_space), batch(action_space), rng.normal(size=n).astype(np.float32), batch(obs_space),
               rng.random(n) < 0.3, rng.random(n) < 0.3)  # fmt: skip
    more = {"log_prob": rng.normal(size=n), "state": rng.integers(-9, 9, (n, 2, 3)).astype(np.int16)}
    return columns, more if extra else {}


def assert_same(got, want):
    """Nested arrays of equal structure, dtypes, shapes and bits."""
    assert isinstance(got, type(want)) or isinstance(want, np.generic)
    if isinstance(want, dict):
        assert got.keys() == want.keys()
        for key in want:
            assert_same(got[key], want[key])
    elif isinstance(want, tuple):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(got, want, strict=True)


def columns_of(sample):
    """A sample as the list keeps transitions."""
    return (*sample[:6], sample.extra)


class AgainstList(RuleBasedStateMachine):
    """Any sequence of calls leaves the buffer and the list with the same transitions of the same indices."""

    @initialize(
        spaces=st.sampled_from(SPACES),
        num_envs=st.integers(1, 3),
        spare=st.integers(0, 9),
        extra=st.booleans(),
        seed=st.integers(0, 2**32),
    )
    def begin(self, spaces, num_envs, spare, extra, seed):
        self.spaces, self.extra, self.rng = spaces, extra, np.random.default_rng(seed)
        self.make = lambda seed=None: ReplayBuffer(
            num_envs + spare, *spaces, num_envs=num_envs, seed=seed, extra_fields=EXTRA if extra else None
        )
        self.buffer, self.list = self.make(seed), reference.ListReplay(num_envs + spare)

    def draw(self, n):
        columns, extra = transitions(self.spaces, n, self.rng, self.extra)
        self.list.add((*columns, extra), n)
        return columns, extra

    @rule()
    def add(self):
        columns, extra = self.draw(self.buffer.num_envs)
        self.buffer.add(*columns, **extra)

    @precondition(lambda self: self.buffer.num_envs == 1)
    @rule()
    def add_unbatched(self):
        columns, extra = reference.row(self.draw(1), 0)
        self.buffer.add(*columns, **extra)

    @rule(n=st.integers(0, 30))
    def add_batch(self, n):
        columns, extra = self.draw(n)
        self.buffer.add_batch(*columns, **extra)

    @rule()
    def add_what_cannot_be_stored(self):
        n = self.buffer.num_envs
        columns, extra = transitions(self.spaces, n, self.rng, self.extra)
        with pytest.raises(ValueError, match="terminated has the shape"):
            self.buffer.add(*columns[:4], np.zeros(n + 1, bool), **extra)
        with pytest.raises(ValueError, match=r"reward .* not finite"):
            self.buffer.add(*columns[:2], np.full(n, np.nan, np.float32), *columns[3:], **extra)

    @rule()
    def clear(self):
        self.buffer.clear()
        self.list.clear()

    @precondition(lambda self: len(self.buffer))
    @rule(n=st.integers(1, 20), replace=st.booleans())
    def sample(self, n, replace):
        n = n if replace else min(n, len(self.buffer))
        sample = self.buffer.sample(n, replace=replace)
        assert sample.indices.shape == (n,) and (replace or len(set(sample.indices)) == n)
        assert_same(columns_of(sample), self.list.gather(sample.indices))
        again = self.buffer.gather(self.rng.choice(self.list.indices, n), out=sample)
        assert again is sample
        assert_same(columns_of(sample), self.list.gather(sample.indices))

    @rule()
    def go_on_in_another_buffer(self):
        other = self.make()
        other.load_state_dict(self.buffer.state_dict())
        if len(other):
            assert_same(other.sample(5), self.buffer.sample(5))
        self.buffer = other

    @invariant()
    def same_contents(self):
        assert len(self.buffer) == len(self.list)
        if size := len(self.list):
            whole = self.buffer.gather(self.list.indices)
            assert_same(columns_of(whole), self.list.gather(self.list.indices))
            assert whole.indices.tolist() == list(self.list.indices) == self.buffer.recent().indices.tolist()
            assert_same(columns_of(self.buffer.recent()), self.list.recent(size))
            names = (*ReplaySample._fields[:6], *(EXTRA if self.extra else ()))
            views = tuple(self.buffer[name] for name in names)
            want = self.list.slots()
            assert_same(views, (*want[:6], *want[6].values()))


AgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestAgainstList = AgainstList.TestCase


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(
    "spaces",
    [(Box(-1, 1, (3,), np.float32), Discrete(4)), (Box(0, 255, (4, 5, 1), np.uint8), Box(-1, 1, (2,), np.float32))],
)
def test_equals_the_buffer_of_stable_baselines3(spaces, num_envs):
    sb3 = pytest.importorskip("stable_baselines3.common.buffers", reason="stable_baselines3 is not installed")
    rng = np.random.default_rng(num_envs)
    theirs = sb3.ReplayBuffer(7 * num_envs, *spaces, device="cpu", n_envs=num_envs)
    ours = ReplayBuffer(7 * num_envs, *spaces, num_envs=num_envs)
    for step in range(1, 25):  # three times through the ring
        (obs, action, reward, next_obs, terminated, truncated), _ = transitions(spaces, num_envs, rng)
        truncated &= ~terminated
        ours.add(obs, action, reward, next_obs, terminated, truncated)
        infos = [{"TimeLimit.truncated": bool(t)} for t in truncated]
        theirs.add(obs, next_obs, action, reward, terminated | truncated, infos)
        times = rng.integers(0, min(step, 7), 20)
        np.random.seed(step)  # noqa: NPY002 - their sample draws environments from the global stream
        want = theirs._get_samples(times)
        np.random.seed(step)  # noqa: NPY002
        slots = times * num_envs + np.random.randint(0, num_envs, 20)  # noqa: NPY002
        newest = step * num_envs - 1
        got = ours.gather(newest - (newest - slots) % ours.capacity)
        np.testing.assert_array_equal(got.obs, want.observations)
        np.testing.assert_array_equal(got.action.reshape(20, -1), want.actions)
        np.testing.assert_array_equal(got.next_obs, want.next_observations)
        np.testing.assert_array_equal(got.reward[:, None], want.rewards)
        np.testing.assert_array_equal(got.terminated[:, None], want.dones)
        np.testing.assert_array_equal(got.truncated, theirs.timeouts.reshape(-1)[slots])


@pytest.mark.parametrize("length", [1, 300, 5000])
def test_copies_of_many_records_and_of_long_ones(length):
    """More than are copied in one go, and more bytes than the GIL is held for."""
    spaces = (Box(-1, 1, (length,), np.float32), Discrete(3))
    buffer, expected = ReplayBuffer(400, *spaces, seed=0), reference.ListReplay(400)
    for n in (300, 250):  # the second wraps around
        columns, extra = transitions(spaces, n, np.random.default_rng(n))
        buffer.add_batch(*columns)
        expected.add((*columns, extra), n)
    sample = buffer.sample(701)
    assert_same(columns_of(sample), expected.gather(sample.indices))


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("replace", [True, False])
def test_samples_are_uniform_over_slots_and_environments(num_envs, replace):
    buffer = filled(24, num_envs=num_envs, seed=5)
    counts = np.bincount(np.concatenate([buffer.sample(8, replace=replace).indices for _ in range(3000)]), minlength=24)
    assert counts.shape == (24,) and chisquare(counts).pvalue > 1e-4


def test_without_replacement_every_order_is_equally_likely():
    stream = RandomStream(3)
    draws = [tuple(stream.integers(3, 4, replace=False)) for _ in range(4800)]
    orders, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(orders) == 24 and chisquare(counts).pvalue > 1e-4


BOUNDS = st.sampled_from([1, 3 * 10**9, 2**32 - 1, 2**32, 2**32 + 1, 7 * 10**18, 2**63 - 1])  # 3/10 and 1/4 are refused


@given(st.integers(0, 2**128), st.integers(0, 40), st.integers(1, 100) | st.integers(1, 2**63 - 1) | BOUNDS)
def test_indices_equal_the_reference_stream(seed, n, high):
    stream = RandomStream(seed)
    state = [int(word) for word in stream.state]
    draws = reference.xoshiro256pp(state)
    assert stream.integers(n, high).tolist() == [reference.below(draws, high) for _ in range(n)]
    n = min(n, high)
    assert stream.integers(n, high, replace=False).tolist() == reference.distinct(draws, n, high)
    assert stream.state.tolist() == state


def test_the_reference_stream_is_the_published_one():
    published = [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]
    assert list(islice(reference.xoshiro256pp([1, 2, 3, 4]), 5)) == published


def filled(capacity, num_envs=1, **options):
    """A full buffer whose rewards count from 0."""
    buffer = ReplayBuffer(capacity, Box(-1, 1, (3,), np.float32), Discrete(2), num_envs=num_envs, **options)
    obs = np.zeros((capacity, 3), np.float32)
    buffer.add_batch(obs, np.zeros(capacity, int), np.arange(capacity), obs + 1, np.zeros(capacity, bool))
    return buffer


def test_seeds_make_batches_and_batches_differ():
    one, same, other, unseeded = (filled(1000, seed=seed) for seed in (1, np.random.SeedSequence(1), 2, None))
    batches = [one.sample(8).indices.tolist() for _ in range(20)]
    assert batches == [same.sample(8).indices.tolist() for _ in range(20)]
    assert len(set(map(tuple, batches))) == 20
    assert batches[0] not in (other.sample(8).indices.tolist(), unseeded.sample(8).indices.tolist())
    state = one.rng_state
    after = one.sample(8).indices.tolist()
    one.clear()
    one.rng_state = state
    one.load_state_dict({**same.state_dict(), "rng_state": state})
    assert one.sample(8).indices.tolist() == after


def test_copies_both_ways():
    buffer = filled(10)
    obs, next_obs, reward = np.ones(3, np.float32), np.ones(3, np.float32), np.ones(1, np.float32)
    buffer.add(obs, 1, reward, next_obs, False)
    obs[:], next_obs[:], reward[:] = 7, 7, 7
    sample = buffer.gather([10])
    assert sample.obs.tolist() == [[1, 1, 1]] and sample.next_obs.tolist() == [[1, 1, 1]] and sample.reward == [1]
    for array in sample[:7]:
        array[:] = 0
    again = buffer.gather([10])
    assert again.obs.tolist() == [[1, 1, 1]] and again.action == [1] and again.reward == [1]
    with pytest.raises(ValueError, match="read-only"):
        buffer["reward"][0] = 5


@pytest.mark.parametrize(
    ("reward", "flag", "action"),
    [(1.5, True, 1), (np.float64(1.5), np.True_, np.int64(1)), (np.float32(1.5), np.array(True), np.array([1])),
     ([1.5], [1], [True]), (np.array([1.5]), np.array([1], np.uint8), np.array(1, np.uint8))],
)  # fmt: skip
def test_numbers_come_in_many_types(reward, flag, action):
    buffer = ReplayBuffer(3, Box(-1, 1, (2,), np.float32), Discrete(2))
    for obs in ([0.5, 1], np.array([[0.5, 1]]), np.array([0.5, 9, 1, 9], np.float32)[::2], np.array([0.5, 1], ">f4")):
        buffer.add(obs, action, reward, obs, flag, truncated=flag)
    assert len(buffer) == 3
    sample = buffer.gather([1, 2, 3])
    assert sample.obs.tolist() == [[0.5, 1]] * 3 and sample.next_obs.tolist() == [[0.5, 1]] * 3
    assert sample.action.tolist() == [1] * 3 and sample.reward.tolist() == [1.5] * 3
    assert sample.terminated.tolist() == [True] * 3 == sample.truncated.tolist()


def test_truncated_defaults_to_no_environment():
    buffer = ReplayBuffer(6, Box(-1, 1, (2,), np.float32), Discrete(2), num_envs=2)
    obs = np.zeros((2, 2), np.float32)
    buffer.add(obs, np.array([0, 1]), np.array([0, 1.0]), obs, np.array([True, False]))
    buffer.add_batch(obs, np.array([0, 1]), np.array([0, 1.0]), obs, np.array([True, False]))
    assert buffer["truncated"].tolist() == [False] * 4 and buffer["terminated"].tolist() == [True, False] * 2


@pytest.mark.parametrize("added", [0, 2, 6, 8])
def test_end_episodes_truncates_the_newest_of_each_environment(added):
    buffer = ReplayBuffer(6, Box(-1, 1, (2,), np.float32), Discrete(2), num_envs=2)
    obs, action = np.zeros((2, 2), np.float32), np.zeros(2, int)
    for _ in range(added // 2):
        buffer.add(obs, action, np.zeros(2), obs, np.array([True, False]))
    buffer.end_episodes()
    newest = buffer.recent(min(2, added))
    assert newest.truncated.tolist() == [False, True][: len(newest.truncated)]
    assert newest.terminated.tolist() == [True, False][: len(newest.terminated)]
    assert buffer["truncated"].sum() == min(1, added)


def test_memory_is_the_records_and_is_reserved_lazily():
    buffer = ReplayBuffer(10**6, Box(-1, 1, (8,), np.float32), Discrete(2))
    assert buffer.nbytes == 80 * 10**6  # 32 + 8 + 4 + 32 + 1 + 1, aligned to 8
    image = ReplayBuffer(10**5, Box(0, 255, (84, 84, 4), np.uint8), Discrete(4))  # 5.6 GB, none of it touched
    assert image.nbytes >= 10**5 * 2 * 84 * 84 * 4 and len(image) == 0


def test_tensors_in_and_out():
    torch = pytest.importorskip("torch")
    space = Dict({"a": Box(-1, 1, (2,), np.float32), "b": Discrete(3)})
    buffer = ReplayBuffer(5, space, Box(-1, 1, (2,), np.float32), device="cpu", seed=0, extra_fields={"x": ("f4", ())})
    obs = {"a": torch.tensor([0.25, 0.5], requires_grad=True), "b": torch.tensor(2)}
    buffer.add(obs, torch.tensor([1.0, 0.5]), torch.tensor(2.0), obs, torch.tensor(True), x=torch.tensor(3.0))
    sample = buffer.sample(2)
    assert sample.obs["a"].tolist() == [[0.25, 0.5]] * 2 and sample.obs["b"].dtype == torch.int64
    assert sample.terminated.dtype == torch.bool and sample.extra["x"].tolist() == [3, 3]
    assert sample.indices.tolist() == [0, 0] and sample.reward.dtype == torch.float32
    buffer.add(obs, torch.zeros(2), 5.0, obs, False, x=1)
    assert buffer.gather(torch.tensor([1, 1]), out=sample) is sample
    assert sample.reward.tolist() == [5, 5] and sample.extra["x"].tolist() == [1, 1]


def test_torch_is_not_imported():
    code = """
import sys, numpy as np, fastrl
from gymnasium.spaces import Box, Discrete
buffer = fastrl.ReplayBuffer(5, Box(-1, 1, (2,), np.float32), Discrete(2))
buffer.add([0, 0], 1, 1, [0, 0], False)
buffer.sample(3)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("length", "batch", "seconds"),
    [(4, 64, 0.4), (1024, 256, 0.8), pytest.param(1024, 256, 60, marks=pytest.mark.slow)],
)
def test_threads_never_see_a_torn_record(length, batch, seconds):
    """Every number of a record follows from its first; the longer records are copied without the GIL."""
    buffer = ReplayBuffer(500, Box(-(2**62), 2**62, (length,), np.int64), Discrete(2**40), num_envs=2)
    stop, failures = threading.Event(), []

    def work(task):
        try:
            while not stop.is_set():
                task()
        except BaseException as error:
            failures.append(error)

    def adder(first):
        value = np.array([first, first + 1])

        def task():
            obs = np.repeat(value[:, None], length, axis=1)
            buffer.add(obs, value, (value % 1000).astype(np.float32), obs + 1, value % 2 == 0, value % 3 == 0)
            many = np.repeat(value[:1], 300)
            rows = np.repeat(obs[:1], 300, axis=0)
            buffer.add_batch(rows, many, many % 1000, rows + 1, many % 2 == 0, many % 3 == 0)
            value[:] += 4

        return task

    def sampler():
        sample = buffer.sample(batch)
        value = sample.action
        assert (sample.obs == value[:, None]).all() and (sample.next_obs == value[:, None] + 1).all()
        assert (sample.reward == value % 1000).all() and (sample.terminated == (value % 2 == 0)).all()
        assert (sample.truncated == (value % 3 == 0)).all()

    first = adder(0)
    first()
    threads = [threading.Thread(target=work, args=(task,)) for task in (first, adder(2), sampler, sampler)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
