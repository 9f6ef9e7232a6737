"""fastrl: reinforcement learning that is fast on the computer you already have.

Names load on first use, so `import fastrl` and the drop-in utilities never import Torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastrl import envs as envs  # it makes the ids "fastrl/…" known to Gymnasium

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastrl.algorithms.dqn import DQN
    from fastrl.algorithms.ppo import PPO
    from fastrl.algorithms.q_learning import QLearningResult, q_learning
    from fastrl.algorithms.reinforce import REINFORCE
    from fastrl.buffers.prioritized import PrioritizedReplayBuffer
    from fastrl.buffers.replay import ReplayBuffer
    from fastrl.checkpoint import ModelFileError
    from fastrl.envs.stepper import EnvironmentFailure
    from fastrl.evaluation import evaluate_policy
    from fastrl.mdp import TabularMDP
    from fastrl.policy import Policy, load_policy
    from fastrl.returns import compute_gae, discounted_returns, lambda_returns, n_step_returns, vtrace

_HOME = {
    "DQN": "fastrl.algorithms.dqn",
    "EnvironmentFailure": "fastrl.envs.stepper",
    "ModelFileError": "fastrl.checkpoint",
    "PPO": "fastrl.algorithms.ppo",
    "Policy": "fastrl.policy",
    "PrioritizedReplayBuffer": "fastrl.buffers.prioritized",
    "QLearningResult": "fastrl.algorithms.q_learning",
    "REINFORCE": "fastrl.algorithms.reinforce",
    "ReplayBuffer": "fastrl.buffers.replay",
    "TabularMDP": "fastrl.mdp",
    "compute_gae": "fastrl.returns",
    "discounted_returns": "fastrl.returns",
    "evaluate_policy": "fastrl.evaluation",
    "lambda_returns": "fastrl.returns",
    "load_policy": "fastrl.policy",
    "n_step_returns": "fastrl.returns",
    "q_learning": "fastrl.algorithms.q_learning",
    "vtrace": "fastrl.returns",
}

__all__ = [
    "DQN",
    "PPO",
    "REINFORCE",
    "EnvironmentFailure",
    "ModelFileError",
    "Policy",
    "PrioritizedReplayBuffer",
    "QLearningResult",
    "ReplayBuffer",
    "TabularMDP",
    "__version__",
    "compute_gae",
    "discounted_returns",
    "evaluate_policy",
    "lambda_returns",
    "load_policy",
    "n_step_returns",
    "q_learning",
    "vtrace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastrl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
