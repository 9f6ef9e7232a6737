"""Saved replay buffers: what comes back, what is refused, and what a failed write leaves behind."""

from __future__ import annotations

import io
import os
import threading
import zipfile

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given
from hypothesis import strategies as st

from fastrl import ReplayBuffer
from fastrl.buffers import archive

OBS = Dict(a=Box(-1, 1, (3,), np.float32), b=Discrete(9))


def make(capacity=7, num_envs=2, obs=OBS, seed=None, **options):
    return ReplayBuffer(capacity, obs, Discrete(2), num_envs=num_envs, seed=seed, **options)


def filled(n, **options):
    buffer, rng = make(**options), np.random.default_rng(n)
    obs = {"a": rng.random((n, 3), np.float32), "b": rng.integers(0, 9, n)}
    buffer.add_batch(obs, rng.integers(0, 2, n), rng.random(n), obs, rng.random(n) < 0.5, rng.random(n) < 0.5)
    return buffer


def assert_equal(one, other):
    np.testing.assert_equal(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("n", [0, 5, 7, 18])
def test_a_saved_buffer_goes_on_where_it_was(tmp_path, n):
    path = tmp_path / "buffer.npz"
    saved, loaded = filled(n), filled(3)
    saved.save(path)
    loaded.load(path)
    assert_equal(saved, loaded)
    for buffer in (saved, loaded):
        obs = {"a": np.full((2, 3), 0.5, np.float32), "b": np.array([1, 2])}
        buffer.add(obs, np.array([0, 1]), np.array([1.0, 2.0]), obs, np.array([True, False]))
    assert_equal(saved, loaded)
    np.testing.assert_equal(saved.sample(9), loaded.sample(9))
    assert os.listdir(tmp_path) == ["buffer.npz"]


def test_numpy_reads_the_file(tmp_path):
    buffer = filled(5)
    buffer.save(tmp_path / "buffer.npz")
    with np.load(tmp_path / "buffer.npz", allow_pickle=False) as file:
        np.testing.assert_equal(dict(file), buffer.state_dict())


def test_adding_waits_until_all_is_saved(tmp_path, monkeypatch):
    buffer, loaded = filled(7), make()
    before = buffer.state_dict()
    obs = {"a": np.full((2, 3), 0.5, np.float32), "b": np.array([1, 2])}
    adder = threading.Thread(target=buffer.add, args=(obs, [0, 1], [1.0, 2.0], obs, [True, False]))
    write_array = np.lib.format.write_array

    def interrupted(*args, **kwargs):
        if adder.ident is None:
            adder.start()
            adder.join(0.1)
        write_array(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", interrupted)
    buffer.save(tmp_path / "buffer.npz")
    adder.join()
    loaded.load(tmp_path / "buffer.npz")
    np.testing.assert_equal(loaded.state_dict(), before)
    assert buffer.recent(2).reward.tolist() == [1, 2]


def test_state_dict_is_a_copy():
    buffer = filled(5, seed=0)
    for array in buffer.state_dict().values():
        array[...] = 1
    assert_equal(buffer, filled(5, seed=0))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(capacity=8), "the saved buffer has capacity 7, this one 8"),
        (dict(num_envs=3), "the saved buffer has num_envs 2, this one 3"),
        (dict(obs=Box(-1, 1, (3,))), "the saved buffer has the arrays .*'obs/a'.*, this one .*'obs'"),
        (dict(obs=Dict(a=Box(-1, 1, (4,)), b=Discrete(9))), r"obs/a is float32 \(5, 3\) .*; here .* \(5, 4\)"),
        (dict(obs=Dict(a=Box(-1, 1, (3,), np.float64), b=Discrete(9))), "obs/a is float32 .*; here it is float64"),
        (dict(extra_fields={"x": ("f4", ())}), "the saved buffer has the arrays"),
    ],
)
def test_another_layout_is_refused(tmp_path, other, message):
    filled(5).save(tmp_path / "buffer.npz")
    buffer = make(**other)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load(tmp_path / "buffer.npz")
    np.testing.assert_equal(buffer.state_dict(), before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format", np.array(2), "format 2, this one 1"),
        ("added", np.array(-1), "has added -1 transitions; that cannot be"),
        ("added", np.array(2**63 - 1), "has added 9223372036854775807 transitions; that cannot be"),
        ("added", np.array(4), r"obs/a is float32 \(5, 3\)"),
        ("added", np.array([5]), r"added is int64 \(1,\) in the saved buffer; here it is int64 \(\)"),
        ("reward", np.zeros(5), "reward is float64"),
        ("rng_state", np.zeros(4, np.uint64), "not all zero"),
        ("rng_state", None, "it lacks"),
        ("action", None, "the saved buffer has the arrays"),
    ],
)
def test_a_damaged_state_is_refused(name, value, message):
    state = filled(5).state_dict()
    if value is None:
        del state[name]
    else:
        state[name] = value
    buffer = filled(3)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    np.testing.assert_equal(buffer.state_dict(), before)


def saved_bytes():
    buffer = filled(7, seed=1)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        for name, array in buffer.state_dict().items():
            with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer, file.getvalue()


@given(st.data())
def test_no_damaged_file_is_ever_taken_for_whole(tmp_path_factory, data):
    """Cut or with bytes changed, it is refused with nothing changed, or loads as it was saved."""
    saved, content = saved_bytes()
    path = tmp_path_factory.mktemp("damaged") / "buffer.npz"
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    for _ in range(data.draw(st.integers(0 if len(damaged) < len(content) else 1, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    buffer = filled(3)
    before = buffer.state_dict()
    try:
        buffer.load(path)
    except ValueError:
        np.testing.assert_equal(buffer.state_dict(), before)
    else:
        assert_equal(buffer, saved)


def test_foreign_files(tmp_path):
    path, buffer = tmp_path / "file", filled(3)
    for content in (b"", b"hello", os.urandom(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="file is not a whole file of a replay buffer"):
            buffer.load(path)
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    with pytest.raises(ValueError, match="not the state of a replay buffer: it lacks"):
        buffer.load(path.with_suffix(".npz"))
    with pytest.raises(FileNotFoundError):
        buffer.load(tmp_path / "nothing")


def test_nothing_is_unpickled_or_unpacked_without_bound(tmp_path):
    buffer, path = filled(3), tmp_path / "file.npz"
    np.savez(path, a=np.array([{"key": 1}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a whole file"):
        buffer.load(path)
    np.savez_compressed(path, a=np.zeros(10**7))
    with pytest.raises(ValueError, match="unpacks to 80000"):
        buffer.load(path)
    np.savez(path, a=np.zeros(10**6))
    with pytest.raises(ValueError, match="unpacks to 80001"):
        buffer.load(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path, buffer = tmp_path / "buffer.npz", filled(3)
    buffer.save(path)
    old = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for owner, name in ((np.lib.format, "write_array"), (archive.os, "fsync"), (archive.os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(OSError, match="No space left"):
                filled(5).save(path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == ["buffer.npz"]
    with pytest.raises(OSError, match=r"buffer\.npz"):
        buffer.save(path / "under a file")
    buffer.sample(2)  # the lock was given back
