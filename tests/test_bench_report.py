"""The page says what the results say: against figures worked out by hand from made-up rounds."""

from __future__ import annotations

import json
import math
import re
import struct

import numpy as np
import pytest

from benches import charts
from benches.report import text, write
from benches.results import Ahead, ResultsError, ahead, crossings, read
from benches.wording import about, duration, times, with_spread

OURS = [1e-6, 2e-6, 4e-6]


def benchmark(implementation, seconds, role="peer", case="(128, 8)", axis=None, size=None, operation="gae", **more):
    title = {"gae": "GAE", "add": "Replay: add"}[operation]
    info = dict(
        operation=operation, title=title, unit="call", case=case, quick=axis is None and case == "(128, 8)",
        implementation=implementation, role=role, axis=axis, size=size, per=1, operations=None, seconds=seconds,
    )  # fmt: skip
    return {"name": f"test[{implementation}]", "group": f"{title}: {case}", "extra_info": info | more}


def sweep(axis, sizes, **series):
    """Of ours and `series`, one time a size; what is None was not measured."""
    return [
        benchmark(name, [t], "ours" if name == "fastrl" else "peer", f"{axis} {size:,}", axis, size)
        for name, ts in series.items()
        for size, t in zip(sizes, ts, strict=True)
        if t is not None
    ]


def results(tmp_path, benchmarks, **more):
    path = tmp_path / "RESULTS.json"
    path.write_text(json.dumps({"benchmarks": benchmarks, "datetime": "2026-11-20T12:30:01.5+00:00", **more}))
    return path


def page(tmp_path, benchmarks, **more):
    return text(read(results(tmp_path, benchmarks, **more)), "RESULTS.json", "benchmarks")


