"""Where the time of an iteration goes: python -m benches.rlhf.shares"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benches import conditions

ROUNDS = 5
PARTS = ("generation", "judging and scoring", "advantages", "update", "values and the rest")


def timed(spent: dict[str, float], part: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose seconds are added to those of `part`."""

    def call(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - began

    return call


def shares(size: Any, shared: bool) -> dict[str, float]:
    """Of an iteration, medians of rounds; and its seconds."""
    from benches.rlhf.iteration import ours, prompts
    from fastrl.rlhf import trainer as module

    trainer, spent, found = ours(size, shared), dict.fromkeys(PARTS, 0.0), []
    trainer._sample = timed(spent, "generation", trainer._sample)  # type: ignore[method-assign]
    trainer._ref_log_probs = timed(spent, "judging and scoring", trainer._ref_log_probs)  # type: ignore[method-assign]
    trainer._descend = timed(spent, "update", trainer._descend)  # type: ignore[method-assign]
    judge, made = module.judge, module.make_experience
    module.judge = timed(spent, "judging and scoring", judge)
    module.make_experience = timed(spent, "advantages", made)
    try:
        for _ in range(ROUNDS + 1):
            spent.update(dict.fromkeys(PARTS, 0.0))
            began = time.perf_counter()
            trainer.learn(prompts(size), size.batch)
            whole = time.perf_counter() - began
            spent["values and the rest"] = whole - sum(spent.values())
            found.append({"s": whole, **{part: seconds / whole for part, seconds in spent.items()}})
    finally:
        module.judge, module.make_experience = judge, made
    return {name: statistics.median(each[name] for each in found[1:]) for name in found[0]}


def main() -> None:
    """Print the table."""
    import torch

    from benches.rlhf.iteration import SIZES

    torch.set_num_threads(1)
    print(f"| | s | {' | '.join(f'{part}, %' for part in PARTS)} |\n|---|---|{'---|' * len(PARTS)}")
    for name, size in SIZES.items():
        for shared, how in ((True, "values of the policy's states"), (False, "a value model")):
            found = shares(size, shared)
            cells = " | ".join(f"{100 * found[part]:.1f}" for part in PARTS)
            print(f"| {name}, {how} | {found['s']:.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    conditions.limit_threads()
    main()
