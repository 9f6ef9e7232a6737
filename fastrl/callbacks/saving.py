"""A model file every so often."""

from __future__ import annotations

import os
from pathlib import Path

from fastrl import checkpoints
from fastrl.callbacks.base import BaseCallback
from fastrl.checks import check_int


class CheckpointCallback(BaseCallback):
    """Saves the model every `save_freq` calls, as <save_path>/<name_prefix>_<steps>_steps.fastrl.

    Args:
        save_freq: steps of all environments at once: `save_freq · num_envs` environment steps.
        save_path: a directory; made if missing.
        name_prefix: of the files.
        save_replay_buffer: save DQN's replay buffer beside it, as <name_prefix>_replay_buffer_<steps>_steps.npz.
        save_vecnormalize: accepted; the statistics are in the model's file always.
        verbose: 2 says what was saved.
        keep: only the last so many in `save_path`, of this run and of runs before it; None for all.
    """

    each_step = False

    def __init__(
        self, save_freq: int, save_path: str | os.PathLike[str], name_prefix: str = "rl_model",
        save_replay_buffer: bool = False, save_vecnormalize: bool = False, verbose: int = 0, *, keep: int | None = None,
    ) -> None:  # fmt: skip
        check_int("save_freq", save_freq)
        if keep is not None:
            check_int("keep", keep)
        super().__init__(verbose)
        self.save_freq, self.save_path, self.name_prefix = save_freq, Path(save_path), name_prefix
        self.save_replay_buffer, self.keep = save_replay_buffer, keep

    def _init_callback(self) -> None:
        if self.model.ranks.is_first:
            self.save_path.mkdir(parents=True, exist_ok=True)

    def steps_until_due(self) -> int:
        return self._steps_until(self.save_freq)

    def _on_step(self) -> bool:
        if self._due(self.save_freq):
            self.model.when_whole(self._save)
        return True

    def _save(self) -> None:
        file = checkpoints.write(
            self.model, self.save_path, self.name_prefix, replay_buffer=self.save_replay_buffer, keep=self.keep
        )
        if self.verbose >= 2:
            print(f"Saved {file}")
