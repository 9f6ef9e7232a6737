"""Ape-X: what actors send and replay keeps, without Ray; the learner's pace; then whole runs, and what befalls them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrl
from fastrl.buffers.prioritized import PrioritizedReplaySample
from fastrl.distributed.actors import SMALLEST_PRIORITY, Actor, Batch, Replay, actor_epsilon
from fastrl.distributed.ape_x import apex
from fastrl.distributed.crew import FALLS, MINIBATCHES, PREFETCH, SLOTS, Crew
from fastrl.distributed.learning import Learner, weighted_update
from fastrl.envs.base import EnvironmentFailure

OBS, ACTIONS = Box(-1, 1, (3,), np.float32), Discrete(2, start=1)


class Chance(gym.Env):
    """Everything is drawn: observations, rewards, and whether an episode ends or is cut; keeps what happened."""

    observation_space, action_space = OBS, ACTIONS

    def __init__(self, p_terminated=0.15, p_truncated=0.1):
        self.p_terminated, self.p_truncated, self.log = p_terminated, p_truncated, []

    def _draw(self):
        self.obs = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.obs

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return self._draw(), {}

    def step(self, action):
        before, reward = self.obs, self.np_random.normal()
        ends = self.np_random.random(2) < (self.p_terminated, self.p_truncated)
        self.log.append((before, action, reward, self._draw(), *ends))
        return self.obs, reward, bool(ends[0]), bool(ends[1]), {}


def windows(log, n, gamma):
    """(obs, action, R, γ^m, last obs, terminated, truncated) for each t; None where the window is not over yet."""
    found = []
    for t in range(len(log)):
        total, m = 0.0, 0
        for m, (_, _, reward, _, terminated, truncated) in enumerate(log[t : t + n], 1):
            total += gamma ** (m - 1) * reward
            if terminated or truncated:
                break
        over = m == n or terminated or truncated
        found.append((*log[t][:2], total, gamma**m, log[t + m - 1][3], terminated, truncated) if over else None)
    return found


def options(**changed):
    own = {"policy": "MlpPolicy", "env": Chance, "n_envs": 1, "gamma": 0.9, "n_steps": 1, "engine": "auto",
           "policy_kwargs": {"net_arch": [8]}}  # fmt: skip
    return own | changed


def weights_of(seed):
    model = fastrl.DQN(env=Chance, buffer_size=10, seed=seed, **{k: v for k, v in options().items() if k != "env"})
    return {name: x.numpy() for name, x in model.policy.state_dict().items()}


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(5, 30), st.floats(0, 1), st.integers(0, 2**31))
def test_windows_and_priorities_are_those_of_the_episodes(n_steps, n_envs, steps, gamma, seed):
    actor, weights = Actor(options(n_envs=n_envs, n_steps=n_steps, gamma=gamma), steps, [seed]), weights_of(seed % 5)
    sent = [actor.collect(weights, 0.5) for _ in range(3)]
    taken = sum(receipt.steps for receipt, _ in sent)
    assert [receipt.steps for receipt, _ in sent] == 3 * [-(-steps // n_envs) * n_envs]
    rows = {name: np.concatenate([batch.columns[name] for _, batch in sent]) for name in sent[0][1].columns}
    priority = np.concatenate([batch.priority for _, batch in sent])
    assert len(priority) == max(0, taken - (n_steps - 1) * n_envs)
    logs = [windows(env.log, n_steps, gamma) for env in actor.model.env.envs]
    policy = actor.model.policy
    for i in range(len(priority)):
        obs, action, total, bootstrap, last, terminated, truncated = logs[i % n_envs][i // n_envs]
        np.testing.assert_array_equal(rows["obs"][i], obs)
        np.testing.assert_array_equal(rows["next_obs"][i], last)
        assert (rows["action"][i], rows["terminated"][i]) == (action, terminated)
        assert rows["truncated"][i] == truncated
        np.testing.assert_allclose((rows["reward"][i], rows["bootstrap"][i]), (total, bootstrap), 1e-4, 1e-5)
        with torch.no_grad():
            q, next_q = policy(torch.from_numpy(np.stack([obs, last]))).numpy()
        error = total + bootstrap * (not terminated) * next_q.max() - q[action - 1]
        np.testing.assert_allclose(priority[i], abs(error) + SMALLEST_PRIORITY, 1e-3, 1e-4)
    assert sum(len(receipt.episodes) for receipt, _ in sent) == sum(
        bool(row[4] or row[5]) for env in actor.model.env.envs for row in env.log
    )


def test_actors_act_by_the_weights_they_are_given_and_each_life_draws_its_own():
    def actions(seed, weights, epsilon):
        columns = Actor(options(), 200, seed).collect(weights, epsilon)[1].columns
        return columns["obs"], columns["action"]

    weights = weights_of(1)
    obs, action = actions([0, 1], weights, 0.0)
    policy = fastrl.DQN(env=Chance, buffer_size=10, **{k: v for k, v in options().items() if k != "env"}).policy
    policy.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
    with torch.no_grad():
        np.testing.assert_array_equal(action, policy(torch.from_numpy(obs)).argmax(1).numpy() + 1)
    np.testing.assert_array_equal(obs, actions([0, 1], weights, 0.0)[0])
    assert not np.array_equal(obs, actions([0, 2], weights, 0.0)[0])
    explored = actions([0, 1], weights, 1.0)[1]
    assert 60 < np.count_nonzero(explored == 1) < 140


def test_ladder_of_epsilons():
    ladder = [actor_epsilon(0.4, i, 8) for i in range(8)]
    np.testing.assert_allclose(ladder, [0.4 ** (1 + i) for i in range(8)])
    assert actor_epsilon(0.4, 0, 1) == 0.4
    assert [actor_epsilon(1.0, i, 3) for i in range(3)] == [1.0] * 3


def batch_of(n, priority=1.0, seed=0):
    rng = np.random.default_rng(seed)
    columns = {
        "obs": rng.uniform(-1, 1, (n, 3)).astype(np.float32), "action": rng.integers(1, 3, n),
        "reward": np.arange(n, dtype=np.float32), "next_obs": rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        "terminated": rng.random(n) < 0.2, "truncated": np.zeros(n, bool), "bootstrap": np.full(n, 0.9, np.float32),
    }  # fmt: skip
    return Batch(columns, np.broadcast_to(np.float32(priority), n).copy())


def make_replay(path, capacity=20, every=10):
    return Replay(OBS, ACTIONS, capacity, 0.6, [1], str(path), every)


def test_replay_keeps_priorities_past_its_capacity_and_goes_on_from_its_snapshot(tmp_path):
    replay = make_replay(tmp_path / "replay.npz")
    assert replay.sample(2, 4, 0.4) == []
    told = np.arange(1, 29, dtype=np.float32)
    for first, n in ((0, 5), (5, 9), (14, 14)):
        assert replay.add(batch_of(n, told[first : first + n])) == first + n
    np.testing.assert_array_equal(np.sort(replay.buffer.priorities), told[-20:])
    samples = replay.sample(3, 4, 0.4, (np.array([27, 3]), np.array([50, 60], np.float32)))
    assert len(samples) == 3 and not np.array_equal(samples[0].indices, samples[1].indices)
    assert replay.buffer.max_priority == 50  # transition 3 is overwritten
    replay.add(batch_of(3, 7.0))  # after the last snapshot
    again = make_replay(tmp_path / "replay.npz")
    assert again.ready() == 28 and len(again.buffer) == 20
    np.testing.assert_array_equal(np.sort(again.buffer.priorities), told[-20:])
    assert again.add(batch_of(3, 9.0)) == 31 and (again.buffer.priorities == 9).sum() == 3
    with pytest.raises(ValueError, match="capacity"):
        make_replay(tmp_path / "replay.npz", capacity=30).ready()


@pytest.mark.parametrize("huber", [True, False])
@pytest.mark.parametrize("double_q", [True, False])
def test_both_engines_descend_the_weighted_loss(huber, double_q):
    rng, moved = np.random.default_rng(3), {}
    columns = batch_of(16, seed=4).columns
    weights = rng.uniform(0.1, 1, 16).astype(np.float32)
    arguments = (columns["obs"], columns["action"] - 1, columns["reward"] / 10, columns["bootstrap"],
                 columns["next_obs"], columns["terminated"])  # fmt: skip
    how = dict(learning_rate=0.01, double_q=double_q, huber=huber, max_grad_norm=10.0)
    for engine in ("torch", "compiled"):
        model = make_model(engine)
        with torch.no_grad():
            y = arguments[2] + arguments[3] * ~arguments[5] * _next_q(model, arguments[4], double_q)
            error = model.policy(torch.from_numpy(arguments[0])).numpy()[np.arange(16), arguments[1]] - y
        each = np.where(np.abs(error) < 1, error**2 / 2, np.abs(error) - 0.5) if huber else error**2
        loss, told = weighted_update(model.learner, weights, *arguments, **how)
        np.testing.assert_allclose(told, error, 1e-4, 1e-5)
        np.testing.assert_allclose(float(loss), (weights * each).mean(), 1e-4)
        model.learner.update(*arguments, **how)  # its weights are 1 again
        moved[engine] = np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])
    np.testing.assert_allclose(moved["torch"], moved["compiled"], 1e-4, 1e-5)


def make_model(engine="auto", **changed):
    own = {"seed": 1, "buffer_size": 1000, "gamma": 0.9, "policy_kwargs": {"net_arch": [8]}, "engine": engine}
    return fastrl.DQN("MlpPolicy", Chance, **own | changed)


def _next_q(model, obs, double_q):
    with torch.no_grad():
        target = model.learner.target(torch.from_numpy(obs)).numpy()
        chooser = model.policy(torch.from_numpy(obs)).numpy() if double_q else target
    return target[np.arange(len(obs)), chooser.argmax(1)]


class FakeCrew:
    """Always has minibatches."""

    def __init__(self, model):
        columns = batch_of(8).columns
        extra = {"bootstrap": columns.pop("bootstrap")}
        sample = PrioritizedReplaySample(**columns, indices=np.arange(8), extra=extra, discount=None,
                                         weights=np.ones(8, np.float32))  # fmt: skip
        self.minibatches, self.learnt, self.stored = deque([sample] * 10_000), [], 1


@pytest.mark.parametrize(
    "changed", [{}, {"train_freq": 7, "gradient_steps": 3}, {"gradient_steps": -1, "learning_starts": 13},
                {"gradient_steps": 0}, {"n_envs": 3, "train_freq": 4, "gradient_steps": -1, "learning_starts": 0}],
)  # fmt: skip
def test_updates_and_target_updates_keep_the_pace_of_dqn(changed, monkeypatch):
    changed = {"target_update_interval": 5, "learning_starts": 40} | changed
    told = {"dqn": [], "apex": []}

    def watched(name):
        model = make_model("torch", **changed)
        monkeypatch.setattr(model.learner, "update_target", lambda tau: told[name].append(model.n_updates))
        return model

    dqn, model = watched("dqn"), watched("apex")
    dqn.learn(210)
    model.total_timesteps, learner = 210, None
    learner = Learner(model, FakeCrew(model), 16)
    for _ in range(0, dqn.num_timesteps, 30):  # as they come in batches
        model.num_timesteps = min(model.num_timesteps + 30, dqn.num_timesteps)
        learner.learn()
    assert model.n_updates == dqn.n_updates
    assert told["apex"] == told["dqn"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"actors": 0}, ValueError, "actors"), ({"batch": 2.5}, TypeError, "batch"),
        ({"alpha": 1.5}, ValueError, "alpha"), ({"beta": -1}, ValueError, "beta"),
        ({"beta": (0.4, 2)}, ValueError, "beta"), ({"beta": (0.4, 0.6, 1)}, ValueError, "pair"),
        ({"weights_every": 0}, ValueError, "weights_every"), ({"snapshot_every": 0}, ValueError, "snapshot_every"),
        ({"envs_per_actor": 0}, ValueError, "envs_per_actor"), ({"batch": 2000}, ValueError, "buffer_size"),
        ({"total_timesteps": 0}, ValueError, "total_timesteps"), ({"env": Chance()}, ValueError, "exists already"),
        ({"env": "CartPole-v1"}, ValueError, "observation_space"), ({"env": None}, ValueError, "exists already"),
        ({"callback": lambda a, b: True}, ValueError, "every step"),
    ],
)  # fmt: skip
def test_bad_arguments_are_told_before_anything_happens(arguments, error, words):
    model = make_model()
    with pytest.raises(error, match=words):
        apex(model, **{"total_timesteps": 100, "env": Chance} | arguments)
    assert model.num_timesteps == 0 and model.total_timesteps == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"normalize": True}, "normalize"), ({"train_freq": (1, "episode")}, "train_freq"),
     ({"target_update_interval": (1, "episode")}, "target_update"),
     ({"optimize_memory_usage": True}, "optimize_memory")],
)  # fmt: skip
def test_models_that_do_not_fit(changed, words):
    with pytest.raises(ValueError, match=words):
        apex(make_model(**changed), 100, env=Chance)


def test_environments_that_are_more_than_their_id():
    short = fastrl.DQN("MlpPolicy", gym.make("CartPole-v1", max_episode_steps=50), buffer_size=1000)
    with pytest.raises(ValueError, match="not just CartPole-v1"):
        apex(short, 100)
    with pytest.raises(TypeError, match="DQN"):
        apex(fastrl.PPO("MlpPolicy", "CartPole-v1"), 100)


def test_a_snapshot_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "replay.npz").write_bytes(b"something")
    with pytest.raises(ValueError, match="snapshot already"):
        apex(make_model(), 100, env=Chance, snapshot=tmp_path / "replay.npz")


# -- with Ray ----------------------------------------------------------------------------------------------------

QUIET = {"RAY_DEDUP_LOGS": "0", "RAY_LOG_TO_DRIVER": "0"}


@pytest.fixture(scope="module")
def ray():
    """Connected to a cluster of this machine, which outlives the runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        ray = pytest.importorskip("ray", reason="Ray is not installed")
        ray.init(num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False)
        yield ray
        ray.shutdown()