def part(page, title):
    """What stands under a heading."""
    return re.split(r"^#+ ", page.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


# -- figures -----------------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_ratios_of_rounds_not_the_ratio_of_medians(tmp_path):
    # Ratios 10, 1.5, 2: their median is 2, that of the medians would be 1.5 ... 4 / 2.
    rows = [benchmark("fastrl", OURS, "ours"), benchmark("rlox", [10e-6, 3e-6, 8e-6])]
    case = read(results(tmp_path, rows)).operations[0].cases[0]
    assert case.ratio("rlox")[:3] == pytest.approx((2.0, 1.75, 6.0))
    assert case.ratio("fastrl")[:3] == (1, 1, 1)
    assert "| rlox | 8.00 μs | 2.0 (1.75–6.0) |" in page(tmp_path, rows)
    assert "| fastrl | 2.00 μs | – |" in page(tmp_path, rows)


def test_ratios_of_random_rounds_are_numpys(tmp_path):
    rng = np.random.default_rng()
    for rounds in (1, 2, 7, 24):
        ours, theirs = rng.lognormal(size=(2, rounds))
        rows = [benchmark("fastrl", [*ours], "ours"), benchmark("rlox", [*theirs])]
        ratio = read(results(tmp_path, rows)).operations[0].cases[0].ratio("rlox")
        assert ratio[:3] == pytest.approx(np.quantile(theirs / ours, [0.5, 0.25, 0.75]))
        assert ("(" in with_spread(ratio)) == (rounds > 1)


def test_times_are_per_unit_and_gflops_of_a_call(tmp_path):
    rows = [benchmark("fastrl", OURS, "ours", per=100, operations=4e5, unit="step")]
    assert "| per step | times as long | GFLOP/s |" in page(tmp_path, rows)
    assert "| fastrl | 20.0 ns | – | 200 |" in page(tmp_path, rows)  # 4e5 in 2 μs


@pytest.mark.parametrize(
    ("written", "value"),
    [(duration(1.6234e-6), "1.62 μs"), (duration(0.2048), "205 ms"), (duration(9.996e-7), "1.00 μs"),
     (duration(0.99999e-3), "1.00 ms"), (duration(99.96), "100 s"), (duration(5e-11), "0.0500 ns"),
     (duration(4321.0), "4,321 s"), (times(295.4), "295"), (times(23.4), "23"), (times(9.96), "10"),
     (times(1.618), "1.62"), (times(0.9974), "0.997"), (times(0.85), "0.85"), (times(0.012), "0.012"),
     (about(3141.0), "3,100"), (about(14.6), "15"), (about(9.99e6), "10,000,000"), (about(1.23), "1.2")],
)  # fmt: skip
def test_how_figures_are_written(written, value):
    assert written == value


# -- who is ahead ------------------------------------------------------------------------------------------------


def test_a_peer_is_compared_with_what_hands_out_the_same(tmp_path):
    rows = [
        benchmark("fastrl", [1e-6] * 3, "ours"), benchmark("fastrl, tensors", [4e-6] * 3, "ours"),
        benchmark("SB3", [2e-6] * 3, beside="fastrl, tensors"), benchmark("rlox", [3e-6] * 3, beside="not there"),
    ]  # fmt: skip
    text = page(tmp_path, rows)
    assert "| SB3 (beside fastrl, tensors) | 2.00 μs | 0.50 (0.50–0.50) |" in text
    assert "| rlox | 3.00 μs | 3.0 (3.0–3.0) |" in text
    assert "SB3 (beside fastrl, tensors) | 0.50" in part(text, "Where a peer is ahead")
    assert part(text, "The most important ratios").count("0.50 (0.50–0.50) (beside fastrl, tensors) |") == 2


def test_where_a_peer_is_ahead_the_worst_comes_first(tmp_path):
    rows = [
        benchmark("fastrl", [2e-6] * 3, "ours"), benchmark("rlox", [1.8e-6, 1.9e-6, 2.2e-6]),
        benchmark("cpprb", [4e-6] * 3), benchmark("copy", [1e-6] * 3, "bound"),
        *sweep("environments", [1, 64], fastrl=[1e-6, 1e-6], rlox=[2e-6, 0.5e-6]),
    ]  # fmt: skip
    found = part(page(tmp_path, rows), "Where a peer is ahead")
    assert "In 2 of 4 comparisons" in found
    lines = [line for line in found.splitlines() if line.startswith("| [GAE]")]
    assert lines == [
        "| [GAE](#gae)<br>environments 64 | rlox | 0.50 |",
        "| [GAE](#gae)<br>(128, 8) | rlox | 0.95 (0.93–1.03), even within the spread |",
    ]


def test_it_says_nowhere_when_so_and_nothing_without_peers(tmp_path):
    ours = benchmark("fastrl", OURS, "ours")
    alone, beside = page(tmp_path, [ours]), page(tmp_path, [ours, benchmark("rlox", [1, 1, 1])])
    assert "Nowhere (comparisons: 1)" in part(beside, "Where a peer is ahead")
    assert "Nothing can be said" in part(alone, "Where a peer is ahead")


def test_the_most_important_ratio_is_the_fastest_peers_and_stable_baselines3s(tmp_path):
    rows = [
        benchmark("fastrl", [1e-6], "ours", "(2048, 1)"), benchmark("rlox", [1e-9], "peer", "(2048, 1)"),
        benchmark("fastrl", [1e-6], "ours"), benchmark("fastrl, out=", [0.5e-6], "ours"),
        benchmark("loop", [2e-6], "plain"), benchmark("copy", [1e-7], "bound"), benchmark("rlox", [14e-6]),
        benchmark("stable_baselines3", [3e-4]),
        benchmark("fastrl", [1e-6], "ours", operation="add"), benchmark("loop", [9e-6], "plain", operation="add"),
    ]  # fmt: skip
    found = part(page(tmp_path, rows), "The most important ratios")
    assert "| [GAE](#gae)<br>(128, 8) | 1.00 μs | rlox<br>14 | 300 |" in found
    assert "| [Replay: add](#replay-add)<br>(128, 8) | 1.00 μs | loop<br>9.0 | – |" in found


# -- sweeps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 1, 1], [2, 0.5, 0.25], [Ahead(math.sqrt(10), None)]),
        ([1, 1, 1], [0.5, 1, 2], [Ahead(None, 10)]),
        ([1, 1, 1], [2, 0.5, 2], [Ahead(math.sqrt(10), 10 * math.sqrt(10))]),
        ([1, 1, 1], [0.5, 2, 0.5], [Ahead(None, math.sqrt(10)), Ahead(10 * math.sqrt(10), None)]),
        ([1, 1, 1], [0.5, 0.5, 0.5], [Ahead(None, None)]),
        ([1, 1, 1], [2, 1, 2], []),
        ([1, 1, 1], [2, None, 0.5], [Ahead(10, None)]),
        ([1, 1, 1], [None, None, None], []),
    ],
)
def test_crossing_points_of_straight_lines_on_logarithmic_paper(tmp_path, ours, theirs, expected):
    found = read(results(tmp_path, sweep("batch", [1, 10, 100], fastrl=ours, rlox=theirs)))
    assert ahead(found.operations[0].sweeps["batch"], "rlox") == [pytest.approx(x) for x in expected]


def test_power_laws_cross_where_they_cross(tmp_path):
    sizes = [1, 8, 64, 512, 4096]
    times = dict(fastrl=[1e-6 * n for n in sizes], rlox=[5e-5 * n**0.5 for n in sizes])  # equal at 2500
    rows = sweep("environments", sizes[::-1], **{name: ts[::-1] for name, ts in times.items()})
    found = read(results(tmp_path, rows)).operations[0].sweeps["environments"]
    assert [case.size for case in found] == sizes
    assert crossings(found, "rlox") == [pytest.approx(2500)]
    assert "rlox is faster than fastrl from about 2,500 environments on." in page(tmp_path, rows)


