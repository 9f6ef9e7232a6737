"""`fastrl play`: films of agents."""

from __future__ import annotations

import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import fastrl
from fastrl.cli import main
from tests.commands import printed, refused, saved_agent, without
from tests.envs import Counter

Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    file = tmp_path_factory.mktemp("agent") / "model.fastrl"
    saved_agent(file)
    return file


class Painted(gym.Env):
    """Five steps, each in a grey of its own."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space, action_space = gym.make("CartPole-v1").observation_space, gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, fail_at=99):
        self.render_mode, self.fail_at = render_mode, fail_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.t += 1
        if self.t == self.fail_at:
            raise RuntimeError("the wheel fell off")
        return np.zeros(4, np.float32), 1.5, self.t == 5, False, {}

    def render(self):
        return np.full((31, 47, 3), 40 * self.t, np.uint8)


@pytest.fixture
def register(monkeypatch):
    def add(env_id, make, **kwargs):
        def entry(**more):
            return make(**kwargs, **more)

        spec = gym.envs.registration.EnvSpec(env_id, entry_point=entry, disable_env_checker=True)
        monkeypatch.setitem(gym.registry, env_id, spec)

    return add


def test_a_gif_has_every_picture_in_order(agent, register, capsys, tmp_path):
    register("Painted-v0", Painted)
    out = printed(capsys, f"play {agent} --env Painted-v0 --out film.gif --episodes 2 --seed 3")
    assert "Episode 1: return 7.5 in 5 steps\nEpisode 2: return 7.5 in 5 steps\n" in out
    assert "film.gif: 12 pictures, 25 a second" in out
    film = Image.open("film.gif")
    greys, milliseconds = [], []
    for i in range(film.n_frames):
        film.seek(i)
        pixels = np.asarray(film.convert("RGB"))
        assert pixels.shape == (31, 47, 3)
        greys.append(int(pixels[15, 20, 0]))
        milliseconds.append(film.info["duration"])
    assert greys == [0, 40, 80, 120, 160, 200] * 2
    assert sum(milliseconds) == 12 * 40 and film.info["loop"] == 0
    assert os.listdir() == ["film.gif"]


def test_an_mp4_has_every_picture(agent, register, capsys):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    register("Painted-v0", Painted)
    printed(capsys, f"play {agent} --env Painted-v0 --out film.mp4 --fps 10")
    pictures = imageio_ffmpeg.read_frames("film.mp4")
    about = next(pictures)
    assert about["fps"] == 10 and about["size"] == (48, 32)  # even, as the format has it
    greys = [np.frombuffer(picture, np.uint8).mean() for picture in pictures]
    np.testing.assert_allclose(greys, 40 * np.arange(6), atol=4)


def test_an_episode_is_what_the_agent_plays_in_gymnasium(agent, capsys):
    pytest.importorskip("pygame")
    model, env = fastrl.PPO.load(agent), gym.make("CartPole-v1")
    obs, _ = env.reset(seed=5)
    total = steps = over = 0
    while not over:
        obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
        total, steps, over = total + reward, steps + 1, terminated or truncated
    out = printed(capsys, f"play {agent} --seed 5 --out film.gif")
    assert f"Episode 1: return {total:.1f} in {steps} steps\n" in out and f"{steps + 1} pictures, 50 a second" in out
    assert Image.open("film.gif").size == (600, 400)


def test_where_the_film_goes_and_what_it_may_overwrite(agent, register, capsys):
    register("Painted-v0", Painted)
    run = Path("run")
    run.mkdir()
    (run / "model.fastrl").write_bytes(agent.read_bytes())
    printed(capsys, "play run --env Painted-v0 --max-steps 2")
    before = (run / "play.gif").read_bytes()
    assert "play.gif exists" in refused(capsys, "play run --env Painted-v0")
    assert (run / "play.gif").read_bytes() == before
    assert "cut by --max-steps" not in printed(capsys, "play run --env Painted-v0 --force")
    assert (run / "play.gif").read_bytes() != before
    assert "6 pictures" in printed(capsys, "play run --env Painted-v0 --out new/folder/film.gif")


def test_a_film_that_fails_leaves_the_old_one(agent, register, capsys):
    register("Painted-v0", Painted, fail_at=3)
    Path("film.gif").write_bytes(b"old")
    assert main(f"play {agent} --env Painted-v0 --out film.gif --force".split()) == 1
    assert Path("film.gif").read_bytes() == b"old" and os.listdir() == ["film.gif"]
    assert "the wheel fell off" in capsys.readouterr().err


def test_what_cannot_be_played(agent, register, capsys, monkeypatch):
    register("Painted-v0", Painted)
    register("Blind-v0", Counter)
    saved_agent("counter.fastrl", env="Blind-v0", steps=32)
    assert "needs a model file" in refused(capsys, "play")
    assert "nothing.fastrl" in refused(capsys, "play nothing.fastrl")
    assert "does not render" in refused(capsys, "play counter.fastrl --out film.gif")
    assert "observation_space" in refused(capsys, f"play {agent} --env Acrobot-v1 --out film.gif")
    assert "did you mean CartPole-v1?" in refused(capsys, f"play {agent} --env CartPol-v1")
    assert ".gif or .mp4" in refused(capsys, f"play {agent} --out film.avi")
    assert "did you mean --episodes?" in refused(capsys, f"play {agent} --episode 3")
    for option in ("episodes", "fps", "max-steps"):
        assert option.replace("-", "_") in refused(capsys, f"play {agent} --{option} 0")
    Path("file").write_text("")
    assert "cannot write to file/folder" in refused(capsys, f"play {agent} --out file/folder/film.gif")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    assert "no display" in refused(capsys, f"play {agent} --show")
    assert not list(Path().glob("*.gif"))


def test_missing_packages_say_what_to_run(agent, register, capsys, monkeypatch):
    register("Painted-v0", Painted)
    without(monkeypatch, "imageio_ffmpeg")
    assert 'pip install "fastrl[play]"' in refused(capsys, f"play {agent} --env Painted-v0 --out film.mp4")
    without(monkeypatch, "pygame")
    assert 'pip install "fastrl[play]"' in refused(capsys, f"play {agent} --out film.gif")
