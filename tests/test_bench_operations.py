"""What the benchmark suite promises: checked before timed, in turns, on fresh data, and nobody left out silently."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benches import conditions
from benches.implementations import OPERATIONS
from benches.operation import Group, Implementation, Missing, Operation, Work

ROOT = Path(__file__).parent.parent


def doubles(by: float = 2.0, log: list | None = None, name: str = "") -> Implementation:
    def make(data: np.ndarray) -> Work:
        def call() -> np.ndarray:
            if log is not None:
                log.append(name)
            return by * data

        return Work(call, fresh=None if log is None else lambda round: log.append((round, name)))

    return Implementation(make, role="ours" if name == "fastrl" else "peer")


def operation(**implementations: Implementation) -> Operation:
    return Operation(
        "doubling", {"3": 3}, lambda n: np.arange(n, dtype=float), lambda data: data + data, implementations,
        rounds=(4, 4),
    )  # fmt: skip


def test_each_has_its_turn_in_every_round_and_another_begins_each_with_fresh_data(monkeypatch):
    monkeypatch.setattr(conditions, "calls_a_turn", lambda call, turn: (2, 1e-6))
    log: list = []
    names = ("fastrl", "one", "other")
    group = Group(operation(**{name: doubles(2.0, log, name) for name in names}), 3)
    log.clear()
    seconds = group.seconds()
    expected: list = []
    for round in range(4):
        turns = [*names[round % 3 :], *names[: round % 3]]
        expected += [(round, name) for name in names] + [name for name in turns for _ in range(2)]
    assert log == expected
    assert {name: len(rounds) for name, rounds in seconds.items()} == dict.fromkeys(names, 4)
    assert min(min(rounds) for rounds in seconds.values()) > 0
    assert group.seconds() is seconds  # measured once


def test_who_computes_something_else_fails_or_is_absent_is_named_and_not_timed():
    def without(data: np.ndarray) -> Work:
        raise Missing("no compiler")

    def broken(data: np.ndarray) -> Work:
        raise RuntimeError("out of luck\nand more")

    group = Group(
        operation(
            fastrl=doubles(name="fastrl"), triples=doubles(3.0), known=doubles(3.0)._replace(why="it triples"),
            without=Implementation(without), broken=Implementation(broken),
            elsewhere=doubles()._replace(needs=("json", "no_such_module.part")),
            least=doubles(0.0)._replace(role="bound"),
        ),
        3,
    )  # fmt: skip
    kind, why = group.left_out.pop("triples")
    assert kind == "computes something else" and "2" in why  # by how much
    assert group.left_out == {
        "known": ("computes something else", "it triples"), "without": ("absent", "no compiler"),
        "broken": ("failed", "RuntimeError: out of luck"),
        "elsewhere": ("absent", "no_such_module.part is not installed"),
    }  # fmt: skip
    assert set(group.seconds()) == {"fastrl", "least"}


def test_ours_must_be_right_and_there():
    def without(data: np.ndarray) -> Work:
        raise ImportError("no such module")

    with pytest.raises(AssertionError):
        Group(operation(fastrl=doubles(3.0, name="fastrl")), 3)
    with pytest.raises(ImportError):
        Group(operation(fastrl=Implementation(without, role="ours")), 3)


def test_a_slow_first_call_makes_no_turn_shorter(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(conditions.time, "perf_counter", lambda: now[0])
    cost = iter([30.0, 0.004, 0.002, *[0.002] * 9])
    assert conditions.calls_a_turn(lambda: now.__setitem__(0, now[0] + next(cost)), 0.02) == (10, pytest.approx(0.02))


def test_a_clock_of_its_own_is_believed():
    clocked = Implementation(lambda data: Work(lambda: (data * 2, 42.0), lambda x: x[0], seconds=lambda x: x[1]))
    assert Group(operation(fastrl=clocked), 3).seconds() == {"fastrl": [42.0] * 4}


def test_the_table_is_whole():
    for key, each in OPERATIONS.items():
        names = list(each.implementations)
        assert key == key.lower() and each.title and each.cases
        assert names[0] == "fastrl" and each.implementations["fastrl"].role == "ours", key
        assert {x.role for x in each.implementations.values()} <= {"ours", "peer", "plain", "bound"}, key
        for sizes in each.sweeps.values():
            assert len(sizes) >= 4 and list(sizes) == sorted(sizes), key


def test_results_carry_conditions_and_who_was_left_out(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "pytest", "-q", "benches/bench_operations.py", "-k", "quick-gae-time",
               f"--benchmark-json={results}", "-p", "no:cacheprovider"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = json.loads(results.read_text())
    told = {x["extra_info"]["implementation"]: x for x in found["benchmarks"]}
    left_out = {x["implementation"]: x for x in found["fastrl"]["left_out"]}
    assert {"fastrl", "fastrl, out="} <= set(told)
    assert set(told) | set(left_out) == set(OPERATIONS["gae-time-limits"].implementations)
    assert left_out["CleanRL"]["kind"] == "computes something else"
    assert "takes a time limit for a terminal state" in done.stdout
    assert told["fastrl"]["extra_info"]["seconds"] == told["fastrl"]["stats"]["data"]
    assert found["fastrl"]["conditions"]["threads"] == 1 and found["fastrl"]["conditions"]["versions"]["numpy"]
