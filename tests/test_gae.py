"""GAE and discounted returns against their definitions, and `compute_gae` as its users call it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl import compute_gae, discounted_returns, lambda_returns, n_step_returns, vtrace
from tests.reference import returns as reference

UNIT = st.floats(0, 1)


def rollout(seed, T, N, dtype=np.float64, end=0.2):
    """What `compute_gae` takes, in its order."""
    rng = np.random.default_rng(seed)
    reward, value, final_value = (rng.normal(size=(T, N)).astype(dtype) for _ in range(3))
    terminated, truncated = (rng.random((T, N)) < end for _ in range(2))  # both at once happens too
    return dict(reward=reward, value=value, last_value=rng.normal(size=N).astype(dtype), terminated=terminated,
                truncated=truncated, final_value=final_value)  # fmt: skip


def call(r, **options):
    return compute_gae(*r.values(), **options)


# Vectors of 16 and of 8 environments, single ones, and one environment's steps in vectors; tiles of 1,024 steps.
SHAPES = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 40)),
    st.tuples(st.integers(1, 40), st.integers(1, 3)),
    st.sampled_from([(1050, 1), (1026, 1), (70, 16), (130, 8), (45, 25), (3, 1100), (1, 1030)]),
)
ROLLOUTS = dict(seed=st.integers(0, 2**32), shape=SHAPES, dtype=st.sampled_from([np.float32, np.float64]), gamma=UNIT)


def assert_close(found, wanted, dtype):
    assert found.dtype == dtype
    tolerance = 1e-10 if dtype == np.float64 else 2e-4
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@settings(deadline=None)
@given(**ROLLOUTS, gae_lambda=UNIT)
def test_gae_is_the_sum_of_discounted_errors(seed, shape, dtype, gamma, gae_lambda):
    r = rollout(seed, *shape, dtype)
    expected = reference.gae(**r, gamma=gamma, gae_lambda=gae_lambda)
    for found, wanted in zip(call(r, gamma=gamma, gae_lambda=gae_lambda), expected, strict=True):
        assert_close(found, wanted, dtype)
    assert_close(lambda_returns(*r.values(), gamma=gamma, lambda_=gae_lambda), expected[1], dtype)


@settings(deadline=None)
@given(**ROLLOUTS)
def test_discounted_returns_are_the_sum_of_discounted_rewards(seed, shape, dtype, gamma):
    r = rollout(seed, *shape, dtype)
    del r["value"]
    assert_close(discounted_returns(*r.values(), gamma=gamma), reference.discounted_returns(**r, gamma=gamma), dtype)


@settings(deadline=None)
@given(**ROLLOUTS, n_steps=st.integers(1, 9))
def test_n_step_returns_are_windows_and_what_follows_them(seed, shape, dtype, gamma, n_steps):
    r = rollout(seed, *shape, dtype)
    found = n_step_returns(*r.values(), n_steps=n_steps, gamma=gamma)
    assert_close(found, reference.n_step_returns(**r, n_steps=n_steps, gamma=gamma), dtype)


@settings(deadline=None)
@given(**ROLLOUTS, lam=UNIT, clips=st.tuples(*[st.floats(0.1, 2)] * 3))
def test_vtrace_is_its_sum(seed, shape, dtype, gamma, lam, clips):
    r = rollout(seed, *shape, dtype)
    ratio = np.random.default_rng(seed + 1).lognormal(size=shape).astype(dtype)
    names = dict(zip(("clip_rho", "clip_c", "clip_pg_rho"), clips, strict=True))
    found = vtrace(*r.values(), ratios=ratio, gamma=gamma, lambda_=lam, **names)
    expected = reference.vtrace(**r, ratio=ratio, gamma=gamma, lam=lam, **names)
    for got, wanted in zip(found, expected, strict=True):
        assert_close(got, wanted, dtype)


def test_vtrace_on_policy_is_lambda_returns():
    r = rollout(5, 30, 4)
    targets, _ = vtrace(*r.values(), ratios=np.ones((30, 4)), gamma=0.9, lambda_=0.7)
    np.testing.assert_allclose(targets, lambda_returns(*r.values(), gamma=0.9, lambda_=0.7), atol=1e-12)


@pytest.mark.parametrize("bad", [-0.1, np.nan])
def test_vtrace_refuses_ratios_that_are_none(bad):
    r = rollout(5, 3, 2)
    with pytest.raises(ValueError, match="ratios hold negative numbers or NaN"):
        vtrace(*r.values(), ratios=np.full((3, 2), bad))
    with pytest.raises(ValueError, match="clip_c is 0; it must be positive"):
        vtrace(*r.values(), ratios=np.ones((3, 2)), clip_c=0)
    with pytest.raises(ValueError, match="ratios have shape"):
        vtrace(*r.values(), ratios=np.ones((3, 1)))
    with pytest.raises(ValueError, match="n_steps"):
        n_step_returns(*r.values(), n_steps=0)


@given(seed=st.integers(0, 2**32), gamma=UNIT)
def test_lambda_1_is_monte_carlo_and_lambda_0_is_one_step(seed, gamma):
    r = rollout(seed, 9, 3)
    without_value = {k: v for k, v in r.items() if k != "value"}
    _, returns = call(r, gamma=gamma, gae_lambda=1.0)
    np.testing.assert_allclose(returns, reference.discounted_returns(**without_value, gamma=gamma), atol=1e-10)
    advantages, _ = call(r, gamma=gamma, gae_lambda=0.0)
    following = reference.next_values(r["value"], r["last_value"], r["terminated"], r["truncated"], r["final_value"])
    np.testing.assert_allclose(advantages, r["reward"] + gamma * following - r["value"], atol=1e-12)


def test_a_time_limit_bootstraps_and_cuts():
    """With V = 100 everywhere, no reward and γ = λ = 1, nothing was gained or lost at a truncation."""
    T = 4
    ends = np.array([False, True, False, False])
    zeros, hundred = np.zeros(T), np.full(T, 100.0)
    advantages, returns = compute_gae(zeros, hundred, 100.0, np.zeros(T, bool), ends, hundred, gamma=1, gae_lambda=1)
    np.testing.assert_array_equal(advantages, zeros)
    np.testing.assert_array_equal(returns, hundred)
    advantages, _ = compute_gae(zeros, hundred, 100.0, ends, gamma=1, gae_lambda=1)
    np.testing.assert_array_equal(advantages, [-100, -100, 0, 0])


def test_terminated_wins_over_truncated():
    flags = np.array([True])
    advantages, _ = compute_gae(np.ones(1), np.zeros(1), 5.0, flags, flags, np.full(1, 7.0))
    assert advantages == [1.0]


def test_it_equals_stable_baselines3():
    buffers = pytest.importorskip("stable_baselines3.common.buffers", reason="stable-baselines3 is not installed")
    import gymnasium as gym

    T, N, gamma, lam = 50, 4, 0.97, 0.9
    r = rollout(3, T, N, np.float32)
    box = gym.spaces.Box(-1, 1, (1,))
    theirs = buffers.RolloutBuffer(T, box, box, gamma=gamma, gae_lambda=lam, n_envs=N)
    done = r["terminated"] | r["truncated"]
    # SB3 marks the step that begins an episode, and adds γ V(final) to the reward of a truncated one.
    reward = r["reward"] + gamma * r["final_value"] * (r["truncated"] & ~r["terminated"])
    starts = np.concatenate([np.zeros((1, N), bool), done[:-1]])
    for t in range(T):
        value = torch.tensor(r["value"][t])
        theirs.add(np.zeros((N, 1)), np.zeros((N, 1)), reward[t], starts[t], value, torch.zeros(N))
    theirs.compute_returns_and_advantage(torch.tensor(r["last_value"]), done[-1])
    advantages, returns = call(r, gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(advantages, theirs.advantages, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(returns, theirs.returns, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kinds_and_dtypes(dtype):
    r = rollout(0, 6, 2, dtype)
    advantages, returns = call(r)
    assert advantages.dtype == returns.dtype == dtype
    tensors = {k: torch.from_numpy(v) for k, v in r.items()}
    as_tensors = call(tensors)
    assert all(isinstance(x, torch.Tensor) for x in as_tensors)
    np.testing.assert_array_equal(as_tensors[0].numpy(), advantages)
    tensors["value"].requires_grad_()
    assert not call(tensors)[0].requires_grad


def test_one_environment_needs_no_second_axis():
    r = rollout(1, 8, 1)
    flat = {k: v[:, 0] if v.ndim == 2 else v[0] for k, v in r.items()}
    for found, wanted in zip(call(flat), call(r), strict=True):
        np.testing.assert_array_equal(found, wanted[:, 0])


def test_strided_and_read_only_inputs_and_number_flags():
    r = rollout(2, 6, 4)
    wide = {k: np.repeat(v, 2, axis=-1)[..., ::2] for k, v in r.items()}
    for array in wide.values():
        array.setflags(write=False)
    wide["terminated"] = wide["terminated"].astype(np.float32)
    before = {k: v.copy() for k, v in wide.items()}
    for found, wanted in zip(call(wide), call(r), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert all((wide[k] == before[k]).all() for k in wide)


def test_out_is_written_and_returned():
    r = rollout(4, 5, 3)
    alone = np.empty((5, 3))
    assert lambda_returns(*r.values(), out=alone) is alone
    np.testing.assert_array_equal(alone, call(r)[1])
    out = np.empty((5, 3)), np.empty((5, 3))
    found = call(r, out=out)
    assert found[0] is out[0] and found[1] is out[1]
    np.testing.assert_array_equal(out[0], call(r)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(value=np.zeros((5, 3))), r"values have shape \(5, 3\)"),
        (dict(value=np.zeros(6)), "values have shape"),
        (dict(terminated=np.zeros((6, 2), bool)), "terminated have shape"),
        (dict(terminated=np.full((6, 3), 2)), "bool, or 0 and 1"),
        (dict(last_value=np.zeros(2)), "last_values have shape"),
        (dict(final_value=np.zeros((6, 1))), "final_values have shape"),
        (dict(final_value=None), "need final_values"),
        (dict(reward=np.zeros((0, 3))), "not empty"),
        (dict(reward=np.zeros((2, 3, 4))), r"\(T,\) or \(T, N\)"),
    ],
)
def test_shapes_that_differ(change, message):
    with pytest.raises(ValueError, match=message):
        call({**rollout(0, 6, 3), **change})


@pytest.mark.parametrize("options", [dict(gamma=1.1), dict(gamma=-0.1), dict(gae_lambda=2), dict(gae_lambda=np.nan)])
def test_discounts_outside_the_unit_interval(options):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        call(rollout(0, 3, 1), **options)


def test_numbers_that_are_none():
    r = rollout(0, 3, 1)
    with pytest.raises(TypeError, match="real numbers"):
        call({**r, "reward": r["reward"].astype(object)})
    with pytest.raises(TypeError, match="real numbers"):
        call({**r, "value": r["value"].astype(complex)})


def test_outs_that_do_not_fit():
    r = rollout(0, 3, 2)
    good = np.empty((3, 2))
    for out, error in [
        ((np.empty((3, 1)), good), "must be float64"),
        ((np.empty((3, 2), np.float32), good), "must be float64"),
        ((np.empty((2, 3)).T, good), "C-contiguous"),
        ((r["reward"], good), "shares memory"),
        ((good, good), "shares memory"),
    ]:
        with pytest.raises(ValueError, match=error):
            call(r, out=out)
    with pytest.raises(TypeError, match="same kind"):
        call(r, out=(torch.empty(3, 2), torch.empty(3, 2)))
    assert np.array_equal(r["reward"], rollout(0, 3, 2)["reward"])


@pytest.mark.parametrize("N", [1, 3, 8, 16, 17])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_crosses_the_end_of_an_episode(N, bad):
    """What is not a number in one episode leaves the one before as it was."""
    T, end = 40, 20
    r = rollout(7, T, N, end=0)
    r["terminated"][end] = r["terminated"][-1] = True
    spoilt = {k: v.copy() for k, v in r.items()}
    spoilt["reward"][end + 2], spoilt["value"][end + 1], spoilt["last_value"][:] = bad, bad, bad
    without_value = [{k: v for k, v in x.items() if k != "value"}.values() for x in (r, spoilt)]
    ratios = dict(ratios=np.ones((T, N)))
    with np.errstate(invalid="ignore"):
        pairs = [tuple(call(x)[0] for x in (r, spoilt)),
                 tuple(vtrace(*x.values(), **ratios)[0] for x in (r, spoilt)),
                 tuple(discounted_returns(*x) for x in without_value),
                 tuple(n_step_returns(*x.values(), n_steps=30) for x in (r, spoilt))]  # fmt: skip
    for wanted, found in pairs:
        np.testing.assert_array_equal(found[: end + 1], wanted[: end + 1])
    for found in (pairs[2][1], pairs[3][1]):  # nor does what follows the last end
        assert np.isfinite(found[end + 3 :]).all()


@pytest.mark.parametrize("N", [1, 3, 8, 16, 17, 33])
@pytest.mark.parametrize("T", [1, 2, 15, 1030])
def test_only_the_outputs_are_written(T, N):
    """Memory around `out` stays as it is."""
    r = rollout(8, T, N)
    blocks = [np.full(T * N + 64, 7.5) for _ in range(2)]
    out = tuple(block[32:-32].reshape(T, N) for block in blocks)
    call(r, out=out)
    vtrace(*r.values(), ratios=np.ones((T, N)), out=out)
    n_step_returns(*r.values(), n_steps=2**70, out=out[0])
    for block in blocks:
        assert (block[:32] == 7.5).all() and (block[-32:] == 7.5).all() and np.isfinite(block).all()


def test_a_discount_that_is_no_number():
    with pytest.raises(TypeError, match="gamma is 'a'"):
        call(rollout(0, 3, 1), gamma="a")