def descendants(pid):
    """{pid: title} of the processes below `pid`."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            titles[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except (OSError, ValueError):
            continue
    found, left = {}, [pid]
    while left:
        parent = left.pop()
        children = [child for child, its in parents.items() if its == parent and titles[child]]
        found |= {child: titles[child] for child in children}
        left += children
    return found


def workers(of):
    return [pid for pid, title in descendants(os.getpid()).items() if title.startswith(f"ray::{of}")]


def gone(look, seconds=20.0):
    """Waits until `look` finds nothing; whether it did."""
    until = time.monotonic() + seconds
    while found := look():
        if time.monotonic() > until:
            return found
        time.sleep(0.1)
    return []


def cart_pole(**changed):
    own = {"seed": 0, "buffer_size": 2000, "learning_starts": 200, "n_steps": 3, "double_q": True, "train_freq": 4,
           "gradient_steps": 2, "batch_size": 16, "policy_kwargs": {"net_arch": [16]}}  # fmt: skip
    return fastrl.DQN("MlpPolicy", "CartPole-v1", **own | changed)


@pytest.fixture
def once():
    """A callback that calls `action` at the first iteration after so many steps."""

    def make(steps, action):
        done = []

        def callback(model):
            if model.num_timesteps >= steps and not done:
                done.append(model.num_timesteps)
                action()

        return callback

    return make


def test_a_run_counts_learns_and_leaves_nothing_behind(ray, monkeypatch, tmp_path):
    seen = []
    receive = Crew.receive

    def watched(crew, patience):
        kinds = [kind for kind, _, _ in crew._calls.values()]
        waiting = kinds.count("sample") + len(crew.minibatches) / MINIBATCHES
        seen.append((len(crew._slots), waiting, len(crew._calls)))
        return receive(crew, patience)

    monkeypatch.setattr(Crew, "receive", watched)
    model = cart_pole()
    before = [p.detach().clone() for p in model.policy.parameters()]
    assert apex(model, 2000, actors=2, batch=100, envs_per_actor=2) is model
    assert 2000 <= model.num_timesteps < 2100 and not model.interrupted
    assert model.n_updates == 2 * ((model.num_timesteps - 200) // 4)
    assert model.num_episodes > 0 and len(model.episodes) == min(model.num_episodes, 100)
    assert sum(length for _, length in model.episodes) <= model.num_timesteps
    assert all(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert model.metrics["train/lost_actors"] == 0 and np.isfinite(model.metrics["train/loss"])
    slots, waiting, calls = map(max, zip(*seen, strict=True))
    assert slots <= 2 * SLOTS and waiting <= PREFETCH and calls <= 2 * SLOTS + PREFETCH + 3
    assert not gone(lambda: workers("Actor") + workers("Replay"))
    model.save(tmp_path / "model")
    assert fastrl.DQN.load(tmp_path / "model").num_timesteps == model.num_timesteps
    assert ray.is_initialized()


@pytest.mark.slow
def test_what_is_under_way_stays_bounded_where_replay_is_slow(ray, monkeypatch):
    class Slow(Replay):
        def add(self, batch):
            time.sleep(0.05)
            return super().add(batch)

    Slow.__module__ = "__main__"  # so that it is sent as it is
    monkeypatch.setattr("fastrl.distributed.crew.Replay", Slow)
    asked, receive = [], Crew.receive

    def watched(crew, patience):
        asked.append((len(crew._slots), len(crew._calls), crew.asked))
        return receive(crew, patience)

    monkeypatch.setattr(Crew, "receive", watched)
    model = cart_pole(gradient_steps=0)
    apex(model, 1500, actors=2)
    assert max(slots for slots, _, _ in asked) <= 2 * SLOTS
    assert max(calls for _, calls, _ in asked) <= 2 * SLOTS + PREFETCH + 3
    assert model.num_timesteps == 1500 and model.n_updates == 0


class FakeRay:
    """A cluster whose calls end at once: each with what `answers` has for its kind, an error or a value."""

    exceptions = pytest.importorskip("ray").exceptions

    def __init__(self, answers):
        self.answers, self.made = answers, 0

    def wait(self, refs, num_returns, **options):
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref):
        if isinstance(answer := self.answers[ref[0]], Exception):
            raise answer
        return answer

    def kill(self, handle): ...


class FakeCalls(Crew):
    """A crew without processes."""

    def _start(self, worker):
        self._ray.made += 1
        worker.handle = self
        self._calls["start", self._ray.made] = "start", worker, None
        return worker

    def __getattr__(self, name):  # a method of the worker's
        return SimpleNamespace(remote=lambda *_: self._ask(name))

    def _ask(self, name):
        self._ray.made += 1
        return name, self._ray.made


def test_minibatches_wait_for_a_learner_that_waits_for_steps():
    crew = FakeCalls(FakeRay({"start": 100, "sample": [None] * MINIBATCHES}), 1, [0], {"steps": 100}, {})
    crew.replay = crew._start(crew.replay)
    crew.receive(0.0)
    for _ in range(50):
        crew.order(32, 0.4)
        crew.receive(0.0)
        assert len(crew.minibatches) <= PREFETCH * MINIBATCHES


@pytest.mark.parametrize("name", ["OutOfMemoryError", "ActorUnschedulableError", "ActorDiedError"])
@pytest.mark.parametrize("kind", ["start", "sample"])
def test_every_way_to_die_is_one(name, kind):
    error = getattr(FakeRay.exceptions, name)
    answers = {"start": 100, "sample": [], kind: error("gone") if name != "ActorDiedError" else error()}
    crew = FakeCalls(FakeRay(answers), 1, [0], {"steps": 100}, {})
    crew.replay = crew._start(crew.replay)
    with pytest.raises(RuntimeError, match=f"the replay memory died {FALLS} times"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(20):
            crew.order(32, 0.4)
            crew.receive(0.0)
    assert crew.losses["lost_replays"] == FALLS - 1


@pytest.mark.parametrize("how", ["SIGKILL", pytest.param("ray.kill", marks=pytest.mark.slow)])
def test_a_killed_actor_is_replaced(ray, once, monkeypatch, how):
    crews, enter = [], Crew.__enter__
    monkeypatch.setattr(Crew, "__enter__", lambda crew: (crews.append(crew), enter(crew))[1])

    def kill():
        worker = crews[0]._workers[0]
        if how == "ray.kill":
            ray.kill(worker.handle)
        else:
            os.kill(ray.get(worker.handle.ready.remote()), signal.SIGKILL)

    model = cart_pole()
    with pytest.warns(UserWarning, match="actor 0 died, life 0; another takes its place"):
        apex(model, 3000, actors=2, callback=once(800, kill))
    assert model.num_timesteps == 3000 and model.n_updates == 2 * (2800 // 4)
    assert model.metrics["train/lost_actors"] == 1
    assert model.metrics["train/lost_steps"] <= 200 and model.metrics["train/lost_steps"] % 100 == 0


@pytest.mark.slow
def test_a_killed_replay_memory_comes_back_from_its_snapshot(ray, once, tmp_path):
    def kill():
        [pid] = workers("Replay")
        os.kill(pid, signal.SIGKILL)

    path, model = tmp_path / "replay.npz", cart_pole()
    with pytest.warns(UserWarning, match="the replay memory died"):
        apex(model, 3000, actors=2, callback=once(1200, kill), snapshot=path, snapshot_every=500)
    assert model.num_timesteps == 3000 and model.n_updates == 2 * (2800 // 4)
    told = model.metrics
    assert told["train/lost_replays"] == 1 and told["train/lost_actors"] == 0
    assert 0 <= told["train/lost_transitions"] <= 500 + 2 * SLOTS * 100
    again = Replay(model.observation_space, model.action_space, 2000, 0.6, [0], str(path), 500)
    assert len(again.buffer) == 2000
    assert again.ready() <= 3000 - told["train/lost_transitions"] + 2 * SLOTS * 100
    apex(model, 200, actors=2, snapshot=path, reset_num_timesteps=False)  # goes on from it
    assert model.num_timesteps == 3200


def test_an_environment_that_raises_ends_the_run_with_its_error(ray):
    class Broken(Chance):
        def step(self, action):
            if len(self.log) == 150:
                raise ZeroDivisionError("the door is stuck")
            return super().step(action)

    Broken.__module__ = "__main__"
    model = make_model()
    with pytest.raises(EnvironmentFailure, match=r"actor \d raised EnvironmentFailure: .*the door is stuck"):
        apex(model, 2000, env=Broken, actors=2)
    assert not gone(lambda: workers("Actor") + workers("Replay"))


@pytest.mark.slow
def test_an_actor_that_dies_again_and_again_ends_the_run(ray):
    class Deadly(Chance):
        def reset(self, seed=None, options=None):
            os._exit(1)

    Deadly.__module__ = "__main__"
    with pytest.raises(RuntimeError, match=r"actor 0 died 3 times"), pytest.warns(UserWarning, match="actor 0 died"):
        apex(make_model(), 2000, env=Deadly, actors=1)


@pytest.mark.slow
def test_a_batch_that_goes_with_its_node_is_taken_again_and_counted(ray, monkeypatch):
    class Losing(Replay):
        calls = 0

        def add(self, batch):
            self.calls += 1
            if self.calls == 5:
                import ray

                raise ray.exceptions.ObjectLostError("00" * 28, None, "")
            return super().add(batch)

    Losing.__module__ = "__main__"
    monkeypatch.setattr("fastrl.distributed.crew.Replay", Losing)
    model = cart_pole()
    apex(model, 2000, actors=2)
    assert model.num_timesteps == 2000 and model.metrics["train/lost_steps"] == 100
    assert model.metrics["train/lost_actors"] == model.metrics["train/lost_replays"] == 0


def test_more_actors_than_cpus(ray, monkeypatch):
    monkeypatch.setattr("fastrl.distributed.crew.ROOM_PATIENCE", 0.0)
    with pytest.raises(RuntimeError, match="5 actors take 5 CPUs; of the cluster's 2"):
        apex(cart_pole(), 100, actors=5)


SCRIPT = """
import fastrl, fastrl.distributed
if __name__ == "__main__":
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", seed=0, buffer_size=2000, policy_kwargs=dict(net_arch=[16]))
    told = lambda model: print("steps", model.num_timesteps, flush=True) if model.num_timesteps > 500 else None
    fastrl.distributed.apex(model, 10**9, actors=2, callback=told)
    print("interrupted", model.interrupted, model.n_updates > 0, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["driver", "group"])
