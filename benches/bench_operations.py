"""Everything in the table of implementations: checked against its reference, then timed beside the others.

pytest benches                          all of it; -k quick, -k gae, --threads 2, --benchmark-json=RESULTS.json
pytest benches --benchmark-disable      checked only
"""

from __future__ import annotations

from typing import Any

import pytest

from benches.conftest import LEFT_OUT
from benches.implementations import OPERATIONS
from benches.operation import Group, first_line

RUNS = [
    pytest.param(key, case, name, id=f"{'quick-' * (case == next(iter(operation.cases)))}{key}-{case}-{name}")
    for key, operation in OPERATIONS.items()
    for case in operation.groups()
    for name in operation.implementations
]
_built: dict[tuple[str, str], Group | Exception] = {}  # the last one only


def group(key: str, case: str) -> Group:
    """All implementations of the case, built when the first of them is asked for."""
    if (key, case) not in _built:
        _built.clear()
        operation = OPERATIONS[key]
        try:
            _built[key, case] = Group(operation, operation.groups()[case][2])
        except Exception as error:  # ours: without it nothing is compared, and the results say so
            _built[key, case] = error
            about = {"operation": key, "title": operation.title, "case": case, "implementation": "all"}
            LEFT_OUT.append({**about, "kind": "failed", "why": f"{type(error).__name__}: {first_line(error)}"})
    found = _built[key, case]
    if isinstance(found, Exception):
        raise found
    return found


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("key", "case", "name"), RUNS)
def test_operation(benchmark: Any, key: str, case: str, name: str) -> None:
    operation, built = OPERATIONS[key], group(key, case)
    axis, size, value = operation.groups()[case]
    about = {"operation": key, "title": operation.title, "case": case, "implementation": name}
    if name in built.left_out:
        kind, why = built.left_out[name]
        LEFT_OUT.append({**about, "kind": kind, "why": why})
        pytest.skip(f"{name}, {kind}: {why}")
    benchmark.group = f"{operation.title}: {case}"
    if benchmark.disabled:
        benchmark.pedantic(built.works[name].call)
        return
    seconds = built.seconds()[name]
    benchmark.pedantic(int)  # makes the record, for the rounds in which all had their turns
    benchmark.stats.stats.data[:] = seconds
    count = operation.operations
    benchmark.extra_info.update(
        about, unit=operation.unit, per=operation.per(value), quick=case == next(iter(operation.cases)), axis=axis,
        size=size, role=operation.implementations[name].role, beside=operation.implementations[name].beside,
        note=operation.note, operations=count(value) if count else None,
        seconds=seconds,
    )  # fmt: skip
