"""Command-line flags made of an algorithm's constructor: its names, types, defaults and documentation."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import itertools
import operator
import os
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro

Options = TypeVar("Options")
MEANT = {  # what others call it
    **dict.fromkeys(("--steps", "--timesteps", "--n-timesteps", "--num-timesteps"), "--total-timesteps"),
    "--lr": "--learning-rate", "--num-envs": "--n-envs", "--output": "--out",
}  # fmt: skip
POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]  # what marks an argument without a flag


class UsageError(Exception):
    """A command line that cannot be carried out; the message says why."""

    code = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """Asks in brackets for the known name that is most like `name`; empty where none is."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def hyperparameter_flags(algorithm: type, preset: dict[str, Any]) -> type:
    """A dataclass of what can be set: the constructor's arguments, with the preset's values as defaults.

    `policy_kwargs` has net_arch and activation_fn in its place.
    """
    hints = typing.get_type_hints(algorithm.__init__)  # type: ignore[misc]
    fields: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(algorithm).parameters.items():
        if name == "policy_kwargs":
            fields += _network_fields(algorithm, preset.get(name) or {})
        elif name not in ("policy", "env", "foreign", "tensorboard_log"):  # a run has a folder of its own
            fields.append((name, _without_functions(hints[name]), preset.get(name, parameter.default)))
    return dataclasses.make_dataclass(algorithm.__name__, fields, namespace={"__doc__": algorithm.__doc__})


def constructor_arguments(flags: Any, preset: dict[str, Any]) -> dict[str, Any]:
    """What `hyperparameter_flags` parsed, as the constructor takes it."""
    from fastrl.networks import ACTIVATIONS

    values = dict(vars(flags))
    network = {"net_arch": values.pop("net_arch"), "activation_fn": ACTIVATIONS[values.pop("activation_fn")]}
    return {**values, "policy_kwargs": {**(preset.get("policy_kwargs") or {}), **network}}


def parse(options: type[Options], args: Sequence[str], prog: str, description: str) -> Options:
    """`options`, a dataclass, from the command line.

    Raises:
        UsageError: for an unknown option, naming the nearest, or a value of the wrong type.
        SystemExit: after --help.
    """
    complaint, said = io.StringIO(), io.StringIO()
    # tyro colours what a terminal gets, whatever https://no-color.org says.
    plain = contextlib.redirect_stdout(said) if os.environ.get("NO_COLOR") else contextlib.nullcontext()
    try:
        with contextlib.redirect_stderr(complaint), plain:
            parsed, unknown = tyro.cli(
                options, prog=prog, description=description, args=[_whole(word) for word in args],
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )  # fmt: skip
    except SystemExit as stop:
        if stop.code:
            raise UsageError(f"{_first_paragraph(complaint.getvalue())}; see {prog} --help") from None
        print(said.getvalue(), end="")
        raise
    for word in unknown:
        if word.startswith("-"):
            flag = word.split("=")[0].replace("_", "-")
            known = flag_names(options)
            meant = f" (did you mean {MEANT[flag]}?)" if MEANT.get(flag) in known else nearest(flag, known)
            raise UsageError(f"unknown option {word}{meant}; see {prog} --help")
        raise UsageError(f"{word!r} belongs to no option, and yes or no is --flag or --no-flag; see {prog} --help")
    return parsed


def _whole(word: str) -> str:
    """1e6 as 1000000, which an int can be."""
    return str(int(float(word))) if re.fullmatch(r"\d+(\.0*)?[eE]\+?\d\d?", word) else word


def _network_fields(algorithm: type, policy_kwargs: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    from fastrl.networks import ACTIVATIONS, ActorCritic, QNetwork

    network: type = QNetwork if algorithm.__name__ == "DQN" else ActorCritic
    activation = policy_kwargs.get("activation_fn", inspect.signature(network).parameters["activation_fn"].default)
    sizes = list(policy_kwargs.get("net_arch", (64, 64)))
    about_sizes = tyro.conf.arg(help="units of the network's hidden layers, one number a layer")
    about_activation = tyro.conf.arg(help="what stands between the layers: a class of torch.nn")
    return [
        ("net_arch", Annotated[list[int], about_sizes], dataclasses.field(default_factory=lambda: sizes)),
        ("activation_fn", Annotated[Literal[tuple(ACTIVATIONS)], about_activation], activation.__name__),
    ]


def _without_functions(hint: Any) -> Any:
    """The type without the callables in it, which no command line can give."""
    kinds = [kind for kind in typing.get_args(hint) if typing.get_origin(kind) is not collections.abc.Callable]
    return functools.reduce(operator.or_, kinds) if 0 < len(kinds) < len(typing.get_args(hint)) else hint


def flag_names(options: Any) -> list[str]:
    """The flags of a dataclass and of those within it, those that are yes or no in both forms."""
    names = []
    for field, hint in _fields(options):
        flag = "--" + field.replace("_", "-")
        names += [flag, flag.replace("--", "--no-", 1)] if hint is bool else [flag]
    return names


def choices(options: Any) -> dict[str, list[str]]:
    """What can follow the flags of a dataclass that take one of a few words."""
    found = {}
    for field, hint in _fields(options):
        kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if typing.get_origin(kind) is Literal:
            found["--" + field.replace("_", "-")] = [str(value) for value in typing.get_args(kind)]
    return found


def _fields(options: Any) -> Iterator[tuple[str, Any]]:
    """The names and types of a dataclass's fields and of those within it, but for what has no flag."""
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint)
        elif POSITIONAL not in getattr(hint, "__metadata__", ()):
            yield field.name, hint


def _first_paragraph(box: str) -> str:
    """What an error in a drawn box says first, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    paragraphs = itertools.groupby(lines, key=lambda line: bool(line.strip("─-")))  # between lines and rules
    return " ".join(next((group for is_text, group in paragraphs if is_text), ())).rstrip(".")