def test_ctrl_c_ends_the_run_and_leaves_no_process(tmp_path, whom):
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, **QUIET},
    )  # fmt: skip
    line = run.stdout.readline()
    assert line.startswith("steps"), run.communicate()
    below = descendants(run.pid)
    assert any("raylet" in title for title in below.values())
    if whom == "driver":
        run.send_signal(signal.SIGINT)
    else:
        os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=300)
    assert "interrupted True True" in out and run.returncode == 0, (out[-500:], err)
    assert "lost" not in err and "died" not in err
    assert not gone(lambda: [pid for pid in below if Path(f"/proc/{pid}/cmdline").exists() and state(pid) != "Z"])


def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


NODES = """
import warnings
import fastrl, fastrl.distributed, ray
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ray.init(cluster.address, logging_level="error", log_to_driver=False)
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", seed=0, buffer_size=2000, policy_kwargs=dict(net_arch=[16]))
    removed = []

    def remove(model):
        if model.num_timesteps > 1500 and not removed:
            removed.append(True)
            cluster.remove_node(node, allow_graceful=False)

    fastrl.distributed.apex(model, 20_000, actors=2, callback=remove)
    print("done", model.num_timesteps, model.n_updates, int(model.metrics["train/lost_actors"]), flush=True)
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
def test_the_actors_of_a_removed_node_move(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    (tmp_path / "script.py").write_text(textwrap.dedent(NODES))
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=600,
                          env={**os.environ, **QUIET})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("done")]
    assert line.split()[1:] == ["20000", str((20_000 - 100) // 4), "1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cart_pole_is_learnt(ray, seed):
    from fastrl.presets import preset

    settings = preset("dqn", "CartPole-v1")
    total = settings.pop("total_timesteps")
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", seed=seed, **settings)
    apex(model, total, actors=2)
    assert fastrl.evaluate_policy(model, "CartPole-v1", 50, seed=seed)[0] > 450
