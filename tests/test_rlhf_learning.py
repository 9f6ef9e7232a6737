"""Tiny language models come near what can be reached, with every seed and every algorithm; some minutes.

    pytest -m slow tests/test_rlhf_learning.py

FASTRL_SEEDS=2 runs fewer seeds than five; `python -m benches rlhf` makes the page of the same runs.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from benches.rlhf.runs import SETTINGS, train
from fastrl.rlhf.tasks import Ascending, Members

SEEDS = range(1, 1 + int(os.environ.get("FASTRL_SEEDS", "5")))
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs():
    """Results of a setting, a seed each, made once."""
    made = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:

        def of(name):
            if name not in made:
                made[name] = list(pool.map(train, [name] * len(SEEDS), SEEDS))
            return made[name]

        yield of


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.bound])
def test_every_seed_reaches_what_it_should(name, runs):
    setting, results = SETTINGS[name], runs(name)
    assert min(setting.measure(result) for result in results) >= setting.bound
    for result in results:
        if "members" in name:  # the entropy of the optimum is what is left where nothing has collapsed
            assert result["entropy"] > 0.8 * Members().optimum(result["beta"]).entropy
        elif "dpo" not in name:
            assert result["kl"] < Ascending.leash["target_kl"] and result["score"] > 2 * result["base"]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "rloo"])
def test_the_divergence_falls_as_its_coefficient_rises(algorithm, runs):
    low, high = (runs(f"members-{beta}-{algorithm}") for beta in (0.01, 0.03))
    assert min(result["kl"] for result in low) > max(result["kl"] for result in high) > 0


def test_without_a_leash_it_runs_away_and_with_a_short_one_it_stays(runs):
    leash, away, stays = (runs(f"ascending-{name}") for name in ("ppo", "no-leash", "short-leash"))
    for held, free, short in zip(leash, away, stays, strict=True):
        assert free["kl"] > held["kl"] + 2 and free["entropy"] < held["entropy"]
        assert short["kl"] < 0.3 and abs(short["score"] - short["base"]) < 0.05
