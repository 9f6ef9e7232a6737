"""Predicting actions, as models and loaded policies alike do it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from fastrl import spaces

FLOAT32 = np.dtype(np.float32)


class Predictor:
    """Actions for observations of a space; a subclass computes them, this class knows the spaces."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        takes_floats = isinstance(observation_space, Box) and observation_space.dtype.kind == "f"
        self._obs_shape = observation_space.shape if takes_floats else None
        self._bounds = spaces.bounds(action_space)

    def _features(self, obs: Any) -> np.ndarray:
        """Observations [N, *obs] as the network takes them: flat float32, normalised if asked, but for images."""
        raise NotImplementedError  # a contract, as the two below

    def _act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions [N, n_components], from 0, for features [N, obs_dim]."""
        raise NotImplementedError

    def _act_one(self, obs: np.ndarray, deterministic: bool) -> np.ndarray | None:
        """The action [n_components] for one raw observation, float32 [obs_dim] and ours, at least cost.

        Within the bounds of a Box that has some. None where that takes the general way, as for what is not finite.
        """
        raise NotImplementedError

    def predict(
        self, obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """The action for one observation, or actions for a batch of them.

        Args:
            obs: one observation, of the observation space's shape, or a batch with a leading axis.
            state, episode_start: for recurrent policies elsewhere; `state` is returned as it came.
            deterministic: the likeliest action, not a drawn one.

        Returns:
            (action, state); the action is of the action space's dtype and shape, batched like `obs`.

        Raises:
            ValueError: for another shape, NaN, or a discrete observation out of range; TypeError for no numbers.
        """
        if type(obs) is np.ndarray and obs.dtype == FLOAT32 and obs.shape == self._obs_shape:
            one = self._act_one(obs.flatten(), deterministic)
            if one is not None:
                return self._finished(one), state
        batch, single = spaces.as_batch(self.observation_space, obs)
        action = spaces.to_env(self.action_space, self._act(self._features(batch), deterministic))
        return (action[0] if single else action), state

    def _finished(self, action: np.ndarray) -> Any:
        space = self.action_space
        if self._bounds is not None:
            return action
        if isinstance(space, Discrete):  # the general way takes four times as long
            return space.dtype.type(action[0] + space.start)
        return spaces.to_env(space, action[None])[0]
