"""How the page names settings and writes figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from benches.learning.settings import COMPILED, PRESET, SB3, TORCH, Setting
from benches.learning.statistics import Estimate
from benches.report import slug
from benches.wording import digits

SHORT = {COMPILED: "compiled", TORCH: "Torch", SB3: "SB3"}


def number(x: float) -> str:
    """A return or a share: "475", "−83.4", "0.97"."""
    text = f"{x:,.1f}".removesuffix(".0") if abs(x) >= 10 else f"{x:.2f}"
    return text.replace("-", "−")


def interval(x: Estimate) -> str:
    """The figure and its interval; the figure alone where the interval is no wider."""
    texts = number(x.value), number(x.low), number(x.high)
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


def seconds(x: np.ndarray) -> str:
    """The median; a dash where it is not finite."""
    median = float(np.median(x))
    return digits(median, 3) if np.isfinite(median) else "–"


def count(n: int, noun: str) -> str:
    """ "1 seed", "10 seeds"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def heading(setting: Setting) -> str:
    """Of its section."""
    whose = {"ours": "fastrl's preset", "published": "published", "course": "the course's"}[setting.whose]
    return f"{setting.title}, {whose}"


def brief(setting: Setting) -> str:
    """As tables name it: without the environment's version."""
    return f"{setting.algorithm}, {setting.env.split('-v')[0]}" + (", preset" if setting.whose == "ours" else "")


def named(setting: Setting, library: str) -> str:
    """The library; Q-learning has no preset, only defaults."""
    return "fastrl, q_learning's defaults" if library == PRESET and setting.algorithm == "Q-learning" else library


def link(setting: Setting) -> str:
    """The same, leading to its section."""
    return f"[{brief(setting)}](#{slug(heading(setting))})"


def options(values: dict[str, Any]) -> str:
    """ "n_steps 32, net_arch [128, 128]"."""
    flat = {**values, **(values.get("policy_kwargs") or {})}
    flat.pop("policy_kwargs", None)
    return ", ".join(f"{name} {_value(value)}" for name, value in flat.items())


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
