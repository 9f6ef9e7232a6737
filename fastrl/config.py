"""A run's configuration as a TOML file: written whole, and read with every value checked."""

from __future__ import annotations

import dataclasses
import platform
import sys
import types
import typing
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import fastrl
from fastrl.files import replacing
from fastrl.flags import UsageError, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
NONE = "None"  # TOML has no word for it; this is the command line's
KEYS = ("format", "algorithm", "environment", "command", "run", "hyperparameters", "versions")


@dataclasses.dataclass
class Config:
    """What a file says: the settings are as they stand in it, for `checked`."""

    algorithm: str
    environment: str
    run: dict[str, Any]
    hyperparameters: dict[str, Any]
    command: str = ""
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


def write(path: Path, config: Config) -> None:
    """Write `config`, atomically."""
    with replacing(path) as file:
        file.write(text(config).encode())


def text(config: Config) -> str:
    """`config` as TOML, without what is empty."""
    import tomli_w

    content = {"format": FORMAT, **dataclasses.asdict(config)}
    return tomli_w.dumps(_to_toml({key: content[key] for key in KEYS if content[key]}))


def read(path: Path) -> Config:
    """The configuration of a file.

    Raises:
        UsageError: where it cannot be read, is of a later format, or holds what no configuration has.
    """
    try:
        return parse(path.read_text(encoding="utf-8"), path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def parse(toml: str, path: Path) -> Config:
    """The configuration that the text of `path` holds; a UsageError as of `read`."""
    try:
        content = tomllib.loads(toml)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    found = content.pop("format", FORMAT)
    if type(found) is not int or found < 1:
        raise UsageError(f"{path}: format is {found!r}; it must be an int of at least 1")
    if found > FORMAT:
        raise UsageError(f"{path} has format {found}, this fastrl reads up to {FORMAT}: install a newer fastrl")
    fields = {field.name: field.type for field in dataclasses.fields(Config)}
    for name, value in content.items():
        if name not in fields:
            raise UsageError(f"{path} has an unknown key {name}{nearest(name, KEYS)}: there are {', '.join(KEYS)}")
        wanted = str if str(fields[name]) == "str" else dict
        if not isinstance(value, wanted):
            raise UsageError(f"{path}: {name} is {value!r}; it must be a {'string' if wanted is str else 'table'}")
    for name in ("algorithm", "environment"):
        if name not in content:
            raise UsageError(f"{path} does not say which {name}: {name} = ...")
    return Config(**{"run": {}, "hyperparameters": {}, **content})


def checked(path: Path, table: Mapping[str, Any], options: type) -> dict[str, Any]:
    """The values of a table of a file, as the fields of the dataclass `options` take them.

    Raises:
        UsageError: for a name that is no field, with the nearest that is one, or a value of another type.
    """
    hints = typing.get_type_hints(options, include_extras=True)
    values = {}
    for name, value in table.items():
        if name not in hints:
            raise UsageError(f"{path} has an unknown key {name}{nearest(name, hints)}: there are {', '.join(hints)}")
        try:
            values[name] = _converted(hints[name], value)
        except ValueError:
            raise UsageError(f"{path}: {name} is {value!r}; it must be {_describe(hints[name])}") from None
    return values


def versions() -> dict[str, str]:
    """Of all that decides what a run comes to."""
    own = {"fastrl": fastrl.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("torch", "numpy", "gymnasium", "numba")}


def _to_toml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_toml(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_toml(v) for v in value]
    return NONE if value is None else value


def _converted(hint: Any, value: Any) -> Any:
    """`value` as a `hint` has it; ValueError where it is of another type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _converted(parts[0], value)
    if origin in (typing.Union, types.UnionType):
        for kind in sorted(parts, key=lambda kind: kind is not type(None)):  # first None, which is a string too
            try:
                return _converted(kind, value)
            except ValueError:
                continue
    elif origin is Literal:
        if value in parts and isinstance(value, str):
            return value
    elif origin is list and isinstance(value, list):
        return [_converted(parts[0], v) for v in value]
    elif origin is tuple and isinstance(value, list) and len(value) == len(parts):
        return tuple(map(_converted, parts, value))
    elif hint is type(None) and value == NONE:
        return None
    elif hint is float and type(value) is int:
        return float(value)
    elif isinstance(hint, type) and origin is None and type(value) is hint:
        return value
    raise ValueError


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _describe(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (list, tuple):
        return f"[{', '.join(map(_describe, parts))}{', ...' if origin is list else ''}]"
    names = {int: "an int", float: "a number", str: "a string", bool: "true or false", type(None): f'"{NONE}"'}
    return names.get(hint, str(hint))
