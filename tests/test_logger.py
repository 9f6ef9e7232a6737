"""What is written of a run, where, and how often."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl import DQN, PPO, CSVOutputFormat, HumanOutputFormat, KVWriter, Logger, configure
from tests.test_algorithms import ALGORITHMS, make

pytestmark = pytest.mark.usefixtures("few_threads")

# Of Stable-Baselines3 2.9, as its PPO and DQN write them on CartPole.
PPO_KEYS = {
    "rollout/ep_len_mean", "rollout/ep_rew_mean", "time/fps", "time/iterations", "time/time_elapsed",
    "time/total_timesteps", "train/approx_kl", "train/clip_fraction", "train/clip_range", "train/entropy_loss",
    "train/explained_variance", "train/learning_rate", "train/loss", "train/n_updates",
    "train/policy_gradient_loss", "train/value_loss",
}  # fmt: skip
DQN_KEYS = {
    "rollout/ep_len_mean", "rollout/ep_rew_mean", "rollout/exploration_rate", "time/episodes", "time/fps",
    "time/time_elapsed", "time/total_timesteps", "train/learning_rate", "train/loss", "train/n_updates",
}  # fmt: skip


class Rows(KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((step, dict(key_values)))


@pytest.mark.parametrize(("cls", "keys"), [(PPO, PPO_KEYS), (DQN, DQN_KEYS)])
def test_keys_are_those_of_stable_baselines3(cls, keys):
    rows = Rows()
    model = make(cls, "fastrl/CartPole-v1")
    model.set_logger(Logger(None, [rows]))
    model.learn(300)
    assert keys <= rows.rows[-1][1].keys()
    assert all(np.isfinite(value) for value in rows.rows[-1][1].values())


def test_explained_variance_is_that_of_the_rollout():
    model = make(PPO, n_envs=2).learn(64)
    returns, value = model._rollout.returns.ravel(), model._rollout.value.ravel()
    expected = 1 - np.var(returns - value) / np.var(returns)
    assert model.metrics["train/explained_variance"] == pytest.approx(float(expected))


@pytest.mark.parametrize(("cls", "interval"), [(PPO, 1), (PPO, 3), (DQN, 2)])
def test_an_interval_is_kept_to_the_letter(cls, interval):
    rows = Rows()
    model = make(cls, "fastrl/CartPole-v1")
    model.set_logger(Logger(None, [rows]))
    model.learn(400, log_interval=interval)
    steps = [step for step, _ in rows.rows]
    if cls is PPO:
        assert steps == list(range(32 * interval, 417, 32 * interval))
    else:
        assert [row["time/episodes"] for _, row in rows.rows] == list(range(2, model.num_episodes + 1, 2))


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_without_an_interval_the_first_and_the_last_are_written(cls):
    rows = Rows()
    model = make(cls)
    model.set_logger(Logger(None, [rows]))
    model.learn(200)
    assert rows.rows[-1][0] == model.num_timesteps and rows.rows[0][0] <= 200


def test_verbose_prints_a_table(capsys):
    make(PPO, verbose=1).learn(64, log_interval=1)
    text = capsys.readouterr().out
    tables = text.strip().split("\n\n") if "\n\n" in text else [text]
    assert text.count("| rollout/") == 2 and "|    ep_rew_mean" in text and "approx_kl" in tables[0]
    widths = {len(line) for line in text.splitlines() if line.startswith(("|", "-"))}
    assert len(widths) <= 2  # one for each table
    make(PPO, verbose=0).learn(64)
    assert capsys.readouterr().out == ""


number = st.floats(-1e6, 1e6) | st.integers(-10, 10)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b/x", "c/z"]), number, min_size=1), min_size=1, max_size=6))
def test_csv_and_json_hold_what_was_recorded(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("logs")
    logger = configure(folder, ["csv", "json", "log"])
    for i, row in enumerate(rows):
        for key, value in row.items():
            logger.record(key, value)
        logger.dump(i)
    logger.close()
    with open(folder / "progress.csv", newline="") as file:
        found = [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    assert found == [{k: float(v) for k, v in row.items()} for row in rows]
    assert [json.loads(line) for line in (folder / "progress.json").read_text().splitlines()] == rows


def test_means_and_exclusions():
    rows, table = Rows(), io.StringIO()
    logger = Logger(None, [rows, HumanOutputFormat(table)])
    for value in (1.0, 2.0, 6.0, None):
        logger.record_mean("x/mean", value)
    logger.record("x/secret", 5, exclude="stdout")
    logger.dump(3)
    assert rows.rows == [(3, {"x/mean": 3.0, "x/secret": 5})]
    assert "mean" in table.getvalue() and "secret" not in table.getvalue()
    logger.dump(4)
    assert rows.rows[-1] == (4, {})


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = make(PPO, tensorboard_log=str(tmp_path)).learn(96, log_interval=1)
    model.learn(64, tb_log_name="mine", log_interval=1)
    model.learn(32, log_interval=1).learn(32, log_interval=1, reset_num_timesteps=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PPO_1", "PPO_2", "mine_1"]
    model.logger.close()
    events = EventAccumulator(str(tmp_path / "PPO_1"))
    events.Reload()
    assert PPO_KEYS - {"time/total_timesteps"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/approx_kl")] == [32, 64, 96]


def test_without_tensorboard_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    model = make(PPO, tensorboard_log=str(tmp_path))
    with pytest.raises(ImportError, match=r'pip install "fastrl\[tensorboard\]"'):
        model.learn(32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((None, ["csv"]), "give the folder"), (("x", ["cvs"]), "no format 'cvs'")],
)
def test_what_cannot_be_configured(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        configure(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_missing_column_is_added_to_what_was_written(tmp_path):
    writer = CSVOutputFormat(tmp_path / "progress.csv")
    writer.write({"a": 1}, {})
    writer.write({"a": 2, "b": 3}, {})
    writer.close()
    assert (tmp_path / "progress.csv").read_text().splitlines() == ["a,b", "1,", "2,3"]


@pytest.mark.parametrize("cls", ALGORITHMS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_sde": True}, ValueError, "state-dependent exploration"),
        ({"replay_buffer_class": dict}, ValueError, "ReplayBuffer"),
        ({"learning_rte": 1e-3}, TypeError, "did you mean learning_rate"),
        ({"_init_setup_model": False}, ValueError, "complete"),
        ({"stats_window_size": 0}, ValueError, "stats_window_size"),
    ],
)
def test_arguments_of_others(cls, options, error, message):
    with pytest.raises(error, match=message):
        make(cls, **options)
    make(cls, use_sde=False, sde_sample_freq=-1, rollout_buffer_class=None, replay_buffer_kwargs=None)


def test_parameters_go_out_and_in(tmp_path):
    import torch

    for cls in ALGORITHMS:
        one, other = make(cls).learn(100), make(cls, seed=1)
        held = one.get_parameters()
        other.set_parameters(held)
        assert all((other.get_parameters()[k][n] == v).all() for k, d in held.items() for n, v in d.items())
        before = {k: v.clone() for k, v in other.get_parameters()["policy"].items()}
        held["policy"].pop(next(iter(held["policy"])))
        with pytest.raises(ValueError, match="missing"):
            other.set_parameters(held)
        other.set_parameters({"policy": {k: v + 1 for k, v in held["policy"].items()}}, exact_match=False)
        now = other.get_parameters()["policy"]
        assert all((now[k] == before[k] + (k in held["policy"])).all() for k in now)
        with pytest.raises(ValueError, match="shape"):
            other.set_parameters({"policy": {k: v[:1] for k, v in before.items()}}, exact_match=False)
        whole = one.get_parameters()
        for name, wrong in (("policy", 3), ("policy", {"x": "y"}), ("optimizer", {"0.exp_avg": torch.zeros(1)})):
            with pytest.raises((ValueError, TypeError), match=name):
                other.set_parameters({**whole, name: wrong})
        assert all((other.get_parameters()["policy"][k] == now[k]).all() for k in now)
        one.save(tmp_path / "model.fastrl")
        other.set_parameters(tmp_path / "model.fastrl")
        own = other.get_parameters()
        assert all((own[k][n] == v).all() for k, d in one.get_parameters().items() for n, v in d.items())
        obs = np.zeros(4, np.float32)
        assert other.predict(obs, deterministic=True)[0] == one.predict(obs, deterministic=True)[0]


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_new_seed_makes_the_rest_repeat_itself(cls):
    import torch

    from tests.test_algorithms import weights

    one, other = make(cls, seed=1), make(cls, seed=2)
    other.set_parameters(one.get_parameters())
    for model in (one, other):
        model.set_random_seed(7)
    assert torch.equal(weights(one.learn(200)), weights(other.learn(200))) == (cls is not DQN)


def test_a_value_waits_for_the_next_row_of_an_output():
    rows, table = Rows(), io.StringIO()
    logger = Logger(None, [rows, HumanOutputFormat(table)])
    for i, key in enumerate("abc"):
        logger.record(f"x/{key}", i)
        logger.dump(i, patient=True)
    logger.dump(3)
    assert [row for _, row in rows.rows] == [{"x/a": 0}, {"x/b": 1}, {"x/c": 2}, {}]
    assert table.getvalue().count("   a ") == table.getvalue().count("   b ") == table.getvalue().count("   c ") == 1


def test_arrays_stay_out_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    logger = configure(tmp_path, ["tensorboard"])
    for value in (np.zeros(3), "text", np.float32(2.5)):
        logger.record("x", value)
        logger.dump(1)
    logger.close()


def test_a_model_that_tells_can_be_copied(tmp_path):
    import copy

    model = make(PPO, verbose=1).learn(32)
    model.set_logger(configure(tmp_path, ["csv"]))
    assert copy.deepcopy(model).learn(32).num_timesteps == 32


@pytest.mark.parametrize("wrong", ["x", None, float("inf"), True, 1.5, 0])
def test_total_timesteps_is_a_number_of_steps(wrong):
    with pytest.raises((TypeError, ValueError), match="total_timesteps"):
        make(PPO).learn(wrong)


def test_n_envs_is_the_number_of_environments():
    import fastrl

    assert make(PPO, fastrl.make_vec_env("CartPole-v1", n_envs=4)).n_envs == 4 == make(PPO, n_envs=4).n_envs


def test_the_last_table_comes_however_soon_after_the_first(capsys):
    model = make(PPO, verbose=1).learn(200)
    text = capsys.readouterr().out
    assert text.count("| rollout/") == 2 and f"| {model.num_timesteps} " in text.split("| rollout/")[-1]


def test_no_folder_is_left_where_tensorboard_is_missing(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *x: None if name == "tensorboard" else find(name, *x))
    with pytest.raises(ImportError, match="fastrl\\[tensorboard\\]"):
        make(PPO, tensorboard_log=str(tmp_path / "tb")).learn(64)
    assert not (tmp_path / "tb").exists()
