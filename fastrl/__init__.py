"""fastrl: reinforcement learning that is fast on the computer you already have.

Names load on first use, so `import fastrl` and the drop-in utilities never import Torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastrl.algorithms.q_learning import QLearningResult, q_learning
    from fastrl.buffers.replay import ReplayBuffer
    from fastrl.mdp import TabularMDP

_HOME = {
    "QLearningResult": "fastrl.algorithms.q_learning",
    "ReplayBuffer": "fastrl.buffers.replay",
    "TabularMDP": "fastrl.mdp",
    "q_learning": "fastrl.algorithms.q_learning",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastrl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
