"""The file of results: only whole lines are read, whatever became of the others; each says of which code it is."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from benches.learning import command, page, results
from benches.learning import settings as names
from benches.learning.command import Job
from benches.learning.libraries import options_of
from benches.learning.settings import COMPILED, SETTINGS

CONDITIONS = {**dict.fromkeys(results.DESCRIBED, "1"), "when": "2026-01-02T03:04:05", "commit": "abc1234"}


def run(key: str, library: str, seed: int, commit: str | None = None, **more: Any) -> results.Line:
    """A whole line."""
    setting = SETTINGS[key]
    steps = options_of(setting, library)[2]
    conditions = {name: text for name, text in {**CONDITIONS, "commit": commit}.items() if text is not None}
    column = [float(x + seed) for x in range(setting.marks)]
    return {
        **Job(setting, library, seed, steps).line(), "steps": column, "scores": column, "wall": column,
        "processor": column, "final": 3.0, "first": 1.0, "load": 1.0, "took": 2, "conditions": conditions, **more,
    }  # fmt: skip


def test_a_line_cut_short_is_not_read_and_hides_no_other(tmp_path):
    path = tmp_path / "there" / "results.jsonl"
    assert results.read(path) == []
    lines = [{"setting": "x", "library": "é", "seed": seed, "digest": "d", "error": "no"} for seed in range(3)]
    for line in lines[:2]:
        results.append(path, line)
    path.write_bytes(path.read_bytes()[:-9])
    assert results.read(path) == lines[:1]
    results.append(path, lines[2])
    assert results.read(path) == [lines[0], lines[2]]
    with path.open("ab") as file:
        file.write(b'[1]\n{"setting": 1}\n\xff\xfe\n\n' + b"[" * 100_000 + b"\n")
    assert results.read(path) == [lines[0], lines[2]]


WHOLE = run("course-ppo", names.SAME, 1, "abc1234", reached=[3.0, 1])
DAMAGE: dict[str, list[Any]] = {
    "setting": [None, 3, ["x"]], "library": [None, {}], "digest": [None, [1]], "version": [None, 1, [1]],
    "seed": [None, "1", 1.0, True, [1]], "final": [None, "3", float("nan"), [1], True, 10**400],
    **{name: [None, [], 1.0, "x", ["x"], [None], [float("inf")], WHOLE["wall"][1:]]
       for name in ("steps", "scores", "wall", "processor")},
    "reached": [None, 3.0, [1.0], [1.0, "x"]], "took": [None, "1"], "first": [[1]], "load": [None],
    "conditions": [None, 1, [], {"python": "3"}, {**CONDITIONS, "commit": 1}],
}  # fmt: skip
CASES = [(name, x) for name, every in DAMAGE.items() for x in every]


@pytest.mark.parametrize(("name", "damaged"), CASES, ids=[f"{name}-{str(x)[:20]}" for name, x in CASES])
def test_a_damaged_line_is_not_read(name, damaged, tmp_path):
    path = tmp_path / "results.jsonl"
    results.append(path, {**WHOLE, name: damaged})
    results.append(path, WHOLE)
    assert results.read(path) == [WHOLE]


@pytest.mark.parametrize("name", ["setting", "library", "digest", "seed", "steps", "scores", "wall", "processor",
                                  "final"])  # fmt: skip
def test_a_line_that_lacks_something_is_not_read(name):
    assert results.whole(WHOLE) and not results.whole({key: x for key, x in WHOLE.items() if key != name})


def test_what_is_absent_or_failed_needs_no_figures():
    begun = {name: WHOLE[name] for name in ("setting", "library", "digest")}
    assert results.whole({**begun, "seed": None, "absent": "it is gone"})
    assert results.whole({**begun, "seed": 1, "error": "it broke"})
    assert not results.whole({**begun, "seed": None, "error": "it broke"})  # which run?
    assert not results.whole({**begun, "seed": 1, "error": 3}) and not results.whole({**begun, "seed": None})


def test_a_page_is_made_of_a_damaged_file(tmp_path):
    pytest.importorskip("rliable")
    path = tmp_path / "results.jsonl"
    for name, damaged in CASES:
        results.append(path, {**WHOLE, name: damaged})
    results.append(path, WHOLE)
    text = page.write(results.read(path), tmp_path / "learning.md").read_text()
    assert "1 run, 1 seed of each" in text
    assert [json.loads(x) for x in (tmp_path / "learning" / page.RUNS).read_text().splitlines()] == [WHOLE]


def test_the_later_of_two_lines_of_a_run_counts():
    line = {"setting": "x", "library": "y", "seed": 1, "digest": "d", "version": "1"}
    lines = [{**line, "error": "no"}, {**line, "final": 2}, {**line, "version": "2", "final": 3}]
    assert [x.get("final") for x in results.latest(lines).values()] == [2, 3]


def test_the_key_of_a_run_is_not_of_its_code():
    old, new = (run("ppo-cartpole", COMPILED, 1, commit) for commit in (None, "abc1234"))
    assert results.key(old) == results.key(new)


def test_the_commit_is_that_of_the_code_and_tells_of_changes(tmp_path):
    def git(*words: str) -> str:
        line = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *words]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    assert command.commit(tmp_path) == "" == command.commit(tmp_path / "nowhere")
    git("init")
    assert command.commit(tmp_path) == ""
    (tmp_path / "fastrl").mkdir()
    (tmp_path / "fastrl" / "x.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "x")
    head = git("rev-parse", "--short", "HEAD").strip()
    assert command.commit(tmp_path) == head
    (tmp_path / "learning.md").write_text("which no run depends on")
    assert command.commit(tmp_path) == head
    (tmp_path / "fastrl" / "x.py").write_text("2\n")
    assert command.commit(tmp_path) == head + "+"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.commit(command.ROOT) == ""


def test_the_page_lists_the_commits(tmp_path):
    pytest.importorskip("rliable")
    commits = ("aaa1111", "aaa1111", "bbb2222+", None, "")
    lines = [run("course-ppo", names.SAME, seed, commit) for seed, commit in enumerate(commits)]
    text = page.write(lines, tmp_path / "learning.md").read_text()
    assert "- Commits: aaa1111 (2 runs), bbb2222+ (1 run), not recorded (2 runs); + is with changes.\n" in text
    text = page.write(lines[:2], tmp_path / "learning.md").read_text()
    assert "- Commits: aaa1111 (2 runs).\n" in text


def test_what_the_page_calls_by_its_name(tmp_path):
    """Settings that are not quite those published, defaults that are no preset, environments without pictures."""
    pytest.importorskip("rliable")
    lines = [run("ppo-pendulum", COMPILED, 1), run("course-lake", names.PRESET, 1), run("course-ppo", names.PRESET, 1)]
    text = page.write(lines, tmp_path / "learning.md").read_text()
    assert "Without its gSDE (use_sde True, sde_sample_freq 4)" in text.split("## PPO, Pendulum-v1, published")[1]
    left = text.split("## What is left out or cut")[1]
    assert "- PPO, Pendulum-v1, published: without its gSDE" in left
    assert "| fastrl, q_learning's defaults | " in text and "| fastrl, preset | " in text
    assert "Unlike the program, `q_learning` by default has epsilon_decay 0.9995, random_ties False." in text
    assert "environments that render nothing" in text and "of ten runs the middle six" in text
