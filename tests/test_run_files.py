"""The files of a run: metrics.csv, configurations, checkpoints, and directories that are cleared."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastrl
from fastrl import checkpoints, config, metrics, runs
from fastrl.cli import main
from fastrl.commands.plan import make_plan, to_config
from fastrl.flags import UsageError
from fastrl.metrics import ROWS, STEPS, Metrics

SHORT = ["train", "ppo", "CartPole-v1", "--n-envs", "2", "--n-steps", "8", "--batch-size", "8", "--total-timesteps",
         "64", "--no-progress", "--eval-episodes", "0"]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, args):
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.startswith("fastrl: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


# -- metrics.csv ---------------------------------------------------------------------------------------------------

ROW = st.dictionaries(st.sampled_from("abcd"), st.floats(allow_nan=False))


@given(st.lists(ROW, max_size=8))
def test_metrics_keep_every_row_as_columns_appear(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    rows = [{STEPS: float(i), **row} for i, row in enumerate(rows)]
    written = Metrics(path, 100)
    for i, row in enumerate(rows):
        written.add(row)
        written.add(row)  # again, as a run's last row may be
        written.flush()
        assert metrics.read(path) == rows[: i + 1]  # readable while the run goes on
    written.add({})
    assert written.rows == rows


@given(st.lists(ROW, min_size=1, max_size=8), st.integers(0, 8), st.integers(1, 40))
def test_metrics_go_on_from_any_row_and_any_cut(tmp_path_factory, rows, kept, cut):
    """The file of a process that was killed, gone on with from step `kept`, ends as that of one that was not."""
    one, other = (tmp_path_factory.mktemp("metrics") / "metrics.csv" for _ in range(2))
    rows = [{STEPS: float(i), **row} for i, row in enumerate(rows)]
    whole, killed = Metrics(one, 200), Metrics(other, 200)
    for row in rows:
        whole.add(row)
        killed.add(row)
        killed.flush()
    whole.flush()
    text = other.read_bytes()
    last = text.rfind(b"\r\n", 0, len(text) - 2) + 2
    if kept < len(rows) - 1:  # only a row after the checkpoint can be half written
        other.write_bytes(text[: min(last + cut, len(text))])
    resumed = Metrics(other, 200)
    resumed.resume(metrics.read(other), kept)
    assert resumed.rows == rows[: kept + 1]
    for row in rows[kept + 1 :]:
        assert resumed.due <= row[STEPS]
        resumed.add(row)
    resumed.flush()
    assert other.read_bytes() == one.read_bytes()


def test_the_last_row_of_an_interrupted_process_is_left_out():
    written = Metrics(Path("metrics.csv"), 2000)  # a row every 10 steps
    for n in (10, 20, 27):
        written.add({STEPS: float(n)})
    written.flush()
    resumed = Metrics(Path("metrics.csv"), 2000)
    resumed.resume(metrics.read(resumed.path), 27)
    assert [row[STEPS] for row in resumed.rows] == [10, 20] and resumed.due == 30
    resumed.spread_over(20_000)
    assert resumed.due == 100


@pytest.mark.parametrize("text", ["a,b\r\n1,2\r\n", f"{STEPS}\r\n1,2\r\n", f"{STEPS}\r\nx\r\n"])
def test_a_file_that_is_no_metrics(text):
    Path("metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv|could not convert"):
        metrics.read(Path("metrics.csv"))


@pytest.mark.parametrize("stride", [4, 7, 50, 3000])
def test_metrics_are_spread_evenly_and_few(stride, tmp_path):
    written, total = Metrics(tmp_path / "metrics.csv", 20_000), 20_000
    steps = range(stride, total + stride, stride)
    for n in steps:
        if n >= written.due:
            written.add({STEPS: n})
    found = [row[STEPS] for row in written.rows]
    assert len(found) <= ROWS + 1 and found[0] == steps[0] and found[-1] == steps[-1]
    assert max(b - a for a, b in itertools.pairwise(found)) < max(stride, total / ROWS) + stride


# -- configurations ------------------------------------------------------------------------------------------------

KINDS = "--learning-rate lin_0.1 --target-kl 0.5 --clip-range-vf None --net-arch 8 4 --activation-fn ELU --normalize"


@pytest.mark.parametrize(
    "args",
    [
        f"ppo CartPole-v1 {KINDS} --checkpoint-every 7",
        "dqn Acrobot-v1 --train-freq 2 episode --target-update-interval 9 --exploration-decay None --engine torch",
        "reinforce CartPole-v1 --total-timesteps 9",
    ],
)
def test_what_is_written_is_read_as_the_same_settings(args):
    plan = make_plan(args.split(), None, None)
    file = Path("any.toml")
    config.write(file, to_config(plan, "fastrl train"))
    again = make_plan(["--config", str(file)], file, config.read(file))
    assert (again.algorithm, again.env_id, again.arguments) == (plan.algorithm, plan.env_id, plan.arguments)
    for name in ("total_timesteps", "eval_episodes", "checkpoint_every", "keep_checkpoints"):
        assert getattr(again.options, name) == getattr(plan.options, name)


def test_a_run_can_be_repeated_from_its_own_file_and_flags_come_first():
    assert main([*SHORT, "--out", "one", "--gamma", "0.5"]) == 0
    assert main(["train", "--config", "one/config.toml", "--out", "two"]) == 0
    assert main(["train", "--config", "one/config.toml", "--out", "three", "--gamma", "0.6", "--seed", "1"]) == 0
    one, two, three = (fastrl.PPO.load(f"{name}/model.fastrl") for name in ("one", "two", "three"))
    assert str(one.policy.state_dict()) == str(two.policy.state_dict()) != str(three.policy.state_dict())
    assert (two.gamma, three.gamma, three.seed, three.n_steps) == (0.5, 0.6, 1, 8)
    assert main(["train", "ppo", "Acrobot-v1", "--config", "one/config.toml", "--out", "four"]) == 0
    assert fastrl.PPO.load("four/model.fastrl").env_id == "Acrobot-v1"


def test_a_file_may_say_little(capsys):
    file = Path("small.toml")
    file.write_text('algorithm = "ppo"\nenvironment = "CartPole-v1"\n[hyperparameters]\nlearning_rate = 1\n')
    plan = make_plan([], file, config.read(file))
    preset = make_plan(["ppo", "CartPole-v1"], None, None)
    assert plan.arguments == preset.arguments | {"learning_rate": 1.0}
    assert plan.options.total_timesteps == preset.options.total_timesteps


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("gamma = 0.98", "gama = 0.98"), ["gama", "did you mean gamma?"]),
        (("gamma = 0.98", 'gamma = "high"'), ["gamma is 'high'", "a number"]),
        (("gamma = 0.98", "gamma = 1.98"), ["gamma is 1.98"]),
        (("gamma = 0.98", "gamma = true"), ["gamma is True", "a number"]),
        (("n_steps = 8", "n_steps = 8.5"), ["n_steps is 8.5", "an int"]),
        (("normalize = false", 'normalize = "no"'), ["normalize is 'no'", "true or false"]),
        (('target_kl = "None"', 'target_kl = "none"'), ["target_kl is 'none'", 'a number or "None"']),
        (('"Tanh"', '"Tan"'), ["activation_fn", "'Tanh'"]),
        (("total_timesteps = 64", "total_timestep = 64"), ["total_timestep", "did you mean total_timesteps?"]),
        (("total_timesteps = 64", "total_timesteps = 0"), ["total_timesteps is 0"]),
        (("[run]", "[runs]"), ["runs", "did you mean run?"]),
        (("[run]", "run = 3\n[versions.x]"), ["run is 3", "a table"]),
        (('algorithm = "ppo"', 'algorithm = "pppo"'), ["pppo", "did you mean ppo?"]),
        (('algorithm = "ppo"', ""), ["does not say which algorithm"]),
        (('environment = "CartPole-v1"', 'environment = "CartPol-v1"'), ["did you mean CartPole-v1?"]),
        (('environment = "CartPole-v1"', 'environment = "mine:Mine-v0"'), ["mine:Mine-v0", "trust"]),
        (("format = 1", "format = 2"), ["format 2", "newer fastrl"]),
        (("format = 1", 'format = "1"'), ["format is '1'", "an int of at least 1"]),
        (("format = 1", "format = true"), ["format is True", "an int of at least 1"]),
        (("format = 1", "format = 0"), ["format is 0", "an int of at least 1"]),
        (("format = 1", "format = "), ["not TOML"]),
    ],
)
def test_a_mistake_in_a_file_is_one_line(change, says, capsys):
    config.write(Path("c.toml"), to_config(make_plan(SHORT[1:], None, None), "fastrl train"))
    text = Path("c.toml").read_text()
    assert change[0] in text
    Path("c.toml").write_text(text.replace(*change))
    err = refused(capsys, ["train", "--config", "c.toml", "--no-progress"])
    assert all(words in err for words in says), err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("train --config nowhere.toml", ["nowhere.toml", "No such file"]),
        ("train dqn --config c.toml", ["those of ppo, not of dqn"]),
        ("train --config", ["--config needs a path"]),
        ("train --config c.toml --force", ["--force needs --out"]),
    ],
)
def test_mistakes_about_files(args, says, capsys):
    config.write(Path("c.toml"), to_config(make_plan(SHORT[1:], None, None), "fastrl train"))
    err = refused(capsys, args.split())
    assert all(words in err for words in says), err


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_a_usage_error_at_most(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("c") / "c.toml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(str(file))):
        config.read(file)


# -- directories ---------------------------------------------------------------------------------------------------


def test_force_removes_what_a_run_wrote_and_nothing_else(capsys):
    assert main([*SHORT, "--out", "run", "--checkpoint-every", "16"]) == 0
    for name in ("run/notes.txt", "run/checkpoints/mine.fastrl", "run/.notes.tmp"):
        Path(name).write_text("mine")
    assert "without --force" in refused(capsys, [*SHORT, "--out", "run"])
    assert main([*SHORT, "--out", "run", "--force", "--seed", "5", "--checkpoint-every", "0"]) == 0
    assert fastrl.PPO.load("run/model.fastrl").seed == 5
    assert sorted(path.name for path in Path("run/checkpoints").iterdir()) == ["mine.fastrl", "model_64_steps.fastrl"]
    assert Path("run/notes.txt").read_text() == Path("run/.notes.tmp").read_text() == "mine"


def test_force_spares_a_directory_that_holds_no_run(capsys):
    Path("mine").mkdir()
    Path("mine/model.fastrl").write_text("mine")
    assert "it holds no run" in refused(capsys, [*SHORT, "--out", "mine", "--force"])
    assert [path.read_text() for path in Path("mine").iterdir()] == ["mine"]


def test_force_after_a_mistake_removes_nothing(capsys):
    assert main([*SHORT, "--out", "run"]) == 0
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")}
    assert "gamma" in refused(capsys, [*SHORT, "--out", "run", "--force", "--gamma", "7"])
    assert {path: path.stat().st_mtime_ns for path in Path("run").rglob("*")} == before


def test_no_checkpoints_at_all(capsys):
    assert main([*SHORT, "--out", "run", "--keep-checkpoints", "0"]) == 0
    assert not Path("run/checkpoints").exists()
    assert "no checkpoint to go on from" in refused(capsys, ["train", "--resume", "run", "--total-timesteps", "99"])


def test_a_final_model_that_cannot_be_read_is_not_replaced(capsys):
    assert main([*SHORT, "--out", "run", "--keep-checkpoints", "0"]) == 0
    file = Path("run/model.fastrl")
    for old, new in (b'\\"format\\": 1', b'\\"format\\": 9'), (b"num_timesteps", b"mun_timesteps"), (b"{", b"["):
        whole = file.read_bytes()
        damaged = whole.replace(old, new)
        assert damaged != whole
        file.write_bytes(damaged)
        assert "run/model.fastrl" in refused(capsys, ["train", "--resume", "run", "--total-timesteps", "99"])
        assert file.read_bytes() == damaged
        file.write_bytes(whole)


# -- checkpoints ---------------------------------------------------------------------------------------------------


def test_the_last_ones_are_kept_with_their_buffers():
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", learning_starts=10, buffer_size=50, seed=0)
    folder = Path("deep/folder")
    for i in range(5):
        model.learn(20, reset_num_timesteps=False)
        file = checkpoints.write(model, folder, "any", keep=2)
        again = checkpoints.load(fastrl.DQN, file, env="CartPole-v1")
        assert again.num_timesteps == model.num_timesteps == 20 * (i + 1)
        assert len(again.replay_buffer) == len(model.replay_buffer)
    assert checkpoints.find(folder, "any") == [folder / "any_100_steps.fastrl", folder / "any_80_steps.fastrl"]
    assert len(list(folder.iterdir())) == 4
    assert checkpoints.find(folder, "other") == checkpoints.find(Path("nowhere")) == []


def test_checkpoints_of_more_steps_are_another_runs():
    model = fastrl.PPO("MlpPolicy", "CartPole-v1", n_steps=10, batch_size=10, seed=0)
    for total in (30, 20):
        model.learn(total)
        checkpoints.write(model, Path("c"), keep=1)
    assert [checkpoints.steps_of(file) for file in checkpoints.find(Path("c"))] == [30, 20]


def test_a_model_never_stands_without_its_buffer(monkeypatch):
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", seed=0).learn(20)

    def fails(*_):
        raise OSError("full")

    monkeypatch.setattr(fastrl.DQN, "save", fails)
    with pytest.raises(OSError, match="full"):
        checkpoints.write(model, Path("c"))
    assert not list(Path("c").iterdir())


def test_what_a_killed_process_left_is_removed():
    model = fastrl.DQN("MlpPolicy", "CartPole-v1", seed=0).learn(20)
    checkpoints.write(model, Path("run/checkpoints"))
    kept = sorted(Path("run").rglob("*"))
    for name in ("checkpoints/model_replay_buffer_40_steps.npz", f"checkpoints/.model_40_steps.fastrl.{'a1' * 8}.tmp",
                 f".config.toml.{'00' * 8}.tmp"):  # fmt: skip
        (Path("run") / name).touch()
    runs.tidy(Path("run"))
    assert sorted(Path("run").rglob("*")) == kept


# -- what else a run tells -----------------------------------------------------------------------------------------


def test_the_pages_example_of_a_file_is_one():
    page = Path(fastrl.__file__).parents[1] / "docs" / "command-line.md"
    text = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    Path("page.toml").write_text(*text)
    plan = make_plan([], Path("page.toml"), config.read(Path("page.toml")))
    assert plan.options.total_timesteps == 200_000 and plan.arguments["target_kl"] is None
    assert plan.arguments["policy_kwargs"]["net_arch"] == [128, 128]


def test_tensorboard_files_lie_in_the_run(capsys):
    pytest.importorskip("tensorboard")
    assert main([*SHORT, "--out", "run", "--tensorboard"]) == 0
    assert "tensorboard/" in capsys.readouterr().out
    assert len(list(Path("run/tensorboard").glob("events.out.tfevents.*"))) == 1
    assert main([*SHORT, "--out", "run", "--force"]) == 0
    assert not Path("run/tensorboard").exists()


def test_without_tensorboard_nothing_is_begun(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name, *a))
    assert 'pip install "fastrl[tensorboard]"' in refused(capsys, [*SHORT, "--tensorboard"])
    assert not Path("runs").exists()


def test_verbose_prints_the_table(capsys):
    assert main([*SHORT, "--verbose", "1"]) == 0
    assert "|    total_timesteps" in capsys.readouterr().out


@pytest.mark.slow
def test_compiling_is_told_once(tmp_path):
    args = [sys.executable, "-m", "fastrl", *[word for word in SHORT if word != "--no-progress"], "--out"]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for out, told in (("first", 1), ("second", 0)):
        run = subprocess.run([*args, out], env=env, capture_output=True, text=True, check=True)
        assert (run.stdout + run.stderr).count("Compiling kernels") == told
