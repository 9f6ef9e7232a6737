"""`fastrl play`: a trained agent in its environment, as a film or on the display."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
import tyro

from fastrl.checks import check_int
from fastrl.commands.common import (
    EVAL_SEED,
    check_environment,
    check_output,
    describe,
    load_agent,
    model_file,
    needed,
    writing_to,
)
from fastrl.files import replacing
from fastrl.flags import UsageError, parse

ENDINGS = (".gif", ".mp4")


@dataclass
class PlayOptions:
    """What to play, and where the film goes.

    Args:
        file: a model that `fastrl train` wrote, or the directory it is in.
        out: the film, .gif or .mp4; None for play.gif beside the model.
        env: environment to play in; None for the one that the agent was trained in.
        episodes: how many episodes, one after another.
        seed: of the first episode; the next ones have the next numbers.
        fps: pictures a second; None for as many as the environment has steps a second.
        max_steps: where an episode is cut.
        show: play on the display, and write nothing.
        force: overwrite the film if it exists.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    out: Path | None = None
    env: str | None = None
    episodes: int = 1
    seed: int = EVAL_SEED
    fps: int | None = None
    max_steps: int = 1000
    show: bool = False
    force: bool = False


def run(args: list[str]) -> None:
    """Play as `args` say."""
    if not args:
        raise UsageError("fastrl play needs a model file, such as runs/ppo-CartPole-v1-1/model.fastrl")
    options = parse(PlayOptions, args, "fastrl play", "Record a trained agent, without a display.")
    try:
        check_int("episodes", options.episodes)
        check_int("seed", options.seed, 0)
        check_int("max_steps", options.max_steps)
        if options.fps is not None:
            check_int("fps", options.fps)
    except ValueError as error:
        raise UsageError(describe(error)) from error
    model, env_id = load_agent(options.file, options.env)
    out = options.out or model_file(options.file).with_name("play.gif")
    if options.show:
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise UsageError("there is no display to show it on: leave out --show, and watch the film")
    else:
        check_output(out, options.force, ENDINGS)
        needed("imageio_ffmpeg" if out.suffix.lower() == ".mp4" else "PIL.Image", "play")
    with contextlib.closing(_with_pictures(env_id, options.show)) as env:
        fps = options.fps or int(env.metadata.get("render_fps") or 30)
        print(f"{type(model).__name__}, trained for {model.num_timesteps:,} steps, on {env_id}")
        if options.show:
            for _ in _play(model, env, options):
                pass
            return
        write = _write_mp4 if out.suffix.lower() == ".mp4" else _write_gif
        with writing_to(out.parent), replacing(out) as file:
            n = write(file, _play(model, env, options), fps)
    print(f"{out}: {n:,} pictures, {fps} a second, {out.stat().st_size / 1000:,.0f} kB")


def _with_pictures(env_id: str, show: bool) -> Any:
    """Gymnasium's own environment, which renders; compiled twins have the same observations and do not."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not show and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    import gymnasium

    own, mode = env_id.removeprefix("fastrl/"), "human" if show else "rgb_array"
    if own not in gymnasium.registry:
        own = check_environment(own if ":" in own else env_id)
    with contextlib.closing(gymnasium.make(own)) as plain:
        modes = plain.metadata.get("render_modes") or []
    if mode not in modes:
        known = f"its render modes are {', '.join(map(str, modes))}" if modes else "it has no render mode"
        raise UsageError(f"{env_id} does not render as {mode}: {known}")
    env = None
    try:
        env = gymnasium.make(own, render_mode=mode)
        env.reset(seed=0)
        if not show:
            env.render()
    except Exception as error:
        if env is not None:
            env.close()
        how = 'pip install "fastrl[play]"' if _is_missing(error) else describe(error)
        raise UsageError(f"{env_id} cannot be rendered: {how}") from error
    return env


def _is_missing(error: BaseException) -> bool:
    import gymnasium

    return isinstance(error, (ImportError, gymnasium.error.DependencyNotInstalled))


def _play(model: Any, env: Any, options: PlayOptions) -> Iterator[np.ndarray]:
    """Play the episodes; yields each picture."""
    from fastrl.learners.torch import one_thread

    with one_thread(True):
        for episode in range(options.episodes):
            obs, _ = env.reset(seed=options.seed + episode)
            total, steps, over = 0.0, 0, False
            yield env.render()
            while not over and steps < options.max_steps:
                action, _ = model.predict(obs, deterministic=True)
                obs, reward, terminated, truncated, _ = env.step(action)
                total, steps, over = total + float(reward), steps + 1, bool(terminated or truncated)
                yield env.render()
            cut = "" if over else ", cut by --max-steps"
            print(f"Episode {episode + 1}: return {total:.1f} in {steps:,} steps{cut}", flush=True)


def _write_gif(file: IO[bytes], pictures: Iterator[np.ndarray], fps: int) -> int:
    """Write the film; returns its number of pictures."""
    from PIL import Image

    # A palette for each picture: colours may appear late that the first has not.
    first, *others = (Image.fromarray(picture).quantize(dither=Image.Dither.NONE) for picture in pictures)
    hundredths = max(2, round(100 / fps))  # the format counts in these, and players take less than two for ten
    first.save(file, "GIF", save_all=True, append_images=others, duration=10 * hundredths, loop=0, optimize=False)
    return 1 + len(others)


def _write_mp4(file: IO[bytes], pictures: Iterator[np.ndarray], fps: int) -> int:
    """Write the film; returns its number of pictures."""
    import imageio_ffmpeg

    first, n = next(pictures), 0
    writer = imageio_ffmpeg.write_frames(
        file.name, first.shape[1::-1], fps=fps, macro_block_size=2, ffmpeg_log_level="error",
        output_params=["-f", "mp4"],
    )  # fmt: skip
    with contextlib.closing(writer):
        writer.send(None)
        for n, picture in enumerate(itertools.chain([first], pictures), 1):  # noqa: B007
            writer.send(np.ascontiguousarray(picture))
    return n
