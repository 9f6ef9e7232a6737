"""The page's first part: who is ahead, where ours is worse, how soon all of them are done."""

from __future__ import annotations

import numpy as np

from benches.learning.comparison import FEW, MEASURES, OURS, Comparison, Together, comparisons, times_as_fast
from benches.learning.settings import SB3
from benches.learning.statistics import Estimate
from benches.learning.table import Cells, Clock, setting_of
from benches.learning.words import SHORT, count, interval, link, listed, number, seconds
from benches.report import table as markdown
from benches.wording import times, with_spread

WORDS = {"ahead": "ahead", "overlap": "intervals overlap", "behind": "behind"}


def in_short(table: Cells, clock: Clock) -> str:
    """Counts of settings ahead, level and behind, all settings together, and what that means."""
    found = [c for row in table.values() for c in comparisons(row).values() if c.enough]
    libraries = [x for x in OURS if any(c.library == x for c in found)]
    if not libraries:
        return f"## In short\n\nNothing can be compared: no setting has two seeds of both fastrl and {SB3}."
    n = len({c.setting.key for c in found})
    seeds = min(min(len(c.ours.runs), len(c.theirs.runs)) for c in found)
    text = f"## In short\n\nfastrl beside {SB3} in {count(n, 'setting')}, at least {count(seeds, 'seed')} of each:\n\n"
    rows = [
        [f"{name}: {words}", *(_count(found, x, measure, verdict) for x in libraries)]
        for measure, name in MEASURES.items() for verdict, words in WORDS.items()
    ]  # fmt: skip
    rows.append(["times as fast, median setting", *(_fastness(found, x, clock) for x in libraries)])
    text += markdown(["settings", *libraries], rows)
    if seeds < FEW:
        text += f"\n\n**{count(seeds, 'seed').capitalize()} are few: intervals of so few are too narrow.**"
    text += (
        f"\n\nWhere intervals overlap, {count(seeds, 'seed')} cannot tell the two apart; that proves no equality. "
        "[Where fastrl is worse](#where-fastrl-is-worse) lists each figure that is lower, sure or not."
    )
    whole = Together(table)
    return "\n\n".join(filter(None, (text, _together(whole), _meaning(found, libraries, whole))))


def _count(found: list[Comparison], library: str, measure: str, verdict: str) -> str:
    of = [c for c in found if c.library == library]
    return f"{sum(c.verdict(measure) == verdict for c in of)} of {len(of)}"


def _fastness(found: list[Comparison], library: str, clock: Clock) -> str:
    of = [times_as_fast(c.ours, c.theirs, clock) for c in found if c.library == library]
    medians = [ratio.median for ratio in of if ratio]
    return f"{times(float(np.median(medians)))} ({times(min(medians))} to {times(max(medians))})" if medians else "–"


def _together(whole: Together) -> str:
    if not whole.rows:
        return ""
    text = (
        f"Taken together, {count(whole.seeds, 'seed')} of each of the {count(len(whole.rows), 'setting')} that all "
        "have; 0 is what a random policy gets, 1 what is promised, the score that a setting's section names:\n\n"
    )  # fmt: skip
    rows = [[x, *(interval(whole.iqm(x, measure)) for measure in MEASURES)] for x in whole.libraries]
    return text + markdown(["IQM", *MEASURES.values()], rows)


def _meaning(found: list[Comparison], libraries: list[str], whole: Together) -> str:
    """In words: what is sure, in which settings, and how likely a run of ours is better."""
    lines = []
    for library in libraries:
        said = []
        for measure, name in MEASURES.items():
            sure = {
                verdict: [link(c.setting) for c in found if c.library == library and c.verdict(measure) == verdict]
                for verdict in ("ahead", "behind")
            }
            places = [f"{verdict} in {listed(names)}" for verdict, names in sure.items() if names]
            said.append(f"by {name} {' and '.join(places) or 'neither ahead nor behind anywhere'}")
        lines.append(f"- **{library}** is {'; '.join(said)}.")
    if whole.rows and SB3 in whole.libraries and whole.seeds > 1:
        for library in libraries:
            if library in whole.libraries:
                odds = {measure: whole.improvement(library, measure) for measure in MEASURES}
                said = [f"{interval(x)} by {MEASURES[measure]}, {_odds(x)}" for measure, x in odds.items()]
                lines.append(f"- A run of {library} is better than one of {SB3} with probability {'; '.join(said)}.")
        lines.append("- That counts ties half, over the settings taken together: 0.5 is a coin's.")
    return "\n".join(lines)


