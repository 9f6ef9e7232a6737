"""The compiled part of stepping beside the obvious way in Python: the same arrays, counts and errors."""

from __future__ import annotations

import sys
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl_ext.stepping import all_finite, put_row, step_each, tally

FIVE = namedtuple("FIVE", "obs reward terminated truncated info")
DTYPES = ["f4", "f8", "f2", "i8", "u1", "?", ">f4", "c8"]
SHAPES = [(), (3,), (2, 2), (0,)]

# Ways of returning the same: the usual ones, and others.
OBSERVATIONS = [lambda x: x, lambda x: as_read_only(x)], [
    lambda x: x.tolist(),
    lambda x: x.astype("f8" if x.dtype != "f8" else "f4") if x.dtype.kind == "f" else x.tolist(),
    lambda x: x.astype(x.dtype.newbyteorder()) if x.dtype.itemsize > 1 else x.tolist(),
    lambda x: np.repeat(x[..., None], 2, -1)[..., 0],
    lambda x: x.view(Child),
]  # fmt: skip
REWARDS = [1.5, np.float64(-2.5), 3, -(2**62) - 1], [2**63, True, np.float32(0.1), np.int16(4), np.array([[0.5]])]
FLAGS = [True, False, np.True_, np.False_], [1, 0.0, None]
RESULTS = [tuple], [list, iter, lambda five: FIVE(*five)]
WAYS = [OBSERVATIONS, REWARDS, FLAGS, FLAGS, RESULTS]


class Child(np.ndarray):
    pass


def as_read_only(x):
    x.flags.writeable = False
    return x


def write(i, result, obs, reward, terminated, truncated):
    """What `step_each` does with what an environment returned, written down."""
    observation, paid, terminated[i], truncated[i], _ = result
    obs[i] = observation
    reward[i] = np.asarray(paid).item()


class Scripted:
    """An environment that returns what it is told to, and notes its actions."""

    def __init__(self, results):
        self.results, self.actions = iter(results), []

    def step(self, action):
        self.actions.append(action)
        return next(self.results)()


def fail(i, method, error):
    return RuntimeError(f"{i} {method} {error!r}")


@settings(max_examples=200)
@given(data=st.data(), n=st.integers(0, 5), dtype=st.sampled_from(DTYPES), shape=st.sampled_from(SHAPES))
def test_what_environments_return(data, n, dtype, shape):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    like, results, usual = np.empty((n, *shape), dtype), [], []
    for _ in range(n):
        odd = data.draw(st.none() | st.integers(0, 4))
        show, reward, terminated, truncated, wrap = (
            data.draw(st.sampled_from(ways[k == odd])) for k, ways in enumerate(WAYS)
        )
        numbers = rng.integers(0, 2, shape) if dtype == "?" else rng.integers(0, 100, shape)
        obs = show(np.array(numbers, dtype))
        results.append(lambda five=(obs, reward, terminated, truncated, {}), wrap=wrap: wrap(five))
        same = type(obs) is np.ndarray and obs.dtype == like.dtype and obs.dtype.isnative and obs.flags.c_contiguous
        usual.append(same and odd in (None, 0))
    wanted = np.empty_like(like), np.empty(n), np.empty(n, bool), np.empty(n, bool)
    for i, result in enumerate(results):
        write(i, result(), *wanted)

    def take(i, *rest):
        taken.append(i)
        write(i, *rest)

    envs, taken = [Scripted([result]) for result in results], []
    actions = data.draw(st.sampled_from([list, np.array]))(rng.integers(0, 9, n))
    *found, n_done = step_each(envs, actions, like, take, fail)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.flags.c_contiguous
        np.testing.assert_array_equal(ours, theirs)
    assert taken == [i for i in range(n) if not usual[i]]
    assert n_done == np.count_nonzero(wanted[2] | wanted[3])
    assert [env.actions for env in envs] == [[action] for action in actions]


def usual(k):
    return np.full(2, k, "f4"), float(k), False, False, {}


