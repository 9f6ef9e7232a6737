"""The one table: every operation, who can do it, and what has to come out.

Each line stands for a table of implementations in the module that it comes from, with the result of the obvious program
that each is compared with before it is timed.
"""

from __future__ import annotations

from benches.acting import ACT, PREDICT
from benches.gae import GAE, GAE_TIME_LIMITS
from benches.operation import Operation

OPERATIONS: dict[str, Operation] = {
    "gae": GAE,
    "gae-time-limits": GAE_TIME_LIMITS,
    "predict": PREDICT,
    "act": ACT,
}
