"""Replay buffers in a file: what survives a crash, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from hypothesis import given
from hypothesis import strategies as st

from fastrl import ReplayBuffer
from fastrl.buffers import recordfile
from fastrl.buffers.state import SavedRing

SPACE = Box(-(2**62), 2**62, (100,), np.int64)
RECORDS = 3 * recordfile.BLOCK  # where they begin


def make(path, capacity=60, **options):
    return ReplayBuffer(capacity, SPACE, Discrete(2**62), path=path, **options)


def add(buffer, n):
    """The next `n` transitions, whose every number follows from its number in the order of adding."""
    number = buffer._added + np.arange(n)
    obs = np.repeat(number[:, None], 100, axis=1)
    buffer.add_batch(obs, number, (number % 1000), obs + 1, number % 2 == 0, number % 3 == 0)


def assert_whole(buffer):
    """Everything that it holds is as `add` made it."""
    held = buffer.recent()
    number = np.arange(buffer._added - len(buffer), buffer._added)
    np.testing.assert_array_equal(held.indices, number)
    np.testing.assert_array_equal(held.action, number)
    np.testing.assert_array_equal(held.obs, np.repeat(number[:, None], 100, axis=1))
    np.testing.assert_array_equal(held.next_obs, held.obs + 1)
    np.testing.assert_array_equal(held.reward, number % 1000)
    np.testing.assert_array_equal(held.terminated, number % 2 == 0)
    np.testing.assert_array_equal(held.truncated, number % 3 == 0)
    order = np.argsort(number % buffer.capacity)
    np.testing.assert_array_equal(buffer["action"], number[order])
    if len(buffer):
        drawn = buffer.sample(200)
        assert (drawn.action == drawn.indices).all() and set(drawn.indices) <= set(number)
        distinct = buffer.sample(len(buffer), replace=False)
        np.testing.assert_array_equal(np.sort(distinct.action), number)


def opened(path, **options):
    """The buffer, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        buffer = make(path, **options)
    return buffer, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("n", [0, 7, 60, 200])
def test_a_closed_file_goes_on_where_it_was(tmp_path, n):
    one, other = make(tmp_path / "file", seed=1), make(tmp_path / "other", seed=1)
    add(one, n)
    add(other, n)
    if n:
        one.sample(5)
        other.sample(5)
    one.close()
    one, heard = opened(tmp_path / "file", seed=2)
    assert not heard
    np.testing.assert_equal(one.state_dict(), other.state_dict())
    for buffer in (one, other):
        add(buffer, 9)
    np.testing.assert_equal(one.sample(9), other.sample(9))
    assert_whole(one)


def test_other_spaces_environments_and_several_steps(tmp_path):
    space = Dict(image=Box(0, 255, (4, 4), np.uint8), speed=Box(-1, 1, (), np.float32))
    options = dict(num_envs=2, n_step=3, extra_fields={"log_prob": (np.float32, ())}, seed=0)
    there = ReplayBuffer(10, space, Discrete(3), path=tmp_path / "file", **options)
    here = ReplayBuffer(10, space, Discrete(3), **options)
    rng = np.random.default_rng(0)
    for _ in range(8):
        obs = {"image": rng.integers(0, 255, (2, 4, 4), np.uint8), "speed": rng.random(2, np.float32)}
        reward = rng.random(2)
        for buffer in (there, here):
            buffer.add(obs, np.array([0, 1]), reward, obs, np.array([False, True]), log_prob=np.ones(2))
    there.close()
    there = ReplayBuffer(10, space, Discrete(3), path=tmp_path / "file", **options)
    np.testing.assert_equal(there.state_dict(), here.state_dict())
    np.testing.assert_equal(there.sample(20), here.sample(20))


