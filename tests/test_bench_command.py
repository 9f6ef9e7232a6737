"""`python -m benches`: help helps, what is wrong is said in one line, and tables are of the table of operations."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from benches import bench_operations, conditions, implementations
from benches.__main__ import _threads, main
from benches.operation import Implementation, Missing, Operation, Work
from tests.test_bench_report import OURS, benchmark, png_size, results


def missing(data):
    raise Missing("no licence")


def ticking(ours, *factors):
    """Clocks of their own: one of the factors times ours in each round."""
    ticks = iter([1.0, *factors] * 100)  # the first is the one that is checked
    return lambda data: Work(lambda: next(ticks), lambda _: data, seconds=lambda tick: ours * tick)


def made_up():
    return Operation(
        "Doubling", {"small": 1, "large": 2}, lambda case: np.full(3, case), lambda data: data,
        {
            "fastrl": Implementation(ticking(1e-6, 1.0, 1.0, 1.0), role="ours"),
            "slow": Implementation(ticking(1e-6, 4.0, 2.0, 3.0)),
            "wrong": Implementation(lambda data: Work(lambda: data + 1), why="adds one"),
            "gone": Implementation(missing),
            "away": Implementation(missing, needs=("no_such_module",)),
        },
        sweeps={"batch": {8: 3}}, unit="row", per=lambda case: 10, rounds=(3, 3),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(conditions, "limit_threads", lambda threads: None)  # of this process
    monkeypatch.delenv("FASTRL_TRACEBACK", raising=False)


@pytest.mark.parametrize("command", ["report", "picture", "speed", "shares", "learning"])
def test_help_helps(command, capsys):
    if command == "learning":
        pytest.importorskip("benches.learning.command")
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"usage: python -m benches {command}" in said
    assert main(["--help"]) == main([]) == 0
    assert f"python -m benches {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("repotr", "unknown command 'repotr' (did you mean report?)"),
        ("report", "RESULTS.json"),
        ("report nowhere.json", "cannot read nowhere.json"),
        ("report nowhere.json --too x", "unknown option --too (did you mean --to?)"),
        ("picture nowhere.json", "cannot read nowhere.json"),
        ("speed gea", "unknown operation 'gea' (did you mean gae?)"),
        ("speed gae --rounds 0", "--rounds 0: it must"),
        ("speed gae --threads 0", "--threads 0: it must"),
        ("shares --rounds many", "--rounds"),
        ("shares --rounds 0", "--rounds 0: it must"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(args, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(args.split()) == 2
    out, error = capsys.readouterr()
    assert said in error and error.startswith("benches: ") and error.count("\n") == 1 and out == ""
    assert not list(tmp_path.iterdir())


def test_what_learning_refuses_is_wrong_usage(capsys, monkeypatch):
    def refuse(seeds: int = 1) -> None:
        raise SystemExit("unknown: x; there are y")

    command = ModuleType("command")
    command.main = refuse  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "benches.learning.command", command)
    assert main(["learning"]) == 2
    assert capsys.readouterr().err == "benches: unknown: x; there are y\n"
    assert main(["learning", "--no-such"]) == 2


def test_what_fails_later_is_one_line_and_exit_code_1(capsys, tmp_path):
    path = results(tmp_path, [benchmark("fastrl", OURS, "ours")])
    assert main(["report", str(path), "--to", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_pages_and_pictures_are_written_beside_the_results_unless_told_otherwise(tmp_path, monkeypatch):
    path = results(tmp_path, [benchmark("fastrl", OURS, "ours"), benchmark("rlox", OURS)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["report", str(path)]) == 0 and main(["picture", str(path)]) == 0
    assert path.with_suffix(".md").is_file() and path.with_suffix(".png").is_file() and path.with_suffix("").is_dir()
    assert not list(elsewhere.iterdir())


def test_speed_prints_ratios_of_rounds_and_who_is_not_there(capsys, monkeypatch):
    monkeypatch.setitem(implementations.OPERATIONS, "doubling", made_up())
    assert main(["speed", "doubling"]) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "fastrl", "slow", "wrong", "gone", "away"]
    assert rows[2:] == [[case, "100 ns", "300 ns (3.0x)", "–", "–", "–"] for case in ("small", "large")]
    assert "wrong, computes something else in small, large: adds one" in said
    assert "gone, absent in small, large: no licence" in said
    assert "away, absent in small, large: no_such_module is not installed" in said
    assert main(["speed", "doubling", "--sweeps"]) == 0
    assert "| batch 8 " in capsys.readouterr().out


def test_ours_is_not_timed_where_it_is_wrong(capsys, monkeypatch):
    wrong = Implementation(lambda data: Work(lambda: data + 1), role="ours")
    monkeypatch.setitem(implementations.OPERATIONS, "doubling", made_up()._replace(implementations={"fastrl": wrong}))
    assert main(["speed", "doubling"]) == 1
    assert "AssertionError" in capsys.readouterr().err


def test_where_ours_is_wrong_the_results_say_so_once_and_every_test_of_the_case_fails(monkeypatch):
    wrong = Implementation(lambda data: Work(lambda: data + 1), role="ours")
    broken = made_up()._replace(implementations={"fastrl": wrong, "slow": made_up().implementations["slow"]})
    monkeypatch.setitem(implementations.OPERATIONS, "doubling", broken)
    left_out: list = []
    monkeypatch.setattr(bench_operations, "LEFT_OUT", left_out)
    for _ in broken.implementations:
        with pytest.raises(AssertionError):
            bench_operations.group("doubling", "small")
    assert [(x["title"], x["case"], x["kind"]) for x in left_out] == [("Doubling", "small", "failed")]
    assert left_out[0]["why"].startswith("AssertionError: M")


def test_operations_are_listed_where_none_is_named(capsys):
    assert main(["speed"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(implementations.OPERATIONS)


def test_the_picture_has_a_bar_beside_the_peer_that_most_people_use(tmp_path, capsys):
    rows = [
        benchmark("fastrl", [1e-6] * 3, "ours"), benchmark("rlox", [2e-6] * 3), benchmark("SB3", [3e-6, 5e-6, 9e-6]),
        benchmark("fastrl", [1e-6], "ours", operation="add"), benchmark("loop", [7e-6], "plain", operation="add"),
    ]  # fmt: skip
    path, to = results(tmp_path, rows), tmp_path / "new" / "speed.png"
    assert main(["picture", str(path), "--to", str(to)]) == 0
    assert capsys.readouterr().out.splitlines() == ["GAE, (128, 8), beside SB3: 5.0"]  # "add" is no key of ours
    assert png_size(to)[0] == 1008
    only = results(tmp_path, rows[3:])
    assert main(["picture", str(only), "--to", str(to)]) == 0
    assert capsys.readouterr().out.splitlines() == ["Replay: add, (128, 8), beside loop: 7.0"]
    alone = results(tmp_path, rows[:1])
    assert main(["picture", str(alone), "--to", str(to)]) == 2


@pytest.mark.parametrize(
    ("args", "threads"),
    [("", 1), ("--threads 3", 3), ("speed gae --threads=2", 2), ("--threads x", 1), ("--threads", 1)],
)
def test_threads_are_known_before_anything_is_imported(args, threads):
    assert _threads(args.split()) == threads


def test_the_command_imports_neither_torch_nor_pytest_for_a_report(tmp_path):
    path = results(tmp_path, [benchmark("fastrl", OURS, "ours"), benchmark("rlox", OURS)])
    code = (
        "import sys; from benches.__main__ import main\n"
        f"assert main(['report', {str(path)!r}, '--to', {str(tmp_path / 'page.md')!r}]) == 0\n"
        "print(sorted({'torch', 'numba', 'pytest', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
