"""The one table: every operation, who can do it, and what has to come out.

Each line stands for a table of implementations in the module that it comes from, with the result of the obvious program
that each is compared with before it is timed.
"""

from __future__ import annotations

from benches.environments import ENVIRONMENTS
from benches.gae import GAE, GAE_TIME_LIMITS
from benches.operation import Operation
from benches.returns import DISCOUNTED, N_STEP, VTRACE
from benches.starting import COLD_START, IMPORT
from benches.tabular import BELLMAN_SWEEP, MODIFIED_POLICY_ITERATION, Q_LEARNING, VALUE_ITERATION
from benches.training import TRAINING

OPERATIONS: dict[str, Operation] = {
    "gae": GAE,
    "gae-time-limits": GAE_TIME_LIMITS,
    "returns": DISCOUNTED,
    "returns-n-step": N_STEP,
    "vtrace": VTRACE,
    "environments": ENVIRONMENTS,
    "q-learning": Q_LEARNING,
    "value-iteration": VALUE_ITERATION,
    "modified-policy-iteration": MODIFIED_POLICY_ITERATION,
    "bellman-sweep": BELLMAN_SWEEP,
    "import": IMPORT,
    "cold-start": COLD_START,
    "training": TRAINING,
}