def test_other_words_for_other_stretches(tmp_path):
    rows = sweep("batch", [1, 10, 100], fastrl=[1, 1, 1], a=[0.5, 2, 2], b=[2, 0.5, 2], c=[0.5] * 3, d=[2, 2, 2])
    assert (
        "a is faster than fastrl up to a batch of about 3.2. b is faster than fastrl from a batch of about 3.2 to 32. "
        "c is faster than fastrl throughout."
    ) in page(tmp_path, rows)
    rows = sweep("capacity", [1000, 10**7], fastrl=[1, 1], d=[2, 2])
    assert "None of them is faster than fastrl at a capacity of 1,000 to 10,000,000." in page(tmp_path, rows)


# -- the rest of the page ------------------------------------------------------------------------------------------


def test_bounds_are_what_ours_is_a_multiple_of(tmp_path):
    rows = [benchmark("fastrl", OURS, "ours"), benchmark("copying", [0.5e-6, 0.5e-6, 0.5e-6], "bound")]
    assert "- copying: 4.0 at (128, 8)" in page(tmp_path, rows)  # of 2, 4, 8
    assert "| copying (bound) | 500 ns | 0.25 (0.19–0.38) |" in page(tmp_path, rows)


def test_what_was_left_out_is_named_once_with_where(tmp_path):
    def out(implementation, kind, why, case="(128, 8)", title="GAE"):
        return dict(operation="gae", title=title, case=case, implementation=implementation, kind=kind, why=why)

    left = [
        out("rlox", "absent", "rlox is not installed"), out("rlox", "absent", "rlox is not installed", "(2048, 1)"),
        out("rlox", "absent", "rlox is not installed", title="Replay: add"),
        out("cleanrl", "computes something else", "truncation ends"), out("tianshou", "failed", "TypeError: x", "a|b"),
        out("old", "withdrawn", "of a later version"),
    ]  # fmt: skip
    found = page(tmp_path, [benchmark("fastrl", OURS, "ours"), {"extra_info": {}}], fastrl={"left_out": left})
    assert part(found, "Left out").count("rlox is not installed") == 1
    assert "- **rlox**, GAE, (128, 8) and (2048, 1); Replay: add, (128, 8): rlox is not installed" in found
    assert "- **cleanrl**, GAE, (128, 8): truncation ends" in found
    assert "- **tianshou**, GAE, a|b: TypeError: x" in found and "withdrawn:" in found
    assert "rlox (absent), cleanrl (computes something else), tianshou (failed)" in part(found, "GAE")
    assert "not of these operations: 1." in found
    assert "Nothing: everything" in page(tmp_path, [benchmark("fastrl", OURS, "ours")])


def test_many_cases_are_counted(tmp_path):
    left = [
        dict(operation=title, title=title, case=str(n), implementation="rlox", kind="absent", why="none")
        for title, cases in {"A": 4, "B": 1}.items() for n in range(cases)
    ]  # fmt: skip

    def shown(of):
        return page(tmp_path, [benchmark("fastrl", OURS, "ours")], fastrl={"left_out": of})

    assert "- **rlox**, A, 4 cases; B, 0: none" in shown(left)
    more = [{**left[0], "title": title} for title in "CD"]
    assert "- **rlox**, 4 operations: none" in shown(left + more)


def test_conditions_are_those_of_the_results(tmp_path):
    facts = dict(
        threads=3, versions={"numpy": "7.8"}, machine={"cpu": "Z80", "cores": 5}, load=0.25, keyword="quick and gae"
    )
    rows = [benchmark("fastrl", OURS, "ours"), benchmark("rlox", [1, 1])]
    found = page(tmp_path, rows, fastrl={"conditions": facts}, commit_info={"id": "abcdef0123456789", "dirty": True})
    for said in ("Z80, 5 cores", "Threads: 3", "numpy 7.8", "2026-11-20 12:30:01", "abcdef0123, with changes",
                 "2 to 3 rounds"):  # fmt: skip
        assert said in found
    assert "\npytest benches -k 'quick and gae' --threads 3 --benchmark-json=RESULTS.json\n" in found
    assert "\npytest benches --benchmark-json=RESULTS.json\n" in page(tmp_path, rows)
    assert "Threads" not in page(tmp_path, rows)  # what the results do not say, the page does not


