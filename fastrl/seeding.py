"""The global random streams, which nothing here draws from, for scripts that do."""

from __future__ import annotations

import random
import sys

import numpy as np

from fastrl.checks import check_int

__all__ = ["set_random_seed"]


def set_random_seed(seed: int, using_cuda: bool = False) -> None:
    """Seed the global streams of Python, of NumPy, and of Torch if it is loaded.

    Agents and environments here draw from streams of their own, which `seed=` of the constructors seeds.

    Args:
        seed: at least 0.
        using_cuda: also let Torch's cuDNN choose deterministic algorithms.

    Raises:
        ValueError, TypeError: for another seed.
    """
    check_int("seed", seed, 0)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)
        if using_cuda:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
