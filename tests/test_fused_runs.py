"""Runs on compiled environments: resumed, interrupted, watched; and which ids are run compiled."""

from __future__ import annotations

import json
import os
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from fastrl import DQN, PPO, REINFORCE
from fastrl.algorithms.dqn import DQN as AlgorithmDQN
from fastrl.cli import main
from fastrl.envs import environment, make_vec, uniform
from fastrl.envs.env_list import EnvList
from fastrl.envs.fused import CompiledStepper
from tests.test_algorithms import ALGORITHMS, make, weights
from tests.test_fused import SMALLER, assert_same_buffers

pytestmark = pytest.mark.usefixtures("few_threads")

OPTIONS = {
    PPO: [{}, dict(n_envs=3, normalize=True, learning_rate="lin_0.01")],
    REINFORCE: [dict(n_envs=2, n_episodes=3), dict(n_envs=3, normalize=True, baseline=True)],
    DQN: [dict(buffer_size=61, exploration_decay=0.9), dict(n_envs=4, normalize=True, n_steps=3, tau=0.5)],
}  # fmt: skip
EACH = [(cls, options) for cls in ALGORITHMS for options in OPTIONS[cls]]


def learnt(model):
    """The metrics but for those of time, and NaN, which is like no other number, as a word."""
    return {k: v if v == v else "NaN" for k, v in model.metrics.items() if not k.startswith("time/")}