@given(st.data())
def test_any_crash_leaves_what_was_flushed_and_not_overwritten(tmp_path_factory, data):
    """Of the pages written since the last flush, any may have reached the disk, and any may not."""
    path = tmp_path_factory.mktemp("crash") / "file"
    capacity = data.draw(st.sampled_from([1, 5, 60, 200]))
    buffer, flushed, content = make(path, capacity), 0, path.read_bytes()
    for n in data.draw(st.lists(st.integers(0, 90), max_size=6)):
        if n:
            add(buffer, n)
        else:
            buffer.flush()
            flushed, content = buffer._added, path.read_bytes()
    now, rng = path.read_bytes(), np.random.default_rng(data.draw(st.integers(0, 2**32)))
    torn = bytearray(now)
    for start in range(RECORDS, len(now), 512):
        if rng.random() < 0.5:
            torn[start : start + 512] = content[start : start + 512]
    crashed = path.with_name("crashed")
    crashed.write_bytes(torn)
    found, heard = opened(crashed, capacity=capacity)
    first = found._added - len(found)
    assert found._added == flushed and len(heard) == (buffer._added > flushed)
    overwritten = max(0, buffer._added - capacity)
    assert min(overwritten, flushed) <= first <= min(overwritten + capacity // recordfile.PARTS, flushed)
    assert_whole(found)
    if heard:
        dropped = first - max(0, flushed - capacity)
        assert f"and {dropped} older ones, which they may have overwritten, are dropped" in heard[0]

    # It goes on: what is torn stays out of sight until it has been overwritten.
    add(found, data.draw(st.integers(0, 2 * capacity)))
    assert_whole(found)
    whole = len(found)
    found.close()
    found, heard = opened(crashed, capacity=capacity)
    assert not heard and len(found) == whole
    assert_whole(found)
    found.clear()
    add(found, 3)
    found.close()
    found, heard = opened(crashed, capacity=capacity)
    assert not heard and len(found) == min(3, capacity)
    assert_whole(found)


CHILD = """
import sys
from tests.test_replay_path import add, assert_whole, opened
buffer, _ = opened(sys.argv[1], capacity=int(sys.argv[2]))
assert_whole(buffer)
print("ready", buffer._added, flush=True)
while True:
    for n in (1, 3, 50):
        add(buffer, n)
    buffer.flush()
    print("flushed", buffer._added, flush=True)
    add(buffer, 40)
"""


def test_a_killed_process_loses_nothing_that_was_flushed(tmp_path):
    rng, root = np.random.default_rng(0), Path(recordfile.__file__).parents[2]
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "file"), "300"], stdout=subprocess.PIPE, text=True, cwd=root
        )
        for _ in range(1 + rng.integers(1, 12)):
            line = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
        told = [line, *(late.split() for late in child.stdout.read().splitlines())]
        child.wait()
        child.stdout.close()
        buffer, _ = opened(tmp_path / "file", capacity=300)
        assert buffer._added >= int(told[-1][1]) > 0
        assert len(buffer) >= min(300, buffer._added) - (1 + 3 + 50 + 40 + 300 // recordfile.PARTS)
        assert_whole(buffer)
        buffer.close()


def test_a_torn_progress_falls_back_to_the_one_before(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    buffer.flush()
    before = buffer._file.progress
    add(buffer, 5)
    buffer.flush()
    content = bytearray((tmp_path / "file").read_bytes())
    newest = recordfile.BLOCK * (1 + buffer._file.progress.version % 2)
    content[newest + 9] ^= 1
    (tmp_path / "torn").write_bytes(content)
    assert opened(tmp_path / "torn")[0]._added == 5 == before.added
    content[3 * recordfile.BLOCK - newest + 9] ^= 1
    (tmp_path / "torn").unlink()
    (tmp_path / "torn").write_bytes(content)
    with pytest.raises(ValueError, match="torn is damaged: neither copy of its progress is whole"):
        make(tmp_path / "torn")


def test_clear_and_load_are_durable(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 70)
    buffer.flush()
    saved = ReplayBuffer(60, SPACE, Discrete(2**62), seed=3)
    add(saved, 100)
    saved.save(tmp_path / "saved.npz")
    buffer.clear()
    add(buffer, 10)
    (tmp_path / "crashed").write_bytes((tmp_path / "file").read_bytes())
    crashed, heard = opened(tmp_path / "crashed")
    assert len(crashed) == 0 and "at most 60, are lost, and 0 older ones" in heard[0]
    buffer.load(tmp_path / "saved.npz")
    (tmp_path / "again").write_bytes((tmp_path / "file").read_bytes())
    again, heard = opened(tmp_path / "again")
    assert not heard
    np.testing.assert_equal(again.state_dict(), saved.state_dict())


def test_a_file_that_lost_some_begins_anew_when_cleared(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 60)
    buffer.flush()
    add(buffer, 30)
    (tmp_path / "crashed").write_bytes((tmp_path / "file").read_bytes())
    crashed, heard = opened(tmp_path / "crashed")
    assert len(crashed) == 30 and "at most 30, are lost, and 30 older ones" in heard[0]
    crashed.clear()
    add(crashed, 3)
    crashed.close()
    crashed, heard = opened(tmp_path / "crashed")
    assert len(crashed) == 3 and not heard
    assert_whole(crashed)


def test_two_writers(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    with pytest.raises(OSError, match="another buffer has this file open; close that one first"):
        make(tmp_path / "file")
    child = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "file"), "60"], capture_output=True, text=True,
                           cwd=Path(recordfile.__file__).parents[2])  # fmt: skip
    assert child.returncode and "another buffer has this file open" in child.stderr
    buffer.close()
    buffer.close()
    with pytest.raises(ValueError, match="file is closed: nothing can be added"):
        add(buffer, 1)
    other = make(tmp_path / "file")
    assert_whole(other)
    del other
    add(make(tmp_path / "file"), 5)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (dict(capacity=61), "was made with capacity 60; this buffer has 61"),
        (dict(num_envs=2), "was made with num_envs 1; this buffer has 2"),
        (dict(extra_fields={"x": ("f4", ())}), "was made with record .*; this buffer has .*'x'"),
    ],
)
def test_another_layout(tmp_path, other, message):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    buffer.close()
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "file", **other)
    assert (tmp_path / "file").read_bytes() == before
    assert_whole(make(tmp_path / "file"))


