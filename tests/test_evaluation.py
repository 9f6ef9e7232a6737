"""`evaluate_policy` with Stable-Baselines3's arguments; what it returns is tested in test_algorithms.py."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from fastrl import DummyVecEnv, EnvironmentFailure, evaluate_policy, make_vec_env
from fastrl.pictures import Painter
from tests.envs import Counter


class Always:
    def __init__(self, action=0):
        self.action = action

    def predict(self, obs, deterministic=True):
        return np.full(len(obs), self.action), None


def test_ten_episodes_unless_told_otherwise():
    returns, lengths = evaluate_policy(Always(), lambda: Counter(length=3), return_episode_rewards=True)
    assert returns == [6.0] * 10 and lengths == [3] * 10
    assert evaluate_policy(Always(), make_vec_env(Counter, 3), 7, True, False, None, None, False, True) == (6.0, 0.0)


def test_the_callback_sees_each_step_of_each_environment():
    seen = []

    def look(names, own_globals):
        assert names["done"] == names["dones"][names["i"]] and names["reward"] == names["rewards"][names["i"]]
        assert names["info"] is names["infos"][names["i"]] and isinstance(own_globals, dict)
        assert ("episode" in names["info"]) == names["done"]
        seen.append((names["i"], names["current_lengths"][names["i"]], names["current_rewards"][names["i"]]))

    env = DummyVecEnv([lambda: Counter(length=2), lambda: Counter(length=3)])
    evaluate_policy(Always(), env, 2, callback=look)
    assert seen == [(0, 1, 1), (1, 1, 1), (0, 2, 3), (1, 2, 3), (0, 1, 1), (1, 3, 6)]
    assert not env.stepper.keep_infos
    with pytest.raises(TypeError, match="callback"):
        evaluate_policy(Always(), env, callback=3)


def test_a_threshold():
    assert evaluate_policy(Always(), Counter, 2, reward_threshold=5.9) == (6.0, 0.0)
    with pytest.raises(AssertionError, match=r"mean return is 6.00; the threshold is 6.00"):
        evaluate_policy(Always(), Counter, 2, reward_threshold=6)


def test_rendering(monkeypatch):
    shown = []

    class Shown(Counter):
        render_mode = "human"

        def render(self):
            shown.append(self.t)

    evaluate_policy(Always(), Shown, 2, render=True)
    assert shown == [1, 2, 0, 1, 2, 0]  # after the step, whose last begins a new episode
    with pytest.raises(ValueError, match="render_mode is None"):
        evaluate_policy(Always(), gym.make("CartPole-v1"), 1, render=True)


def test_no_warning_of_endless_episodes_where_none_is_wanted(monkeypatch, recwarn):
    monkeypatch.setattr("fastrl.evaluation.LONGEST", 20)
    evaluate_policy(Always(), lambda: Counter(length=10**9), 1, warn=False)
    assert not recwarn
    with pytest.warns(UserWarning, match="cut after 20 steps"):
        evaluate_policy(Always(), lambda: Counter(length=10**9), 1)


def test_what_is_made_here_is_closed_whatever_happens(monkeypatch):
    closed = []

    class Closing(Counter):
        def close(self):
            closed.append(self)

    for made, callback, error in (
        (lambda: Closing(fail_at=2), None, EnvironmentFailure),
        (Closing, lambda *_: 1 / 0, ZeroDivisionError),
    ):
        with pytest.raises(error):
            evaluate_policy(Always(), made, 3, callback=callback)
        assert len(closed) == 3
        closed.clear()
    with pytest.raises(ZeroDivisionError):
        evaluate_policy(Always(), Closing(), 3, callback=lambda *_: 1 / 0)
    assert not closed

    monkeypatch.setattr(Painter, "close", lambda self: closed.append(self))
    env = make_vec_env("CartPole-v1", 2)
    for _ in range(2):
        evaluate_policy(Always(), env, 2, render=True)
    assert len(closed) == 2
    env.step([0, 0])
