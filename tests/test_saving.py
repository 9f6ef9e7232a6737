"""The model file: resuming bit for bit, and everything that may be wrong with a file."""

from __future__ import annotations

import json
import os
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import SyncVectorEnv
from safetensors import safe_open
from safetensors.torch import save_file

from fastrl import DQN, PPO, REINFORCE, ModelFileError, checkpoint, spaces
from tests.envs import Identity
from tests.test_algorithms import ALGORITHMS, SMALL, Linear, make, weights

LUNAR = "LunarLander-v3"


def resume(cls, env, tmp_path, first, total, fresh_env=None, **options):
    """The same run twice: straight through, and saved after `first` steps, loaded with a new environment, resumed."""
    make_env = fresh_env or (lambda: env)

    def stop(model):
        return model.num_timesteps < first

    straight = make(cls, make_env(), **options).learn(total)
    stopped = make(cls, make_env(), **options).learn(total, callback=stop)
    assert 0 < stopped.num_timesteps < total
    stopped.save(tmp_path / "model")
    if cls is DQN:
        stopped.save_replay_buffer(tmp_path / "replay")
    resumed = cls.load(tmp_path / "model", make_env())
    if cls is DQN:
        resumed.load_replay_buffer(tmp_path / "replay")
    resumed.learn(total - resumed.num_timesteps, reset_num_timesteps=False)
    return straight, resumed


def assert_equal(a, b):
    assert torch.equal(weights(a), weights(b))
    for name in ("num_timesteps", "num_episodes", "n_updates", "total_timesteps"):
        assert getattr(a, name) == getattr(b, name), name
    assert list(a.episodes) == list(b.episodes)
    keys = [k for k in a.metrics if k.split("/")[0] != "time"]
    assert {k: a.metrics[k] for k in keys} == {k: b.metrics[k] for k in keys}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_resumed_run_equals_one_that_never_stopped(cls, normalize, tmp_path):
    assert_equal(*resume(cls, "CartPole-v1", tmp_path, 200, 500, n_envs=2, normalize=normalize,
                         learning_rate="lin_0.01"))  # fmt: skip


def test_resuming_with_box_actions_and_in_the_middle_of_long_episodes(tmp_path):
    assert_equal(*resume(PPO, "Pendulum-v1", tmp_path, 200, 640, n_envs=2))


def test_resuming_an_environment_object_and_episodic_intervals(tmp_path):
    options = dict(target_update_interval=(3, "episode"), train_freq=(1, "episode"), exploration_decay=0.98)
    assert_equal(*resume(DQN, None, tmp_path, 200, 500, lambda: gym.make("CartPole-v1"), **options))


def test_target_updates_are_not_shifted_by_resuming(tmp_path):
    """Stopped at a step that is no multiple of the interval; the target networks are equal afterwards too."""
    straight, resumed = resume(DQN, "CartPole-v1", tmp_path, 130, 260, target_update_interval=100)
    for a, b in zip(straight.learner.target.parameters(), resumed.learner.target.parameters(), strict=True):
        assert torch.equal(a, b)


def test_one_process_going_on_equals_a_straight_run():
    straight = make(PPO).learn(192)
    half = make(PPO).learn(192, callback=lambda m: m.num_timesteps < 96)
    half.learn(192 - half.num_timesteps, reset_num_timesteps=False)
    assert_equal(straight, half)


def test_vector_environments_begin_new_episodes_but_reproducibly(tmp_path):
    def vector():
        return SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)

    make(PPO, vector()).learn(100).save(tmp_path / "m")
    first, second = (PPO.load(tmp_path / "m", vector()).learn(100, reset_num_timesteps=False) for _ in range(2))
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_loaded_model_predicts_the_same_without_an_environment(cls, tmp_path):
    model = make(cls, normalize=True, policy_kwargs=dict(net_arch=[16, 8], activation_fn=torch.nn.ELU)).learn(150)
    path = tmp_path / "model.fastrl"
    model.save(path)
    loaded = cls.load(path)
    obs = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    for deterministic in (True, False):
        ours, theirs = (m.predict(obs, deterministic=deterministic)[0] for m in (model, loaded))
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="without an environment"):
        loaded.learn(10)
    loaded.set_env("CartPole-v1")
    loaded.learn(50)


