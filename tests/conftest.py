"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# Kernels compile in their first example, and machines differ: time is no property of the code under test.
settings.register_profile("fastrl", deadline=None)
settings.load_profile("fastrl")
