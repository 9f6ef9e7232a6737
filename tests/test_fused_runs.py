"""Runs on compiled environments: resumed, interrupted, watched, failing; and which ids are run compiled."""

from __future__ import annotations

import os
import re
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from fastrl import DQN, PPO, REINFORCE, EnvironmentFailure
from fastrl.algorithms.dqn import DQN as AlgorithmDQN
from fastrl.cli import main
from fastrl.envs import environment, make_vec, uniform
from fastrl.envs.env_list import EnvList
from fastrl.envs.fused import CompiledStepper
from tests.test_algorithms import ALGORITHMS, make, weights
from tests.test_fused import COLUMNS, SMALLER, assert_same_buffers, by_steps, few_threads  # noqa: F401

OPTIONS = {
    PPO: [{}, dict(n_envs=3, normalize=True, learning_rate="lin_0.01")],
    REINFORCE: [dict(n_envs=2, n_episodes=3), dict(n_envs=3, normalize=True, baseline=True)],
    DQN: [dict(buffer_size=61, exploration_decay=0.9), dict(n_envs=4, normalize=True, n_steps=3, tau=0.5)],
}  # fmt: skip
EACH = [(cls, options) for cls in ALGORITHMS for options in OPTIONS[cls]]


def assert_equal(ours, theirs):
    """To the last bit."""
    assert torch.equal(weights(ours), weights(theirs))
    for name in ("num_timesteps", "num_episodes", "n_updates", "episodes"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert {**ours.metrics, "time/fps": 0} == {**theirs.metrics, "time/fps": 0}
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


@pytest.mark.parametrize("spoil", [
    lambda s: {**s, "states": [[np.nan] * 4] * 2}, lambda s: {**s, "rngs": [[-1] * 4] * 2}, lambda s: None,
    lambda s: {**s, "lengths": [[1, 2]]}, lambda s: {**s, "states": "abc"}, lambda s: {}, lambda s: 3,
    lambda s: {**s, "lengths": [500, 0]},
])  # fmt: skip
def test_a_state_that_cannot_be_is_not_taken_up(spoil):
    stepper = make(PPO, "fastrl/CartPole-v1", n_envs=2).learn(40).env
    assert stepper.restore(stepper.state()) is not None
    assert stepper.restore(spoil(stepper.state())) is None


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
        assert watched.metrics["train/exploration_rate"] == alone.metrics["train/exploration_rate"]
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


# -- failing ------------------------------------------------------------------------------------------------------


@environment
class Faulty:
    """[t, a number of the episode's own]; in some episodes something goes wrong at one of these steps."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(2)
    state_size = 2
    max_episode_steps = 12

    nan_reward, huge_reward, nan_obs, raises, out = 1e9, 1e9, 1e9, 1e9, 1e9
    rare = 0.8

    def reset(self, state, rng):
        state[1] = uniform(rng)

    def step(self, state, action, rng):
        state[0] += 1
        if state[1] > self.rare:
            if state[0] == self.nan_reward:
                return np.nan, False
            if state[0] == self.huge_reward:
                return 1e39, False
            if state[0] == self.raises:
                raise ValueError("the wheel fell off")
            if state[0] == self.out:
                state[2] = 1.0
        return 1.0 + action * state[1], False

    def observe(self, state, obs):
        obs[:] = state
        if state[0] == self.nan_obs and state[1] > self.rare:
            obs[0] = np.nan


FAULTS = {
    "nan_reward": (ValueError, "a reward"), "nan_obs": (ValueError, "an observation"),
    "raises": (EnvironmentFailure, "raised ValueError in step .*: the wheel fell off"),
    "out": (EnvironmentFailure, "raised IndexError in step"),
}  # fmt: skip


def fail(cls, by_steps, off, fault, **options):  # noqa: F811
    """A model that ran into `fault`, and (environment, step) of the error."""
    by_steps(off)
    env = make_vec(Faulty, 3, debug=fault == "out", **{fault: 7.0})
    model = cls("MlpPolicy", env, engine="compiled", **{**SMALLER[cls], "seed": 0, **options})
    error, message = FAULTS[fault]
    with pytest.raises(error, match=rf"environment \d .*{message}") as caught:
        model.learn(10_000)
    text = str(caught.value)
    return model, re.search(r"environment (\d) ", text)[1], re.search(r"at step (\d+)", text)[1]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_environment_that_fails(cls, by_steps, fault):  # noqa: F811
    """The error says where; weights and replay buffer are as the steps before left them; the model is good for more."""
    options = dict(buffer_size=20, n_steps=2, learning_starts=3) if cls is DQN else {}
    options |= dict(n_episodes=3, baseline=True) if cls is REINFORCE else {}
    (ours, *where), (theirs, *there) = (fail(cls, by_steps, off, fault, **options) for off in (False, True))
    assert where == there and where[0] == "2"  # when the others of this step are done
    assert torch.equal(weights(ours), weights(theirs)) and ours.n_updates == theirs.n_updates
    assert [int(s["step"]) for s in ours.learner.optimizer.state.values()] == [
        int(s["step"]) for s in theirs.learner.optimizer.state.values()
    ]
    if cls is DQN:
        assert_same_buffers(ours, theirs)
        assert (ours.num_timesteps, ours.episodes) == (theirs.num_timesteps, theirs.episodes)
        check_transitions(ours)
    assert ours.env.calls == theirs.env.calls == int(where[1]) - 1
    by_steps(False)
    ours.learn(6, reset_num_timesteps=False) if cls is DQN else None
    ours.set_env(make_vec(Faulty, 3))
    ours.learn(200)
    assert np.isfinite(weights(ours).numpy()).all()
    if cls is DQN:
        check_transitions(ours)


def check_transitions(model):
    buffer = model.replay_buffer
    obs, action, reward, next_obs, terminated, truncated = (np.array(buffer[name]) for name in COLUMNS)
    np.testing.assert_array_equal(next_obs, obs + np.float32([1, 0]))
    np.testing.assert_allclose(reward, 1 + action * obs[:, 1], rtol=1e-6)
    assert not terminated.any() and truncated[next_obs[:, 0] == 12].all()


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_reward_beyond_float32(cls):
    model = make(cls, make_vec(Faulty, 3, huge_reward=7.0))
    with pytest.raises(ValueError, match=r"environment \d returned a reward of 1e\+39 at step \d+; .*float32"):
        model.learn(10_000)
    assert np.isfinite(weights(model).numpy()).all()


@pytest.mark.parametrize("cell", [10, -1, 4.5, np.nan, 1e300])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_discrete_observation_outside_its_space(cls, cell):
    """Written one-hot where it says, it would be written anywhere."""

    @environment
    class Lost:
        observation_space = Discrete(10)
        action_space = Discrete(2)
        state_size = 1
        max_episode_steps = 20
        cell = 0.0

        def reset(self, state, rng):
            pass

        def step(self, state, action, rng):
            state[0] += 1
            return 1.0, False

        def observe(self, state, obs):
            obs[0] = state[0] if state[0] < 5 else self.cell

    model = make(cls, make_vec(Lost, 2, cell=float(cell)))
    with pytest.raises(ValueError, match=r"environment 0 returned an observation .*Discrete\(10\)"):
        model.learn(100)


@pytest.mark.parametrize("cls", [PPO, REINFORCE])
def test_actions_that_are_not_finite(cls):
    model = make(cls, "fastrl/Pendulum-v1", n_envs=2)
    with torch.no_grad():
        model.policy.pi[-1].bias.fill_(np.nan)
    with pytest.raises(ValueError, match="action for environment 0 is not finite at step 1"):
        model.learn(100)


def test_reinforce_on_episodes_that_do_not_end(monkeypatch):
    monkeypatch.setattr("fastrl.algorithms.reinforce.LONGEST", 600)
    model = make(REINFORCE, make_vec(Faulty, 2, max_episode_steps=0))
    before = weights(model)
    with pytest.raises(ValueError, match=r"still not ended its episodes.*time limit"):
        model.learn(1000)
    assert torch.equal(weights(model), before)
    monkeypatch.setattr("fastrl.algorithms.reinforce.CHUNK", 600)
    make(REINFORCE, make_vec(Faulty, 2, max_episode_steps=600)).learn(10)  # it does end, if late


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
        model.set_env("CartPole-v1", 3)
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