def test_results_that_are_no_five_are_left_to_the_caller():
    for result in ((), usual(1)[:4], (*usual(1), 0), None, 3):
        with pytest.raises(LookupError, match="0"):
            step_each([Scripted([lambda r=result: r])], [0], np.empty((1, 2), "f4"), refuse, fail)


def refuse(i, *_):
    raise LookupError(i)


def test_observations_that_hold_objects_are_never_copied_as_bytes():
    rows = [lambda: (np.array([{}, []], object), 0.0, True, False, {})]
    with pytest.raises(LookupError, match="0"):
        step_each([Scripted(rows)], [0], np.empty((1, 2), object), refuse, fail)


def test_an_exception_of_an_environment_is_the_cause_of_what_is_raised():
    error = KeyError("wheel")

    def break_down():
        raise error

    envs = [Scripted([lambda: usual(0)]), Scripted([break_down]), Scripted([])]
    with pytest.raises(RuntimeError, match=r"1 step KeyError\('wheel'\)") as caught:
        step_each(envs, [0, 0, 0], np.empty((3, 2), "f4"), write, fail)
    assert caught.value.__cause__ is error and envs[2].actions == []


@pytest.mark.parametrize("actions", [[0], (0,), np.zeros(1), {0: 0}])
def test_too_few_actions(actions):
    envs = [Scripted([lambda: usual(0)]) for _ in range(2)]
    with pytest.raises(RuntimeError, match=r"1 step (Index|Key)Error"):
        step_each(envs, actions, np.empty((2, 2), "f4"), write, fail)


@pytest.mark.parametrize("change", [list.clear, lambda envs: envs.extend(envs * 9)])
def test_environments_that_change_the_list_they_are_in(change):
    envs = [Scripted([lambda: (change(envs), usual(0))[1]] * 99) for _ in range(2)]
    try:
        _, reward, *_ = step_each(envs, [0] * 99, np.empty((2, 2), "f4"), write, fail)
        assert len(reward) == 2
    except RuntimeError as error:
        assert "1 step IndexError" in str(error)


@pytest.mark.parametrize("like", [np.empty(()), np.empty((1, 2)), np.empty((3, 2))])
def test_a_template_for_another_number_of_environments(like):
    with pytest.raises(ValueError, match="there are 2 environments"):
        step_each([Scripted([]), Scripted([])], [0, 0], like, write, fail)


@settings(max_examples=60)
@given(data=st.data(), T=st.integers(1, 3), dtype=st.sampled_from(DTYPES), shape=st.sampled_from(SHAPES))
def test_storing_is_assigning(data, T, dtype, shape):
    rng, t = np.random.default_rng(data.draw(st.integers(0, 2**32))), data.draw(st.integers(-T, T - 1))
    column = np.zeros((T, *shape), dtype)
    column = data.draw(st.sampled_from([column, np.asfortranarray(column), np.zeros((2 * T, *shape), dtype)[::2]]))
    value = rng.integers(0, 2, shape).astype(data.draw(st.sampled_from(["f8", "i8", dtype])))
    value = data.draw(st.sampled_from([value, value.tolist(), np.repeat(value[..., None], 2, -1)[..., 0]]))
    expected = column.copy()
    expected[t] = value
    put_row(t, (column, np.zeros((T, 1))), (value, np.ones(1)))
    np.testing.assert_array_equal(column, expected)


def test_objects_that_are_stored_are_counted():
    thing, column = object(), np.empty((1, 1), object)
    value, before = np.array([thing]), sys.getrefcount(thing)
    put_row(0, (column,), (value,))
    after = sys.getrefcount(thing)
    assert after == before + 1 and column[0, 0] is thing


