"""Callbacks: what they are told and when, that they change nothing that is learnt, and how they end training."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core import event

from fastrl import (
    DQN,
    PPO,
    REINFORCE,
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    KVWriter,
    Logger,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
    evaluate_policy,
)
from tests.test_algorithms import ALGORITHMS, make, weights

pytestmark = pytest.mark.usefixtures("few_threads")


class Recorder(BaseCallback):
    """Writes down every call."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.calls, self.stop_at = [], stop_at

    def _init_callback(self):
        self.calls.append("init")

    def _on_training_start(self):
        self.calls.append("start")

    def _on_rollout_start(self):
        self.calls.append("rollout")

    def _on_step(self):
        self.calls.append((self.n_calls, self.num_timesteps))
        assert self.locals["rewards"].shape == self.locals["dones"].shape == (self.model.num_envs,)
        assert len(self.locals["infos"]) == self.model.num_envs and self.locals["self"] is self.model
        return self.num_timesteps != self.stop_at

    def _on_rollout_end(self):
        self.calls.append("learn")

    def _on_training_end(self):
        self.calls.append("end")


@pytest.mark.parametrize("env", ["fastrl/CartPole-v1", "FrozenLake8x8-v1"])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_callback_is_told_of_every_step_and_changes_nothing(cls, env):
    recorder = Recorder()
    told, alone = make(cls, env, n_envs=2).learn(130, recorder), make(cls, env, n_envs=2).learn(130)
    assert torch.equal(weights(told), weights(alone)) and told.episodes == alone.episodes
    steps = [call for call in recorder.calls if isinstance(call, tuple)]
    assert steps == [(i, 2 * i) for i in range(1, told.num_timesteps // 2 + 1)]
    words = [call for call in recorder.calls if not isinstance(call, tuple)]
    assert words[:2] == ["init", "start"] and words[-1] == "end"
    assert words[2:-1] == ["rollout", "learn"] * (len(words[2:-1]) // 2)
    if cls is PPO:  # of 32 steps of two environments
        assert recorder.calls.index("learn") == 3 + 32


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_false_ends_training_at_that_step(cls):
    recorder = Recorder(stop_at=22)
    model = make(cls, n_envs=2).learn(130, [recorder, lambda model: None])
    assert model.num_timesteps == 22 and recorder.calls[-1] == "end"
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= 22 + 64


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_rollouts_are_told_apart_without_steps(cls):
    class Rollouts(BaseCallback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def _on_rollout_start(self):
            self.seen.append(("start", self.model.num_timesteps, self.model.n_updates))

        def _on_rollout_end(self):
            self.seen.append(("end", self.model.num_timesteps, self.model.n_updates))

    callback = Rollouts()
    told = make(cls, "fastrl/CartPole-v1").learn(130, callback)
    assert torch.equal(weights(told), weights(make(cls, "fastrl/CartPole-v1").learn(130)))
    starts, ends = callback.seen[::2], callback.seen[1::2]
    assert {kind for kind, *_ in starts} == {"start"} and {kind for kind, *_ in ends} == {"end"}
    assert all(a[2] == b[2] and a[1] < b[1] for a, b in zip(starts, ends, strict=True))


def test_functions_of_one_and_of_two_arguments():
    models, rewards = [], []
    make(PPO).learn(64, models.append)
    assert len(models) == 2
    make(PPO).learn(64, lambda locals_, globals_: rewards.append(locals_["rewards"]))
    assert np.shape(rewards) == (64, 1) and np.unique(rewards) == 1
    assert make(PPO).learn(640, lambda locals_, globals_: False).num_timesteps == 1
    assert make(PPO).learn(640, lambda model: False).num_timesteps == 32


@pytest.mark.parametrize("wrong", [3, "eval", BaseCallback, [3]])
def test_what_is_no_callback_is_refused(wrong):
    model = make(PPO)
    with pytest.raises(TypeError, match="callback is"):
        model.learn(64, wrong)
    assert model.num_timesteps == 0


def test_a_bar_where_the_interval_stands_is_refused():
    with pytest.raises(TypeError, match="log_interval"):
        make(PPO).learn(64, None, True)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 50))
def test_due_counts_every_multiple_that_is_passed(advances, every):
    class Model:
        num_timesteps, num_envs, total_envs = 0, 3, 3

    class Due(BaseCallback):
        each_step = False

        def _on_step(self):
            found.append(self._due(every))
            return True

    found, callback = [], Due()
    callback.init_callback(Model())
    for steps in advances:
        until = callback._steps_until(every)
        callback.on_step(steps)
        assert found[-1] == (3 * steps >= until)
    assert sum(found) <= sum(advances) // every


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_evaluations(cls, tmp_path):
    class Improved(BaseCallback):
        each_step = False

        def _on_step(self):
            found.append(self.parent.best_mean_reward)

    found = []
    callback = EvalCallback("CartPole-v1", Improved(), n_eval_episodes=3, eval_freq=50, log_path=tmp_path / "logs",
                            best_model_save_path=tmp_path / "best", verbose=0)  # fmt: skip
    told = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(500, callback)
    alone = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(500)
    assert torch.equal(weights(told), weights(alone))
    kept = np.load(tmp_path / "logs/evaluations.npz")
    assert kept["results"].shape == kept["ep_lengths"].shape == (len(kept["timesteps"]), 3)
    assert list(kept["timesteps"]) == callback.evaluations_timesteps
    means = kept["results"].mean(1)
    assert callback.best_mean_reward == means.max() and callback.last_mean_reward == means[-1]
    assert found == list(np.unique(np.maximum.accumulate(means)))
    assert cls.load(tmp_path / "best/best_model.fastrl").num_timesteps == kept["timesteps"][means.argmax()]
    if cls is DQN:  # it stops for each of them
        assert callback.evaluations_timesteps == list(range(100, 501, 100))


def test_the_same_seed_gives_the_same_evaluations():
    results = []
    for _ in range(2):
        callback = EvalCallback("CartPole-v1", n_eval_episodes=4, eval_freq=64, verbose=0)
        make(PPO, seed=3).learn(256, callback)
        results.append(callback.evaluations_results)
    assert results[0] == results[1] and len(results[0]) == 4


def test_a_threshold_ends_training():
    stop = StopTrainingOnRewardThreshold(5.0)
    callback = EvalCallback("CartPole-v1", stop, n_eval_episodes=2, eval_freq=32, verbose=0)
    assert make(PPO).learn(1000, callback).num_timesteps == 32
    stop = StopTrainingOnRewardThreshold(501.0)
    never = EvalCallback("CartPole-v1", stop, n_eval_episodes=2, eval_freq=32, verbose=0)
    assert make(PPO).learn(100, never).num_timesteps == 128
    with pytest.raises(ValueError, match="EvalCallback"):
        make(PPO).learn(100, StopTrainingOnRewardThreshold(5.0))


def test_no_improvement_ends_training():
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=2)
    callback = EvalCallback("CartPole-v1", callback_after_eval=stop, n_eval_episodes=1, eval_freq=32, verbose=0)
    callback._keep = lambda *_: callback.__dict__.update(best_mean_reward=600.0)  # nothing can be better
    assert make(PPO).learn(1000, callback).num_timesteps == 4 * 32


def test_episodes_end_training():
    model = make(DQN, "fastrl/CartPole-v1", n_envs=2).learn(5000, StopTrainingOnMaxEpisodes(3))
    assert 6 <= model.num_episodes <= 7


@pytest.mark.parametrize("cls", [PPO, DQN])
def test_checkpoints(cls, tmp_path):
    callback = CheckpointCallback(50, tmp_path / "logs", "mine", save_replay_buffer=True, keep=2)
    model = make(cls, "fastrl/CartPole-v1", n_envs=2).learn(500, callback)
    files = sorted((tmp_path / "logs").glob("mine_*_steps.fastrl"), key=lambda file: int(file.stem.split("_")[1]))
    assert len(files) == 2
    steps = [int(file.stem.split("_")[1]) for file in files]
    assert [cls.load(file).num_timesteps for file in files] == steps
    if cls is DQN:
        assert steps == [400, 500]
        half = DQN.load(files[0], env="fastrl/CartPole-v1")
        half.load_replay_buffer(tmp_path / "logs/mine_replay_buffer_400_steps.npz")
        half.total_timesteps = 400
        whole = model
        half.learn(100, reset_num_timesteps=False)
        assert half.num_timesteps == whole.num_timesteps
        assert len(list((tmp_path / "logs").glob("mine_replay_buffer_*"))) == 2


def test_every_so_many_steps():
    seen = []

    class Look(BaseCallback):
        each_step = False

        def _on_step(self):
            seen.append(self.model.num_timesteps)

    make(DQN, "fastrl/CartPole-v1").learn(500, EveryNTimesteps(120, Look()))
    assert seen == [120, 240, 360, 480]


def test_only_those_that_watch_steps_slow_training_down():
    class Mine(EvalCallback):
        def _on_step(self):
            return super()._on_step()

    class Patient(BaseCallback):
        each_step = False

        def _on_step(self):
            return True

    assert [c.each_step for c in (Mine("CartPole-v1"), Patient(), EvalCallback("CartPole-v1"))] == [True, False, False]
    assert CallbackList([Patient(), Mine("CartPole-v1")]).each_step and not CallbackList([Patient()]).each_step


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_callback_may_change_the_weights_in_the_middle_of_a_rollout(cls):
    def change(locals_, globals_):
        if locals_["self"].num_timesteps == 10:
            with torch.no_grad():
                locals_["self"].policy.load_state_dict(copy.deepcopy(other.policy.state_dict()))

    other = make(cls, seed=5)
    found = [weights(make(cls, engine=engine, env="fastrl/CartPole-v1").learn(40, change))
             for engine in ("compiled", "torch")]  # fmt: skip
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_a_model_that_had_callbacks_can_be_copied():
    recorder = Recorder()
    model = make(REINFORCE).learn(50, recorder)
    assert torch.equal(weights(copy.deepcopy(model)), weights(model))


def test_user_records_are_written_with_the_metrics():
    class Mine(BaseCallback):
        def _on_step(self):
            self.logger.record("mine/calls", self.n_calls)
            return True

    class Rows(KVWriter):
        rows = []  # noqa: RUF012

        def write(self, key_values, key_excluded, step=0):
            self.rows.append((step, dict(key_values)))

    model = make(PPO)
    model.set_logger(Logger(None, [Rows()]))
    model.learn(96, Mine(), log_interval=1)
    assert [step for step, _ in Rows.rows] == [32, 64, 96] == [row["mine/calls"] for _, row in Rows.rows]
    assert all({"train/approx_kl", "train/clip_range"} <= row.keys() for _, row in Rows.rows)


def test_the_last_checkpoint_is_kept_however_often_its_steps_come_again(tmp_path):
    callback = CheckpointCallback(64, tmp_path, keep=1)
    model = make(PPO)
    for _ in range(2):
        model.learn(64, callback)
        assert [path.name for path in tmp_path.iterdir()] == ["rl_model_64_steps.fastrl"]
    model.learn(128, CheckpointCallback(64, tmp_path, keep=1))
    assert [path.name for path in tmp_path.iterdir()] == ["rl_model_128_steps.fastrl"]


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_who_evaluates_in_the_training_environments_begins_new_episodes(cls):
    model = make(cls, "CartPole-v1", engine="torch", n_envs=2)

    def play(model):
        model.get_env().reset()

    model.learn(130, play)
    assert model.env.disturbed
    model.learn(1, reset_num_timesteps=False)
    np.testing.assert_allclose(model._obs, [env.unwrapped.state for env in model.env.envs], rtol=1e-6)
    with pytest.raises(ValueError, match="in the middle of a rollout"):
        model.learn(100, lambda locals_, globals_: locals_["self"].get_env().reset() is not None)


@pytest.mark.parametrize("make_env", [lambda: gym.make("CartPole-v1"), lambda: gym.make_vec("CartPole-v1", 2)])
def test_who_evaluates_in_objects_that_the_model_was_given_begins_new_episodes(make_env):
    env, other = make_env(), make_env()
    model = make(PPO, env, n_envs=1).learn(130)
    evaluate_policy(model, other, 2)
    assert not model.env.disturbed
    evaluate_policy(model, env, 2)
    assert model.env.disturbed
    before = model.num_timesteps
    model.learn(64, reset_num_timesteps=False)
    assert model.num_timesteps >= before + 64 and not model.env.disturbed
    with pytest.raises(ValueError, match="in the middle of a rollout"):
        model.learn(100, lambda locals_, globals_: evaluate_policy(locals_["self"], env, 1) is not None)


def test_children_of_events_find_the_last_step():
    class Child(BaseCallback):
        def _on_step(self):
            seen.append((self.num_timesteps, self.locals["rewards"], self.parent))
            return True

    seen = []
    parents = [EveryNTimesteps(50, Child()), EvalCallback("CartPole-v1", Child(), Child(), 1, 50, verbose=0)]
    make(PPO).learn(128, parents)
    assert {steps for steps, *_ in seen} == {50, 100} and {parent for *_, parent in seen} == set(parents)


def test_a_threshold_within_a_list():
    stop = CallbackList([StopTrainingOnRewardThreshold(5.0)])
    assert make(PPO).learn(1000, EvalCallback("CartPole-v1", stop, None, 2, 32, verbose=0)).num_timesteps == 32


def test_episodes_are_counted_from_where_training_began():
    model = make(DQN, "fastrl/CartPole-v1").learn(500)
    before = model.num_episodes
    model.learn(5000, StopTrainingOnMaxEpisodes(3), reset_num_timesteps=False)
    assert model.num_episodes == before + 3


def test_actions_are_those_that_the_environment_got():
    class Shifted(gym.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Discrete(3, start=5)
        taken = []  # noqa: RUF012

        def reset(self, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            self.taken.append(int(action))
            return np.zeros(2, np.float32), 1.0, False, len(self.taken) % 7 == 0, {"is_success": True}

    told = []
    make(PPO, Shifted(), n_envs=1).learn(32, lambda locals_, globals_: told.append(locals_["actions"]))
    assert np.shape(told) == (32, 1) and np.ravel(told).tolist() == Shifted.taken
    rows = KVWriter()
    found = {}
    rows.write = lambda values, excluded, step: found.update(values)
    model = make(PPO, Shifted())
    model.set_logger(Logger(None, [rows]))
    model.learn(32, EvalCallback(Shifted(), n_eval_episodes=2, eval_freq=32, verbose=0))
    assert found["eval/success_rate"] == 1.0


def test_a_callback_that_fails_at_once_leaves_nothing_open():
    class Failing(BaseCallback):
        def _on_training_start(self):
            raise RuntimeError("no")

    model = make(PPO, verbose=1)
    with pytest.raises(RuntimeError, match="no"):
        model.learn(64, Failing(), progress_bar=True)
    assert not event._registered["numba:compile"]
    assert model.learn(64).num_timesteps == 64
