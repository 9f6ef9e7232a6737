"""The page of what fine-tuned tiny models reached, and its curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benches.charts import WIDTH, save
from benches.rlhf.runs import BETAS, EVALUATED, NAMES, SETTINGS, Result
from fastrl.files import replacing
from fastrl.rlhf.tasks import Ascending, Members

SAMPLED = ("ppo", "grpo", "rloo")
LINES: tuple[dict[str, Any], ...] = (
    dict(color="black", linestyle="-", linewidth=2), dict(color="0.35", linestyle="--", linewidth=1.6),
    dict(color="0.55", linestyle=":", linewidth=2),
)  # fmt: skip

HEAD = """# What fine-tuned tiny models reach

Made of {n} runs, {seeds} seeds of each setting, one thread each, which

```bash
python -m benches rlhf --to docs/rlhf-results.md
```

trains; it keeps them in [runs.json](rlhf-results/runs.json), makes only those that are missing, and with `--no-train`
writes the page of what is there. The tasks are those of `fastrl/rlhf/tasks.py`, their settings its `RECIPES`.
Figures are medians of the seeds with the worst and the best in brackets, of {evaluated} responses of the last policy to
prompts that it was not trained on; divergences and entropies are of whole responses, in nats; seconds are those of a
run, making the reference and evaluating among them.
"""
MEMBERS = """
## Members of a class: the optimum is known

The score is the share of a response's 16 tokens that are among 8 of a vocabulary of 32. The reference, a decoder of 0.1
million parameters, draws all tokens with the same probability, so the greatest E[score] − β KL is
J* = βT log(1 − p₀ + p₀ e^{{1/(βT)}}) with p₀ = 1/4, T = 16. The reference itself has p₀.

{table}

![Score and divergence while learning](rlhf-results/members.png)
"""
ASCENDING = """
## Digits in ascending order

The score is the share of steps up among the first six digits; the reference, a decoder that has learnt digits drawn by
chance, has {base}, and 1 is the most. β is adapted towards a divergence of 12; the highest KL is
that of any iteration's 64 responses.

{table}

![Score and divergence while learning](rlhf-results/ascending.png)

Without the leash KL runs away and the entropy is lost; with a short one (β = 10, fixed) the policy stays where it was:

{leashes}

![With and without a leash](rlhf-results/leash.png)
"""
DPO = """
## Preferences

Pairs of the same reference's responses, of which the one with more steps up is preferred, by DPO:

