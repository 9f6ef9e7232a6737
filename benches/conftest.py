"""`pytest benches`: the threads, and what the results say besides times."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benches import conditions

LEFT_OUT: list[dict[str, str]] = []
LOAD = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="of BLAS, OpenMP, Torch, Numba, Rayon (default: 1)")


def pytest_configure(config: pytest.Config) -> None:
    conditions.limit_threads(config.getoption("--threads"))
    config.stash[LOAD] = os.getloadavg()[0]


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    measured = {**conditions.conditions(config.stash[LOAD]), "keyword": config.getoption("keyword")}
    output_json["fastrl"] = {"conditions": measured, "left_out": LEFT_OUT}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Who is not in the tables, and why: once for each reason."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for x in LEFT_OUT:
        if x["kind"] == "no part":
            continue
        reasons.setdefault((x["implementation"], x["kind"], x["why"]), []).append(x["title"])
    if reasons:
        terminalreporter.section("left out")
    for (name, kind, why), titles in sorted(reasons.items()):
        terminalreporter.line(f"{name}, {kind}: {why} ({', '.join(dict.fromkeys(titles))})")
