"""The checks that a replay buffer has to pass before it is timed: ours passes, and what is a little wrong does not."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benches import frames, n_step, prioritized, replay, transitions
from benches.buffers import TENSORS
from benches.limits import library
from benches.operation import Missing, Operation, absent
from benches.transitions import Case, Rows

SMALL = Case(4, 64, 1000)


def checked(operation: Operation, case: Any) -> tuple[Any, Any, Callable[[Any, Any], None]]:
    """What our implementation gives, what is expected, and how they are compared; the true result passes."""
    data = operation.data(case)
    expected = operation.reference(data)
    work = operation.implementations["fastrl"].make(data)
    result = work.result(work.call())
    operation.compare(result, expected)
    return result, expected, operation.compare


def refused(result: Any, expected: Any, compare: Callable[[Any, Any], None]) -> None:
    with pytest.raises(AssertionError):
        compare(result, expected)


@pytest.mark.parametrize("name", ["action", "reward", "next_obs", "terminated"])
def test_fields_of_other_rows_are_found(name):
    drawn, expected, compare = checked(replay.REPLAY_SAMPLE, SMALL)
    moved = np.array(getattr(expected, name)[(drawn.obs[:, 0].astype(int) + 1) % len(expected.obs)])
    refused(drawn._replace(**{name: moved}), expected, compare)


def test_a_batch_that_is_always_the_same_row_and_one_that_was_never_stored_are_found():
    drawn, expected, compare = checked(replay.REPLAY_SAMPLE, SMALL)
    refused(drawn.at(np.zeros(64, int)), expected, compare)
    unknown = drawn.obs.copy()
    unknown[:, 0] += len(expected.obs)
    refused(drawn._replace(obs=unknown), expected, compare)


def test_of_added_rows_none_may_be_missing():
    added, expected, compare = checked(replay.REPLAY_ADD_BATCH, Case(4, 64, 1024, 64))
    refused(added.at(slice(63)), expected, compare)
    refused(transitions.transitions(0, 64, 4), expected, compare)
    assert expected.terminated[0]
    refused(added._replace(terminated=np.zeros_like(added.terminated)), expected, compare)


def test_fresh_transitions_are_others_in_each_round_and_in_the_arrays_that_are_added():
    data = transitions.data(Case(4, 64, 1024, 16))
    seen = []
    for round in range(transitions.ADDED):
        replay.fresh(data, round)
        seen.append(data.own.obs[:, 0].copy())
    np.testing.assert_array_equal(np.concatenate(seen), data.new.obs[:, 0])


@pytest.mark.parametrize("ends", ["terminal", "time limits"])
def test_windows_that_do_not_end_where_they_should_are_found(ends):
    operation = n_step.REPLAY_N_STEP
    drawn, expected, compare = checked(operation, n_step.NStep(SMALL, 3, ends))
    rows = drawn.obs[:, 0].astype(int)
    stored, capacity = expected.stored, len(expected.stored.obs)
    past = np.minimum(rows + 2, capacity - 1)  # three steps, whatever ends between
    rewards = sum(0.99**k * stored.reward[np.minimum(rows + k, capacity - 1)] for k in range(3))
    beyond = n_step.target(rewards, np.full(len(rows), 0.99**3), stored.terminated[past], stored.next_obs[past])
    refused(drawn._replace(target=beyond), expected, compare)
    refused(drawn._replace(action=1 - drawn.action), expected, compare)


@pytest.mark.parametrize(("ends", "compared"), [("none", 997), ("time limits", 1000)])
def test_the_windows_that_the_newest_transition_cuts_short_are_not_compared_where_no_episode_ends(ends, compared):
    data = n_step.data(n_step.NStep(SMALL, 4, ends))
    stored = data.stored
    windows = n_step.Targets(stored.obs, stored.action, np.zeros(1000))
    for row in range(1000):
        rows = np.arange(row, min(row + 4, 1000))
        over = np.flatnonzero((stored.terminated | stored.truncated)[rows])
        rows = rows[: over[0] + 1] if len(over) else rows
        value = (1 - stored.terminated[rows[-1]]) * stored.next_obs[rows[-1], 1]
        windows.target[row] = 0.99 ** np.arange(len(rows)) @ stored.reward[rows] + 0.99 ** len(rows) * value
    n_step.right(windows, data)
    for row in range(990, 1000):
        wrong = windows.target.copy()
        wrong[row] += 0.1
        if row < compared:
            refused(windows._replace(target=wrong), data, n_step.right)
        else:
            n_step.right(windows._replace(target=wrong), data)


@pytest.mark.parametrize(
    ("operation", "case", "batch"),
    [
        (replay.REPLAY_SAMPLE, SMALL, lambda result: result),
        (prioritized.PRIORITISED_SAMPLE, SMALL, lambda result: result.batch),
        (frames.FRAME_STACKS, frames.Case(32, 400), lambda result: result),
    ],
    ids=["sample", "prioritised", "frames"],
)
def test_what_hands_out_tensors_is_compared_with_ours_that_does(operation, case, batch):
    torch = pytest.importorskip("torch")
    data = operation.data(case)
    for name, implementation in operation.implementations.items():
        if implementation.role == "bound" or absent(implementation):
            continue
        try:
            work = implementation.make(data)
        except (Missing, ImportError):
            continue
        tensors = torch.is_tensor(batch(work.result(work.call())).obs)
        assert tensors == (TENSORS in (name, implementation.beside)), name
    of_windows = n_step.REPLAY_N_STEP.implementations
    for name, implementation in replay.REPLAY_SAMPLE.implementations.items():
        assert implementation.role == "bound" or of_windows[name].beside == implementation.beside
    assert not any(x.beside for x in replay.REPLAY_ADD.implementations.values())  # where there are no tensors


def test_of_each_library_there_is_a_row_or_a_reason():
    libraries = {"Stable-Baselines3", "CleanRL", "rlox", "cpprb", "Tianshou", "TorchRL"}
    drawn = (replay.REPLAY_SAMPLE, replay.REPLAY_ADD, n_step.REPLAY_N_STEP, prioritized.PRIORITISED_SAMPLE)
    for operation in (*drawn, prioritized.PRIORITISED_UPDATE, frames.FRAME_STACKS):
        assert libraries <= operation.implementations.keys(), operation.title


def test_the_c_loop_has_to_draw_whole_transitions_too(monkeypatch):
    loops, data = library(), transitions.data(SMALL)
    if loops is None:
        pytest.skip("no C compiler")
    replay.c_loop(data).call()

    def without_the_first_reward(*given: Any) -> None:
        loops.sample(*given)
        ctypes.memset(given[8], 0, 4)

    monkeypatch.setattr(replay, "library", lambda: SimpleNamespace(sample=without_the_first_reward))
    with pytest.raises(AssertionError, match="reward is not that of its row"):
        replay.c_loop(data)


def test_draws_that_are_not_by_priority_and_weights_of_another_scale_are_found():
    drawn, expected, compare = checked(prioritized.PRIORITISED_SAMPLE, SMALL)
    refused(drawn._replace(weights=drawn.weights / drawn.weights.max(axis=1, keepdims=True)), expected, compare)
    refused(drawn._replace(weights=drawn.weights**0.9), expected, compare)
    uniform = np.random.default_rng(0).integers(0, SMALL.capacity, drawn.rows.shape)
    with pytest.raises(AssertionError, match="not drawn by their priorities"):
        prioritized.by_priority(drawn._replace(rows=uniform), expected)
    scaled = drawn._replace(weights=drawn.weights * 3)
    refused(scaled, expected, compare)
    prioritized.right_up_to_a_factor(scaled, expected)
    flat = drawn._replace(weights=np.ones_like(drawn.weights))
    refused(flat, expected, prioritized.right_up_to_a_factor)


def test_the_first_update_raises_the_least_priority():
    data = prioritized.data(SMALL)
    before, after = data.priority, prioritized.updated(data).priority
    assert before.argmin() == data.rows[0, 0] and after.min() > 2 * before.min()


def test_new_priorities_that_were_not_taken_are_found():
    drawn, expected, compare = checked(prioritized.PRIORITISED_UPDATE, SMALL)
    old = prioritized.Expected(expected.stored, prioritized.data(SMALL).priority)
    refused(drawn, old, compare)


def test_stacks_that_reach_into_another_episode_are_found():
    case = frames.Case(64, 400)
    drawn, expected, compare = checked(frames.FRAME_STACKS, case)
    newest = expected.frames[expected.stack[:, -1]]
    rows = np.array([int(np.flatnonzero((newest == stack[-1]).all(axis=(1, 2)))[0]) for stack in drawn.obs])
    crossing = newest[(rows[:, None] + np.arange(-3, 1)) % case.capacity]  # the last four steps, whosoever they are
    refused(drawn._replace(obs=crossing), expected, compare)
    refused(drawn._replace(next_obs=drawn.obs), expected, compare)


def test_flags_of_time_limits_are_not_asked_for_but_are_stored():
    stored = transitions.transitions(0, 1000, 4)
    assert stored.truncated.any() and not (stored.truncated & stored.terminated).any()
    transitions.whole(Rows(*stored[:5]), stored)