def assert_equal(ours, theirs):
    """To the last bit."""
    assert torch.equal(weights(ours), weights(theirs))
    for name in ("num_timesteps", "num_episodes", "n_updates", "episodes"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert learnt(ours) == learnt(theirs)
    assert ours.rng.bit_generator.state == theirs.rng.bit_generator.state
    np.testing.assert_array_equal(ours._obs, theirs._obs)
    if isinstance(ours, DQN):
        assert_same_buffers(ours, theirs)


# -- resumed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "options"), EACH)
def test_a_resumed_run_equals_one_that_never_stopped(cls, options, tmp_path):
    saved = []

    def save(model):
        if not saved and model.num_timesteps >= 100:
            saved.append(model.num_timesteps)
            model.save(tmp_path / "m")
            if cls is DQN:
                model.save_replay_buffer(tmp_path / "r")

    whole = make(cls, "fastrl/CartPole-v1", **options).learn(331, callback=save)
    resumed = cls.load(tmp_path / "m", "fastrl/CartPole-v1")
    if cls is DQN:
        resumed.load_replay_buffer(tmp_path / "r")
    assert isinstance(resumed.env, CompiledStepper) and resumed._obs is not None
    resumed.learn(331 - saved[0], reset_num_timesteps=False)
    assert_equal(resumed, whole)


@pytest.mark.parametrize(("cls", "options"), EACH)
def test_a_model_that_learns_on_equals_its_copy_from_a_file(cls, options, tmp_path):
    model = make(cls, "fastrl/CartPole-v1", **options).learn(200)
    model.save(tmp_path / "m")
    copy = cls.load(tmp_path / "m", make_vec("CartPole-v1", model.num_envs))
    if cls is DQN:
        model.save_replay_buffer(tmp_path / "r")
        copy.load_replay_buffer(tmp_path / "r")
    for each in (model, copy):
        each.learn(150, reset_num_timesteps=False)
    assert_equal(copy, model)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_other_environments_begin_new_episodes(cls, tmp_path):
    make(cls, "fastrl/CartPole-v1", n_envs=2).learn(100).save(tmp_path / "m")
    make(cls, "CartPole-v1", n_envs=2, engine="torch").learn(100).save(tmp_path / "python")
    short = make_vec("CartPole-v1", 2, max_episode_steps=1)
    for file, env, options in [
        ("m", "fastrl/CartPole-v1", dict(n_envs=3)), ("m", "fastrl/CartPole-v1", dict(n_envs=1)),
        ("m", "CartPole-v1", dict(engine="torch")), ("m", lambda: gym.make("CartPole-v1"), {}),
        ("python", "CartPole-v1", dict(engine="auto")), ("python", "fastrl/CartPole-v1", {}), ("m", short, {}),
    ]:  # fmt: skip
        model = cls.load(tmp_path / file, env, **options)
        before = model.num_timesteps
        model.learn(60, reset_num_timesteps=False)
        assert model.num_timesteps >= before + 60 and np.isfinite(weights(model).numpy()).all()
    assert max(length for _, length in list(model.episodes)[-5:]) == 1


def with_(**parts):
    return lambda state: {**state, **parts}


@pytest.mark.parametrize("spoil", [
    lambda s: None, lambda s: {}, lambda s: 3, lambda s: [s], lambda s: {"states": s["states"]},
    with_(states="abc"), with_(states=[["0", "0", "0", "0"]] * 2), with_(states=[[0.0] * 4, [0.0]]),
    with_(states=[[0.0] * 5] * 2), with_(states=[[0.0] * 4]), with_(states=[[np.nan] * 4] * 2),
    with_(states=[[0.0, 0.0, 0.0, 1e300]] * 2), with_(states={"0": 1}), with_(states=None),
    with_(rngs=[[-1] * 4] * 2), with_(rngs=[[2**64] * 4] * 2), with_(rngs=[[1.5] * 4] * 2), with_(rngs=[[1] * 3] * 2),
    with_(rngs=[[1, 2, 3, 4], [0, 0, 0, 0]]),
    with_(lengths=[[1, 2]]), with_(lengths=[500, 0]), with_(lengths=[3, -1]), with_(lengths=[1.5, 1]),
    with_(lengths=[2**70, 1]),
    with_(returns=[np.nan, 0.0]), with_(returns=[0.0, np.inf]), with_(returns=[0.0, [0.0]]),
])  # fmt: skip
def test_a_state_that_cannot_be_is_not_taken_up(spoil):
    """And changes nothing: the streams of new episodes are then decided by the model's seed, not by the file."""
    first, second = (make(PPO, "fastrl/CartPole-v1", n_envs=2).learn(40).env for _ in range(2))
    second.env.reset(seed=[7, 8])
    second.seeded, before = False, second.state()
    state = json.loads(json.dumps(first.state()))
    assert second.restore(spoil(state)) is None
    assert second.state() == before and not second.seeded
    np.testing.assert_array_equal(second.restore(state), first.observations())
    assert second.state() == state and second.seeded


def test_a_state_that_its_environment_refuses_is_not_taken_up():
    @environment
    class Picky:
        observation_space = Box(-1, 1, (1,), np.float32)
        action_space = Discrete(2)
        state_size = 2

        def reset(self, state, rng):
            state[0], state[1] = uniform(rng), 1.0

        def step(self, state, action, rng):
            return 1.0, uniform(rng) < 0.1

        def observe(self, state, obs):
            if state[1] != 1:
                raise ValueError("not mine")
            obs[0] = state[0]

    stepper = make(PPO, make_vec(Picky, 2)).learn(40).env
    before = stepper.state()
    assert stepper.restore({**before, "states": [[0.5, 1.0], [0.5, 0.0]]}) is None
    assert stepper.state() == before and stepper.restore(before) is not None


# -- interrupted and watched --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_ctrl_c_within_a_kernel(cls, tmp_path):
    model = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(200)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    model.learn(10**9, reset_num_timesteps=False)
    timer.join()
    assert model.interrupted and 200 < model.num_timesteps < 10**9 and model._obs is not None
    model.save(tmp_path / "m")
    copy = cls.load(tmp_path / "m", "fastrl/CartPole-v1")
    if cls is DQN:
        model.save_replay_buffer(tmp_path / "r")
        copy.load_replay_buffer(tmp_path / "r")
    for each in (model, copy):
        assert not each.learn(100, reset_num_timesteps=False).interrupted
    assert_equal(copy, model)


@pytest.mark.parametrize("steps", [1, 101, 700])
@pytest.mark.parametrize(("cls", "options"), EACH)
def test_who_watches_changes_nothing(cls, options, steps):
    """With a callback DQN does one round in an iteration, without one as many as one call may take."""
    seen = []
    watched = make(cls, "fastrl/CartPole-v1", **options)
    watched.learn(steps, callback=lambda model: seen.append(model.num_timesteps), progress_bar=True)
    alone = make(cls, "fastrl/CartPole-v1", **options).learn(steps)
    assert_equal(alone, watched)
    if cls is DQN:
        assert seen == list(range(alone.num_envs, steps + alone.num_envs, alone.num_envs))
        assert watched.metrics["rollout/exploration_rate"] == alone.metrics["rollout/exploration_rate"]
    assert seen[-1] == alone.num_timesteps >= steps


def test_a_stretch_of_rounds_ends_where_the_steps_do():
    calls = []

    class Counting(AlgorithmDQN):
        def _iterate(self):
            calls.append(self.num_timesteps)
            return super()._iterate()

    model = make_of(Counting, make_vec("CartPole-v1", 3), train_freq=10).learn(2000)
    assert model.num_timesteps == 2004 and calls == [0, 64 * 12, 128 * 12]


def make_of(cls, env, **options):
    return cls("MlpPolicy", env, **{**SMALLER[DQN], "seed": 0, **options})


def test_a_callback_may_change_the_engine():
    def change(model):
        model.set_engine("torch" if model.engine == "compiled" else "compiled")

    for cls in ALGORITHMS:
        model = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(130, callback=change)
        steady = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(130)
        assert list(model.episodes) == list(steady.episodes)
        torch.testing.assert_close(weights(model), weights(steady), rtol=5e-4, atol=5e-4)


def test_a_buffer_of_ones_own_is_filled_by_steps():
    from fastrl import ReplayBuffer

    model = make(DQN, "fastrl/CartPole-v1")
    space, actions = model.observation_space, model.action_space
    model.replay_buffer = ReplayBuffer(500, space, actions, seed=1, share_next_obs=True)
    model.learn(60)
    assert len(model.replay_buffer) == 60
    model.replay_buffer = ReplayBuffer(500, space, actions, seed=1, extra_fields={"x": (np.float32, ())})
    with pytest.raises(KeyError, match="extra fields"):
        model.learn(60)


# -- which ids are run compiled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_id_with_a_compiled_twin(cls, tmp_path):
    kinds = {}
    for engine in ("auto", "compiled", "torch"):
        model = make(cls, "CartPole-v1", engine=engine, n_envs=2).learn(40)
        kinds[engine] = type(model.env)
        assert model.env_id == "CartPole-v1" and model.env.num_envs == 2
        model.save(tmp_path / engine)
        assert cls.load(tmp_path / engine).env_id == "CartPole-v1"
        assert type(cls.load(tmp_path / engine, "CartPole-v1").env) is kinds[engine]
        assert type(cls.load(tmp_path / engine, "CartPole-v1", engine="torch").env) is EnvList
        assert type(cls.load(tmp_path / engine, "CartPole-v1", engine="auto").env) is CompiledStepper
        model.set_env("CartPole-v1", n_envs=3)
        assert type(model.env) is kinds[engine] and model.env_id == "CartPole-v1"
    assert kinds == {"auto": CompiledStepper, "compiled": CompiledStepper, "torch": EnvList}


@pytest.mark.parametrize("engine", ["auto", "torch"])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_what_is_gymnasiums_own_stays_so(cls, engine, tmp_path):
    for own in (gym.make("CartPole-v1"), lambda: gym.make("CartPole-v1")):
        model = make(cls, own, engine=engine)
        assert type(model.env) is EnvList
        model.set_env(own)
        assert type(model.env) is EnvList and model.env_id == "CartPole-v1"
    model.learn(40).save(tmp_path / "m")
    assert type(cls.load(tmp_path / "m", gym.make("CartPole-v1")).env) is EnvList
    model = make(cls, "fastrl/CartPole-v1", engine=engine).learn(40)
    assert type(model.env) is CompiledStepper and model.env_id == "fastrl/CartPole-v1"
    for env in (make_vec("CartPole-v1", 2), gym.make_vec("fastrl/CartPole-v1", num_envs=2)):
        model.set_env(env)
        assert type(model.env) is CompiledStepper


SHORT = ["--total-timesteps", "64", "--n-steps", "16", "--n-envs", "2", "--eval-episodes", "1", "--seed", "0",
         "--no-progress"]  # fmt: skip


def test_the_command_line_runs_an_id_by_the_engine(tmp_path):
    runs = {}
    for engine in ("auto", "torch"):
        out = tmp_path / engine
        assert main(["train", "ppo", "CartPole-v1", "--engine", engine, *SHORT, "--out", str(out)]) == 0
        runs[engine] = PPO.load(out / "model.fastrl")
        assert runs[engine].env_id == "CartPole-v1"
    env_states = {engine: type(model._env_state) for engine, model in runs.items()}
    assert env_states["auto"] is dict and env_states["torch"] is not dict, env_states
    assert list(runs["auto"].episodes) != list(runs["torch"].episodes)
