"""The prioritised replay buffer against dictionaries and cumulative sums, and by its properties."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy.stats import chisquare

from fastrl import PrioritizedReplayBuffer, ReplayBuffer
from fastrl.buffers.prioritized import PrioritizedReplaySample
from fastrl.buffers.replay import ReplaySample
from fastrl_ext.trees import PriorityTrees
from tests.reference import replay as reference

OBS = Box(-1, 1, (2,), np.float32)
ZERO = np.zeros(2, np.float32)


def fill(buffer, n):
    """Add `n` transitions whose actions are their indices."""
    actions = np.arange(buffer._added, buffer._added + n)
    obs = np.zeros((n, 2), np.float32)
    buffer.add_batch(obs, actions, actions.astype(np.float32) % 1000, obs, np.zeros(n, bool))
    return buffer


def make(capacity, added=0, seed=0, **options):
    return fill(PrioritizedReplayBuffer(capacity, OBS, Discrete(2**40), seed=seed, **options), added)


def assert_same_state(one, other):
    np.testing.assert_equal(one.state_dict(), other.state_dict())
    np.testing.assert_equal(one._trees.levels(one._added), other._trees.levels(other._added))


class AgainstDictionary(RuleBasedStateMachine):
    """Any sequence of calls leaves the priorities of a dictionary, and trees that follow from them alone."""

    @initialize(
        capacity=st.integers(1, 40) | st.sampled_from([255, 256, 257, 4097]),
        alpha=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
        seed=st.integers(0, 2**32),
    )
    def begin(self, capacity, alpha, seed):
        self.rng, self.alpha = np.random.default_rng(seed), alpha
        self.buffer = make(capacity, alpha=alpha, seed=seed)
        self.added, self.highest, self.told = 0, np.float32(1), {}

    @property
    def stored(self):
        return range(max(0, self.added - self.buffer.capacity), self.added)

    def note(self, n):
        for index in range(self.added, self.added + n):
            self.told[index] = self.highest
        self.added += n

    @rule()
    def add(self):
        self.buffer.add(ZERO, self.added, self.added % 1000, ZERO, False)
        self.note(1)

    @rule(n=st.integers(0, 60) | st.sampled_from([300, 5000]))
    def add_batch(self, n):
        fill(self.buffer, n)
        self.note(n)

    @precondition(lambda self: self.added)
    @rule(n=st.integers(0, 50) | st.just(600), spread=st.sampled_from([0.1, 1.0, 8.0]), kind=st.sampled_from("fd"))
    def update(self, n, spread, kind):
        indices = self.rng.integers(0, self.added, n)  # some of them several times, some long overwritten
        priorities = self.rng.lognormal(0, spread, n).astype(kind)
        self.buffer.update_priorities(indices, priorities)
        for index, priority in zip(indices.tolist(), priorities.astype(np.float32), strict=True):
            if index in self.stored:
                self.told[index], self.highest = priority, max(self.highest, priority)

    @precondition(lambda self: self.added)
    @rule(n=st.integers(1, 40) | st.just(700), beta=st.sampled_from([0, 0.4, 1.0]))
    def sample(self, n, beta):
        sample = self.buffer.sample(n, beta)
        assert set(sample.indices.tolist()) <= set(self.stored)
        np.testing.assert_array_equal(sample.action, sample.indices)
        priorities = np.array([self.told[index] for index in sample.indices.tolist()], np.float64)
        least = min(float(self.told[index]) for index in self.stored)
        np.testing.assert_allclose(sample.weights, (least / priorities) ** (self.alpha * beta), rtol=4e-6)

    @precondition(lambda self: self.added)
    @rule(data=st.data())
    def update_with_a_mistake(self, data):
        before = self.buffer.state_dict()
        good = (np.array([0, self.added - 1, 0]), np.array([3.0, 2.0, 1.0], np.float32))
        name, error, wrong = data.draw(
            st.sampled_from([(0, IndexError, -1), (0, IndexError, self.added), (1, ValueError, 0), (1, ValueError, -1)])
        )
        good[name][data.draw(st.integers(0, 2))] = wrong
        with pytest.raises(error):
            self.buffer.update_priorities(*good)
        np.testing.assert_equal(self.buffer.state_dict(), before)

    @rule()
    def clear(self):
        self.buffer.clear()
        self.added, self.highest, self.told = 0, np.float32(1), {}

    @rule()
    def go_on_in_another_buffer(self):
        other = make(self.buffer.capacity, added=3, alpha=self.alpha)
        other.load_state_dict(self.buffer.state_dict())
        assert_same_state(self.buffer, other)
        if self.added:
            np.testing.assert_equal(self.buffer.sample(9), other.sample(9))
        self.buffer = other

    @invariant()
    def same_priorities_and_trees(self):
        want = np.zeros(self.buffer.capacity, np.float32)
        for index in self.stored:
            want[index % self.buffer.capacity] = self.told[index]
        stored = want[: len(self.stored)]
        np.testing.assert_array_equal(self.buffer.priorities, stored, strict=True)
        assert self.buffer.max_priority == self.highest
        levels = self.buffer._trees.levels(self.added)
        mass = np.where(want > 0, want.astype(np.float64) ** self.alpha, 0)
        np.testing.assert_allclose(levels[0][0], mass, rtol=1e-5)
        np.testing.assert_array_equal(levels[0][1], want)
        for (child_sums, child_minima), (sums, minima) in pairwise(levels):
            starts = np.arange(0, len(child_sums), 16)
            np.testing.assert_allclose(sums, np.add.reduceat(child_sums.astype(np.float64), starts), rtol=1e-14)
            present = np.where(child_minima > 0, child_minima, np.inf)
            least = np.minimum.reduceat(present, starts)
            np.testing.assert_array_equal(minima, np.where(least < np.inf, least, 0).astype(np.float32))
        assert len(levels[-1][0]) == 1
        rebuilt = PriorityTrees(self.buffer.capacity, self.alpha)
        rebuilt.restore(self.added, stored, 1.0)
        np.testing.assert_equal(rebuilt.levels(self.added), levels)  # to the last bit: nothing drifts


AgainstDictionary.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestAgainstDictionary = AgainstDictionary.TestCase


@pytest.mark.parametrize(("capacity", "added"), [(1, 1), (7, 5), (16, 40), (1000, 300), (70_000, 100_003)])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_draws_are_where_the_cumulative_sum_passes_the_points(capacity, added, spread):
    rng = np.random.default_rng(capacity)
    buffer = make(capacity, added, alpha=0.7)
    stored = np.arange(added - len(buffer), added)
    buffer.update_priorities(stored, rng.lognormal(0, spread, len(stored)))
    masses = buffer._trees.levels(added)[0][0].astype(np.float64)
    for n in (1, 6, 256, 1001):
        draws = reference.xoshiro256pp([int(word) for word in buffer.rng_state])
        points = np.array([(k + (next(draws) >> 11) / 2**53) / n for k in range(n)])
        slots = np.searchsorted(np.cumsum(masses), points * masses.sum(), side="right")
        sample = buffer.sample(n)
        np.testing.assert_array_equal(sample.indices % capacity, slots)
        np.testing.assert_array_equal(sample.action, sample.indices)


@pytest.mark.parametrize(("alpha", "size", "batch"), [(0.6, 40, 7), (1.0, 300, 32), (0.0, 50, 10), (0.5, 33, 1)])
def test_frequencies_match_the_priorities(alpha, size, batch):
    buffer = make(50 if size <= 50 else 300, size + 20, alpha=alpha, seed=3)
    first, n = buffer._added - len(buffer), len(buffer)
    priorities = np.random.default_rng(1).lognormal(0, 1, n)
    buffer.update_priorities(first + np.arange(n), priorities)
    draws = np.concatenate([buffer.sample(batch).indices for _ in range(60_000 // batch)])
    counts = np.bincount(draws - first, minlength=n)
    expected = priorities**alpha / (priorities**alpha).sum() * len(draws)
    assert chisquare(counts, expected).pvalue > 1e-4
    assert (np.abs(counts - expected) < 6 * np.sqrt(expected) + 1).all()


@given(st.data())
@settings(max_examples=60)
def test_no_priorities_lead_beyond_what_is_stored(data):
    capacity = data.draw(st.integers(1, 600))
    buffer = make(capacity, data.draw(st.integers(1, 900)), alpha=data.draw(st.sampled_from([0.1, 1.0])), seed=None)
    n = len(buffer)
    tiny, huge = np.float32(1e-45), np.finfo(np.float32).max
    values = data.draw(st.sampled_from([[tiny, huge], [1e-20, 1.0, 1e20], [1 / 3], [tiny], [huge]]))
    indices = np.arange(buffer._added - n, buffer._added)
    buffer.update_priorities(indices, np.random.default_rng(n).choice(values, n))
    for batch in (1, 3, 300):
        sample = buffer.sample(batch, 1.0)
        assert (sample.indices >= indices[0]).all() and (sample.indices <= indices[-1]).all()
        assert (buffer.priorities[sample.indices % capacity] > 0).all()
        assert (sample.weights >= 0).all() and (sample.weights <= 1).all()


@pytest.mark.parametrize("added", [1, 13, 14, 17, 30, 253, 333])
@pytest.mark.parametrize("spread", [1, 12])
def test_the_last_point_of_all_falls_to_a_transition(added, spread):
    """However sums are rounded, and though leaves of no mass lie behind the last one."""
    rng = np.random.default_rng(added)
    for capacity in (added, added + 1, 20 * added):
        buffer = make(capacity, added, alpha=1.0)
        for _ in range(100):
            buffer.update_priorities(np.arange(added), rng.lognormal(0, spread, added))
            buffer.rng_state = np.array([0, 1, 1, 2**64 - 1], np.uint64)  # its first draw is 2**64 - 1
            (index,) = buffer.sample(1).indices
            assert index == added - 1 if spread == 1 else index < added


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.4), (1, 1), (0.5, np.float32(0.7)), (0.6, 0), (0, 1)])
def test_weights_follow_the_formula(alpha, beta):
    buffer = make(100, 80, alpha=alpha)
    priorities = np.random.default_rng(0).lognormal(0, 2, 80).astype(np.float32)
    buffer.update_priorities(np.arange(80), priorities)
    probability = priorities.astype(np.float64) ** alpha / (priorities.astype(np.float64) ** alpha).sum()
    weights = (80 * probability) ** -float(beta)
    sample = buffer.sample(64, beta)
    assert sample.weights.dtype == np.float32
    np.testing.assert_allclose(sample.weights, (weights / weights.max())[sample.indices], rtol=4e-6)


def test_the_least_probability_rises_again():
    buffer = make(3, 3, alpha=1.0)
    buffer.update_priorities([0, 1, 2], [1.0, 0.01, 1.0])
    np.testing.assert_allclose(buffer.sample(300, 1.0).weights.min(), 0.01, rtol=1e-6)
    buffer.update_priorities([1], [0.5])
    assert set(buffer.sample(300, 1.0).weights.tolist()) == {0.5, 1.0}
    buffer.update_priorities([1], [0.001])
    fill(buffer, 2)  # over 0 and 1
    assert buffer.sample(300, 1.0).weights.tolist() == [1.0] * 300


def test_new_transitions_get_the_highest_priority_ever_told():
    buffer = make(4, 2)
    assert buffer.priorities.tolist() == [1, 1] and buffer.max_priority == 1
    buffer.update_priorities([0, 1], [0.25, 5.0])
    buffer.update_priorities([1], [0.5])
    fill(buffer, 3)
    assert buffer.priorities.tolist() == [5, 0.5, 5, 5] and buffer.max_priority == 5
    buffer.clear()
    assert len(buffer) == 0 and buffer.priorities.tolist() == [] and buffer.max_priority == 1
    assert fill(buffer, 1).priorities.tolist() == [1]


def test_what_was_overwritten_since_it_was_drawn_is_left_out():
    buffer = make(4, 4)
    one, other = buffer.sample(8), buffer.sample(8)
    fill(buffer, 3)  # over 0, 1 and 2
    for sample in (one, other):
        buffer.update_priorities(sample.indices, np.full(8, 0.5))
        assert buffer.priorities.tolist() == [1, 1, 1, 0.5 if 3 in sample.indices else 1]
    fill(buffer, 10**3)
    before = buffer.state_dict()
    buffer.update_priorities(one.indices, np.full(8, 99.0))
    np.testing.assert_equal(buffer.state_dict(), before)
    assert buffer.max_priority == 1


def test_of_several_priorities_the_last_counts():
    buffer = make(5, 5)
    buffer.update_priorities([2, 1, 2, 2], [7, 3, 8, 2])
    assert buffer.priorities.tolist() == [1, 3, 2, 1, 1] and buffer.max_priority == 8


@pytest.mark.parametrize(
    ("indices", "priorities", "error", "message"),
    [
        ([1, 10**9], [1, 1], IndexError, "index 1000000000 is no transition's: 7 were added"),
        ([7], [1], IndexError, "index 7 is no transition's"),
        ([-1], [1], IndexError, "index -1 is no transition's"),
        ([5, 6], [1, np.nan], ValueError, "priority of index 6 is nan as a float32; it must be above 0 and finite"),
        ([5, 6], [1, -0.5], ValueError, "priority of index 6 is -0.5"),
        ([5, 6], [0, 1], ValueError, "priority of index 5 is 0.0"),
        ([5, 6], [1, np.inf], ValueError, "priority of index 6 is inf"),
        ([5, 6], [1, 1e300], ValueError, "priority of index 6 is inf as a float32"),
        ([5, 6], [1, 1e-300], ValueError, "priority of index 6 is 0.0 as a float32"),
        ([0, 6], [np.nan, 1], ValueError, "priority of index 0 is nan"),  # overwritten, and yet a mistake
        ([5, 6], [1], ValueError, r"priorities has the shape \(1,\); it must be \(2,\)"),
        ([5, 6], [[1], [2]], ValueError, r"priorities has the shape \(2, 1\); it must be \(2,\)"),
        ([[5, 6]], [1, 2], ValueError, r"indices has the shape \(1, 2\); it must be \(B,\)"),
        (5, 1, ValueError, r"indices has the shape \(\); it must be \(B,\)"),
        ([5.0], [1], TypeError, "indices is float64 and is stored as int64"),
        (["5"], [1], TypeError, "indices is <U1"),
        ([5], ["1"], TypeError, "priorities is <U1"),
        ([5], [None], TypeError, "priorities is an array of Python objects"),
    ],
)
def test_bad_updates_change_nothing(indices, priorities, error, message):
    buffer = make(5, 7)
    before = buffer.state_dict()
    with pytest.raises(error, match=message):
        buffer.update_priorities(indices, priorities)
    if error is not TypeError and np.shape(indices) == np.shape(priorities) == (len(np.atleast_1d(indices)),):
        with np.errstate(over="ignore"), pytest.raises(error, match=message):
            buffer.update_priorities(np.array(indices), np.array(priorities, np.float32))
    np.testing.assert_equal(buffer.state_dict(), before)
    assert buffer.sample(3).weights.tolist() == [1, 1, 1]


def test_indices_and_priorities_come_in_many_types():
    torch = pytest.importorskip("torch")
    for indices in ([5, 6], (5, 6), np.array([5, 6], np.uint8), np.array([5, 0, 6])[::2], torch.tensor([5, 6])):
        for priorities in ([2, 0.5], np.array([2, 0.5]), np.array([2, 9, 0.5], np.float32)[::2],
                           torch.tensor([2, 0.5], requires_grad=True), torch.tensor([2, 0.5]).double()):  # fmt: skip
            buffer = make(5, 7)
            buffer.update_priorities(indices, priorities)
            assert buffer.priorities.tolist() == [2, 0.5, 1, 1, 1]
    buffer.update_priorities([], [])


def test_construction_and_sampling_refuse_what_cannot_be():
    for alpha in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="alpha is"):
            make(5, alpha=alpha)
    with pytest.raises(TypeError, match=r"alpha is '0\.6'"):
        make(5, alpha="0.6")
    with pytest.raises(ValueError, match="cannot be named 'priorities'"):
        make(5, extra_fields={"priorities": ("f4", ())})
    with pytest.raises(MemoryError, match="1125899906842624 transitions"):
        make(2**50)
    buffer = make(5)
    state = buffer.rng_state
    with pytest.raises(ValueError, match="cannot sample 2 transitions from an empty PrioritizedReplayBuffer"):
        buffer.sample(2)
    with pytest.raises(ValueError, match="cannot sample 1125899906842624 transitions from an empty"):
        buffer.sample(2**50)
    fill(buffer, 3)
    out = buffer.sample(4)
    buffer.rng_state = state
    for arguments, error, message in [
        ((0,), ValueError, "batch_size is 0; it must be at least 1"),
        ((-3,), ValueError, "batch_size is -3"),
        ((2.0,), TypeError, None),
        ((2**50,), MemoryError, None),
        ((2**62,), ValueError, "so many transitions are more than can be addressed"),
        ((2, -0.1), ValueError, "beta is -0.1"),
        ((2, 1.5), ValueError, "beta is 1.5"),
        ((2, np.nan), ValueError, "beta is nan"),
        ((2, "1"), TypeError, "beta is '1'"),
    ]:
        with pytest.raises(error, match=message):
            buffer.sample(*arguments)
    for change, error, message in [
        ({"weights": np.zeros(3, np.float32)}, ValueError, r"out.weights must be .* float32 \[4\]; got float32 \[3\]"),
        ({"weights": np.zeros(4)}, ValueError, r"float32 \[4\]; got float64 \[4\]"),
        ({"weights": [0.0] * 4}, ValueError, r"out.weights must be .* float32 \[4\]; got list"),
        ({"weights": None}, ValueError, r"out.weights must be .* float32 \[4\]; got NoneType"),
        ({"obs": np.zeros((5, 2), np.float32)}, ValueError, "out.obs must be"),
    ]:
        with pytest.raises(error, match=message):
            buffer.sample(4, out=out._replace(**change))
    with pytest.raises(TypeError, match="out must be a PrioritizedReplaySample"):
        buffer.sample(4, out=ReplaySample(*out[:-1]))
    assert (buffer.rng_state == state).all()
    with pytest.raises(ValueError, match="must be at least 1"):
        PriorityTrees(0, 0.5)


def test_it_is_a_replay_buffer_with_trees():
    space = Dict(a=OBS, b=Discrete(3))
    options = dict(num_envs=2, extra_fields={"x": ("f4", ())}, check_finite=False)
    buffer = PrioritizedReplayBuffer(9, space, OBS, alpha=0.3, seed=1, **options)
    obs = {"a": np.full((2, 2), 0.5, np.float32), "b": np.array([1, 2])}
    for step in range(7):
        value = np.array([step, np.nan], np.float32)
        buffer.add(obs, obs["a"], value, obs, np.array([False, True]), x=value)
    assert buffer.alpha == 0.3 and repr(buffer).startswith("PrioritizedReplayBuffer(9 of 9 transitions")
    sample = buffer.sample(6, 0.5)
    assert isinstance(sample, PrioritizedReplaySample) and sample._fields[:-1] == ReplaySample._fields
    assert sample.obs["b"].shape == (6,) and sample.extra["x"].shape == sample.weights.shape == (6,)
    np.testing.assert_array_equal(sample.reward, np.where(sample.indices % 2, np.nan, sample.indices // 2))
    plain = buffer.gather(sample.indices)
    assert isinstance(plain, ReplaySample)
    np.testing.assert_equal(tuple(plain), tuple(sample[:-1]))
    again = buffer.sample(6, out=sample)
    assert again is sample and set(sample.indices) <= set(range(5, 14))
    uniform = ReplayBuffer(9, space, OBS, **options)
    assert uniform.nbytes < buffer.nbytes < uniform.nbytes + 9 * 1000
    big = make(10**6)
    assert big.nbytes - big._records.nbytes < 10 * 10**6


def test_tensors():
    torch = pytest.importorskip("torch")
    buffer = make(9, 9, device="cpu")
    sample = buffer.sample(5)
    assert sample.weights.dtype == torch.float32 and sample.indices.dtype == torch.int64
    buffer.update_priorities(sample.indices, torch.full((5,), 0.01))
    again = buffer.sample(5, 1.0, out=sample)
    assert again is sample and buffer.sample(200).weights.max() == 1
    np.testing.assert_array_equal(sample.action, sample.indices)
    state = buffer.rng_state
    with pytest.raises(ValueError, match="got NoneType"):
        buffer.sample(5, out=sample._replace(weights=None))
    assert (buffer.rng_state == state).all()


GOOD = np.array([1, 2]), np.array([3, 4], np.float32)


@pytest.mark.parametrize(
    ("indices", "priorities"),
    [
        (GOOD[0].astype(np.int32), GOOD[1]), (GOOD[0].astype(np.uint64), GOOD[1]), (GOOD[0], GOOD[1].astype(float)),
        (GOOD[0], GOOD[1][:1]), (GOOD[0][:1], GOOD[1]), (np.arange(9)[::2], np.ones(5, np.float32)),
        (GOOD[0][:, None], GOOD[1][:, None]), (np.int64(1), np.float32(3)), (np.array(1), np.array(3, np.float32)),
        (GOOD[0].astype(">i8"), GOOD[1]), (None, GOOD[1]), (GOOD[0], None), (list(GOOD[0]), GOOD[1]),
    ],
)  # fmt: skip
def test_trees_take_no_other_arrays(indices, priorities):
    trees = PriorityTrees(5, 1.0)
    with pytest.raises(TypeError):
        trees.update(5, indices, priorities)
    assert trees.priorities(5).tolist() == [1] * 5
    trees.update(5, *GOOD)
    assert trees.priorities(5).tolist() == [1, 3, 4, 1, 1]


@pytest.mark.parametrize("added", [0, 5, 7, 40])
def test_a_saved_buffer_goes_on_where_it_was(tmp_path, added):
    saved, loaded = make(7, added, seed=1), make(7, 3, seed=2)
    if added:
        saved.update_priorities(saved.sample(5).indices, [0.5, 3, 2, 1e-6, 8])
        fill(saved, 1)
    saved.save(tmp_path / "buffer.npz")
    loaded.load(tmp_path / "buffer.npz")
    for _ in range(5):
        assert_same_state(saved, loaded)
        fill(saved, 2), fill(loaded, 2)
        one, other = saved.sample(9), loaded.sample(9)
        np.testing.assert_equal(one, other)
        for buffer in (saved, loaded):
            buffer.update_priorities(one.indices, 1 + one.indices % 7)
    with np.load(tmp_path / "buffer.npz", allow_pickle=False) as file:
        assert file["priorities"].dtype == np.float32 and file["alpha"] == 0.6


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("alpha", np.array(0.5), "has alpha 0.5, this one 0.6"),
        ("priorities", np.array([1, 1, 0, 1], np.float32), "priorities of the saved buffer must be above 0"),
        ("priorities", np.array([1, 1, np.nan, 1], np.float32), "priorities of the saved buffer must be above 0"),
        ("priorities", np.array([1, 1, np.inf, 1], np.float32), "priorities of the saved buffer must be above 0"),
        ("priorities", np.ones(4), "priorities is float64"),
        ("priorities", np.ones(5, np.float32), r"priorities is float32 \(5,\)"),
        ("priorities", None, "the saved buffer has the arrays"),
        ("max_priority", np.array(-1, np.float32), "max_priority of the saved buffer must be above 0"),
        ("max_priority", np.array(np.inf, np.float32), "max_priority of the saved buffer must be above 0"),
        ("max_priority", np.array(1.0), "max_priority is float64"),
        ("max_priority", None, "it lacks"),
    ],
)
def test_a_damaged_state_is_refused(name, value, message):
    state = make(7, 4).state_dict()
    if value is None:
        del state[name]
    else:
        state[name] = value
    buffer = make(7, 3)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    np.testing.assert_equal(buffer.state_dict(), before)


def test_uniform_and_prioritised_buffers_do_not_load_each_other():
    uniform, prioritised = fill(ReplayBuffer(7, OBS, Discrete(2**40)), 4), make(7, 4)
    with pytest.raises(ValueError, match="it lacks"):
        prioritised.load_state_dict(uniform.state_dict())
    with pytest.raises(ValueError, match="the saved buffer has the arrays"):
        uniform.load_state_dict(prioritised.state_dict())


@pytest.mark.parametrize("batch", [32, 5000])
@pytest.mark.parametrize("seconds", [0.5, pytest.param(60, marks=pytest.mark.slow)])
def test_threads_add_draw_and_update_at_once(batch, seconds):
    """Actions are indices: a priority of 1 + index % 5 that lands on another transition of its slot shows."""
    buffer = make(6001, 10, alpha=0.9)
    stop, failures = threading.Event(), []

    def work(task):
        try:
            while not stop.is_set():
                task()
        except BaseException as error:
            failures.append(error)

    def add():
        fill(buffer, 700)

    def learn():
        sample = buffer.sample(batch)
        np.testing.assert_array_equal(sample.action, sample.indices)
        assert (sample.weights > 0).all() and (sample.weights <= 1).all()
        buffer.update_priorities(sample.indices, 1 + sample.indices % 5)

    threads = [threading.Thread(target=work, args=(task,)) for task in (add, learn, learn, learn)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    actions, priorities = buffer["action"], buffer.priorities
    assert ((priorities == 1 + actions % 5) | (priorities == buffer.max_priority) | (priorities == 1)).all()
    rebuilt = make(6001, alpha=0.9)
    rebuilt.load_state_dict(buffer.state_dict())
    assert_same_state(buffer, rebuilt)
