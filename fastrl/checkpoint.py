"""The model file: one safetensors file whose metadata holds JSON. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from fastrl.files import replacing

if TYPE_CHECKING:
    import torch

FORMAT = 1
KEY = "fastrl"
IN_RUN = "model.fastrl"  # in the directory of `fastrl train`


class ModelFileError(ValueError):
    """A model file that cannot be used: damaged, foreign, of a later version, or of another environment."""


def write_model(path: str | os.PathLike[str], header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write a model file atomically: `header` as JSON, and the tensors."""
    from safetensors.torch import save  # it loads Torch, which reading alone does without

    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    data = save(own, metadata={KEY: json.dumps({"format": FORMAT, **header})})
    with replacing(Path(path)) as file:
        file.write(data)


def read_model(
    path: str | os.PathLike[str], framework: str = "pt", parts: tuple[str, ...] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the tensors of a model file.

    Args:
        framework: "pt" for Torch's tensors, "np" for NumPy's arrays, without loading Torch.
        parts: read only the tensors named "<part>.…".

    Raises:
        FileNotFoundError: where there is none.
        ModelFileError: for a truncated or foreign file, or one of a later format.
    """
    path = _existing(Path(path))
    try:
        with safe_open(path, framework=framework) as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise ModelFileError(f"{path} is a safetensors file, but not one that fastrl wrote")
            header = json.loads(metadata[KEY])
            if header["format"] > FORMAT:
                raise ModelFileError(
                    f"{path} has format {header['format']}, this fastrl reads up to {FORMAT}: install a newer fastrl"
                )
            names = [name for name in file.keys() if parts is None or name.split(".")[0] in parts]  # noqa: SIM118
            return header, {name: file.get_tensor(name) for name in names}
    except ModelFileError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, OSError, RecursionError, AttributeError) as error:
        raise ModelFileError(f"{path} is not a readable fastrl model file: {error}") from error


def _existing(path: Path) -> Path:
    """`path`, a run's model where it is a directory, or its like with another ending: "MODEL.zip" may be left out."""
    if path.is_dir() and (path / IN_RUN).is_file():
        return path / IN_RUN
    stem = path.with_suffix("") if path.suffix == ".zip" else path
    for candidate in (path, stem, stem.with_name(stem.name + ".zip"), stem.with_name(stem.name + ".fastrl")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"no model file at {path}")


def part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors named "<prefix>.…", without the prefix."""
    return {name[len(prefix) + 1 :]: x for name, x in tensors.items() if name.startswith(prefix + ".")}