def test_storing_where_it_cannot_be_done():
    column = np.zeros((2, 3))
    with pytest.raises(ValueError, match="1 columns and 2 values"):
        put_row(0, (column,), (column[0], column[0]))
    with pytest.raises(IndexError):
        put_row(2, (column,), (np.ones(3),))
    with pytest.raises(ValueError, match="broadcast"):
        put_row(0, (column,), (np.ones(2),))
    with pytest.raises(ValueError, match="read-only"):
        put_row(0, (as_read_only(column),), (np.ones(3),))
    assert not column.any()


@given(seed=st.integers(0, 2**32), n=st.integers(1, 6))
def test_the_tally(seed, n):
    rng = np.random.default_rng(seed)
    returns, lengths, reward = rng.normal(size=n), rng.integers(0, 9, n), rng.normal(size=n)
    valid, terminated, truncated = rng.random((3, n)) < 0.5
    sums, steps = returns + reward, lengths + valid
    assert tally(reward, valid, terminated, truncated, returns, lengths) == (terminated | truncated).sum()
    np.testing.assert_array_equal(returns, sums)
    np.testing.assert_array_equal(lengths, steps)


@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize(
    "spoil", [lambda x: x[:2], lambda x: x[:, None], lambda x: x.astype("f4"), lambda x: np.repeat(x, 2)[::2]]
)
def test_a_tally_of_arrays_that_do_not_fit(k, spoil):
    arrays = [np.ones(3), *np.ones((3, 3), bool), np.zeros(3), np.zeros(3, np.int64)]
    given = [spoil(x) if i == k else x for i, x in enumerate(arrays)]
    with pytest.raises(ValueError, match="it must be"):
        tally(*given)
    assert not arrays[4].any() and not arrays[5].any()


@pytest.mark.parametrize("k", [4, 5])
def test_a_tally_in_memory_that_may_not_be_written(k):
    arrays = [np.ones(3), *np.ones((3, 3), bool), np.zeros(3), np.zeros(3, np.int64)]
    arrays[k].flags.writeable = False
    with pytest.raises(ValueError, match="must be writeable"):
        tally(*arrays)
    assert not arrays[4].any() and not arrays[5].any()


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32), shape=st.sampled_from([(), (0,), (1,), (7,), (3, 40), (65,)]),
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4", "i8", "u1", "?", "longdouble", "c8"]),
    bad=st.sampled_from([None, np.nan, np.inf, -np.inf]), order=st.sampled_from(["C", "F", "strided"]),
)  # fmt: skip
def test_whether_all_are_finite(seed, shape, dtype, bad, order):
    rng = np.random.default_rng(seed)
    array = np.array(rng.normal(size=shape) * 10.0 ** rng.integers(-3, 4), dtype)
    if array.size and array.dtype.kind in "fc":
        array.flat[rng.integers(array.size)] = np.finfo(array.dtype).max
        if bad is not None:
            array.flat[rng.integers(array.size)] = bad
    array = np.asfortranarray(array) if order == "F" else array
    array = np.repeat(array[..., None], 2, -1)[..., 0] if order == "strided" else array
    assert all_finite(array) is bool(np.isfinite(array).all())


@pytest.mark.parametrize("k", range(6))
def test_none_is_no_array(k):
    with pytest.raises(TypeError):
        tally(*[None if i == k else x for i, x in enumerate([np.ones(1)] * 6)])
    with pytest.raises(TypeError):
        all_finite(None)
    with pytest.raises(TypeError):
        step_each([], [], None, write, fail)


def test_infos_are_written_where_there_is_room_for_them():
    def odd(k):
        return [np.full(2, k, "f4"), k, False, False, {"k": k}]  # no tuple

    envs, infos = [Scripted([lambda: (*usual(1)[:4], {"k": 1})]), Scripted([lambda: odd(2)])], [None, None]
    step_each(envs, [0, 0], np.empty((2, 2), "f4"), write, fail, infos)
    assert infos == [{"k": 1}, {"k": 2}]
    with pytest.raises(ValueError, match="there are 2 environments, and room for 1 infos"):
        step_each(envs, [0, 0], np.empty((2, 2), "f4"), write, fail, [None])
