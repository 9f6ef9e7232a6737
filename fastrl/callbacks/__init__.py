"""Callbacks for `learn`, in the shape of Stable-Baselines3's.

Those of this module look at the model after iterations, so that whole rollouts and rounds still run as one kernel. A
class of your own that overrides `_on_step` is called after every step of the environments, which are then stepped one
by one; `each_step = False` in its body makes it look after iterations too.
"""

from fastrl.callbacks.base import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    EventCallback,
    EveryNTimesteps,
    as_callback,
)
from fastrl.callbacks.evaluating import (
    EvalCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from fastrl.callbacks.saving import CheckpointCallback

__all__ = ["BaseCallback", "CallbackList", "CheckpointCallback", "ConvertCallback", "EvalCallback", "EventCallback",
           "EveryNTimesteps", "StopTrainingOnMaxEpisodes", "StopTrainingOnNoModelImprovement",
           "StopTrainingOnRewardThreshold", "as_callback"]  # fmt: skip
