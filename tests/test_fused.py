"""Whole rollouts and DQN's whole rounds by kernels: the same numbers as step by step, by either engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import config

from fastrl import DQN, PPO, REINFORCE
from fastrl.envs import environment, make_vec
from fastrl.envs.fused import CompiledStepper
from fastrl.kernels.collect import collect
from fastrl.kernels.q_loop import q_loop
from fastrl.kernels.sampling import below
from fastrl.kernels.updates import update_ppo, update_reinforce
from fastrl_ext.random import RandomStream
from tests.compiled_envs import Count, Dials, Lamps, Push, Walk
from tests.test_algorithms import SMALL, weights
from tests.test_docs import ROOT

pytestmark = pytest.mark.usefixtures("few_threads")

SMALLER = {**SMALL, PPO: dict(n_steps=16, batch_size=32, n_epochs=2)}
ROLLOUT = ("obs", "action", "log_prob", "value", "reward", "terminated", "truncated", "valid", "final_value",
           "advantage", "returns")  # fmt: skip
EXACT = 1e-5 if config.DISABLE_JIT else 0.0  # NumPy's product of one row rounds in another way than that of many
COLUMNS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


@environment
class Flat:
    """`Count` with a flat observation."""

    observation_space = Push.observation_space
    action_space = Count.action_space
    state_size = 2
    max_episode_steps = 7

    def reset(self, state, rng):
        state[1] = 0.5

    def step(self, state, action, rng):
        state[0] += 1
        state[1] += state[0] * (action == 1)
        return state[1] - action, state[1] > 9.0

    def observe(self, state, obs):
        obs[:] = state


class Watched:
    """A model beside what each of its iterations saw."""

    def __init__(self, cls, env, n_envs=1, engine="compiled", **options):
        limit = options.pop("limit", None)
        env = make_vec(env, n_envs, max_episode_steps=limit)
        self.model = cls("MlpPolicy", env, engine=engine, **{**SMALLER[cls], "seed": 0, **options})
        self.seen, self.kernels = [], 0
        assert isinstance(self.model.env, CompiledStepper)
        self._run, self.model.env.run = self.model.env.run, self.run
        if cls is REINFORCE:
            self._play, self.model._play = self.model._play, self.play

    def run(self, *arguments):
        self.kernels += 1
        return self._run(*arguments)

    def play(self):
        played = self._play()
        self.seen.append([x.copy() for x in played])
        return played

    def learn(self, steps, **options):
        self.model.learn(steps, callback=self.look if isinstance(self.model, PPO) else None, **options)
        return self

    def look(self, model):
        self.seen.append([getattr(model._rollout, name).copy() for name in ROLLOUT])


def assert_same(ours, theirs, tolerance):
    """Everything that two runs saw, counted and learnt; a tolerance of 0 means to the last bit."""
    assert len(ours.seen) == len(theirs.seen)
    for found, expected in zip(ours.seen, theirs.seen, strict=True):
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
    ours, theirs = ours.model, theirs.model
    for name in ("num_timesteps", "num_episodes", "n_updates", "_predict_rng", "rng"):
        x, y = getattr(ours, name), getattr(theirs, name)
        assert (x.bit_generator.state == y.bit_generator.state) if "rng" in name else x == y, name
    np.testing.assert_allclose(list(ours.episodes), list(theirs.episodes), rtol=max(tolerance, 1e-12))
    np.testing.assert_allclose(ours._obs, theirs._obs, rtol=tolerance, atol=tolerance)
    for name in ("states", "returns", "lengths", "rngs"):
        x, y = getattr(ours.env.env, name), getattr(theirs.env.env, name)
        np.testing.assert_allclose(x, y, rtol=max(tolerance, 1e-12), atol=tolerance)
    assert (ours.env.running() == theirs.env.running()).all() and ours.env.calls == theirs.env.calls
    for name in (key for key in ours.metrics if not key.startswith("time/")):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=2e-3, abs=2e-4), name
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=tolerance, atol=tolerance)
    if ours.normalizer is not None:
        for key, value in ours.normalizer.state().items():
            np.testing.assert_allclose(value, theirs.normalizer.state()[key], rtol=max(tolerance, 1e-12))
    if isinstance(ours, DQN):
        assert_same_buffers(ours, theirs, tolerance)


def assert_same_buffers(ours, theirs, tolerance=0.0):
    assert len(ours.replay_buffer) == len(theirs.replay_buffer) > 0
    for name in COLUMNS:
        x, y = ours.replay_buffer[name], theirs.replay_buffer[name]
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(ours.replay_buffer.rng_state, theirs.replay_buffer.rng_state)
    target, other = (torch.cat([p.flatten() for p in m.learner.target.parameters()]) for m in (ours, theirs))
    torch.testing.assert_close(target, other, rtol=tolerance, atol=tolerance)


def compare(by_steps, cls, env, steps, tolerance=0.0, again=0, **options):
    """One run by whole rollouts, one by steps of the same kernels, one by Torch."""
    fused, stepped, by_torch = (Watched(cls, env, engine=e, **options) for e in ("compiled", "compiled", "torch"))
    for run, off in ((fused, False), (stepped, True), (by_torch, True)):
        by_steps(off)
        run.learn(steps)
        if again:  # the same environments, which are in the middle of episodes
            run.learn(again, reset_num_timesteps=False)
        assert (run.kernels == 0) == off
    assert_same(fused, stepped, max(tolerance, EXACT))
    assert_same(fused, by_torch, 5e-4)


ENVIRONMENTS = ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", Count, Walk, Dials, Lamps, Push]
ACTOR_CRITICS = {
    "PPO": (PPO, {}),
    "PPO, normalised": (PPO, dict(normalize=True, clip_range_vf=0.3, ent_coef=0.01, learning_rate="lin_0.001")),
    "REINFORCE": (REINFORCE, {}),
    "REINFORCE, baseline": (REINFORCE, dict(baseline=True, n_episodes=5, normalize=True)),
}


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=str)
@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_rollouts_are_the_same(by_steps, name, env):
    """Every kind of action and observation, over two or three updates."""
    cls, options = ACTOR_CRITICS[name]
    compare(by_steps, cls, env, 16 * 3 * 2, n_envs=3, limit=9, **options)


@pytest.mark.parametrize(("cls", "options"), [
    (PPO, dict(n_envs=70, n_steps=5)), (PPO, dict(n_envs=129, n_steps=3, normalize=True)),
    (REINFORCE, dict(n_envs=65, n_episodes=130, baseline=True)),
])  # fmt: skip
def test_more_environments_than_rows_of_work_memory(by_steps, cls, options):
    """What the kernels cannot do at once they do in parts."""
    compare(by_steps, cls, "CartPole-v1", 129 * 6, limit=4, **options)


@pytest.mark.parametrize("baseline", [False, True])
def test_episodes_longer_than_one_call(by_steps, monkeypatch, baseline):
    monkeypatch.setattr("fastrl.algorithms.reinforce.CHUNK", 7)
    run = Watched(REINFORCE, Push, 2, n_episodes=4, baseline=baseline, limit=23).learn(2 * 46)
    assert run.kernels == 7  # of 46 steps
    monkeypatch.undo()
    by_steps()
    assert_same(run, Watched(REINFORCE, Push, 2, n_episodes=4, baseline=baseline, limit=23).learn(2 * 46), EXACT)


DQNS = {
    "defaults": {},
    "several steps": dict(n_steps=5, n_envs=4, buffer_size=63),
    "soft targets": dict(tau=0.3, target_update_interval=7, double_q=True, loss="mse", max_grad_norm=None),
    "targets by episodes": dict(target_update_interval=(3, "episode"), n_envs=4, exploration_decay=0.7),
    "as many updates as steps": dict(gradient_steps=-1, train_freq=3, n_envs=4, buffer_size=50),
    "one after the other": dict(train_freq=7, gradient_steps=3, n_steps=3, buffer_size=29, learning_starts=33),
    "linear": dict(learning_rate="lin_0.003", exploration_fraction=0.5, exploration_final_eps=0.1, gamma=1),
    "a function": dict(learning_rate=lambda left: 1e-3 * left**2, n_envs=3, exploration_fraction=0, tau=1),
    "normalised": dict(normalize=True, n_envs=3, buffer_size=64, n_steps=2),
}  # fmt: skip


@pytest.mark.parametrize("env", ["CartPole-v1", Flat], ids=str)
@pytest.mark.parametrize("name", DQNS)
def test_rounds_are_the_same(by_steps, name, env):
    """Targets move by other kernels than by steps, which round otherwise: all else is the same to the last bit."""
    options = {"exploration_final_eps": 0.3, "policy_kwargs": dict(net_arch=[24]), **DQNS[name], "limit": 13}
    compare(by_steps, DQN, env, 101, 1e-5 if options.get("tau", 1) < 1 else 0.0, again=33, **options)


words = st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4).filter(any)


@given(words, st.integers(1, 2**32), st.integers(0, 50))
def test_kernels_draw_the_indices_of_the_ring(state, high, n):
    stream, ring = np.array(state, np.uint64), RandomStream(0)
    ring.state = stream.copy()
    assert [below(stream, high) for _ in range(n)] == ring.integers(n, high).tolist()
    np.testing.assert_array_equal(stream, ring.state)


def small_runs():
    """What a few steps of each algorithm come to, as lists of numbers."""
    results = {}
    for cls, env, options in [
        (PPO, Push, dict(n_steps=6, batch_size=8, n_epochs=1, normalize=True)), (PPO, Walk, dict(n_steps=4)),
        (REINFORCE, Dials, dict(n_episodes=2, baseline=True)),
        (DQN, Flat, dict(n_steps=2, buffer_size=9, learning_starts=8, batch_size=4, tau=0.5, target_update_interval=6)),
    ]:  # fmt: skip
        run = Watched(cls, env, 2, policy_kwargs=dict(net_arch=[4]), limit=4, **options).learn(12)
        assert run.kernels > 0
        model = run.model
        seen = [model.replay_buffer[name] for name in COLUMNS] if cls is DQN else run.seen[0]
        results[f"{cls.__name__} {env.name}"] = [
            weights(model).tolist(), *[np.asarray(x, float).tolist() for x in seen], list(map(list, model.episodes)),
            [int(x) for x in model.env.env.rngs[:, 0]], model.num_timesteps,
        ]  # fmt: skip
    return results


def test_interpreted_kernels_do_the_same():
    """To rounding: compiled vectors may fuse a product with a sum."""
    flag = "0" if numba.config.DISABLE_JIT else "1"
    script = "import json; from tests.test_fused import small_runs; print(json.dumps(small_runs()))"
    env = {**os.environ, "NUMBA_DISABLE_JIT": flag, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    other = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 0, other.stderr
    theirs = json.loads(other.stdout)
    for name, ours in small_runs().items():
        for x, y in zip(ours, theirs[name], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_numbers_of_any_kind_are_compiled_once():
    """An int, or NumPy's number, where most give a float would cost seconds, each time."""
    whole, counts = dict(gamma=1, max_grad_norm=1, limit=4), []
    for plain in (False, True):
        for cls, options in [
            (PPO, dict(ent_coef=0, vf_coef=1, clip_range=1, normalize_advantage=1)),
            (REINFORCE, dict(ent_coef=0, vf_coef=np.float32(1), baseline=1)),
            (DQN, dict(tau=1, exploration_fraction=1, exploration_initial_eps=np.float32(1), double_q=0,
                       train_freq=np.int32(2), learning_starts=np.int32(5), learning_rate=np.float32(1e-3))),
        ]:  # fmt: skip
            Watched(cls, "CartPole-v1", normalize=True, **({} if plain else {**whole, **options})).learn(32)
        counts.append([len(kernel.signatures) for kernel in (collect, q_loop, update_ppo, update_reinforce)])
    assert counts[0] == counts[1]
