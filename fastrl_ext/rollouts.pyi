from typing import Any

def plain_outputs(
    columns: tuple[Any, ...], last_values: Any, flags: tuple[Any, ...], out: tuple[Any, ...] | None, n: int
) -> tuple[Any, ...] | None: ...
