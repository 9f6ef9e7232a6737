"""Settings of the whole suite, and the table that the learning tests leave."""

from __future__ import annotations

import pytest
from hypothesis import settings

# Kernels compile in their first example, and machines differ: time is no property of the code under test.
settings.register_profile("fastrl", deadline=None)
settings.load_profile("fastrl")

LEARNING_TABLE = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[LEARNING_TABLE] = []


def pytest_terminal_summary(terminalreporter, config):
    if rows := config.stash[LEARNING_TABLE]:
        terminalreporter.write_line("| algorithm, environment | steps | median | IQM | worst | by seed | s a seed |")
        terminalreporter.write_line("|---|---|---|---|---|---|---|")
        for row in rows:
            terminalreporter.write_line(row)