{table}
"""


def write(results: Sequence[Result], to: Path) -> None:
    """Write the page, and beside it the curves of what is there."""
    groups = {name: [result for result in results if result["setting"] == name] for name in SETTINGS}
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        raise ValueError(f"there are no runs to write {to} of")
    members = [f"members-{beta}-{algorithm}" for beta in BETAS for algorithm in SAMPLED]
    ascending = [f"ascending-{algorithm}" for algorithm in SAMPLED]
    leashes = ["ascending-ppo", "ascending-no-leash", "ascending-short-leash"]
    parts, found = [], lambda names: {name: groups[name] for name in names if name in groups}
    if here := found(members):
        parts.append(MEMBERS.format(table=members_table(here)))
        curves([{name: group for name, group in here.items() if f"-{beta}-" in name} for beta in BETAS],
               [f"β = {beta}" for beta in BETAS], to.with_suffix("") / "members.png")  # fmt: skip
    if here := found(ascending):
        base = spread([result["base"] for group in here.values() for result in group])
        parts.append(ASCENDING.format(base=base, table=ascending_table(here), leashes=ascending_table(found(leashes))))
        curves([here], [""], to.with_suffix("") / "ascending.png", Ascending.leash["target_kl"])
        curves([found(leashes)], [""], to.with_suffix("") / "leash.png", names=lambda name: SETTINGS[name].title)
    if here := found(["ascending-dpo"]):
        parts.append(DPO.format(table=dpo_table(here)))
    head = HEAD.format(
        n=sum(map(len, groups.values())), seeds=min(map(len, groups.values())), evaluated=f"{EVALUATED:,}"
    )  # fmt: skip
    text = (head + "".join(parts)).replace("](rlhf-results/", f"]({to.stem}/")
    with replacing(to) as file:
        file.write(text.encode())


def members_table(groups: dict[str, list[Result]]) -> str:
    """Of E[score] − β KL beside its optimum."""
    rows = []
    for name, group in groups.items():
        setting, best = SETTINGS[name], Members().optimum(group[0]["beta"])
        rows.append([
            setting.title, f"{best.objective:.3f}", spread([100 * setting.measure(r) for r in group], 1) + " %",
            f"{spread([r['score'] for r in group])}; {best.score:.3f}",
            f"{spread([r['kl'] for r in group], 1)}; {best.kl:.1f}",
            f"{spread([r['entropy'] for r in group], 1)}; {best.entropy:.1f}", taken(group),
        ])  # fmt: skip
    return table(["", "J*", "of J*", "score; optimum's", "KL; optimum's", "entropy; optimum's", "s"], rows)


def ascending_table(groups: dict[str, list[Result]]) -> str:
    """Of scores and divergences."""
    rows = [
        [SETTINGS[name].title, spread([r["score"] for r in group]), spread([r["kl"] for r in group], 1),
         f"{max(r['highest_kl'] for r in group):.1f}", spread([r["entropy"] for r in group], 1), taken(group)]
        for name, group in groups.items()
    ]  # fmt: skip
    return table(["", "score", "KL", "highest KL", "entropy", "s"], rows)


def dpo_table(groups: dict[str, list[Result]]) -> str:
    """Of preferences that were not learnt from."""
    group = next(iter(groups.values()))
    row = [spread([100 * r["accuracy"] for r in group], 1) + " %", spread([r["base"] for r in group]),
           spread([r["score"] for r in group]), spread([r["kl"] for r in group], 1), taken(group)]  # fmt: skip
    return table(["right of other pairs", "score before", "after", "KL", "s"], [row])


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Median, lowest and highest."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def taken(group: list[Result]) -> str:
    """Seconds of a run."""
    return f"{np.median([sum(result['seconds'].values()) for result in group]):.0f}"


def curves(
    panels: list[dict[str, list[Result]]], titles: list[str], path: Path, target: float | None = None,
    names: Callable[[str], str] = lambda name: NAMES[SETTINGS[name].algorithm],
) -> None:  # fmt: skip
    """Scores above divergences, a column a panel: medians of seeds, in bands from the worst to the best."""
    figure = Figure(figsize=(WIDTH * (1.6 if len(panels) > 1 else 1), 5.2), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex="col", sharey="row", squeeze=False)
    for column, (groups, title) in enumerate(zip(panels, titles, strict=True)):
        top, bottom = axes[:, column]
        for style, (name, group) in zip(LINES, groups.items(), strict=False):
            _band(top, group, "score", style, names(name))
            _band(bottom, group, "kl", style, names(name))
        if target is not None:
            bottom.axhline(target, color="0.7", linewidth=0.8)
            bottom.text(0.01, target, "target", transform=bottom.get_yaxis_transform(), fontsize=9, va="bottom")
        top.set_title(title, fontsize=11)
        bottom.set_xlabel("responses")
        bottom.xaxis.set_major_formatter("{x:,.0f}")
        bottom.locator_params(axis="x", nbins=5)
    axes[0, 0].set_ylabel("score")
    axes[1, 0].set_ylabel("KL of a response, nats")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, handlelength=3.6)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def _band(axes: Axes, group: list[Result], column: str, style: dict[str, Any], label: str) -> None:
    x, y = group[0]["curve"]["responses"], np.array([result["curve"][column] for result in group])
    axes.plot(x, np.median(y, axis=0), label=label, **style)
    axes.fill_between(x, y.min(0), y.max(0), color=style["color"], alpha=0.15, linewidth=0)
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
