"""The one table: every operation, who can do it, and what has to come out.

Each line stands for a table of implementations in the module that it comes from, with the result of the obvious program
that each is compared with before it is timed.
"""

from __future__ import annotations

from benches import updating
from benches.acting import ACT
from benches.gae import GAE, GAE_TIME_LIMITS
from benches.operation import Operation
from benches.predicting import PREDICT
from benches.returns import DISCOUNTED, N_STEP, VTRACE

OPERATIONS: dict[str, Operation] = {
    "gae": GAE,
    "gae-time-limits": GAE_TIME_LIMITS,
    "returns": DISCOUNTED,
    "returns-n-step": N_STEP,
    "vtrace": VTRACE,
    "predict": PREDICT,
    "act": ACT,
    "update-ppo": updating.PPO,
    "update-ppo-clipped": updating.PPO_CLIPPED,
    "update-dqn": updating.DQN,
    "update-dqn-clipped": updating.DQN_CLIPPED,
    "update-dqn-squares": updating.DQN_SQUARES,
    "update-reinforce": updating.REINFORCE,
}
