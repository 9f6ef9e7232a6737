"""The model file: one safetensors file whose metadata holds JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fastrl.files import replacing

FORMAT = 1
KEY = "fastrl"


class ModelFileError(ValueError):
    """A model file that cannot be used: damaged, foreign, of a later version, or of another environment."""


def write_model(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a model file atomically: `header` as JSON, and the tensors."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(own, metadata={KEY: json.dumps({"format": FORMAT, **header})})
    with replacing(Path(path)) as file:
        file.write(data)


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The header and the tensors of a model file.

    Raises:
        FileNotFoundError: where there is none.
        ModelFileError: for a truncated or foreign file, or one of a later format.
    """
    path = _existing(Path(path))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise ModelFileError(f"{path} is a safetensors file, but not one that fastrl wrote")
            header = json.loads(metadata[KEY])
            if header["format"] > FORMAT:
                raise ModelFileError(
                    f"{path} has format {header['format']}, this fastrl reads up to {FORMAT}: install a newer fastrl"
                )
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except ModelFileError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise ModelFileError(f"{path} is not a readable fastrl model file: {error}") from error


def _existing(path: Path) -> Path:
    """`path`, or where there is none the same with or without ".zip", which Stable-Baselines3 leaves to choice."""
    other = path.with_suffix("") if path.suffix == ".zip" else path.with_name(path.name + ".zip")
    for candidate in (path, other):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no model file at {path}")


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors named "<prefix>.…", without the prefix."""
    return {name[len(prefix) + 1 :]: x for name, x in tensors.items() if name.startswith(prefix + ".")}
