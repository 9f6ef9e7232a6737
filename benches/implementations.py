"""The one table: every operation, who can do it, and what has to come out.

Each line stands for a table of implementations in the module that it comes from, with the result of the obvious program
that each is compared with before it is timed.
"""

from __future__ import annotations

from benches.acting import ACT, PREDICT
from benches.gae import GAE, GAE_TIME_LIMITS
from benches.operation import Operation
from benches.updating import (
    UPDATE_DQN,
    UPDATE_DQN_CLIPPED,
    UPDATE_DQN_SQUARES,
    UPDATE_PPO,
    UPDATE_PPO_CLIPPED,
    UPDATE_REINFORCE,
)

OPERATIONS: dict[str, Operation] = {
    "gae": GAE,
    "gae-time-limits": GAE_TIME_LIMITS,
    "predict": PREDICT,
    "act": ACT,
    "update-ppo": UPDATE_PPO,
    "update-ppo-clipped": UPDATE_PPO_CLIPPED,
    "update-dqn": UPDATE_DQN,
    "update-dqn-clipped": UPDATE_DQN_CLIPPED,
    "update-dqn-squares": UPDATE_DQN_SQUARES,
    "update-reinforce": UPDATE_REINFORCE,
}
