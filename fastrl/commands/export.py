"""`fastrl export`: the policy alone, for programs that know neither fastrl nor Torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from gymnasium import spaces as gym_spaces
from torch import nn

from fastrl.commands.common import check_output, load_agent, model_file, needed, writing_to
from fastrl.files import replacing
from fastrl.flags import UsageError, parse
from fastrl.kernels.normalize import CLIP, EPSILON

OPSET = 17  # of 2022: what reads ONNX reads it
CHECKED = 100  # observations on which the exported policy must act as the agent does


@dataclass
class ExportOptions:
    """What to export, and to where.

    Args:
        file: a model that `fastrl train` wrote, or the directory it is in.
        onnx: the ONNX file; None for model.onnx beside the model.
        force: overwrite the file if it exists.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    onnx: Path | None = None
    force: bool = False


def run(args: list[str]) -> None:
    """Export as `args` say."""
    if not args:
        raise UsageError("fastrl export needs a model file, such as runs/ppo-CartPole-v1-1/model.fastrl")
    options = parse(ExportOptions, args, "fastrl export", "Write an agent's policy as ONNX: observations to actions.")
    model, _ = load_agent(options.file, alone=True)
    out = options.onnx or model_file(options.file).with_suffix(".onnx")
    check_output(out, options.force, (".onnx",), "--onnx")
    needed("onnx", "onnx")
    policy = Greedy(model)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracer and exporter speak of themselves
        traced = torch.jit.trace(policy.cpu().eval(), policy.example())
        _check(traced, policy.inputs, model)
        with writing_to(out.parent), replacing(out) as file:
            _write(traced, policy, file.name)
    shape = ", ".join(f"{name} {_described(space)}" for name, space in policy.inputs.items())
    print(f"{out}: {shape} -> action {_described(model.action_space)}, {out.stat().st_size / 1000:,.0f} kB")


class Greedy(nn.Module):
    """What `predict(obs, deterministic=True)` does, in one module: observations as they come to actions as they go.

    Inputs are batches [B, *shape], one for each key of a Dict. What stands before and behind the network is in here:
    flattening, one-hot vectors, normalisation, the likeliest action, its bounds.

    Raises:
        UsageError: for a Dict within a Dict.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        space = model.observation_space
        self.inputs = dict(space.spaces) if isinstance(space, gym_spaces.Dict) else {"obs": space}
        for name, part in self.inputs.items():
            if isinstance(part, gym_spaces.Dict):
                raise UsageError(f"the observation's {name!r} is a Dict within a Dict, which cannot be exported")
        self.policy, self.action_space = model.policy, model.action_space
        self.head = getattr(model, "head", None)
        self.scale_images = model.policy_kwargs.get("normalize_images", True)
        self.normalized = model.normalizer is not None
        if self.normalized:
            stats, images = model.normalizer.obs_stats, np.zeros(model.obs_dim, bool)
            for columns in getattr(model, "_images", ()):
                images[columns] = True
            self.mean: torch.Tensor
            self.deviation: torch.Tensor
            self.images: torch.Tensor
            self.register_buffer("mean", torch.from_numpy(stats.mean.copy()))
            self.register_buffer("deviation", torch.from_numpy(np.sqrt(stats.var + EPSILON)))
            self.register_buffer("images", torch.from_numpy(images))
        if isinstance(self.action_space, gym_spaces.Box):
            self.low: torch.Tensor
            self.high: torch.Tensor
            for name in ("low", "high"):
                self.register_buffer(name, torch.from_numpy(getattr(self.action_space, name).copy()))

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        """Actions [B, *shape] of the action space's dtype."""
        flat = [self._flat(x, space) for x, space in zip(parts, self.inputs.values(), strict=True)]
        obs = torch.cat(flat, 1) if len(flat) > 1 else flat[0]
        if self.normalized:  # in double precision, as the kernels do
            normalized = ((obs.double() - self.mean) / self.deviation).clamp(-CLIP, CLIP).float()
            obs = torch.where(self.images, obs, normalized)
        out = self.policy(obs)
        action = out.argmax(1, keepdim=True) if self.head is None else self.head.mode(out[0])
        space = self.action_space
        action = action.reshape(-1, *(space.shape or ()))
        if isinstance(space, gym_spaces.Box):
            return action.clamp(self.low, self.high).to(self.low.dtype)
        start = torch.as_tensor(getattr(space, "start", 0))
        return (action + start).to(torch.from_numpy(np.zeros(0, space.dtype)).dtype)

    def example(self) -> tuple[torch.Tensor, ...]:
        """A batch to trace with."""
        return tuple(torch.from_numpy(_sample(space, 2)) for space in self.inputs.values())

    def _flat(self, x: torch.Tensor, space: Any) -> torch.Tensor:
        if isinstance(space, (gym_spaces.Discrete, gym_spaces.MultiDiscrete)):
            start, sizes = np.atleast_1d(space.start), np.atleast_1d(getattr(space, "nvec", getattr(space, "n", 0)))
            columns = x.reshape(-1, len(sizes))
            one_hot = [
                columns[:, i, None] - int(start[i]) == torch.arange(int(n)) for i, n in enumerate(sizes)
            ]  # fmt: skip
            return torch.cat(one_hot, 1).float()
        flat = x.flatten(1).float()
        is_image = len(space.shape) == 3 and space.dtype == np.uint8
        return flat / 255 if is_image and self.scale_images else flat


def _write(traced: Any, policy: Greedy, path: str) -> None:
    """Write an ONNX file whose batch may have any size."""
    names = list(policy.inputs)
    # The exporter of traces: ten times as quick as the other, and it needs no onnxscript.
    torch.onnx.export(
        traced, policy.example(), path, dynamo=False, opset_version=OPSET, input_names=names,
        output_names=["action"], dynamic_axes={name: {0: "batch"} for name in [*names, "action"]},
    )  # fmt: skip


def _check(traced: Any, inputs: dict[str, Any], model: Any) -> None:
    """Raise a UsageError where what is exported does not act as the model does."""
    batch = {name: _sample(space, CHECKED) for name, space in inputs.items()}
    is_dict = isinstance(model.observation_space, gym_spaces.Dict)
    expected, _ = model.predict(batch if is_dict else batch["obs"], deterministic=True)
    try:
        found = traced(*map(torch.from_numpy, batch.values())).numpy()
    except RuntimeError:  # it holds the size of the batch that it was traced with
        found = np.full_like(expected, np.iinfo(np.int8).max)
    # Of two actions that are as good but for rounding either may be chosen.
    close = np.isclose(found, expected, rtol=1e-4, atol=1e-5).reshape(CHECKED, -1).all(1)
    if close.mean() < 0.97:
        raise UsageError(f"this policy ({type(model.policy).__name__}) cannot be exported: it would act otherwise")


def _sample(space: Any, n: int) -> np.ndarray:
    """n observations, the same each time, float32 where they are floats."""
    space.seed(0)
    array = np.stack([np.asarray(space.sample()) for _ in range(n)])
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _described(space: Any) -> str:
    kind = "float32" if space.dtype.kind == "f" else str(space.dtype)
    return f"{kind} [{', '.join(map(str, ('batch', *(space.shape or ()))))}]"
