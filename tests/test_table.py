"""Records by number and NumPy's global stream: each beside NumPy's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrl_ext.legacy import integers
from fastrl_ext.table import Table

DTYPE = np.dtype(
    [("obs", "f4", (3,)), ("image", "u1", (2, 2)), ("action", "i8", (1,)), ("wide", "f8"), ("done", "f4", (1,)),
     ("timeout", "f4", (1,))], align=True
)  # fmt: skip


@given(
    seed=st.integers(0, 2**32 - 1), low=st.integers(-(2**40), 2**40), span=st.integers(1, 2**33),
    small=st.integers(1, 70), n=st.integers(0, 300),
)  # fmt: skip
def test_integers_are_randint_and_leave_the_stream_where_it_does(seed, low, span, small, n):
    for high in (low + 1, low + small, low + span, low + 2**32 - 1, low + 2**32):
        np.random.seed(seed)  # noqa: NPY002
        want, after = np.random.randint(low, high, n, np.int64), np.random.random()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        got = integers(low, high, n)
        assert got.dtype == np.int64 and (got == want).all()
        assert np.random.random() == after  # noqa: NPY002


def test_integers_follow_another_generator():
    """NumPy's global stream may be any bit generator's."""
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        want = np.random.randint(0, 1000, 50)  # noqa: NPY002
        np.random.set_bit_generator(np.random.PCG64(3))
        assert (integers(0, 1000, 50) == want).all()
    finally:
        np.random.set_bit_generator(before)


@pytest.mark.parametrize("arguments", [(0, 0, 3), (5, 4, 3), (0, 3, -1)])
def test_integers_refuse_an_empty_range(arguments):
    with pytest.raises(ValueError, match="cannot draw"):
        integers(*arguments)


def rows(n, rng):
    """Random values of each field, some as the field's dtype and some as one that is cast."""
    return (
        rng.standard_normal((n, 3)).astype(rng.choice(["f4", "f8"])),
        rng.integers(0, 256, (n, 2, 2)).astype("u1"),
        rng.integers(-9, 9, n),
        rng.standard_normal(n),
        rng.random((n, 1)) < 0.5,
        [bool(x) for x in rng.random(n) < 0.5],
    )


@given(width=st.integers(1, 5), steps=st.integers(1, 30), seed=st.integers(0, 2**31), n=st.integers(0, 2000))
def test_what_is_put_is_taken(width, steps, seed, n):
    rng = np.random.default_rng(seed)
    records, want = np.zeros(width * steps, DTYPE), np.zeros(width * steps, DTYPE)
    table = Table(records, width, 4)
    for _ in range(20):
        first, values = int(rng.integers(0, width * (steps - 1) + 1)), rows(width, rng)
        assert table.put(first, values)
        for name, value in zip(DTYPE.names, values, strict=True):
            want[name][first : first + width] = np.reshape(value, (width, *DTYPE[name].shape))
    for name in DTYPE.names:
        assert (records[name] == want[name]).all()
    index = rng.integers(0, len(records), n)
    for got, name in zip(table.take(index), DTYPE.names, strict=True):
        assert got.dtype == DTYPE[name].base and got.flags.c_contiguous and got.flags.writeable
        assert got.ctypes.data % 64 == 0
        assert (got == want[name][index]).all()
    *_, done = Table(records, masked=True).take(index[::-1])
    assert (done == (want["done"] * (1 - want["timeout"]))[index[::-1]]).all()
    image, obs = Table(records[["image", "obs"]]).take(index)
    assert (image == want["image"][index]).all() and (obs == want["obs"][index]).all()


def test_taken_rows_share_no_memory_with_records_or_each_other():
    records = np.zeros(10, DTYPE)
    taken = Table(records).take(np.arange(10))
    for row in taken:
        row[...] = 1
    assert not records["obs"].any() and not records["done"].any()
    assert all((row == 1).all() for row in taken)


GOOD = (np.ones((2, 3), "f4"), np.ones((2, 2, 2), "u1"), np.ones(2, int), np.ones(2), np.ones(2, bool), [True, False])


@pytest.mark.parametrize(
    "field, value",
    [
        (0, np.ones(3, "f4")), (0, np.ones((3, 2), "f4")), (0, np.ones((2, 3), "i4")), (0, np.ones((4, 3), "f4")[::2]),
        (0, np.full((2, 3), np.nan)), (0, np.full((2, 3), 1e300)), (0, 1.0), (0, [True] * 6),
        (1, np.ones((2, 4), "u1")), (1, np.ones((2, 2, 2), "i8")), (2, np.ones(2, "f4")), (2, np.ones(3, int)),
        (2, [True, False]), (3, np.array([0, np.inf])), (4, np.ones(1, bool)), (5, [True]),
        (5, [1.0, 0.0]), (5, (True, False)),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_put(field, value):
    records = np.zeros(4, DTYPE)
    table = Table(records, 2, 4)
    assert not table.put(0, (*GOOD[:field], value, *GOOD[field + 1 :])) and not table.put(0, GOOD[:-1])
    assert not records.view("u1").any()
    assert table.put(2, GOOD) and records["action"].ravel().tolist() == [0, 0, 1, 1]


def test_rows_outside_are_refused():
    table = Table(np.zeros(4, DTYPE), 2)
    for first in (-1, 3, 2**40):
        with pytest.raises(IndexError, match="outside a table of 4"):
            table.put(first, GOOD)
    for index in (-1, 4, 2**40):
        with pytest.raises(IndexError, match="outside a table of 4"):
            table.take(np.array([0, index]))
    with pytest.raises(ValueError, match=r"shape \[B\]"):
        table.take(np.zeros((2, 2), int))
    for records in (np.zeros(3), np.zeros((2, 2), DTYPE), np.zeros(6, DTYPE)[::2]):
        with pytest.raises(TypeError, match="structured array"):
            Table(records)
    with pytest.raises(TypeError, match="last two fields"):
        Table(np.zeros(3, DTYPE)[["obs", "action"]], masked=True)
    with pytest.raises(RuntimeError, match="once"):
        table.__init__(np.zeros(4, DTYPE))


def test_indices_are_integers():
    table = Table(np.zeros(4, DTYPE))
    for indices in (np.array([0.9]), np.array([True]), np.array(["1"]), [1], None, 1):
        with pytest.raises(TypeError):
            table.take(indices)
    for kind in ("i1", "u4", "u8", ">i8"):
        assert len(table.take(np.array([3, 0], kind))[0]) == 2
    assert len(table.take(np.array([]))[0]) == 0
    with pytest.raises(IndexError, match="outside a table of 4"):
        table.take(np.array([2**64 - 1], np.uint64))


def test_tables_without_init_and_of_empty_records():
    failed = Table.__new__(Table)
    with pytest.raises(TypeError):
        failed.__init__(np.zeros(3))
    for table in (Table.__new__(Table), failed):
        with pytest.raises(RuntimeError, match="has not been called"):
            table.take(np.zeros(0, int))
        with pytest.raises(RuntimeError, match="has not been called"):
            table.put(0, ())
    (nothing,) = Table(np.zeros(3, [("x", "f4", (0,))])).take(np.array([2, 1]))
    assert nothing.shape == (2, 0)
