"""Models of both engines side by side, for the tests."""

from __future__ import annotations

import gymnasium as gym
import pytest

from tests import test_algorithms

CARTPOLE = lambda: gym.make("CartPole-v1")  # noqa: E731  stepped in Python by either engine, which an id is not


def make(cls, env=CARTPOLE, **options):
    return test_algorithms.make(cls, env, **options)


def both(cls, env=CARTPOLE, **options):
    return [make(cls, env, engine=engine, **options) for engine in ("torch", "compiled")]


def metrics_close(a, b):
    assert a.keys() == b.keys(), (a, b)
    for name, value in a.items():
        if name.startswith("time/") and name != "time/total_timesteps":
            continue
        assert b[name] == pytest.approx(value, rel=2e-3, abs=2e-4), (name, b[name], value)
