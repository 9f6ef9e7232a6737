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
    from fastrl.seeding import set_random_seed
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
    "set_random_seed": "fastrl.seeding",
    "vtrace": "fastrl.returns",
}

_ROOMS = ("distributed", "rlhf")  # what `import fastrl` makes known, and loads where it is used

_NO_BOX = "for Box actions use PPO"
_BY_NAME = 'say it in words: PPO("MlpPolicy", ...), with policy_kwargs, or a torch.nn.Module of your own'
_WRAP_ONE = "wrap the single environments, by make_vec_env(..., wrapper_class=...) or a function that makes one"
_ELSEWHERE = {  # names of Stable-Baselines3's that do not exist here, and what to use
    "A2C": "use PPO, its successor",
    "ActionNoise": "DQN explores by ε, PPO by its own distribution",
    "ActorCriticCnnPolicy": _BY_NAME,
    "ActorCriticPolicy": _BY_NAME,
    "AtariWrapper": "use gymnasium.wrappers.AtariPreprocessing",
    "BaseAlgorithm": "PPO, DQN and REINFORCE share fastrl.algorithms.base.Algorithm",
    "BasePolicy": "a policy here is any torch.nn.Module, see fastrl.networks",
    "DDPG": _NO_BOX,
    "DQNPolicy": _BY_NAME,
    "DictReplayBuffer": "ReplayBuffer takes Dict observations too",
    "Figure": "a KVWriter of your own can write whatever record() is given",
    "HER": "there is no hindsight replay",
    "HParam": "a KVWriter of your own can write whatever record() is given",
    "HerReplayBuffer": "there is no hindsight replay",
    "Image": "a KVWriter of your own can write whatever record() is given",
    "LogEveryNTimesteps": "use learn(..., log_interval=...)",
    "MaskablePPO": "a module of your own can set the logits of what may not be done to -inf",
    "NormalActionNoise": "DQN explores by ε, PPO by its own distribution",
    "OrnsteinUhlenbeckActionNoise": "DQN explores by ε, PPO by its own distribution",
    "ProgressBarCallback": "use learn(..., progress_bar=True)",
    "QRDQN": "use DQN",
    "RecurrentPPO": "stack observations, with gymnasium.wrappers.FrameStackObservation",
    "SAC": _NO_BOX,
    "TD3": _NO_BOX,
    "TQC": _NO_BOX,
    "TRPO": "use PPO",
    "VecCheckNan": "leave it out: every reward and observation is checked already",
    "VecEnvWrapper": _WRAP_ONE,
    "VecExtractDictObs": "MultiInputPolicy takes Dict observations; or wrap the single environments",
    "VecFrameStack": f"{_WRAP_ONE}: gymnasium.wrappers.FrameStackObservation",
    "VecMonitor": "leave it out: infos have the episodes already; Monitor writes them to files",
    "VecNormalize": "pass normalize=True to PPO, DQN or REINFORCE: the statistics are part of the model and its file",
    "VecTransposeImage": "leave it out: CnnPolicy takes images with their channels first or last",
    "VecVideoRecorder": 'record one environment: gymnasium.wrappers.RecordVideo, or "fastrl play"',
    "Video": "a KVWriter of your own can write whatever record() is given",
    "check_env": "use gymnasium.utils.env_checker.check_env",
    "env_util": "use make_vec_env, from fastrl import make_vec_env",
    "explained_variance": "model.metrics has train/explained_variance",
    "get_linear_fn": 'learning_rate and clip_range take "lin_0.001", or a function of the remaining progress',
    "get_system_info": "fastrl --version, and pip list",
    "make_atari_env": "use make_vec_env(..., wrapper_class=gymnasium.wrappers.AtariPreprocessing)",
    "obs_as_tensor": "torch.as_tensor does it",
    "plot_results": 'use "fastrl plot", or load_results and a plot of your own',
    "results_plotter": 'use "fastrl plot", or load_results and a plot of your own',
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
    "set_random_seed",
    "vtrace",
]


def __getattr__(name: str) -> Any:
    if name in _ELSEWHERE:
        raise ImportError(f"fastrl has no {name}: {_ELSEWHERE[name]}")
    if name in _ROOMS:
        return importlib.import_module(f"fastrl.{name}")
    if name not in _HOME:
        import difflib

        close = difflib.get_close_matches(name, __all__, n=1)
        raise AttributeError(
            f"module 'fastrl' has no attribute {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
