"""Torch modules that make features of observations before the perceptrons: convolutions of images, parts of a Dict.

An extractor is made as `Extractor(observation_space, **features_extractor_kwargs)`, has `features_dim`, and gets
observations [B, ...] float32 in the shape of that space: images channels first, scaled to [0, 1]; Discrete and
MultiDiscrete one-hot; of a Dict a dict of tensors. One of your own is a subclass of `BaseFeaturesExtractor`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import nn

from fastrl import spaces

Observations = torch.Tensor | dict[str, Any]


class BaseFeaturesExtractor(nn.Module):
    """The base of every extractor: a module whose `forward(observations)` gives features [B, features_dim] float32.

    Args:
        observation_space: of the environment; images channels first, whatever the environment has.
        features_dim: how many features `forward` gives.

    Raises:
        ValueError: for a features_dim that is no positive int.
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 0) -> None:
        super().__init__()
        if not isinstance(features_dim, (int, np.integer)) or isinstance(features_dim, bool) or features_dim < 1:
            raise ValueError(
                f"features_dim is {features_dim!r}; {type(self).__name__} must call "
                "super().__init__(observation_space, features_dim), with how many features its forward gives"
            )
        self._observation_space, self._features_dim = observation_space, int(features_dim)

    @property
    def features_dim(self) -> int:
        """How many features `forward` gives."""
        return self._features_dim


class FlattenExtractor(BaseFeaturesExtractor):
    """The observation itself as a vector; of a Dict all parts end to end."""

    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, spaces.flat_dim(observation_space))

    def forward(self, observations: Observations) -> torch.Tensor:
        """Features [B, features_dim]."""
        return torch.cat([part.flatten(1) for part in _leaves(observations)], 1)


class NatureCNN(BaseFeaturesExtractor):
    """Three convolutions and a Linear layer, each followed by ReLU. Mnih et al. 2015, "Methods".

    Args:
        observation_space: a Box of images [channels, height, width], at least 36 pixels high and wide.
        features_dim: units of the Linear layer.
        normalized_image: the images are no uint8 from 0 to 255, which are required otherwise.

    Raises:
        ValueError: for another space, and for smaller images.
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 512, normalized_image: bool = False) -> None:
        super().__init__(observation_space, features_dim)
        if not isinstance(observation_space, Box) or len(observation_space.shape) != 3:
            raise ValueError(
                f"NatureCNN takes images, a Box of three axes; the observation space is {observation_space}"
            )
        if not normalized_image and not spaces.is_image(observation_space):
            raise ValueError(
                f"NatureCNN takes images of uint8; the observation space is {observation_space}: for images of floats, "
                "channels first, give policy_kwargs=dict(normalize_images=False)"
            )
        channels, height, width = observation_space.shape
        if min(height, width) < 36:
            raise ValueError(
                f"NatureCNN takes images of at least 36 x 36 pixels; these are {height} x {width}: enlarge them, or "
                "give an extractor of your own with policy_kwargs=dict(features_extractor_class=...)"
            )
        self.cnn = nn.Sequential(
            nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=1), nn.ReLU(),
            nn.Flatten(),
        )  # fmt: skip
        rows, columns = ((((size - 4) // 4 - 2) // 2) - 2 for size in (height, width))
        self.linear = nn.Sequential(nn.Linear(64 * rows * columns, features_dim), nn.ReLU())

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Features [B, features_dim] of images [B, channels, height, width]."""
        return self.linear(self.cnn(observations))


class CombinedExtractor(BaseFeaturesExtractor):
    """Of a Dict: a NatureCNN for each image, and everything else flattened, end to end.

    Args:
        observation_space: a Dict.
        cnn_output_dim: features of each NatureCNN.
        normalized_image: as of NatureCNN; with it, every Box of three axes is an image.
    """

    def __init__(self, observation_space: gym.Space, cnn_output_dim: int = 256, normalized_image: bool = False) -> None:
        if not isinstance(observation_space, Dict):
            raise ValueError(f"CombinedExtractor takes a Dict; the observation space is {observation_space}")
        parts: dict[str, BaseFeaturesExtractor] = {}
        for key, part in observation_space.spaces.items():
            if isinstance(part, Dict):
                parts[key] = CombinedExtractor(part, cnn_output_dim, normalized_image)
            elif spaces.is_image(part) or (normalized_image and isinstance(part, Box) and len(part.shape) == 3):
                parts[key] = NatureCNN(part, cnn_output_dim, normalized_image)
            else:
                parts[key] = FlattenExtractor(part)
        super().__init__(observation_space, sum(part.features_dim for part in parts.values()))
        self.extractors = nn.ModuleDict(parts)

    def forward(self, observations: dict[str, Any]) -> torch.Tensor:
        """Features [B, features_dim] of a dict of observations."""
        return torch.cat([extract(observations[key]) for key, extract in self.extractors.items()], 1)


class Unflatten:
    """Flat rows [B, obs_dim], as `fastrl.spaces.flatten` makes them, in the shape that extractors take."""

    def __init__(self, space: gym.Space) -> None:
        self.space = space

    def __call__(self, rows: torch.Tensor) -> Any:
        """Observations [B, ...] of rows [B, obs_dim]."""
        if isinstance(self.space, Dict):
            parts = self.space.spaces
            columns = rows.split([spaces.flat_dim(part) for part in parts.values()], 1)
            return {key: Unflatten(part)(own) for (key, part), own in zip(parts.items(), columns, strict=True)}
        if isinstance(self.space, (Discrete, MultiDiscrete)):
            return rows
        shaped = rows.reshape(rows.shape[0], *(self.space.shape or ()))
        return shaped.permute(0, 3, 1, 2).contiguous() if spaces.is_channels_last(self.space) else shaped


def channels_first(space: gym.Space) -> gym.Space:
    """`space` as extractors know it: with images [channels, height, width]."""
    if isinstance(space, Dict):
        return Dict([(key, channels_first(part)) for key, part in space.spaces.items()])
    if spaces.is_channels_last(space):
        assert isinstance(space, Box)
        return Box(space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1), dtype=np.uint8)
    return space


def is_flattening(kind: type[nn.Module], space: gym.Space, normalize_images: bool) -> bool:
    """Whether an extractor of this class would give the flat row as it comes, and may be left out."""
    if kind is FlattenExtractor:
        return True
    is_image = spaces.is_image if normalize_images else lambda part: isinstance(part, Box) and len(part.shape) == 3
    return kind is CombinedExtractor and not any(is_image(part) for part in spaces.leaves(space))


def _leaves(observations: Any) -> Iterator[torch.Tensor]:
    if isinstance(observations, dict):
        for part in observations.values():
            yield from _leaves(part)
    else:
        yield observations
