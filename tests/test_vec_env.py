"""Environments in Stable-Baselines3's shape: what they hand out, and what workers that fail say."""

from __future__ import annotations

import csv
import json
import os
import signal
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastrl import (
    DQN,
    PPO,
    DummyVecEnv,
    EnvironmentFailure,
    Monitor,
    SubprocVecEnv,
    VecEnv,
    evaluate_policy,
    load_results,
    make_vec_env,
)  # fmt: skip
from fastrl.envs.env_list import EnvList
from fastrl.envs.fused import CompiledStepper
from fastrl.envs.stepper import make_stepper
from tests.envs import Counter, Identity

WORKERS = dict(start_method="fork")  # quick; the other way has a test of its own
KINDS = [DummyVecEnv, SubprocVecEnv, lambda fns: VecEnv(SyncVectorEnv(fns, autoreset_mode=AutoresetMode.SAME_STEP))]


def made(kind, fns):
    return kind(fns, **WORKERS) if kind is SubprocVecEnv else kind(fns)


class Told(gym.Wrapper):
    """Infos of every kind."""

    def reset(self, **kwargs):
        obs, _ = self.env.reset(**kwargs)
        return obs, {"begun": True}

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(action)
        t = self.unwrapped.t
        odd = {"odd": "x"} if t % 2 else {}
        return obs, reward, terminated, truncated, {"t": t, "nested": {"obs": obs.copy()}, **odd}


