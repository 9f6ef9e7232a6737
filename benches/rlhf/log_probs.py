"""Log-probabilities of 1,024 tokens of a vocabulary of 50,257, forward and backward: memory and time of each way.

python -m benches.rlhf.log_probs

Each way has a process of its own. Memory is what the process held at most, beyond the logits and their gradient, which
are 206 MB each. Time is the median of five.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benches import conditions

TOKENS, VOCABULARY, ROUNDS = 1_024, 50_257, 5


def ways() -> dict[str, Callable[[Any, Any], Any]]:
    """How log-probabilities [B, R] are made of logits [B, R, V] and tokens [B, R]."""
    from fastrl.rlhf.scoring import token_log_probs

    def trl(logits: Any, tokens: Any) -> Any:
        from trl.trainer.utils import selective_log_softmax

        return selective_log_softmax(logits, tokens)

    def plain(logits: Any, tokens: Any) -> Any:
        return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    return {"fastrl": token_log_probs, "TRL's selective_log_softmax": trl, "log_softmax, then gather": plain}


def measure(name: str) -> None:
    """Print the seconds and the bytes of one way."""
    import torch

    torch.set_num_threads(1)
    way = ways()[name]
    logits = torch.randn(8, TOKENS // 8, VOCABULARY, requires_grad=True)
    tokens = torch.randint(VOCABULARY, (8, TOKENS // 8))
    way(logits[:, :1, :9], tokens[:, :1] % 9).sum().backward()  # what is imported and set up once
    logits.grad, before = None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        logits.grad, began = None, time.perf_counter()
        way(logits, tokens).sum().backward()
        seconds.append(time.perf_counter() - began)
    print(statistics.median(seconds), 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def main() -> None:
    """Print the table."""
    whole = 4 * TOKENS * VOCABULARY
    print("| | memory beside logits and gradient, MB | of the logits | ms |\n|---|---|---|---|")
    for name in ways():
        run = subprocess.run([sys.executable, "-m", __spec__.name, name], capture_output=True, text=True)
        if run.returncode:
            print(f"| {name} | left out: {run.stderr.strip().splitlines()[-1]} | | |")
        else:
            seconds, memory = map(float, run.stdout.split())
            print(f"| {name} | {memory / 1e6:.0f} | {memory / whole:.1f} | {1e3 * seconds:.0f} |", flush=True)


if __name__ == "__main__":
    conditions.limit_threads()
    measure(sys.argv[1]) if sys.argv[1:] else main()
