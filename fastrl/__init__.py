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
    from fastrl.callbacks import (
        BaseCallback,
        CallbackList,
        CheckpointCallback,
        EvalCallback,
        EventCallback,
        EveryNTimesteps,
        StopTrainingOnMaxEpisodes,
        StopTrainingOnNoModelImprovement,
        StopTrainingOnRewardThreshold,
    )  # fmt: skip
    from fastrl.checkpoint import ModelFileError
    from fastrl.envs.stepper import EnvironmentFailure
    from fastrl.evaluation import evaluate_policy
    from fastrl.extractors import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor, NatureCNN
    from fastrl.logger import (
        CSVOutputFormat,
        HumanOutputFormat,
        JSONOutputFormat,
        KVWriter,
        Logger,
        TensorBoardOutputFormat,
        configure,
    )  # fmt: skip
    from fastrl.mdp import TabularMDP
    from fastrl.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
    from fastrl.returns import compute_gae, discounted_returns, lambda_returns, n_step_returns, vtrace

_HOME = {
    "BaseCallback": "fastrl.callbacks",
    "BaseFeaturesExtractor": "fastrl.extractors",
    "CSVOutputFormat": "fastrl.logger",
    "CallbackList": "fastrl.callbacks",
    "CheckpointCallback": "fastrl.callbacks",
    "CnnPolicy": "fastrl.policies",
    "CombinedExtractor": "fastrl.extractors",
    "DQN": "fastrl.algorithms.dqn",
    "EnvironmentFailure": "fastrl.envs.stepper",
    "EvalCallback": "fastrl.callbacks",
    "EventCallback": "fastrl.callbacks",
    "EveryNTimesteps": "fastrl.callbacks",
    "FlattenExtractor": "fastrl.extractors",
    "HumanOutputFormat": "fastrl.logger",
    "JSONOutputFormat": "fastrl.logger",
    "KVWriter": "fastrl.logger",
    "Logger": "fastrl.logger",
    "MlpPolicy": "fastrl.policies",
    "ModelFileError": "fastrl.checkpoint",
    "MultiInputPolicy": "fastrl.policies",
    "NatureCNN": "fastrl.extractors",
    "PPO": "fastrl.algorithms.ppo",
    "PrioritizedReplayBuffer": "fastrl.buffers.prioritized",
    "QLearningResult": "fastrl.algorithms.q_learning",
    "REINFORCE": "fastrl.algorithms.reinforce",
    "ReplayBuffer": "fastrl.buffers.replay",
    "StopTrainingOnMaxEpisodes": "fastrl.callbacks",
    "StopTrainingOnNoModelImprovement": "fastrl.callbacks",
    "StopTrainingOnRewardThreshold": "fastrl.callbacks",
    "TabularMDP": "fastrl.mdp",
    "TensorBoardOutputFormat": "fastrl.logger",
    "compute_gae": "fastrl.returns",
    "configure": "fastrl.logger",
    "discounted_returns": "fastrl.returns",
    "evaluate_policy": "fastrl.evaluation",
    "lambda_returns": "fastrl.returns",
    "n_step_returns": "fastrl.returns",
    "q_learning": "fastrl.algorithms.q_learning",
    "vtrace": "fastrl.returns",
}

__all__ = [
    "DQN",
    "PPO",
    "REINFORCE",
    "BaseCallback",
    "BaseFeaturesExtractor",
    "CSVOutputFormat",
    "CallbackList",
    "CheckpointCallback",
    "CnnPolicy",
    "CombinedExtractor",
    "EnvironmentFailure",
    "EvalCallback",
    "EventCallback",
    "EveryNTimesteps",
    "FlattenExtractor",
    "HumanOutputFormat",
    "JSONOutputFormat",
    "KVWriter",
    "Logger",
    "MlpPolicy",
    "ModelFileError",
    "MultiInputPolicy",
    "NatureCNN",
    "PrioritizedReplayBuffer",
    "QLearningResult",
    "ReplayBuffer",
    "StopTrainingOnMaxEpisodes",
    "StopTrainingOnNoModelImprovement",
    "StopTrainingOnRewardThreshold",
    "TabularMDP",
    "TensorBoardOutputFormat",
    "__version__",
    "compute_gae",
    "configure",
    "discounted_returns",
    "evaluate_policy",
    "lambda_returns",
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