@pytest.mark.parametrize("kind", KINDS, ids=["dummy", "workers", "gymnasium"])
def test_steps_are_those_of_single_environments(kind):
    lengths, cut = (3, 5), (False, True)
    fns = [lambda n=n, cut=c: Told(Counter(length=n, truncate=cut)) for n, c in zip(lengths, cut, strict=True)]
    env, single = made(kind, fns), [fn() for fn in fns]
    expected = np.stack([each.reset()[0] for each in single])
    np.testing.assert_array_equal(env.reset(), expected)
    assert [info["begun"] for info in env.reset_infos] == [True, True]
    totals = np.zeros(2)
    for step in range(12):
        actions = np.array([step % 2, 1])
        obs, rewards, dones, infos = env.step(actions)
        assert rewards.dtype == np.float32 and dones.dtype == bool
        for i, each in enumerate(single):
            last, reward, terminated, truncated, info = each.step(actions[i])
            totals[i] += reward
            assert rewards[i] == reward and dones[i] == (terminated or truncated)
            assert infos[i]["TimeLimit.truncated"] == truncated
            assert infos[i]["t"] == info["t"] and infos[i].get("odd") == info.get("odd")
            np.testing.assert_array_equal(infos[i]["nested"]["obs"], info["nested"]["obs"])
            assert ("terminal_observation" in infos[i]) == ("episode" in infos[i]) == dones[i]
            if dones[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"], last)
                assert (infos[i]["episode"]["r"], infos[i]["episode"]["l"]) == (totals[i], lengths[i])
                totals[i] = 0
                last = each.reset()[0]
            np.testing.assert_array_equal(obs[i], last)
    env.close()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_dict_observations(kind):
    space = Dict(a=Box(-1, 1, (3,)), b=Discrete(3))
    env = made(kind, [lambda: Identity(Discrete(3), space, length=2)] * 2)
    env.seed(5)
    obs = env.reset()
    assert obs.keys() == {"a", "b"} and obs["a"].shape == (2, 3) and obs["b"].shape == (2,)
    env.step([0, 1])
    _, _, dones, infos = env.step([0, 1])
    assert dones.all() and space.contains(infos[0]["terminal_observation"])
    env.close()


def test_what_is_handed_out_is_the_callers_own():
    env = DummyVecEnv([lambda: Told(Counter())])
    first = env.reset()
    first[:] = 99
    obs, rewards, _, infos = env.step([0])
    kept = obs.copy(), rewards.copy(), dict(infos[0])
    env.step([0])
    np.testing.assert_array_equal(obs, kept[0])
    assert rewards == kept[1] and infos[0].keys() == kept[2].keys()


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_seeds(kind):
    def first(seed):
        env = made(kind, [lambda: gym.make("CartPole-v1")] * 3)
        env.seed(seed)
        obs = env.reset()
        assert not np.array_equal(obs, env.reset()), "the seed is for one reset"
        env.close()
        return obs

    np.testing.assert_array_equal(first(3), [gym.make("CartPole-v1").reset(seed=3 + i)[0] for i in range(3)])
    assert make_vec_env("CartPole-v1", 2).seed(4) == [4, 5] and len(set(make_vec_env("CartPole-v1", 2).seed())) == 2


def test_make_vec_env_makes_compiled_environments_where_it_can():
    assert isinstance(make_vec_env("CartPole-v1", 3, seed=1).stepper, CompiledStepper)
    assert isinstance(make_vec_env("CartPole-v1", vec_env_cls=DummyVecEnv).stepper, CompiledStepper)
    for options in (dict(env_kwargs=dict(render_mode="rgb_array")), dict(monitor_kwargs={}, wrapper_class=Told),
                    dict(wrapper_class=gym.wrappers.RecordEpisodeStatistics)):  # fmt: skip
        assert isinstance(make_vec_env("CartPole-v1", 2, **options).stepper, EnvList)
    trained = [PPO("MlpPolicy", env, n_steps=32, seed=3, **more).learn(256) for env, more in (
        (make_vec_env("CartPole-v1", 4), {}), ("CartPole-v1", dict(n_envs=4)))]  # fmt: skip
    for a, b in zip(*(model.policy.parameters() for model in trained), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())


def test_make_vec_env_with_everything(tmp_path):
    env = make_vec_env(
        Counter, 2, seed=0, start_index=3, monitor_dir=tmp_path, wrapper_class=gym.wrappers.TimeLimit,
        env_kwargs=dict(length=5), wrapper_kwargs=dict(max_episode_steps=4), vec_env_cls=DummyVecEnv,
    )  # fmt: skip
    assert env.env_is_wrapped(Monitor) == env.env_is_wrapped(gym.wrappers.TimeLimit) == [True, True]
    env.reset()
    for _ in range(8):
        *_, dones, infos = env.step([0, 0])
    assert dones.all() and infos[0]["TimeLimit.truncated"] and infos[0]["episode"]["l"] == 4
    env.close()


def test_a_seed_of_the_model_goes_before_that_of_the_environments():
    runs = [PPO("MlpPolicy", make_vec_env("CartPole-v1", 2, seed=own), n_steps=32, seed=model).learn(64)._obs
            for own, model in ((1, 7), (2, 7), (1, None), (1, None), (2, None))]  # fmt: skip
    np.testing.assert_array_equal(runs[0], runs[1])
    env = make_vec_env("CartPole-v1", 2, seed=1)
    np.testing.assert_array_equal(env.reset(), make_vec_env("CartPole-v1", 2, seed=1).reset())


def test_models_take_and_give_them(tmp_path):
    env = make_vec_env("CartPole-v1", 2)
    model = DQN("MlpPolicy", env, learning_starts=10, buffer_size=100).learn(40)
    assert model.env is env.stepper and model.get_env() is model.get_env()
    assert model.get_env().num_envs == 2 and model.get_env().stepper is env.stepper
    model.save(tmp_path / "m")
    assert DQN.load(tmp_path / "m").get_env() is None
    loaded = DQN.load(tmp_path / "m", env=env)
    loaded.set_env(make_vec_env("CartPole-v1", 3))
    assert loaded.num_envs == loaded.get_env().num_envs == 3
    with pytest.raises(ValueError, match="n_envs copies need an id or a callable"):
        PPO("MlpPolicy", env, n_envs=2)


@pytest.mark.parametrize("play", [lambda model: model.get_env().reset(),
                                  lambda model: evaluate_policy(model, model.get_env(), 3)])  # fmt: skip
def test_training_goes_on_with_new_episodes_after_somebody_played(play):
    model = PPO("MlpPolicy", lambda: Counter(length=7), n_steps=4, n_envs=2).learn(8)
    play(model)
    seen = []
    step, model.env._step = model.env._step, lambda action: seen.append(action) or step(action)
    before = model._obs.copy()
    model.learn(16, reset_num_timesteps=False)
    assert (model._obs[:, 0] != before[:, 0]).all() and not model.env.disturbed
    assert all(length == 7 for _, length in model.episodes)


def test_attributes_and_methods():
    for kind in KINDS:
        env = made(kind, [lambda n=n: Told(Counter(length=n)) for n in (3, 4, 5)])
        assert env.get_attr("length") == [3, 4, 5] and env.get_attr("length", [2, 0]) == [5, 3]
        env.set_attr("length", 9, indices=1)
        assert env.get_attr("length") == [3, 9, 5] and env.get_attr("length", -1) == [5]
        assert env.env_method("_obs", indices=[]) == [] and env.env_is_wrapped(Told, 0) == [True]
        env.reset()
        np.testing.assert_array_equal(env.env_method("_obs", indices=[1])[0], env.get_attr("_obs", 1)[0]())
        with pytest.raises(AttributeError, match="wheels"):
            env.get_attr("wheels")
        with pytest.raises(IndexError, match="no environment 3"):
            env.get_attr("length", 3)
        assert env.get_attr("length") == [3, 9, 5], "an error ends nothing"
        assert env.unwrapped is env
        env.close()
    compiled = make_vec_env("CartPole-v1", 2)
    assert compiled.env_is_wrapped(Monitor) == [False, False]
    for call in (lambda: compiled.set_attr("gravity", 1), lambda: compiled.env_method("wave"), lambda: compiled.envs):
        with pytest.raises(AttributeError):
            call()


@pytest.mark.parametrize("actions, error, message", [
    ([0], ValueError, r"shape \(1,\); it must be \(2,\)"), ([[0], [1]], ValueError, "shape"),
    ([0.5, 1], TypeError, "float"), (["a", "b"], TypeError, "they must be of"),
])  # fmt: skip
def test_wrong_actions(actions, error, message):
    env = DummyVecEnv([Counter] * 2)
    env.reset()
    with pytest.raises(error, match=message):
        env.step(actions)
    with pytest.raises(ValueError, match="without step_async"):
        env.step_wait()


@pytest.mark.parametrize("call", [
    lambda: DummyVecEnv([]), lambda: DummyVecEnv(Counter), lambda: DummyVecEnv([Counter()]), lambda: SubprocVecEnv([3]),
    lambda: DummyVecEnv([dict]), lambda: make_vec_env("CartPole-v1", vec_env_cls=dict), lambda: make_vec_env(3),
    lambda: make_vec_env("CartPole-v1", 0), lambda: SubprocVecEnv([Counter], "magic"),
    lambda: SubprocVecEnv([Counter], timeout=-1), lambda: make_vec_env("CartPole-v1", 1, seed=-1),
])  # fmt: skip
def test_wrong_arguments(call):
    with pytest.raises((TypeError, ValueError)):
        call()


# -- workers -----------------------------------------------------------------------------------------------------------


class Sleeper(Counter):
    """Hangs in step."""

    def step(self, action):
        time.sleep(3600)


def alive(env):
    return [process.is_alive() for process in env.stepper.env.processes]


def test_lambdas_in_processes_that_start_afresh():
    env = SubprocVecEnv([lambda: Counter(length=2)] * 2)
    env.reset()
    assert env.step([0, 1])[1].tolist() == [1, 1]
    assert all(alive(env))
    env.close()
    assert not any(alive(env))


def test_an_environment_that_raises_in_its_process():
    env = SubprocVecEnv([Counter, lambda: Counter(fail_at=3)], **WORKERS)
    message = r"(?s)environment 1 raised KeyError in step.*fell off.*envs\.py"
    with pytest.raises(EnvironmentFailure, match=message) as caught:
        PPO("MlpPolicy", env, n_steps=8).learn(16)
    assert isinstance(caught.value.__cause__, KeyError) and not any(alive(env))
    env.close()
    with pytest.raises(EnvironmentFailure, match="environment 0 raised ZeroDivisionError in boom"):
        other = SubprocVecEnv([Boom], **WORKERS)
        try:
            other.env_method("boom")
        finally:
            assert all(alive(other))
            other.close()
    with pytest.raises(EnvironmentFailure, match=r"worker 1 .* died, exit code 1, at make its environment"):
        SubprocVecEnv([Counter, lambda: 1 / 0], **WORKERS)


class Boom(Counter):
    def boom(self):
        return 1 / 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_worker_that_is_killed(n):
    env = SubprocVecEnv([Counter] * n, **WORKERS)
    env.reset()
    victim = env.stepper.env.processes[n // 2]
    os.kill(victim.pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFailure, match=rf"worker {n // 2} \(pid {victim.pid}\) died, signal 9"):
        for _ in range(10):  # what was on its way may still arrive
            env.step([0] * n)
    assert not any(alive(env))
    env.close()


def test_a_worker_that_hangs():
    env = SubprocVecEnv([Counter, Sleeper], **WORKERS, timeout=0.3)
    env.reset()
    with pytest.raises(EnvironmentFailure, match=r"worker 1 \(pid \d+\) did not answer to step within 0.3 seconds"):
        env.step([0, 0])
    assert not any(alive(env))


def test_workers_leave_ctrl_c_to_the_main_process():
    env = SubprocVecEnv([Counter] * 2, **WORKERS)
    env.reset()
    for process in env.stepper.env.processes:
        os.kill(process.pid, signal.SIGINT)
    time.sleep(0.1)
    assert len(env.step([0, 0])[1]) == 2
    env.close()


class Napper(Counter):
    """Takes a second for its second step, and for ever to sleep."""

    def step(self, action):
        if self.total == 1:
            time.sleep(1)
        return super().step(action)

    def sleep(self, seconds=3600):
        time.sleep(seconds)
        return seconds


def test_a_method_that_hangs():
    env = SubprocVecEnv([Napper] * 3, **WORKERS, timeout=0.3)
    with pytest.raises(EnvironmentFailure, match=r"worker 1 \(pid \d+\) did not answer to sleep within 0.3 seconds"):
        env.env_method("sleep", indices=[1])
    assert not any(alive(env))


def interrupted(call):
    """Calls, and presses Ctrl-C after 0.3 seconds."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_while_workers_are_waited_for_spoils_nothing():
    env = SubprocVecEnv([Counter, Napper], **WORKERS)
    env.reset()
    env.step([0, 0])
    interrupted(lambda: env.step([0, 0]))
    assert env.stepper.disturbed and env.reset()[:, 1].tolist() == [0, 0] and all(alive(env))
    interrupted(lambda: env.env_method("sleep", 1, indices=[1]))
    assert env.get_attr("length") == [3, 3] and env.step([0, 0])[0][:, 1].tolist() == [1, 1]
    env.close()


def test_ctrl_c_while_a_worker_hangs_ends_them_and_says_so():
    env = SubprocVecEnv([Counter, Sleeper], **WORKERS, timeout=1)
    env.reset()
    interrupted(lambda: env.step([0, 0]))
    assert not any(alive(env))
    for call in env.reset, lambda: env.get_attr("length"):
        with pytest.raises(EnvironmentFailure, match="ended by Ctrl-C at step: make new environments"):
            call()
    env.close()


# -- Monitor -----------------------------------------------------------------------------------------------------------


def test_monitor_writes_episodes(tmp_path):
    env = Monitor(Told(Counter(length=3)), tmp_path / "a", info_keywords=("t",))
    assert not list(tmp_path.iterdir()), "there is no file before the first reset"
    for _ in range(2):
        env.reset()
        for _ in range(3):
            *_, info = env.step(0)
        assert info["episode"]["r"] == 6 and info["episode"]["l"] == 3
    with open(tmp_path / "a.monitor.csv") as file:
        assert json.loads(file.readline().removeprefix("#"))["env_id"] is None
        rows = list(csv.DictReader(file))
    assert [(row["r"], row["l"], row["t"]) for row in rows] == [("6.0", "3", "3")] * 2
    assert env.get_episode_rewards() == [6, 6] and env.get_episode_lengths() == [3, 3] and env.get_total_steps() == 6
    env.close()


def test_monitor_goes_on_with_a_file_and_refuses_early_resets(tmp_path):
    for override in (True, False):
        env = Monitor(Counter(length=2), tmp_path, override_existing=override, allow_early_resets=False)
        env.reset()
        with pytest.raises(RuntimeError, match="allow_early_resets"):
            env.reset()
        env.step(0), env.step(0)
        env.close()
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == 4
    with pytest.raises(KeyError, match="speed"):
        env = Monitor(Counter(length=1), tmp_path / "b", info_keywords=("speed",))
        env.reset(), env.step(0)


def test_results_of_a_folder(tmp_path):
    pytest.importorskip("pandas")
    env = make_vec_env("CartPole-v1", 2, monitor_dir=tmp_path)
    PPO("MlpPolicy", env, n_steps=64).learn(256)
    assert {file.name for file in tmp_path.iterdir()} == {"0.monitor.csv", "1.monitor.csv"}
    results = load_results(tmp_path)
    assert len(results) >= 2 and (results["t"].diff().dropna() >= 0).all() and (results["r"] == results["l"]).all()
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "none")


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "FrozenLake-v1"])
def test_compiled_environments_are_painted_by_their_twins(id):
    pytest.importorskip("pygame")
    env = make_vec_env(id, 3, seed=0)
    env.reset()
    assert env.render_mode == "rgb_array"
    before, changed = env.get_images(), False
    for _ in range(10):
        env.step(np.stack([env.action_space.sample()] * 3))
        after = env.get_images()
        changed |= any((a != b).any() for a, b in zip(before, after, strict=True))
    assert len(after) == 3 and after[0].dtype == np.uint8 and changed
    height, width, _ = after[0].shape
    whole = env.render()
    assert whole.shape == (2 * height, 2 * width, 3) and not whole[height:, width:].any()
    np.testing.assert_array_equal(whole[:height, width:], after[1])
    env.close()


def test_a_picture_shows_the_state():
    pytest.importorskip("pygame")
    env, twin = make_vec_env("CartPole-v1", seed=3), gym.make("CartPole-v1", render_mode="rgb_array")
    twin.reset(seed=3)
    twin.unwrapped.state = env.reset()[0].astype(float)
    np.testing.assert_array_equal(env.render(), twin.render())
    plain = DummyVecEnv([lambda: gym.make("CartPole-v1", render_mode="rgb_array")])
    plain.reset()
    assert plain.render().shape == twin.render().shape
    blind = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(ValueError, match="render_mode is None"):
        blind.render()


def test_infos_are_kept_only_where_somebody_wants_them():
    stepper = make_stepper(lambda: Told(Counter()), 2)
    stepper.reset()
    stepper.step(np.zeros(2, np.int64))
    assert stepper.infos == [{}, {}]
    stepper.keep_infos = True
    stepper.step(np.zeros(2, np.int64))
    assert [info["t"] for info in stepper.infos] == [2, 2]
    seen = []

    def look(names, _):
        seen.extend(info["t"] for info in names["infos"])
        return True

    model = PPO("MlpPolicy", lambda: Told(Counter()), n_steps=4, n_envs=2).learn(8, look)
    assert seen == [1, 1, 2, 2, 3, 3, 1, 1] and not model.env.keep_infos
