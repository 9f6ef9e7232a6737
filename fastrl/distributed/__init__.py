"""Beyond one process: data-parallel PPO and REINFORCE by torch.distributed, actors and sweeps by Ray.

Names load on first use: neither Torch nor Ray is imported before it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrl.distributed.ape_x import apex
    from fastrl.distributed.joining import process_group

__all__ = ["apex", "process_group"]

_HOME = {"apex": "fastrl.distributed.ape_x", "process_group": "fastrl.distributed.joining"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'fastrl.distributed' has no attribute {name!r}")
