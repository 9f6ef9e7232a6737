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
    from fastrl.monitor import Monitor, load_results
    from fastrl.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
    from fastrl.policy import Policy, load_policy
    from fastrl.returns import compute_gae, discounted_returns, lambda_returns, n_step_returns, vtrace
    from fastrl.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, make_vec_env

_HOME = {
    "BaseCallback": "fastrl.callbacks",
    "BaseFeaturesExtractor": "fastrl.extractors",
    "CSVOutputFormat": "fastrl.logger",
    "CallbackList": "fastrl.callbacks",
    "CheckpointCallback": "fastrl.callbacks",
    "CnnPolicy": "fastrl.policies",
    "CombinedExtractor": "fastrl.extractors",
    "DQN": "fastrl.algorithms.dqn",
    "DummyVecEnv": "fastrl.vec_env",
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
    "Monitor": "fastrl.monitor",
    "MultiInputPolicy": "fastrl.policies",
    "NatureCNN": "fastrl.extractors",
    "PPO": "fastrl.algorithms.ppo",
    "Policy": "fastrl.policy",
    "PrioritizedReplayBuffer": "fastrl.buffers.prioritized",
    "QLearningResult": "fastrl.algorithms.q_learning",
    "REINFORCE": "fastrl.algorithms.reinforce",
    "ReplayBuffer": "fastrl.buffers.replay",
    "StopTrainingOnMaxEpisodes": "fastrl.callbacks",
    "StopTrainingOnNoModelImprovement": "fastrl.callbacks",
    "StopTrainingOnRewardThreshold": "fastrl.callbacks",
    "SubprocVecEnv": "fastrl.vec_env",
    "TabularMDP": "fastrl.mdp",
    "TensorBoardOutputFormat": "fastrl.logger",
    "VecEnv": "fastrl.vec_env",
    "compute_gae": "fastrl.returns",
    "configure": "fastrl.logger",
    "discounted_returns": "fastrl.returns",
    "evaluate_policy": "fastrl.evaluation",
    "lambda_returns": "fastrl.returns",
    "load_policy": "fastrl.policy",
    "load_results": "fastrl.monitor",
    "make_vec_env": "fastrl.vec_env",
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
    "DummyVecEnv",
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
    "Monitor",
    "MultiInputPolicy",
    "NatureCNN",
    "Policy",
    "PrioritizedReplayBuffer",
    "QLearningResult",
    "ReplayBuffer",
    "StopTrainingOnMaxEpisodes",
    "StopTrainingOnNoModelImprovement",
    "StopTrainingOnRewardThreshold",
    "SubprocVecEnv",
    "TabularMDP",
    "TensorBoardOutputFormat",
    "VecEnv",
    "__version__",
    "compute_gae",
    "configure",
    "discounted_returns",
    "evaluate_policy",
    "lambda_returns",
    "load_policy",
    "load_results",
    "make_vec_env",
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
