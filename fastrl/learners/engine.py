"""Which engine runs a learner: "torch" by autograd, "compiled" by kernels, or "auto", whichever applies."""

from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

import torch

from fastrl.learners.compiled import CompiledActorCritic, CompiledQ
from fastrl.learners.plan import Refused
from fastrl.learners.torch import ActorCriticLearner, QLearner, TorchLearner

L = TypeVar("L", bound=TorchLearner)
Engine = Literal["auto", "compiled", "torch"]

# "auto" leaves networks with a layer of more units than this to Torch, whose matrix products are faster there:
# the widths of `python -m benches speed update-ppo update-dqn --sweeps`, 1536 among them, tell from where on.
WIDEST = 1536


def check_engine(engine: Any) -> None:
    """Raise a ValueError unless `engine` is one of the three."""
    if engine not in get_args(Engine):
        raise ValueError(f'engine is {engine!r}; it must be "auto", "compiled" or "torch"')


def choose_device(device: str, policy: Any) -> torch.device:
    """The device of that name; ValueError where there is none. "auto" keeps "MlpPolicy" on the CPU."""
    if device == "auto":  # small perceptrons are faster there
        return torch.device("cuda" if policy != "MlpPolicy" and torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        meant = '; a GPU is "cuda"' if device == "gpu" else ""
        raise ValueError(f'device is {device!r}; it must be "auto", "cpu", "cuda", "cuda:1", ...{meant}') from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'device is "{device}", but Torch finds no CUDA device here; use "cpu" or "auto"')
    try:
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device is "{device}", which this Torch cannot use; use "cpu" or "auto"') from error
    return chosen


def with_engine(learner: L, engine: Engine) -> L:
    """`learner`, or one over the same modules and the same optimiser, run by `engine`.

    Raises:
        ValueError: for "compiled" where kernels do not know the module, naming the reason.
    """
    check_engine(engine)
    if engine == "torch":
        return _by_torch(learner)
    try:
        compiled = _by_kernels(learner)
    except Refused as reason:
        if engine == "compiled":
            raise ValueError(
                f'engine="compiled" cannot run this policy: {reason}. Use engine="auto" or engine="torch"'
            ) from None
        return _by_torch(learner)
    widest = max(layer.n_out for layer in compiled.net.layers)
    return _by_torch(learner) if engine == "auto" and widest > WIDEST else compiled


def _by_kernels(learner: Any) -> Any:
    if isinstance(learner, (CompiledActorCritic, CompiledQ)):
        reason = learner.bind()
        if reason is not None:
            raise Refused(reason)
        return learner
    return CompiledQ(learner) if isinstance(learner, QLearner) else CompiledActorCritic(learner)


def _by_torch(learner: Any) -> Any:
    learner.release()
    learner.check_dtype()
    if isinstance(learner, CompiledQ):
        return QLearner(learner.policy, learner.target, learner.device, learner.optimizer)
    if isinstance(learner, CompiledActorCritic):
        return ActorCriticLearner(learner.policy, learner.head, learner.device, learner.optimizer)
    return learner
