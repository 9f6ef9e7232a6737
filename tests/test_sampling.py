"""The random stream: the published generator, its bounds, and draws with the probabilities asked for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl.kernels import sampling
from fastrl.kernels.sampling import alias_tables, bits, draw, integer, new_stream, permutations, uniform
from tests.reference.tabular import xoshiro256pp

words = st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4).filter(any)


@given(words)
def test_bits_are_those_of_the_published_generator(state):
    stream, expected = np.array(state, np.uint64), xoshiro256pp(state)
    assert [bits(stream) for _ in range(50)] == list(itertools.islice(expected, 50))


@given(words)
def test_interpreted_and_compiled_draws_are_equal(state):
    compiled, interpreted = np.array(state, np.uint64), np.array(state, np.uint64)
    python = getattr(bits, "py_func", bits)
    assert [bits(compiled) for _ in range(20)] == [python(interpreted) for _ in range(20)]
    assert (compiled == interpreted).all()


def test_first_outputs_of_the_state_1_2_3_4():
    stream = np.array([1, 2, 3, 4], np.uint64)
    assert [bits(stream) for _ in range(4)] == [41943041, 58720359, 3588806011781223, 3591011842654386]


@given(words)
def test_uniform_is_the_upper_53_bits(state):
    stream, expected = np.array(state, np.uint64), xoshiro256pp(state)
    for word in itertools.islice(expected, 20):
        assert uniform(stream) == (word >> 11) / 2**53 < 1


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**31 + 1, 2**53 - 1, 2**53])
def test_integer_stays_below_n_at_the_largest_draw(n, monkeypatch):
    monkeypatch.setattr(sampling, "uniform", lambda stream: 1 - 2**-53)
    assert getattr(integer, "py_func", integer)(None, n) == n - 1


def test_integers_are_equally_likely():
    stream = new_stream(7)
    counts = np.bincount([integer(stream, 6) for _ in range(60_000)], minlength=6)
    assert (abs(counts - 10_000) < 5 * np.sqrt(60_000 * 5 / 36)).all()


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda row: sum(row) > 1e-3), max_size=5))
def test_alias_tables_hold_exactly_the_probabilities(rows):
    shares = [np.array(row) / sum(row) for row in rows]
    indptr = np.cumsum([0, *map(len, rows)])
    accept, alias = alias_tables(indptr, np.concatenate([np.empty(0), *shares]))
    for share, first, last in zip(shares, indptr, indptr[1:], strict=False):
        assert ((alias[first:last] >= first) & (alias[first:last] < last)).all()
        kept = np.minimum(accept[first:last], 1)
        implied = kept + np.bincount(alias[first:last] - first, 1 - kept, minlength=last - first)
        np.testing.assert_allclose(implied / (last - first), share, atol=1e-12)


def test_draws_have_the_probabilities_of_their_row():
    share = np.array([0.5, 0.1, 0.0, 0.4])
    accept, alias = alias_tables(np.array([0, 1, 5]), np.array([1.0, *share]))
    stream = new_stream(3)
    counts = np.bincount([draw(stream, accept, alias, 1, 5) - 1 for _ in range(40_000)], minlength=4)
    assert (abs(counts - 40_000 * share) <= 5 * np.sqrt(40_000 * share * (1 - share))).all()


def test_streams_follow_from_their_seed():
    assert new_stream(5).dtype == np.uint64 and new_stream(5).shape == (4,)
    assert (new_stream(5) == new_stream(np.int64(5))).all()
    assert (new_stream(5) != new_stream(6)).any() and (new_stream() != new_stream()).any()
    with pytest.raises(ValueError, match="negative"):
        new_stream(-1)
    with pytest.raises(TypeError, match="integer"):
        new_stream(1.5)


def test_permutations_are_uniform():
    orders = permutations(np.random.default_rng(0), 60_000, 4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    codes, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(codes) == 24
    assert ((counts - 2500) ** 2 / 2500).sum() < 49.7  # chi-squared with 23 degrees of freedom, p = 0.001
    np.testing.assert_array_equal(permutations(np.random.default_rng(0), 60_000, 4), orders)