def test_it_is_one_safetensors_file_with_json_and_no_pickle(tmp_path):
    path = tmp_path / "m.fastrl"
    make(PPO).learn(40).save(path)
    assert os.listdir(tmp_path) == ["m.fastrl"]
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["fastrl"])
        assert header["algorithm"] == "PPO" and header["hyperparameters"]["n_steps"] == 32
        assert "policy.pi.0.weight" in file.keys()  # noqa: SIM118
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # as any new file, not a private one


def test_hyperparameters_may_be_replaced_but_not_invented(tmp_path):
    make(PPO).learn(40).save(tmp_path / "m")
    assert PPO.load(tmp_path / "m", gamma=0.5).gamma == 0.5
    with pytest.raises(TypeError, match="cannot be replaced"):
        PPO.load(tmp_path / "m", gama=0.5)
    with pytest.raises(ModelFileError, match="gamma is 2"):
        PPO.load(tmp_path / "m", gamma=2)


def test_a_schedule_that_was_a_function_must_be_passed_again(tmp_path):
    make(PPO, learning_rate=lambda remaining: 1e-3 * remaining).learn(40).save(tmp_path / "m")
    loaded = PPO.load(tmp_path / "m", "CartPole-v1")
    loaded.predict(np.zeros(4))
    with pytest.raises(ValueError, match="learning_rate was a function"):
        loaded.learn(40)
    PPO.load(tmp_path / "m", "CartPole-v1", learning_rate=1e-3).learn(40)


def test_a_module_of_ones_own_must_be_passed_again(tmp_path):
    model = PPO(Linear(), "CartPole-v1", **SMALL[PPO], seed=0).learn(40)
    model.save(tmp_path / "m")
    with pytest.raises(ModelFileError, match="module of your own"):
        PPO.load(tmp_path / "m")
    with pytest.raises(ModelFileError, match="cannot be restored"):
        PPO.load(tmp_path / "m", policy=torch.nn.Linear(4, 2))
    obs = np.ones((3, 4), np.float32)
    loaded = PPO.load(tmp_path / "m", policy=Linear())
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


def test_another_environment_or_algorithm(tmp_path):
    make(PPO).learn(40).save(tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"observation_space of .* use one whose spaces are the same"):
        PPO.load(tmp_path / "m", "Acrobot-v1")
    for cls in (DQN, REINFORCE):
        with pytest.raises(ModelFileError, match=r"holds a PPO: use PPO\.load"):
            cls.load(tmp_path / "m")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/fastrl-was-here",)


def damaged(path, kind):
    data = path.read_bytes()
    header, tensors = checkpoint.read_model(path)
    metadata = {"fastrl": json.dumps({**header, "format": 1})}
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "half a header":
        path.write_bytes(data[:100])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "huge header":
        path.write_bytes((2**60).to_bytes(8, "little") + data[8:])
    elif kind == "foreign":
        save_file(tensors, path)
    elif kind == "no json":
        save_file(tensors, path, {"fastrl": "{"})
    elif kind == "later format":
        save_file(tensors, path, {"fastrl": json.dumps({**header, "format": 99})})
    elif kind == "missing weight":
        save_file({k: v for k, v in tensors.items() if k != "policy.pi.0.weight"}, path, metadata)
    elif kind == "other shape":
        save_file({**tensors, "policy.pi.0.weight": torch.zeros(3, 3)}, path, metadata)
    elif kind == "other moments":
        save_file({**tensors, "optimizer.0.exp_avg": torch.zeros(3, 3)}, path, metadata)
    elif kind == "huge network":
        header["hyperparameters"]["policy_kwargs"] = {"net_arch": [2**40]}
        save_file(tensors, path, {"fastrl": json.dumps(header)})
    elif kind == "missing counter":
        del header["counters"]["n_updates"]
        save_file(tensors, path, {"fastrl": json.dumps(header)})
    elif kind == "unknown hyperparameter":
        header["hyperparameters"]["magic"] = 1
        save_file(tensors, path, {"fastrl": json.dumps(header)})


