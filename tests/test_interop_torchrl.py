"""TorchRL's estimate of advantages: the definition in NumPy, and TorchRL itself where it is installed."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl.interop.torchrl import generalized_advantage_estimate


def definition(gamma, lmbda, value, next_value, reward, done, terminated, axis):
    """A_t = Σ_k (γλ)^k δ_{t+k} up to the first done, in float64, for each recurrence on its own."""
    value, next_value, reward, done, terminated = (
        np.moveaxis(np.asarray(x), axis, 0) for x in (value, next_value, reward, done, terminated)
    )
    delta = reward + gamma * next_value.astype(np.float64) * ~terminated - value
    advantage = np.zeros(delta.shape)
    for place in np.ndindex(delta.shape[1:]):
        for t in range(len(delta)):
            weight = 1.0
            for k in range(t, len(delta)):
                advantage[(t, *place)] += weight * delta[(k, *place)]
                weight *= gamma * lmbda
                if done[(k, *place)]:
                    break
    return np.moveaxis(advantage, 0, axis), np.moveaxis(advantage + value, 0, axis)


@st.composite
def arguments(draw):
    """(value, next_value, reward, done, terminated) of one shape, and the axis of time."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis] = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from((np.float32, np.float64)))
    numbers = [torch.from_numpy(rng.standard_normal(shape).astype(dtype)) for _ in range(3)]
    terminated, truncated = (torch.from_numpy(rng.random(shape) < 0.2) for _ in range(2))
    return [*numbers, terminated | truncated, terminated], axis - draw(st.sampled_from((0, len(shape))))


@given(given=arguments(), gamma=st.floats(0, 1), lmbda=st.floats(0, 1))
def test_the_definition(given, gamma, lmbda):
    tensors, axis = given
    got = generalized_advantage_estimate(gamma, lmbda, *tensors, time_dim=axis)
    for tensor, array in zip(got, definition(gamma, lmbda, *tensors, axis), strict=True):
        assert tensor.dtype == tensors[2].dtype
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-4, atol=1e-4)
    arrays = generalized_advantage_estimate(gamma, lmbda, *(x.numpy() for x in tensors), time_dim=axis)
    assert all((array == tensor.numpy()).all() for array, tensor in zip(arrays, got, strict=True))


@settings(max_examples=200)
@given(given=arguments(), gamma=st.floats(0, 1), lmbda=st.floats(0, 1), both=st.booleans())
def test_torchrl_bit_for_bit(given, gamma, lmbda, both):
    theirs = pytest.importorskip("torchrl.objectives.value.functional", reason="torchrl is not installed")
    (*tensors, terminated), axis = given
    if both:
        tensors.append(terminated)
    if tensors[0].numel() == 1 and axis % tensors[0].ndim != tensors[0].ndim - 2:
        return  # theirs then moves no axes
    want = theirs.generalized_advantage_estimate(gamma, lmbda, *tensors, time_dim=axis)
    got = generalized_advantage_estimate(gamma, lmbda, *tensors, time_dim=axis)
    for tensor, expected in zip(got, want, strict=True):
        assert tensor.dtype == expected.dtype and tensor.shape == tensors[2].shape
        assert torch.equal(tensor, expected.reshape(tensor.shape))  # theirs makes [T, 1] of [T] where time_dim is 0


def test_torchrl_takes_the_same_arguments():
    theirs = pytest.importorskip("torchrl.objectives.value.functional", reason="torchrl is not installed")
    ours, other = (
        [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
        for function in (generalized_advantage_estimate, theirs.generalized_advantage_estimate)
    )
    assert ours == other


def good(shape=(2, 5, 1)):
    """Arguments by name."""
    numbers = {name: torch.ones(shape) for name in ("state_value", "next_state_value", "reward")}
    return dict(gamma=0.9, lmbda=0.8, **numbers, done=torch.zeros(shape, dtype=torch.bool))


def test_terminated_stands_for_done_where_it_is_left_out():
    keywords = good()
    keywords["done"][:, 2] = True
    want = generalized_advantage_estimate(**keywords, terminated=keywords["done"].clone())
    assert all(map(torch.equal, generalized_advantage_estimate(**keywords), want))
    cut = generalized_advantage_estimate(**keywords, terminated=torch.zeros_like(keywords["done"]))
    assert torch.allclose(cut[0][:, 2] - want[0][:, 2], torch.tensor(0.9))  # bootstrapped, and the trace ends


def test_discounts_may_be_tensors_of_one_number():
    keywords = good()
    want = generalized_advantage_estimate(**keywords)
    got = generalized_advantage_estimate(**{**keywords, "gamma": torch.tensor(0.9, dtype=torch.float64)})
    assert all(map(torch.equal, got, want))


def test_gradients_are_refused_and_not_lost():
    keywords = {**good(), "state_value": torch.ones(2, 5, 1, requires_grad=True)}
    with pytest.raises(ValueError, match=r"state_value requires gradients.*no_grad"):
        generalized_advantage_estimate(**keywords)
    with torch.no_grad():
        assert not generalized_advantage_estimate(**keywords)[0].requires_grad


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        (dict(gamma=1.5), ValueError, "gamma is 1.5"),
        (dict(lmbda=torch.ones(2)), TypeError, "lmbda is"),
        (dict(reward=torch.ones(2, 4, 1)), ValueError, "one shape"),
        (dict(done=torch.zeros(2, 5, 1)), TypeError, "done has the dtype float32; it must be bool"),
        (dict(terminated=torch.zeros(2, 5, 1, dtype=torch.int64)), TypeError, "terminated has the dtype int64"),
        (dict(reward=torch.ones(2, 5, 1, dtype=torch.float64)), TypeError, "reward float64"),
        (dict(reward=torch.ones(2, 5, 1, dtype=torch.float16)), TypeError, "reward float16"),
        (dict(time_dim=3), ValueError, "time_dim is 3"),
        (dict(reward=torch.ones(2, 5, 1, device="meta")), ValueError, "on meta"),
        (good(()), ValueError, "time_dim is -2"),
    ],
)
def test_what_is_wrong_is_said(wrong, error, match):
    with pytest.raises(error, match=match):
        generalized_advantage_estimate(**{**good(), **wrong})
