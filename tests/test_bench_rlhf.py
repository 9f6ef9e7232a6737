"""The page of what tiny language models reach: what it says of runs, and which runs are made again."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from benches import __main__ as command
from benches.rlhf import runs
from benches.rlhf.command import fill, read
from benches.rlhf.page import write
from fastrl.rlhf.tasks import Ascending, Members


def made(name, seed):
    """A result that nobody trained for."""
    rng, setting = np.random.default_rng([seed, len(name)]), runs.SETTINGS[name]
    curve = {"responses": [64.0, 128.0, 192.0], "score": [0.1, 0.2, 0.3], "kl": rng.random(3).tolist()}
    return {
        "setting": name, "seed": seed, "beta": setting.arguments["kl_coef"], "base": 0.25, "score": 0.5 + 0.1 * seed,
        "kl": 4.0, "entropy": 30.0, "ended": 1.0, "seconds": {"preparing": 1.0, "training": 2.0}, "curve": curve,
        "highest_kl": 5.0, "accuracy": 0.9 + 0.01 * seed,
    }  # fmt: skip


def test_a_page_of_all_settings(tmp_path):
    write([made(name, seed) for name in runs.SETTINGS for seed in (1, 2, 3)], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert f"Made of {3 * len(runs.SETTINGS)} runs, 3 seeds" in text and "{" not in text.replace("{1/(βT)}", "")
    best = Members().optimum(0.03).objective
    shares = [100 * (0.5 + 0.1 * seed - 0.03 * 4) / best for seed in (2, 1, 3)]
    assert f"{shares[0]:.1f} ({shares[1]:.1f} to {shares[2]:.1f}) %" in text
    assert "92.0 (91.0 to 93.0) %" in text
    for name in ("members", "ascending", "leash"):
        assert f"(page/{name}.png)" in text and (tmp_path / "page" / f"{name}.png").stat().st_size > 10_000


def test_runs_that_are_there_are_not_made_again(tmp_path, monkeypatch):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps([made("ascending-ppo", 1)]))
    results, asked = read(file), []

    class Pool:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, function, name, seed):
            from concurrent.futures import Future

            asked.append((name, seed))
            future = Future()
            future.set_result(made(name, seed))
            return future

    monkeypatch.setattr("benches.rlhf.command.ProcessPoolExecutor", Pool)
    fill(results, ("ascending-ppo", "ascending-rloo"), 2, 1, file)
    assert asked == [("ascending-rloo", 1), ("ascending-ppo", 2), ("ascending-rloo", 2)]
    assert sorted(read(file)) == sorted(results) and len(results) == 4


def test_mistakes(capsys, tmp_path):
    assert command.main(["rlhf", "--settings", "ascending-pp"]) == 2
    assert "did you mean ascending-ppo?" in capsys.readouterr().err
    assert command.main(["rlhf", "--no-train", "--to", str(tmp_path / "page.md")]) == 1
    assert "no runs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["members-0.01-rloo", "ascending-ppo", "ascending-dpo"])
def test_a_short_run_has_all_that_the_page_tells(name, monkeypatch):
    prepare = Ascending.model
    monkeypatch.setattr(Ascending, "model", lambda task, seed: prepare(task, seed, 20))
    monkeypatch.setattr(runs, "EVALUATED", 64)
    monkeypatch.setattr(runs, "PAIRS", (200, 100))
    result = runs.train(name, 1, 0.01)
    assert set(result) | {"accuracy"} == set(made(name, 1))
    json.dumps(result)


def test_optima_are_those_of_all_policies():
    """The best of a distribution over how likely members are, by search."""
    task = Members()
    p = np.linspace(0.001, 0.999, 20_001)
    for beta in (0.01, 0.03, 0.3):
        kl = task.length * (p * np.log(4 * p) + (1 - p) * np.log((1 - p) * 4 / 3))
        best, found = (p - beta * kl).max(), task.optimum(beta)
        assert found.objective == pytest.approx(best, abs=1e-6)
        assert found.score - beta * found.kl == pytest.approx(best, abs=1e-6)


def test_rewards_by_hand():
    up, members = Ascending(), Members()
    assert up.reward(None, [[0, 1, 2, 3, 4, 5, 11], [0, 1, 2, 3, 4, 5, 0]]) == [1.0, 1.0]
    assert up.reward(None, [[5, 4, 9, 9], [3], [11]]) == [0.2, 0.0, 0.0]
    assert members.reward(None, [[0] * 8 + [31] * 8]) == [0.5]
    assert up.pairs([[1], [2]], [[1, 2], [3]], [[2, 1], [4]]) == ([[1]], [[1, 2]], [[2, 1]])
    assert up.text([1, 10, 9, 11, 12]) == "1>9.#"
