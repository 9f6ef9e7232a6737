"""Pictures of several environments: painted for compiled ones by their twins, tiled, and shown in a window."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from fastrl.envs.registration import TWINS

__all__ = ["Painter", "show", "tile"]


class Painter:
    """Pictures of compiled environments, which Gymnasium's own environment of the same id paints from their states.

    Args:
        env_id: of an environment that has a compiled twin, with or without "fastrl/".
        options: Gymnasium's arguments of it.

    Raises:
        NotImplementedError: for another id; compiled environments of one's own have no pictures.
    """

    def __init__(self, env_id: str | None, **options: Any) -> None:
        known = (env_id or "").removeprefix("fastrl/")
        if known not in TWINS:
            raise NotImplementedError(f"the compiled environment {env_id} has no pictures; twins of Gymnasium's have")
        self._env: Any = gym.make(known, render_mode="rgb_array", disable_env_checker=True, **options).unwrapped
        self._env.reset()

    def __call__(self, states: np.ndarray) -> list[np.ndarray]:
        """A picture, uint8 [height, width, 3], of each row of `states` float64 [N, S]."""
        pictures = []
        for state in states:
            if hasattr(self._env, "s"):  # of tables
                self._env.s = int(state[0])
            else:
                self._env.state = state.copy()
            pictures.append(np.asarray(self._env.render()))
        return pictures

    def close(self) -> None:
        """Close the environment that paints."""
        self._env.close()


def tile(pictures: Sequence[Any]) -> np.ndarray:
    """N pictures [h, w, 3] as one, in ⌈N / ⌈√N⌉⌉ rows of ⌈√N⌉; what is left over is black."""
    arrays = [np.asarray(picture) for picture in pictures]
    columns = math.ceil(math.sqrt(len(arrays)))
    rows = math.ceil(len(arrays) / columns)
    height, width, channels = arrays[0].shape
    whole = np.zeros((rows, height, columns, width, channels), arrays[0].dtype)
    for i, array in enumerate(arrays):
        whole[i // columns, :, i % columns] = array
    return whole.reshape(rows * height, columns * width, channels)


def show(picture: np.ndarray) -> None:
    """Show a picture [h, w, 3] in pygame's window, which Gymnasium's own environments use too."""
    try:
        pygame = importlib.import_module("pygame")
    except ImportError as error:
        raise ImportError('a window needs pygame: pip install "gymnasium[classic-control]"') from error
    pygame.display.init()
    window, size = pygame.display.get_surface(), picture.shape[1::-1]
    if window is None or window.get_size() != size:
        window = pygame.display.set_mode(size)
    window.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
    pygame.event.pump()
    pygame.display.flip()
