"""Fine-tuning of tiny models whose optimum, or greatest score, is known: what each run is, and what it reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from fastrl.learners.torch import one_thread
from fastrl.rlhf import RLHFTrainer
from fastrl.rlhf.tasks import RECIPES, RESPONSES, Ascending, Members

BETAS = (0.01, 0.03)
EVALUATED = 2_048  # responses, of the last policy
PAIRS = (16_000, 1_000)  # prompts of the pairs that are learnt from, and of those that are not
POINTS = 50  # of a curve, means of the iterations between them
SHOWN = ("score", "kl", "kl_coef", "entropy")
Result = dict[str, Any]


class Setting(NamedTuple):
    """A task, and how it is learnt."""

    title: str
    task: Any
    algorithm: str
    options: dict[str, Any]
    bound: float  # what every seed has to reach
    measure: Callable[[Result], float]

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the trainer, but for the seed."""
        return {"algorithm": self.algorithm, **RECIPES[self.algorithm], **self.task.settings, **self.options}


def share_of_optimum(result: Result) -> float:
    """(E[score] − β KL) / J*."""
    beta = result["beta"]
    return (result["score"] - beta * result["kl"]) / Members().optimum(beta).objective


def score(result: Result) -> float:
    """The mean score."""
    return float(result["score"])


NAMES = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO"}
SETTINGS: dict[str, Setting] = {
    f"members-{beta}-{algorithm}": Setting(
        f"{NAMES[algorithm]}, β = {beta}", Members(), algorithm, dict(kl_coef=beta), 0.85, share_of_optimum
    )
    for beta in BETAS
    for algorithm in ("ppo", "grpo", "rloo")
}
SETTINGS |= {
    f"ascending-{algorithm}": Setting(NAMES[algorithm], Ascending(), algorithm, Ascending.leash, 0.85, score)
    for algorithm in ("ppo", "grpo", "rloo")
}
SETTINGS |= {
    "ascending-no-leash": Setting("PPO, β = 0", Ascending(), "ppo", dict(kl_coef=0.0), 0.0, score),
    "ascending-short-leash": Setting("PPO, β = 10", Ascending(), "ppo", dict(kl_coef=10.0), 0.0, score),
    "ascending-dpo": Setting("DPO", Ascending(), "dpo", {}, 0.9, lambda result: float(result["accuracy"])),
}


def train(name: str, seed: int, share: float = 1.0) -> Result:
    """The curve of a run, and what its last policy does.

    Args:
        name: of the setting.
        seed: of the model, its prompts and the run.
        share: of the responses that the setting asks for.
    """
    with one_thread(True):
        setting, began = SETTINGS[name], time.perf_counter()
        task, policy = setting.task, setting.task.model(seed)
        trainer = RLHFTrainer(policy, None, task.reward, seed=seed, **setting.arguments)
        base = measured(trainer, task, seed)
        prepared, n = time.perf_counter(), int(share * RESPONSES[setting.algorithm])
        rows: list[dict[str, float]] = []

        def note(trainer: RLHFTrainer) -> None:
            rows.append({"responses": trainer.num_responses, **trainer.metrics})

        found: Result = {}
        if setting.algorithm == "dpo":
            pairs = [drawn(trainer, task, number, first) for first, number in enumerate(PAIRS)]
            trainer.learn_pairs(*pairs[0], n, note)
            found["accuracy"] = trainer.preference_accuracy(*pairs[1])
        else:
            trainer.learn(task.prompts(seed=seed), n, note)
        seconds = {"preparing": prepared - began, "training": time.perf_counter() - prepared}
        found |= measured(trainer, task, seed)
        return {
            "setting": name, "seed": seed, "beta": setting.arguments["kl_coef"],
            "base": base["score"], **found, "seconds": seconds, "curve": curve(rows),
            "highest_kl": max((row["objective/kl"] for row in rows if "objective/kl" in row), default=0.0),
        }  # fmt: skip


def drawn(trainer: RLHFTrainer, task: Any, n: int, seed: int) -> Any:
    """Pairs of the reference's own responses to n prompts."""
    prompts = task.prompts(n, 1_000 + seed)
    return task.pairs(prompts, *(trainer.generate(prompts, batch_size=1_000) for _ in range(2)))


def measured(trainer: RLHFTrainer, task: Any, seed: int) -> dict[str, float]:
    """Means over responses to prompts that were not trained on; divergence and entropy are of whole responses."""
    prompts = task.prompts(EVALUATED, 10_000 + seed)
    found = trainer._sample(prompts)
    with torch.no_grad():
        ref = trainer._ref_log_probs(found)
    own, mask, scores = found.log_probs, found.mask, task.reward(prompts, trainer._decode(found))
    return {
        "score": float(np.mean(scores)), "kl": float(((own - ref) * mask).sum(1).mean()),
        "entropy": float(-(own * mask).sum(1).mean()), "ended": float(found.ended.float().mean()),
    }  # fmt: skip


def curve(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """The columns of a curve, each of at most POINTS numbers."""
    parts = [part for part in np.array_split(np.arange(len(rows)), min(POINTS, len(rows))) if len(part)]
    columns = {"responses": [float(rows[part[-1]]["responses"]) for part in parts]}
    for name in SHOWN:
        if f"objective/{name}" in rows[0]:
            columns[name] = [round(float(np.mean([rows[i][f"objective/{name}"] for i in part])), 4) for part in parts]
    return columns