def test_foreign_and_damaged_files(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    buffer.close()
    whole = (tmp_path / "file").read_bytes()
    for content, message in [
        (b"", "is not a replay buffer's file: choose another path, or delete it"),
        (b"hello", "is not a replay buffer's file"),
        (os.urandom(len(whole)), "is not a replay buffer's file"),
        (b"fastrl replay 2\n" + whole[16:], "is not a replay buffer's file of another version"),
        (whole[:60] + b"?" + whole[61:], "is not a replay buffer's file"),
        (whole[:-1], f"has {len(whole) - 1} bytes where {len(whole)} make it whole: it was truncated"),
        (whole[:70000], "it was truncated"),
        (whole + b"x", "make it whole"),
    ]:
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            make(tmp_path / "bad")
        assert (tmp_path / "bad").read_bytes() == content
        (tmp_path / "bad").unlink()
    with pytest.raises(ValueError):
        make(tmp_path / "bad", seed=-1)
    with pytest.raises(OSError, match="No such file"):
        make(tmp_path / "no" / "folder")
    with pytest.raises(ValueError, match="too many for a file"):
        ReplayBuffer(5, Dict({f"{i:0500}": Discrete(2) for i in range(200)}), Discrete(2), path=tmp_path / "wide")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    size = RECORDS + 2**47 * make(None, capacity=1).nbytes
    with pytest.raises(OSError, match=f"No space left on device: the buffer needs {size} bytes"):
        make(tmp_path / "file", capacity=2**47)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(recordfile.os, "posix_fallocate", full, raising=False)
        with pytest.raises(OSError, match=r"No space left on device: .*lower the capacity"):
            make(tmp_path / "file")
    assert os.listdir(tmp_path) == []
    monkeypatch.delattr(recordfile.os, "posix_fallocate", raising=False)
    buffer = make(tmp_path / "file")
    add(buffer, 100)
    assert_whole(buffer)


def test_a_failed_write_of_the_progress_adds_nothing(tmp_path, monkeypatch):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    buffer.flush()
    before = buffer.state_dict()

    class Broken:
        def __setitem__(self, where, what):
            buffer_map[where] = what

        def flush(self, *where):
            raise OSError(5, "Input/output error")

    buffer_map = buffer._file._map
    with monkeypatch.context() as patch:
        patch.setattr(buffer._file, "_map", Broken())
        with pytest.raises(OSError, match="Input/output error"):
            add(buffer, 5)
        np.testing.assert_equal(buffer.state_dict(), before)
    add(buffer, 5)
    assert_whole(buffer)


@pytest.mark.parametrize("option", [dict(share_next_obs=True), dict(frame_stack=4)])
def test_options_that_do_not_combine(tmp_path, option):
    with pytest.raises(ValueError, match=rf"path and {next(iter(option))}.* do not combine"):
        ReplayBuffer(9, Box(0, 1, (4, 2)), Discrete(2), path=tmp_path / "file", **option)
    assert os.listdir(tmp_path) == []


def test_flush_is_for_files():
    buffer = ReplayBuffer(5, SPACE, Discrete(2))
    with pytest.raises(ValueError, match=r"flush\(\) is for a buffer with path"):
        buffer.flush()
    buffer.close()
    add(buffer, 1)


def with_progress(content, path, **changes):
    """A file with both copies of its progress changed, and their CRCs right."""
    changed = bytearray(content)
    for start in (recordfile.BLOCK, 2 * recordfile.BLOCK):
        names = ("version", "first", "added", "dirty", "ragged", "a", "b", "c", "d")
        found = dict(zip(names, recordfile.PROGRESS.unpack_from(content, start), strict=True))
        packed = recordfile.PROGRESS.pack(*{**found, **changes}.values())
        changed[start : start + len(packed) + 4] = packed + zlib.crc32(packed).to_bytes(4, "little")
    path.write_bytes(changed)


@pytest.mark.parametrize(
    "changes",
    [
        dict(first=6), dict(first=-1), dict(first=2**63 - 1), dict(added=6), dict(added=2**62, dirty=2**62),
        dict(dirty=2**62), dict(dirty=-1), dict(dirty=4), dict(first=-9, added=-3), dict(ragged=2), dict(ragged=-1),
        dict(version=2**64 - 1), dict(first=-(2**63), added=2**62 - 1, dirty=2**62 - 1),
    ],
)  # fmt: skip
def test_a_progress_that_cannot_be_is_refused(tmp_path, changes):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    buffer.close()
    whole = (tmp_path / "file").read_bytes()
    with_progress(whole, tmp_path / "same")
    assert (tmp_path / "same").read_bytes()[RECORDS:] == whole[RECORDS:] and len(make(tmp_path / "same")) == 5
    with_progress(whole, tmp_path / "bad", **changes)
    before = (tmp_path / "bad").read_bytes()
    with pytest.raises(ValueError, match="bad is damaged: its progress cannot be"):
        make(tmp_path / "bad")
    assert (tmp_path / "bad").read_bytes() == before


@pytest.mark.parametrize("content", [b"[1, 2]", b"null", b"\xff", b"{", b'"capacity"', b"[" * 60000])
def test_a_head_that_is_no_dictionary_is_refused(tmp_path, content):
    make(tmp_path / "file").close()
    head = recordfile.LAYOUT.pack(recordfile.MAGIC, len(content), zlib.crc32(content)) + content
    (tmp_path / "bad").write_bytes(head + (tmp_path / "file").read_bytes()[len(head) :])
    with pytest.raises(ValueError, match="bad is damaged: it does not say what its records are"):
        make(tmp_path / "bad")


def test_a_closed_buffer_changes_nothing_in_the_file(tmp_path):
    buffer = make(tmp_path / "file")
    add(buffer, 5)
    saved = buffer.state_dict()
    buffer.close()
    other = make(tmp_path / "file")
    for change in (buffer.end_episodes, buffer.clear, buffer.flush, lambda: buffer.load_state_dict(saved)):
        with pytest.raises(ValueError, match="file is closed"):
            change()
    np.testing.assert_equal(other.state_dict(), saved)
    assert_whole(other)
    assert_whole(buffer)


def test_a_file_of_environments_out_of_step(tmp_path):
    buffer = make(tmp_path / "file", num_envs=3)
    add(buffer, 4)
    buffer.close()
    with pytest.raises(ValueError, match="file was not filled by all 3 environments in step; n_step 2 needs that"):
        make(tmp_path / "file", num_envs=3, n_step=2)
    again = make(tmp_path / "file", num_envs=3)
    assert_whole(again)
    again.clear()
    again.close()
    add(make(tmp_path / "file", num_envs=3, n_step=2), 6)


def test_a_buffer_that_fails_leaves_no_new_file(tmp_path, monkeypatch):
    for n_step in (2**31, 2**40, 2**70):
        with pytest.raises(ValueError, match=rf"n_step is {n_step}; it must be at most 2147483647"):
            make(tmp_path / "file", n_step=n_step)
    with pytest.raises(ValueError, match="n_step is"):
        make(None, n_step=2**40)
    old = make(tmp_path / "old")
    add(old, 5)
    old.close()

    def none(*args):
        raise MemoryError("none")

    with monkeypatch.context() as patch:
        patch.setattr(SavedRing, "__init__", none)
        for name in ("new", "old"):
            with pytest.raises(MemoryError, match="none"):
                make(tmp_path / name)
    assert os.listdir(tmp_path) == ["old"]
    assert_whole(make(tmp_path / "old"))