def _odds(x: Estimate) -> str:
    if x.low <= 0.5 <= x.high:
        return "which is not told from a coin's"
    return "more than a coin's" if x.low > 0.5 else "less than a coin's"


def worse(table: Cells, clock: Clock) -> str:
    """Every figure of ours that is below Stable-Baselines3's, those first whose intervals are apart."""
    found = [c for row in table.values() for c in comparisons(row).values() if c.enough]
    if not found:
        return ""
    parts = []
    for sure, words in ((True, "The intervals do not overlap:"), (False, "Lower, but the intervals overlap:")):
        rows = [
            [_place(c), name, *map(interval, c.pair(measure))]
            for measure, name in MEASURES.items() for c in found
            if c.pair(measure)[0].value < c.pair(measure)[1].value and (c.verdict(measure) == "behind") == sure
        ]  # fmt: skip
        parts += [words, markdown(["where", "by", "fastrl", SB3], rows)] if rows else []
    rows = []
    for c in found:
        for name, (ours, theirs) in {
            "all steps": (c.ours.seconds(clock), c.theirs.seconds(clock)),
            "promised": (c.ours.arrival(clock), c.theirs.arrival(clock)),
        }.items():
            if np.median(ours) > np.median(theirs):
                rows.append([_place(c), name, seconds(ours), seconds(theirs)])
    parts += ["Later, in seconds of training:", markdown(["where", "until", "fastrl", SB3], rows)] if rows else []
    return "\n\n".join(["## Where fastrl is worse", *(parts or ["Nowhere: no figure of fastrl's is worse."])])


def _place(c: Comparison) -> str:
    return f"{link(c.setting)}, {SHORT[c.library]}"


def scores(table: Cells) -> str:
    """IQMs of all libraries in all settings, with verdicts."""
    text = "## Scores\n\nIQMs; how they stand to Stable-Baselines3's is said where the intervals do not overlap.\n\n"
    for measure, name in MEASURES.items():
        rows = []
        for row in table.values():
            beside = comparisons(row)
            cells = []
            for x in SHORT:
                if x not in row or not row[x].runs:
                    cells.append("–")
                    continue
                verdict = beside[x].verdict(measure) if x in beside and beside[x].enough else "overlap"
                cells.append(number(getattr(row[x], measure).value) + ("" if verdict == "overlap" else f", {verdict}"))
            rows.append([link(setting_of(row)), *cells])
        text += markdown([name, *SHORT.values()], rows) + "\n\n"
    return text


def speed(table: Cells, clock: Clock) -> str:
    """Seconds of training, and until what is promised is reached."""
    first = {x: [run["first"] for row in table.values() if x in row for run in row[x].runs if "first" in run]
             for x in SHORT}  # fmt: skip
    loading = [f"{np.median(s):.1f} s {SHORT[x]}" for x, s in first.items() if s]
    text = "## How soon\n\nSeconds of training all steps: medians over seeds; then how many times as fast that is as "
    text += f"{SB3}: the median over seeds of ratios of runs of the same seed, in brackets the quartiles.\n\n"
    rows, arrivals = [], []
    for row in table.values():
        present = {x: row[x] for x in SHORT if x in row and row[x].runs}
        if not present:
            continue
        cells, until = {}, {}
        for x, cell in present.items():
            ratio = times_as_fast(cell, present[SB3], clock) if x != SB3 and SB3 in present else None
            cells[x] = seconds(cell.seconds(clock)) + (f": {with_spread(ratio)}" if ratio else "")
            until[x] = seconds(cell.arrival(clock))
        name = link(setting_of(row))
        rows.append([name, *(cells.get(x, "–") for x in SHORT)])
        arrivals.append([name, *(until.get(x, "–") for x in SHORT)])
    text += markdown(["all steps, s", *SHORT.values()], rows)
    text += "\n\nSeconds until a mark's evaluation first reaches what is promised, of the median seed; a dash where "
    text += f"that one never does:\n\n{markdown(['promised, s', *SHORT.values()], arrivals)}\n\n"
    if loading:
        text += "Not in these seconds is a process's first small run, which imports, loads and, where nothing is in a "
        text += f"cache yet, compiles what is needed: {listed(loading)} on the wall, medians."
    return text
