"""Fine-tuning of language models by rewards: PPO over tokens, GRPO, RLOO, DPO. Needs transformers: `fastrl[rlhf]`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrl.rlhf.settings import Settings
    from fastrl.rlhf.trainer import RLHFTrainer

__all__ = ["RLHFTrainer", "Settings"]

_HOME = {"RLHFTrainer": "fastrl.rlhf.trainer", "Settings": "fastrl.rlhf.settings"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastrl.rlhf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
