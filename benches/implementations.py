"""The one table: every operation, who can do it, and what has to come out.

Each line stands for a table of implementations in the module that it comes from, with the result of the obvious program
that each is compared with before it is timed.
"""

from __future__ import annotations

from benches import updating
from benches.acting import ACT
from benches.environments import ENVIRONMENTS
from benches.frames import FRAME_STACKS
from benches.gae import GAE, GAE_TIME_LIMITS
from benches.interop import CLEANRL_ADVANTAGES, SB3_ADVANTAGES, SB3_MINIBATCHES, SB3_RUNS, TORCHRL_ADVANTAGES
from benches.n_step import REPLAY_N_STEP, REPLAY_N_STEP_ENDLESS, REPLAY_N_STEP_TIME_LIMITS
from benches.operation import Operation
from benches.predicting import PREDICT
from benches.prioritized import PRIORITISED_ANY_SCALE, PRIORITISED_SAMPLE, PRIORITISED_UPDATE
from benches.replay import REPLAY_ADD, REPLAY_ADD_BATCH, REPLAY_SAMPLE
from benches.returns import DISCOUNTED, N_STEP, VTRACE
from benches.rlhf.iteration import ITERATION, ITERATION_GRPO, ITERATION_RLOO
from benches.starting import COLD_START, COLD_START_EMPTY, FIRST_ACTION, IMPORT
from benches.tabular import BELLMAN_SWEEP, MODIFIED_POLICY_ITERATION, Q_LEARNING, VALUE_ITERATION
from benches.telling import LOGGING
from benches.tokens import GROUP_ADVANTAGES, TOKEN_GAE, TOKEN_K3, TOKEN_KL, WHITENING
from benches.training import TRAINING

OPERATIONS: dict[str, Operation] = {
    "training": TRAINING,
    "predict": PREDICT,
    "act": ACT,
    "update-ppo": updating.PPO,
    "update-ppo-clipped": updating.PPO_CLIPPED,
    "update-dqn": updating.DQN,
    "update-dqn-clipped": updating.DQN_CLIPPED,
    "update-dqn-squares": updating.DQN_SQUARES,
    "update-reinforce": updating.REINFORCE,
    "environments": ENVIRONMENTS,
    "gae": GAE,
    "gae-time-limits": GAE_TIME_LIMITS,
    "returns": DISCOUNTED,
    "returns-n-step": N_STEP,
    "vtrace": VTRACE,
    "replay-add": REPLAY_ADD,
    "replay-add-batch": REPLAY_ADD_BATCH,
    "replay-sample": REPLAY_SAMPLE,
    "replay-n-step": REPLAY_N_STEP,
    "replay-n-step-time-limits": REPLAY_N_STEP_TIME_LIMITS,
    "replay-n-step-endless": REPLAY_N_STEP_ENDLESS,
    "replay-prioritised-sample": PRIORITISED_SAMPLE,
    "replay-prioritised-any-scale": PRIORITISED_ANY_SCALE,
    "replay-prioritised-update": PRIORITISED_UPDATE,
    "frame-stacks": FRAME_STACKS,
    "q-learning": Q_LEARNING,
    "value-iteration": VALUE_ITERATION,
    "modified-policy-iteration": MODIFIED_POLICY_ITERATION,
    "bellman-sweep": BELLMAN_SWEEP,
    "sb3-advantages": SB3_ADVANTAGES,
    "sb3-minibatches": SB3_MINIBATCHES,
    "sb3-run": SB3_RUNS,
    "cleanrl-advantages": CLEANRL_ADVANTAGES,
    "torchrl-advantages": TORCHRL_ADVANTAGES,
    "token-gae": TOKEN_GAE,
    "group-advantages": GROUP_ADVANTAGES,
    "token-kl": TOKEN_KL,
    "token-kl-k3": TOKEN_K3,
    "whitening": WHITENING,
    "rlhf-iteration": ITERATION,
    "rlhf-iteration-grpo": ITERATION_GRPO,
    "rlhf-iteration-rloo": ITERATION_RLOO,
    "logging": LOGGING,
    "import": IMPORT,
    "cold-start": COLD_START,
    "cold-start-empty": COLD_START_EMPTY,
    "first-action": FIRST_ACTION,
}
