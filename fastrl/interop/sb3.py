"""For users of Stable-Baselines3: buffers to put into it, and `load`, which reads the models that it saved.

`ReplayBuffer`, `DictReplayBuffer`, `NStepReplayBuffer`, `PrioritizedReplayBuffer`, `RolloutBuffer` and
`DictRolloutBuffer` are subclasses of its own, and import it. `load` needs no Stable-Baselines3.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrl.interop.sb3_buffers import (
        DictReplayBuffer,
        DictRolloutBuffer,
        NStepReplayBuffer,
        PrioritizedReplayBuffer,
        ReplayBuffer,
        RolloutBuffer,
    )
    from fastrl.interop.sb3_weights import load

__all__ = [
    "DictReplayBuffer",
    "DictRolloutBuffer",
    "NStepReplayBuffer",
    "PrioritizedReplayBuffer",
    "ReplayBuffer",
    "RolloutBuffer",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'fastrl.interop.sb3' has no attribute {name!r}")
    home = "sb3_weights" if name == "load" else "sb3_buffers"
    value = getattr(importlib.import_module(f"fastrl.interop.{home}"), name)
    globals()[name] = value
    return value