DAMAGE = [
    "empty", "truncated", "half a header", "pickle", "huge header", "foreign", "no json", "later format",
    "missing weight", "other shape", "other moments", "huge network", "missing counter", "unknown hyperparameter",
]  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_foreign_file(kind, tmp_path):
    path = tmp_path / "m"
    make(PPO).learn(40).save(path)
    damaged(path, kind)
    with pytest.raises(ModelFileError):
        PPO.load(path)
    assert not os.path.exists("/tmp/fastrl-was-here")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        PPO.load(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        make(PPO).save(tmp_path / "file" / "model")


def test_folders_are_made_and_zip_may_be_left_out(tmp_path):
    model = make(PPO)
    for saved, loaded in (("no/such/model", "no/such/model.zip"), ("other.zip", "other"), ("v1.5", "v1.5.zip")):
        model.save(tmp_path / saved)
        assert PPO.load(tmp_path / saved).policy_name == PPO.load(tmp_path / loaded).policy_name
    with pytest.raises(FileNotFoundError, match="no model file"):
        PPO.load(tmp_path / "v1.6")


def test_a_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "m"
    model = make(PPO).learn(40)
    model.save(path)
    before = path.read_bytes()
    for call in ("fsync", "replace"):

        def full(*args):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(OSError, match="No space left"):
                model.learn(40).save(path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["m"]


def test_a_failed_load_of_a_replay_buffer_changes_nothing(tmp_path):
    model = make(DQN).learn(60)
    (tmp_path / "replay").write_bytes(b"nothing")
    size = len(model.replay_buffer)
    with pytest.raises(ValueError):
        model.load_replay_buffer(tmp_path / "replay")
    assert len(model.replay_buffer) == size
    model.learn(20)


SPACES = [
    Box(-1, 1, (3,)), Box(0, 255, (84, 84, 4), np.uint8), Box(np.float32([-np.inf, 0]), np.float32([1, np.inf])),
    Box(-1, 1, (), np.float64), Discrete(5, start=-2), MultiDiscrete([2, 3], start=[1, 0]), MultiBinary(4),
    MultiBinary([2, 3]),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    text = json.dumps(spaces.to_json(space))
    assert spaces.from_json(json.loads(text)) == space and len(text) < 300


@pytest.mark.parametrize("n", [1, 3, 5])
def test_multi_binary_actions_are_restored(n, tmp_path):
    """The network has two outputs for each of them."""
    model = PPO("MlpPolicy", lambda: Identity(MultiBinary(n), Box(-1, 1, (4,), np.float32)), n_steps=8, batch_size=8)
    model.save(tmp_path / "model")
    assert_equal(PPO.load(tmp_path / "model"), model)


def test_links_stay_and_directories_are_refused(tmp_path):
    model = make(PPO)
    model.save(tmp_path / "run/model")
    (tmp_path / "latest").symlink_to("run/model")
    (tmp_path / "run/model").write_bytes(b"")
    model.save(tmp_path / "latest")
    assert (tmp_path / "latest").is_symlink() and PPO.load(tmp_path / "run/model").policy_name == "MlpPolicy"
    with pytest.raises(IsADirectoryError, match="must be the path of a file"):
        model.save(tmp_path / "run")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="no ordinary file"):
        model.save(tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["latest", "pipe", "run"] and os.listdir(tmp_path / "run") == ["model"]
