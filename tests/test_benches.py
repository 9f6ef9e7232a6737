"""What measures runs measures the right thing: against models that only pretend to learn."""

from __future__ import annotations

import sys
from collections import deque
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from benches import learning, shares
from benches.jobs import Job
from benches.learning import Run, Watch, curve
from benches.training import Library


class Pretender:
    """Every iteration takes 256 steps and a second, and ends one episode, whose return is the steps so far."""

    def __init__(self) -> None:
        self.num_timesteps, self.clock = 0, 0.0
        self.episodes: deque[tuple[float, int]] = deque(maxlen=100)

    def train(self, seed: int, steps: int, watch: Watch | None) -> Run:
        going_on = True
        while self.num_timesteps < steps and going_on:
            self.num_timesteps += 256
            self.clock += 1
            self.episodes.append((float(self.num_timesteps), 1))
            going_on = watch is None or watch(self)
        return Run(self.num_timesteps, self.clock, self.clock)


def test_a_curve_has_the_mean_of_the_last_episodes_at_every_mark():
    points = curve(Pretender().train, 0, 4000, every=1000)
    assert points == [(256 + reached) / 2 for reached in (1024, 2048, 3072, 4096)]


def test_a_library_trains_in_a_process_of_its_own_or_says_what_is_missing(monkeypatch):
    monkeypatch.delenv("FASTRL_BENCH_CLEANRL", raising=False)
    job = Job("PPO", "CartPole-v1", 2, {"n_steps": 16, "learning_rate": "lin_0.001"}, 64)
    library = Library("fastrl", job, 64, "auto", sys.executable)
    first, again = (Run(*library.ask("speed", seed)) for seed in (1, 2))
    library.close()
    assert first.steps == again.steps == 64
    assert min(first.seconds, again.seconds, library.first) > 0
    missing = Library("cleanrl", job, 64, "auto", sys.executable)
    missing.close()
    assert "FASTRL_BENCH_CLEANRL is not set" in missing.missing


def test_the_parts_of_a_run_are_those_of_its_functions_and_functions_are_left_as_they_were():
    slow = SimpleNamespace(now=0.0)
    worker = SimpleNamespace(work=lambda: setattr(slow, "now", slow.now + 3.0))
    before = worker.work

    def learn(steps: int) -> None:
        worker.work()
        slow.now += 1.0
        worker.work()

    clock = shares.Clock(timer=lambda: slow.now)
    clock.around(worker, "work", "update")
    for _ in range(2):  # each run is counted by itself
        assert clock.learn(SimpleNamespace(learn=learn), 2) == {"update": 3.0, "the rest": 0.5}
    clock.restore()
    assert worker.work is before


def test_shares_of_our_runs_have_every_part_that_there_is():
    found = shares.shares(rounds=1, steps=64)
    assert {"fastrl by Torch", "fastrl, environment too"} < set(found)
    for name, parts in found.items():
        assert set(parts) == set(shares.PARTS)
        assert all(parts[part] > 0 for part in ("update", "environment", "advantages", "the rest")), name


class Pusher:
    """Pushes the cart to the side that the pole leans to: episodes of very different lengths."""

    def predict(self, obs: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        return (obs[..., 2] > 0).astype(np.int64), None


def test_an_evaluation_is_one_episode_in_each_environment():
    returns = []
    for i in range(learning.EPISODES):
        env = gym.make("CartPole-v1")
        obs, total, done = env.reset(seed=10_000 + i)[0], 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(int(Pusher().predict(obs, True)[0]))
            total, done = total + float(reward), terminated or truncated
        returns.append(total)
    assert len(set(returns)) > 5
    assert learning.evaluate(Pusher(), "CartPole-v1") == pytest.approx(np.mean(returns))
