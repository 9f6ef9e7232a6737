"""`fastrl rlhf --demo`: a tiny language model that learns to say digits in ascending order, before one's eyes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastrl.checks import check_int
from fastrl.commands.common import Failure, check_output, describe, needed, writing_to
from fastrl.commands.plot import COLOURS, ENDINGS
from fastrl.files import replacing
from fastrl.flags import UsageError, parse

SAMPLES = 8


@dataclass
class RlhfOptions:
    """What the demonstration learns by, and where its picture goes.

    Args:
        demo: fine-tune a tiny model, made on the spot, to say digits in ascending order; less than a minute.
        algorithm: PPO over tokens, or one that compares the responses to a prompt.
        responses: how many to learn from; None for those that are enough.
        seed: from which all that is random flows.
        out: the picture of score and divergence, .png, .pdf or .svg.
        force: overwrite the picture if it exists.
        progress: show a bar.
    """

    demo: bool = False
    algorithm: Literal["ppo", "grpo", "rloo"] = "ppo"
    responses: int | None = None
    seed: int = 0
    out: Path = Path("rlhf.png")
    force: bool = False
    progress: bool = True


def run(args: list[str]) -> None:
    """Demonstrate as `args` say."""
    options = parse(RlhfOptions, args, "fastrl rlhf", "Fine-tune a tiny language model by rewards.")
    if not options.demo:
        raise UsageError("fastrl rlhf --demo is all there is; models of your own: fastrl.rlhf.RLHFTrainer in Python")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # read by tqdm when it is imported: keeps logs short
    needed("transformers", "rlhf")
    try:
        check_int("seed", options.seed, 0)
        check_int("responses", 1 if options.responses is None else options.responses)
    except ValueError as error:
        raise UsageError(describe(error)) from error
    if options.seed >= 2**63:
        raise UsageError(f"--seed {options.seed}: it must be below 2**63")
    check_output(options.out, options.force, ENDINGS)
    from fastrl.learners.torch import one_thread

    with one_thread(True):  # more would wait for each other
        demonstrate(options)


def demonstrate(options: RlhfOptions) -> None:
    """Make the reference, show what it says, fine-tune it, show what it says then, draw the curves."""
    from fastrl.rlhf import RLHFTrainer
    from fastrl.rlhf.tasks import RECIPES, RESPONSES, Ascending

    task = Ascending()
    print("A model of 0.1 million parameters learns a corpus of digits drawn by chance ...", flush=True)
    trainer = RLHFTrainer(
        task.model(options.seed), None, task.reward, seed=options.seed, algorithm=options.algorithm,
        **RECIPES[options.algorithm], **task.settings, **task.leash,
    )  # fmt: skip
    prompts, total = task.prompts(seed=options.seed), options.responses or RESPONSES[options.algorithm]
    tell("Before", trainer, task, prompts)
    print(f"{options.algorithm.upper()} rewards steps up among the first six digits ...", flush=True)
    rows: list[tuple[int, float, float]] = []
    trainer.learn(
        prompts, total, progress_bar=options.progress, callback=lambda t: rows.append(
            (t.num_responses, t.metrics["objective/score"], t.metrics["objective/kl"])
        ),
    )  # fmt: skip
    tell("After", trainer, task, prompts)
    with writing_to(options.out.parent):
        draw(rows, task, options)
    print(f"Drawn in {options.out}")
    if trainer.interrupted:
        raise Failure(f"interrupted after {trainer.num_responses:,} responses", 130)


def tell(when: str, trainer: Any, task: Any, prompts: list[list[int]]) -> None:
    """Print the mean score, and some responses."""
    found = trainer.generate(prompts)
    print(f"{when}: mean score {np.mean(task.reward(prompts, found)):.2f} of {task.attainable:.0f}, such as")
    for prompt, response in zip(prompts[:SAMPLES], found, strict=False):
        print(f"  {task.text(prompt):>6} {task.text(response)}")


def draw(rows: Sequence[tuple[int, float, float]], task: Any, options: RlhfOptions) -> None:
    """Write the picture, which takes its place whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    top, bottom = figure.subplots(2, sharex=True)
    x, score, kl = zip(*rows, strict=True)
    top.plot(x, score, color=COLOURS[0], linewidth=2)
    top.set_ylim(0, 1.02 * task.attainable)
    top.set_ylabel("score", fontsize=13)
    bottom.plot(x, kl, color=COLOURS[1], linewidth=2)
    bottom.axhline(task.leash["target_kl"], color="0.5", linestyle="--")
    bottom.text(0.01, task.leash["target_kl"], "target", transform=bottom.get_yaxis_transform(), va="bottom")
    bottom.set_ylabel("KL to the base, nats", fontsize=13)
    bottom.set_xlabel("responses", fontsize=13)
    bottom.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (top, bottom):
        axes.grid(color="0.88")
        axes.spines[["top", "right"]].set_visible(False)
    top.set_title(f"{options.algorithm.upper()} on ascending digits, seed {options.seed}", fontsize=15)
    with replacing(options.out) as file:
        figure.savefig(file, format=options.out.suffix[1:].lower())
