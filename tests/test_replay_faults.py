"""Bad input to the replay buffer: one clear error each, and nothing changed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, Sequence, Text, Tuple

from fastrl import ReplayBuffer
from fastrl.buffers.replay import ReplaySample
from fastrl_ext.random import RandomStream

OBS = Box(-1, 1, (3,), np.float32)
ZERO = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("capacity", "options", "error", "message"),
    [
        (0, {}, ValueError, "capacity is 0; it must be at least 1"),
        (-5, {}, ValueError, "capacity is -5; it must be at least 1"),
        (2.0, {}, TypeError, "capacity is 2.0"),
        (3, {"num_envs": 4}, ValueError, "capacity is 3; it must be at least num_envs, 4"),
        (3, {"num_envs": 0}, ValueError, "num_envs is 0"),
        (2**50, {}, MemoryError, "1125899906842624 transitions of 40 bytes, 41943040.0 GiB: lower"),
        (2**70, {}, MemoryError, "1180591620717411303424 transitions of 40 bytes"),
        (3, {"seed": -1}, ValueError, None),
        (3, {"seed": "a"}, TypeError, None),
        (3, {"device": "abacus"}, ValueError, "device 'abacus'"),
        (3, {"extra_fields": {"obs": ("f4", ())}}, ValueError, "cannot be named 'obs'"),
        (3, {"extra_fields": {"added": ("f4", ())}}, ValueError, "cannot be named 'added'"),
        (3, {"extra_fields": {"x": (object, ())}}, TypeError, "x is of dtype object"),
        (3, {"extra_fields": {"x": np.float32}}, TypeError, "the extra field 'x' must be"),
        (3, {"extra_fields": {"x": (np.float32, 3)}}, TypeError, "the extra field 'x' must be"),
    ],
)
def test_construction(capacity, options, error, message):
    with pytest.raises(error, match=message):
        ReplayBuffer(capacity, OBS, Discrete(2), **options)


@pytest.mark.parametrize("space", [Text(5), Sequence(OBS), Graph(OBS, None), Dict(a=OBS, b=Tuple((Text(3),)))])
def test_unsupported_spaces(space):
    with pytest.raises(TypeError, match=r"obs.* a buffer keeps Box, Discrete, MultiBinary, MultiDiscrete, and Dict"):
        ReplayBuffer(5, space, Discrete(2))
    with pytest.raises(TypeError, match="action"):
        ReplayBuffer(5, OBS, space)


def good(n, **changes):
    values = dict(
        obs=np.zeros((n, 3), np.float32),
        action=np.zeros(n, np.int64),
        reward=np.zeros(n, np.float32),
        next_obs=np.ones((n, 3), np.float32),
        terminated=np.zeros(n, bool),
    )
    return {**values, **changes}


BAD = [
    ("obs", lambda n: np.zeros((n, 6), np.float32), ValueError, r"obs has the shape \({n}, 6\); it must be \({n}, 3\)"),
    ("obs", lambda n: np.zeros((n, 1), np.float32), ValueError, r"obs has the shape \({n}, 1\); it must be \({n}, 3\)"),
    ("obs", lambda n: np.zeros((n, 3), object), TypeError, "obs is an array of Python objects"),
    ("obs", lambda n: [[0, 1]] * (n - 1) + [[0]], ValueError, r"obs .*shape"),
    ("obs", lambda n: np.zeros((n, 3), complex), TypeError, "obs is complex128 and is stored as float32"),
    ("next_obs", lambda n: np.zeros(4 * n, np.float32), ValueError, r"next_obs has the shape \({m},\)"),
    ("next_obs", lambda n: np.full((n, 3), np.inf, np.float32), ValueError, "next_obs of environment 0 is not finite"),
    ("next_obs", lambda n: np.full((n, 3), 1e300), ValueError, "next_obs of environment 0 is not finite"),
    ("action", lambda n: np.zeros(n), TypeError, "action is float64 and is stored as int64"),
    ("action", lambda n: np.full(n, 2**63, np.uint64), ValueError, "action holds 9223372036854775808"),
    ("action", lambda n: [2**63] * n, ValueError, "action holds 9223372036854775808"),
    ("action", lambda n: np.zeros((n, 1), int), ValueError, r"action has the shape \({n}, 1\); it must be \({n},\)"),
    ("reward", lambda n: [0.0] * (n - 1) + [np.nan], ValueError, "reward of environment {last} is not finite.*nan"),
    ("reward", lambda n: ["1"] * n, TypeError, "reward is <U1"),
    ("terminated", lambda n: np.zeros(n), TypeError, "terminated is float64 and is stored as bool"),
    ("terminated", lambda n: np.full(n, 2), ValueError, "terminated holds 2; it is stored as bool, 0 to 1"),
    ("truncated", lambda n: np.zeros(n + 1, bool), ValueError, r"truncated has the shape \({more},\)"),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("name", "make", "error", "message"), BAD)
def test_add(n, name, make, error, message):
    buffer = ReplayBuffer(5, OBS, Discrete(2), num_envs=n, seed=0)
    buffer.add(**good(n))
    before = buffer.state_dict()
    for number, place in dict(n=n, m=4 * n, last=n - 1, more=n + 1).items():
        message = message.replace(f"{{{number}}}", str(place))
    with pytest.raises(error, match=message):
        buffer.add(**good(n, **{name: make(n)}))
    with pytest.raises(error, match=message.replace("environment", "row")):
        buffer.add_batch(**good(n, **{name: make(n)}))
    np.testing.assert_equal(buffer.state_dict(), before)


def test_one_environment_is_not_several():
    buffer = ReplayBuffer(5, OBS, Discrete(2), num_envs=3)
    for change in ({"obs": ZERO}, {"reward": 1.0}, {"reward": np.float32(1)}, {"terminated": False}):
        with pytest.raises(ValueError, match=r"has the shape .* it must be \(3"):
            buffer.add(**good(3, **change))
    assert len(buffer) == 0


def test_scalars_outside_their_dtype():
    buffer = ReplayBuffer(5, OBS, Discrete(2))
    for change, error, message in [
        ({"action": 2**63}, ValueError, "action holds 9223372036854775808; it is stored as int64"),
        ({"action": 2**70}, TypeError, "action is an array of Python objects"),
        ({"action": 0.5}, TypeError, "action is float64 and is stored as int64"),
        ({"reward": 1e300}, ValueError, "reward of environment 0 is not finite"),
        ({"reward": None}, TypeError, "reward is an array of Python objects"),
        ({"terminated": 0.0}, TypeError, "terminated is float64 and is stored as bool"),
    ]:
        with pytest.raises(error, match=message):
            buffer.add(**good(1, **change))
    assert len(buffer) == 0


@pytest.mark.parametrize(("value", "stored"), [(255, 255), (0, 0), (300, None), (-1, None)])
def test_integers_are_stored_where_they_fit(value, stored):
    buffer = ReplayBuffer(5, Box(0, 255, (2,), np.uint8), Discrete(2))
    obs = np.full(2, value)
    if stored is None:
        with pytest.raises(ValueError, match=f"obs holds {value}; it is stored as uint8, 0 to 255"):
            buffer.add(obs, 0, 0, obs, False)
        assert len(buffer) == 0
    else:
        buffer.add(obs, 0, 0, obs, False)
        assert buffer["obs"].tolist() == [[stored] * 2]


def test_numbers_that_are_not_finite_can_be_allowed():
    buffer = ReplayBuffer(5, OBS, Discrete(2), check_finite=False, extra_fields={"x": ("f4", ())})
    buffer.add(ZERO + np.nan, 0, np.inf, ZERO, False, x=np.nan)
    assert np.isnan(buffer["obs"]).all() and buffer["reward"] == np.inf and np.isnan(buffer["x"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_number_is_checked(dtype, value):
    buffer = ReplayBuffer(5, Box(-1, 1, (67,), dtype), Discrete(2))
    for place in (0, 31, 66):
        obs = np.zeros(67, dtype)
        buffer.add(obs, 0, 0, obs + np.finfo(dtype).max, False)
        obs[place] = value
        with pytest.raises(ValueError, match="obs of environment 0 is not finite, after 1 transitions"):
            buffer.add(obs, 0, 0, np.zeros(67, dtype), False)
        buffer.clear()


def test_keys():
    buffer = ReplayBuffer(5, Dict(a=OBS, b=Tuple((OBS, OBS))), Discrete(2), extra_fields={"x": ("f4", ())})
    whole = {"a": ZERO, "b": (ZERO, ZERO)}
    for wrong, error, message in [
        ({"a": ZERO}, KeyError, r"next_obs has the keys \['a'\]; its space has \['a', 'b'\]"),
        ({**whole, "c": ZERO}, KeyError, r"next_obs has the keys \['a', 'b', 'c'\]"),
        ({"a": ZERO, "b": (ZERO,)}, ValueError, "next_obs/b must be a tuple of 2 parts; got 1"),
        ({"a": ZERO, "b": ZERO}, ValueError, "next_obs/b must be a tuple of 2 parts; got ndarray"),
        (ZERO, TypeError, "next_obs must be a dict"),
    ]:
        with pytest.raises(error, match=message):
            buffer.add(whole, 0, 0, wrong, False, x=0)
    for extra in ({}, {"y": 0}, {"x": 0, "y": 0}):
        with pytest.raises(KeyError, match="the extra fields are"):
            buffer.add(whole, 0, 0, whole, False, **extra)
    assert len(buffer) == 0
    buffer.add(whole, 0, 0, whole, False, x=0)
    with pytest.raises(KeyError, match="no column 'observations'; there are"):
        buffer["observations"]
    plain = ReplayBuffer(5, OBS, Discrete(2), extra_fields={"x": ("f4", ())})
    for extra in ({}, {"y": 0}, {"x": 0, "y": 0}):
        with pytest.raises(KeyError, match="the extra fields are"):
            plain.add(ZERO, 0, 0, ZERO, False, **extra)
    assert len(plain) == 0


def test_sampling():
    buffer = ReplayBuffer(5, OBS, Discrete(2), seed=0)
    state = buffer.rng_state
    with pytest.raises(ValueError, match="cannot sample 2 transitions from an empty ReplayBuffer"):
        buffer.sample(2)
    buffer.add_batch(**good(3))
    for batch_size, error, message in [
        (0, ValueError, "batch_size is 0; it must be at least 1"),
        (-2, ValueError, "batch_size is -2"),
        (1.5, TypeError, None),
        (None, TypeError, None),
        (2**80, ValueError, None),
        (2**62, ValueError, "batch_size is 4611686018427387904; so many transitions are more than can be addressed"),
        (2**64, ValueError, "batch_size is 18446744073709551616; so many"),
        (-(2**64), ValueError, "batch_size is -18446744073709551616; it must be at least 1"),
        (2**50, MemoryError, "allocate"),
    ]:
        with pytest.raises(error, match=message):
            buffer.sample(batch_size)
    for n in (4, 2**50, 2**62, 2**80):
        with pytest.raises(ValueError, match=f"cannot sample {n} transitions without replacement from a ReplayBuffer"):
            buffer.sample(n, replace=False)
        for replace in (True, False):
            with pytest.raises(ValueError, match=f"cannot sample {n} transitions from an empty ReplayBuffer"):
                ReplayBuffer(5, OBS, Discrete(2)).sample(n, replace=replace)
    with pytest.raises(ValueError, match="4 transitions without replacement from a ReplayBuffer that holds 3"):
        buffer.sample(4, replace=False)
    with pytest.raises(ValueError, match="n is 4; the ReplayBuffer holds 3"):
        buffer.recent(4)
    assert (buffer.rng_state == state).all()
    assert len(buffer.sample(4).indices) == 4


@pytest.mark.parametrize("index", [8, 2, 0, -1, 10**9, -(2**63), 2**63 - 1, 2**64 - 1])
def test_indices_outside(index):
    buffer = ReplayBuffer(5, OBS, Discrete(2))
    buffer.add_batch(**good(8))
    with pytest.raises(IndexError, match=rf"index {index} is outside \[3, 8\)") as caught:
        buffer.gather(np.array([3, index], np.uint64 if index > 2**63 else np.int64))
    assert ("overwritten" in str(caught.value)) == (0 <= index < 3)
    for indices, error in (([3.0], TypeError), ([True], TypeError), ([[3]], ValueError), (3, ValueError)):
        with pytest.raises(error, match="indices must"):
            buffer.gather(indices)
    assert buffer.gather([]).obs.shape == (0, 3)
    assert buffer.gather(np.array([7, 3], np.uint8)).indices.tolist() == [7, 3]


def test_out():
    buffer = ReplayBuffer(5, OBS, Discrete(2), seed=0)
    buffer.add_batch(**good(3))
    out = buffer.sample(4)
    frozen = np.zeros((4, 3), np.float32)
    frozen.flags.writeable = False
    for change, message in [
        ({"obs": np.zeros((5, 3), np.float32)}, r"out.obs must be .* float32 \[4, 3\]; got float32 \[5, 3\]"),
        ({"obs": np.zeros((4, 3))}, r"float32 \[4, 3\]; got float64 \[4, 3\]"),
        ({"next_obs": np.zeros((3, 4), np.float32).T}, "out.next_obs must be a writable C-contiguous array"),
        ({"next_obs": frozen}, "out.next_obs must be a writable"),
        ({"indices": [0, 0, 0, 0]}, "out.indices must be .*; got list"),
    ]:
        with pytest.raises(ValueError, match=message):
            buffer.sample(4, out=out._replace(**change))
    for wrong in (tuple(out), {}, out._replace(extra={"x": 0})):
        with pytest.raises(TypeError, match="out must be a ReplaySample with the extra fields"):
            buffer.sample(4, out=wrong)
    before = [array.copy() for array in out[:7]]
    with pytest.raises(IndexError):
        buffer.gather([0, 1, 2, 3], out=out)
    np.testing.assert_equal(out[:7], before)
    assert isinstance(buffer.sample(4, out=out), ReplaySample)


def test_pickles_and_buffers_without_init_are_refused():
    with pytest.raises(TypeError, match="neither pickled nor copied: see its state_dict"):
        pickle.dumps(ReplayBuffer(5, OBS, Discrete(2)))
    buffer = ReplayBuffer.__new__(ReplayBuffer)
    assert len(buffer) == 0
    with pytest.raises(RuntimeError, match="has not been called"):
        buffer.sample(2)
    with pytest.raises(TypeError):
        buffer._add_rows([], 2)
    with pytest.raises(RuntimeError, match="initialised once"):
        buffer = ReplayBuffer(5, OBS, MultiBinary(2))
        buffer.__init__(5, OBS, MultiBinary(2))


def test_random_stream():
    for n, high, replace in ((-1, 5, True), (1, 0, True), (6, 5, False)):
        with pytest.raises(ValueError, match="cannot draw"):
            RandomStream(0).integers(n, high, replace)
    buffer = ReplayBuffer(5, OBS, Discrete(2))
    for state in (np.zeros(4, np.uint64), np.ones(4), np.ones(3, np.uint64), None):
        with pytest.raises(ValueError, match="a random state is uint64"):
            buffer.rng_state = state
