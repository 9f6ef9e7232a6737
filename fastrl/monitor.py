"""Episodes of one environment, told in its infos and written to a CSV file of Stable-Baselines3's format."""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import gymnasium as gym

__all__ = ["Monitor", "load_results"]

EXTENSION = "monitor.csv"


class Monitor(gym.Wrapper):
    """Puts `info["episode"]` where an episode ends: its return "r", length "l", seconds "t" since the start.

    Agents here count episodes by themselves; this is for the file, and for `info_keywords`.

    Args:
        env: the environment.
        filename: a CSV file, or a folder for "monitor.csv"; ".monitor.csv" is put behind other names. The first line is
            a comment of JSON; columns are r, l, t and the keywords. None for no file.
        allow_early_resets: whether `reset` may come before the episode's end; else it is a RuntimeError.
        info_keywords: names in the last info of each episode that are written too.
        override_existing: begin the file anew; else go on with one that is there.

    Raises:
        KeyError: where an episode's last info has no such keyword.
    """

    def __init__(
        self, env: gym.Env, filename: str | os.PathLike[str] | None = None, allow_early_resets: bool = True,
        reset_keywords: Sequence[str] = (), info_keywords: Sequence[str] = (), override_existing: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(env)
        if reset_keywords:
            raise ValueError("reset_keywords are not written here; pass info_keywords")
        self.path = None if filename is None else _path(filename)
        self.allow_early_resets, self.info_keywords = allow_early_resets, tuple(info_keywords)
        self.override_existing, self._names = override_existing, ["r", "l", "t", *info_keywords]
        self.total_steps = 0
        self._started = time.time()
        self._file: TextIO | None = None
        self._rewards: list[float] = []
        self._over = True
        self._episodes: list[tuple[float, int, float]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        if not self.allow_early_resets and not self._over:
            raise RuntimeError("reset came before the episode's end; pass allow_early_resets=True to Monitor")
        if self.path is not None and self._file is None:  # not before: who only asks for the spaces leaves no file
            self._begin(self.path)
        self._rewards, self._over = [], False
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's, with `info["episode"]` at an episode's end."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._rewards.append(float(reward))
        self.total_steps += 1
        if terminated or truncated:
            self._over = True
            seconds = round(time.time() - self._started, 6)
            episode = {"r": round(sum(self._rewards), 6), "l": len(self._rewards), "t": seconds}
            self._episodes.append((episode["r"], len(self._rewards), seconds))
            for name in self.info_keywords:
                episode[name] = info[name]
            if self._file is not None:
                csv.DictWriter(self._file, self._names).writerow(episode)
                self._file.flush()
            info = {**info, "episode": episode}
        return obs, reward, terminated, truncated, info

    def _begin(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = self.override_existing or not path.exists()
        self._file = open(path, "w" if is_new else "a", newline="")  # noqa: SIM115
        if is_new:
            head = {"t_start": self._started, "env_id": getattr(self.env.spec, "id", None)}
            self._file.write(f"#{json.dumps(head)}\n")
            csv.DictWriter(self._file, self._names).writeheader()
            self._file.flush()

    def close(self) -> None:
        """Close the environment and the file."""
        super().close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def get_total_steps(self) -> int:
        """Steps so far."""
        return self.total_steps

    def get_episode_rewards(self) -> list[float]:
        """Returns of the episodes so far."""
        return [episode for episode, _, _ in self._episodes]

    def get_episode_lengths(self) -> list[int]:
        """Lengths of the episodes so far."""
        return [length for _, length, _ in self._episodes]

    def get_episode_times(self) -> list[float]:
        """Seconds from the start to each episode's end."""
        return [seconds for _, _, seconds in self._episodes]


def load_results(path: str | os.PathLike[str]) -> Any:
    """The episodes of all "*monitor.csv" in a folder, by time, as a pandas.DataFrame: r, l, t, index and keywords.

    Raises:
        FileNotFoundError: where there is none.
        ImportError: without pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("load_results returns a DataFrame of pandas: pip install pandas") from error
    files = sorted(Path(path).glob(f"*{EXTENSION}"))
    if not files:
        raise FileNotFoundError(f"there is no *{EXTENSION} in {path}")
    frames, starts = [], []
    for file in files:
        with open(file) as lines:
            start = json.loads(lines.readline().removeprefix("#"))["t_start"]
            frame = pandas.read_csv(lines)
        frame["t"] += start
        frames.append(frame)
        starts.append(start)
    whole = pandas.concat(frames).sort_values("t").reset_index(drop=False)
    whole["t"] -= min(starts)
    return whole


def _path(filename: str | os.PathLike[str]) -> Path:
    path = Path(filename)
    if path.is_dir():
        return path / EXTENSION
    return path if path.name.endswith(EXTENSION) else path.with_name(f"{path.name}.{EXTENSION}")
