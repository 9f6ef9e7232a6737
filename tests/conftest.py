"""Settings and fixtures of the whole suite, and the table that the learning tests leave."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# Jobs that a shell started in the background ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray takes these once for a process; its clusters here are of this machine alone, and tell nobody of it.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

# Kernels compile in their first example, and machines differ: time is no property of the code under test.
settings.register_profile("fastrl", deadline=None)
settings.load_profile("fastrl")

LEARNING_TABLE = pytest.StashKey[list[str]]()


@pytest.fixture(scope="module")
def few_threads():
    """More than one only wait for each other in networks as small as these."""
    from fastrl.learners.torch import one_thread  # not all tests need Torch

    with one_thread(True):
        yield


@pytest.fixture
def by_steps(monkeypatch):
    """Switches the kernels of whole rollouts and rounds off, or on again."""
    from fastrl.algorithms import q_rounds
    from fastrl.algorithms.actor_critic import ActorCriticAlgorithm

    def switch(off=True):
        monkeypatch.undo()
        if off:
            monkeypatch.setattr(ActorCriticAlgorithm, "_collect_compiled", lambda *arguments: None)
            monkeypatch.setattr(q_rounds, "applies", lambda model: False)

    return switch


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "ray" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


def pytest_configure(config):
    config.stash[LEARNING_TABLE] = []


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash[LEARNING_TABLE]:
        terminalreporter.write_line("| algorithm, environment | steps | median | IQM | worst | by seed | s a seed |")
        terminalreporter.write_line("|---|---|---|---|---|---|---|")
        for row in rows:
            terminalreporter.write_line(row)