def test_tables_have_at_most_four_columns_and_rows_as_long_as_their_heads(tmp_path):
    rows = [
        benchmark(name, OURS, role, case, operations=1e6)
        for name, role in (("fastrl", "ours"), ("sb3", "peer"), ("a|b", "peer"), ("copy", "bound"))
        for case in ("(128, 8)", "x|y")
    ] + sweep("width", [1, 2], fastrl=[1, 1], rlox=[2, 2])
    for lines in re.findall(r"(?:^\|.*\n)+", page(tmp_path, rows), re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) - 1 for line in lines.splitlines()}
        assert len(columns) == 1 and columns <= {2, 3, 4}


# -- files ---------------------------------------------------------------------------------------------------------


def test_page_and_charts_are_written_and_name_each_other(tmp_path):
    rows = [
        *(benchmark(name, [t], role, case) for name, role, t in
          [("fastrl", "ours", 1e-6), ("rlox", "peer", 2e-5), ("loop", "plain", 1e-3), ("copy", "bound", 1e-7)]
          for case in ("(128, 8)", "(2048, 1)")),
        *sweep("environments", [1, 64], fastrl=[1e-6, 1e-6], rlox=[2e-6, 0.5e-6]),
        *sweep("capacity", [1000], fastrl=[1e-6]),
        benchmark("rlox", [1e-3], operation="add"),
    ]  # fmt: skip
    path = results(tmp_path, rows)
    to = tmp_path / "docs" / "found.md"
    write(path, to)
    first = to.read_bytes()
    named = re.findall(r"!\[[^]]+\]\(([^)]+)\)", first.decode())
    assert len(named) == 4
    assert {*named} == {f"found/{x.name}" for x in (tmp_path / "docs" / "found").iterdir()}
    for name in named:
        width, height = png_size(tmp_path / "docs" / name)
        assert width == 720 and 200 < height < 1500
    write(path, to)
    assert to.read_bytes() == first


def test_a_page_of_any_part_of_the_results(tmp_path):
    every = [
        benchmark(name, OURS, role, case, operation=operation)
        for operation in ("gae", "add")
        for case in ("(128, 8)", "(2048, 1)")
        for name, role in (("fastrl", "ours"), ("rlox", "peer"), ("loop", "plain"), ("copy", "bound"))
    ] + sweep("width", [1, 2, 4], fastrl=[1, 1, 1], rlox=[2, 0.5, 2])
    rng = np.random.default_rng()
    for _ in range(60):
        some = [every[i] for i in sorted(rng.choice(len(every), rng.integers(1, len(every)), replace=False))]
        found = page(tmp_path, some)
        for x in some:
            info = x["extra_info"]
            assert info["implementation"] in part(found, info["title"]), info
        for operation in read(tmp_path / "RESULTS.json").operations:
            if operation.cases:
                charts.bars(operation.cases, "call")
            for axis, cases in operation.sweeps.items():
                charts.scaling(axis, cases, "call")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not of pytest-benchmark"),
        ("{}", "no list of benchmarks"),
        ('{"benchmarks": []}', "holds 0 benchmarks"),
        ('{"benchmarks": [{"name": "test_x", "stats": {}}]}', "none of them of these operations"),
        (
            '{"benchmarks": [{"name": "test_x", "extra_info": {"operation": "gae"}}]}',
            "test_x is not as these benchmarks",
        ),
        ([benchmark("fastrl", [], "ours")], "has no seconds"),
        ([benchmark("fastrl", [0.0], "ours")], "has no seconds"),
        ([benchmark("fastrl", [float("nan")], "ours")], "has no seconds"),
        ([benchmark("fastrl", 3, "ours")], "is not as these benchmarks write it"),
        ([benchmark("fastrl", [1], "ours", axis="width")], "no size above 0"),
    ],
)
def test_what_holds_no_results_is_refused_in_one_line_before_anything_is_written(tmp_path, content, said):
    path = tmp_path / "RESULTS.json"
    if isinstance(content, list):
        results(tmp_path, content)
    elif content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ResultsError, match=said) as caught:
        write(path, tmp_path / "page.md")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.md").exists() and not (tmp_path / "page").exists()


def test_rings_are_where_a_peers_line_crosses_ours(monkeypatch, tmp_path):
    found: list[list[float]] = []
    monkeypatch.setattr("benches.charts._rings", lambda axes, base, places: found.append(list(places)))
    rows = sweep("environments", [1, 100], fastrl=[1e-6, 1e-6], rlox=[0.1e-6, 10e-6])
    rows += [{**row, "extra_info": {**row["extra_info"], "implementation": "fastrl, out=", "role": "ours"}}
             for row in rows if row["extra_info"]["implementation"] == "rlox"]  # fmt: skip
    write(results(tmp_path, rows), tmp_path / "page.md")
    assert found == [[pytest.approx(10)]]
