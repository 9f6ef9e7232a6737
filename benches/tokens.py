"""What is computed of the tokens of responses: ours, the peers', and the usual loops in Torch and NumPy.

Responses of different lengths lie end to end for ours, and are padded for those that want rectangles.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from benches.operation import Implementation, Missing, Operation, Work
from fastrl.tokens import group_advantages, kl_estimates, masked_whiten, token_gae
from tests.reference import tokens as reference

GAMMA, LAMBDA = 1.0, 0.95
Arrays = list[np.ndarray]


class Ragged(NamedTuple):
    """Float32 tokens of B responses end to end: two columns of them."""

    first: np.ndarray
    second: np.ndarray
    offsets: np.ndarray  # [B + 1]

    @property
    def mask(self) -> np.ndarray:
        """[B, longest], where a rectangle has tokens."""
        lengths = np.diff(self.offsets)
        return np.arange(lengths.max()) < lengths[:, None]

    def padded(self) -> Arrays:
        """Both columns as rectangles, 0 beyond the end of a response."""
        mask = self.mask
        found = [np.zeros(mask.shape, np.float32) for _ in range(2)]
        for rectangle, flat in zip(found, (self.first, self.second), strict=True):
            rectangle[mask] = flat
        return found


def ragged(size: tuple[int, int]) -> Ragged:
    """`size`: how many responses, and how long they are at most, which one of them is."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, size[1] + 1, size[0])
    lengths[0] = size[1]
    return Ragged(*rng.standard_normal((2, lengths.sum()), np.float32), np.concatenate([[0], lengths.cumsum()]))


def even(size: tuple[int, int]) -> Ragged:
    """`size` [B, tokens of each]: log-probabilities under two models."""
    rng = np.random.default_rng(0)
    own = -rng.exponential(2, size).astype(np.float32).ravel()
    ref = own + 0.3 * rng.standard_normal(own.shape, np.float32)
    return Ragged(own, ref, np.arange(size[0] + 1) * size[1])


# -- generalised advantages ------------------------------------------------------------------------------------------


def gae_reference(data: Ragged) -> np.ndarray:
    return reference.token_gae(data.first, data.second, data.offsets, GAMMA, LAMBDA)[0]


def gae_ours(data: Ragged) -> Work:
    return Work(partial(token_gae, *data, gamma=GAMMA, gae_lambda=LAMBDA), lambda result: result[0])


def gae_each_token(data: Ragged) -> Work:
    """One response after the other, one token after the other, in Torch's numbers."""
    import torch

    reward, value, bounds = torch.from_numpy(data.first), torch.from_numpy(data.second), data.offsets.tolist()

    def call() -> Any:
        advantages = torch.zeros_like(reward)
        for begin, end in pairwise(bounds):
            following, next_value = torch.zeros(()), torch.zeros(())
            for t in reversed(range(begin, end)):
                delta = reward[t] + GAMMA * next_value - value[t]
                advantages[t] = following = delta + GAMMA * LAMBDA * following
                next_value = value[t]
        return advantages, advantages + value

    return Work(call, lambda result: result[0].numpy())


def gae_padded(data: Ragged, library: Any) -> Work:
    """All responses at once, a column of the rectangle at a time, as TRL's trainer has it."""
    mask, (reward, value) = data.mask, data.padded()
    if library.__name__ == "torch":
        reward, value = library.from_numpy(reward), library.from_numpy(value)

    def call() -> Any:
        following, found = 0.0, []
        for t in reversed(range(reward.shape[1])):
            next_value = value[:, t + 1] if t + 1 < reward.shape[1] else 0.0
            delta = reward[:, t] + GAMMA * next_value - value[:, t]
            following = delta + GAMMA * LAMBDA * following
            found.append(following)
        advantages = library.stack(found[::-1], 1)
        return advantages, advantages + value

    return Work(call, lambda result: np.asarray(result[0])[mask])


def gae_torch_padded(data: Ragged) -> Work:
    import torch

    return gae_padded(data, torch)


TOKEN_GAE = Operation(
    "GAE of ragged responses", {f"{b} of up to {n}": (b, n) for b, n in ((64, 512), (8, 64))}, ragged,
    gae_reference,
    {
        "fastrl": Implementation(gae_ours, role="ours"),
        "Torch, padded (TRL's loop)": Implementation(gae_torch_padded, ("torch",)),
        "NumPy, padded": Implementation(partial(gae_padded, library=np), role="plain"),
        "Torch, each token": Implementation(gae_each_token, ("torch",), role="plain"),
    },
    unit="token", per=lambda size: len(ragged(size).first),
)  # fmt: skip


# -- advantages within groups ----------------------------------------------------------------------------------------


def scores(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size)


def ours_groups(data: np.ndarray) -> Work:
    return Work(partial(group_advantages, data.ravel(), data.shape[1]), lambda result: result.reshape(data.shape))


def numpy_groups(data: np.ndarray) -> Work:
    def call() -> np.ndarray:
        return (data - data.mean(1, keepdims=True)) / (data.std(1, ddof=1, keepdims=True) + 1e-4)

    return Work(call)


def trl_groups(data: np.ndarray) -> Work:
    """The lines of TRL's GRPOTrainer."""
    import torch

    rewards, n = torch.from_numpy(data.ravel()), data.shape[1]

    def call() -> Any:
        mean = rewards.view(-1, n).mean(1).repeat_interleave(n)
        deviation = rewards.view(-1, n).std(1).repeat_interleave(n)
        return (rewards - mean) / (deviation + 1e-4)

    return Work(call, lambda result: result.numpy().reshape(data.shape))


def rlox_groups(data: np.ndarray) -> Work:
    import rlox

    n = data.shape[1]
    sample = np.sqrt((n - 1) / n)  # it divides by the deviation of n, not of n − 1, and adds nothing to it
    return Work(partial(rlox.compute_batch_group_advantages, data.ravel(), n),
                 lambda result: sample * np.asarray(result).reshape(data.shape))  # fmt: skip


GROUP_ADVANTAGES = Operation(
    "Advantages within groups", {f"{g} groups of {n}": (g, n) for g, n in ((64, 8), (1024, 16))}, scores,
    lambda data: reference.group_advantages(data, data.shape[1], "grpo", 1e-4).reshape(data.shape),
    {
        "fastrl": Implementation(ours_groups, role="ours"),
        "rlox": Implementation(rlox_groups, ("rlox",)),
        "Torch (TRL's lines)": Implementation(trl_groups, ("torch",)),
        "NumPy": Implementation(numpy_groups, role="plain"),
    },
    note="rlox divides by the deviation of n, not of n − 1; its result is compared after that is put right.",
)  # fmt: skip


# -- divergences -----------------------------------------------------------------------------------------------------


def kl_ours(data: Ragged, estimator: str) -> Work:
    return Work(partial(kl_estimates, data.first, data.second, estimator, data.offsets))


def kl_numpy(data: Ragged, estimator: str) -> Work:
    own, ref = (x.reshape(len(data.offsets) - 1, -1) for x in data[:2])

    def k1() -> np.ndarray:
        return (own - ref).sum(1)

    def k3() -> np.ndarray:
        d = ref - own
        return (np.exp(d) - 1 - d).sum(1)

    return Work({"k1": k1, "k3": k3}[estimator])


def kl_torch(data: Ragged, estimator: str) -> Work:
    import torch

    own, ref = (torch.from_numpy(x.reshape(len(data.offsets) - 1, -1)) for x in data[:2])

    def k1() -> Any:
        return (own - ref).sum(1)

    def k3() -> Any:
        d = ref - own
        return ((d.exp() - 1) - d).sum(1)

    return Work({"k1": k1, "k3": k3}[estimator], lambda result: result.numpy())


def kl_rlox(data: Ragged, estimator: str) -> Work:
    import rlox

    names = {"k1": "compute_batch_token_kl_f32", "k3": "compute_batch_token_kl_schulman_f32"}
    if not hasattr(rlox, names[estimator]):
        raise Missing(f"this rlox has no {names[estimator]}")
    return Work(partial(getattr(rlox, names[estimator]), *data[:2], int(data.offsets[1])))


WRONG = {
    "k1": "it weighs each token's log-ratio by the token's own probability, which drawing it has done already",
    "k3": "it has the sign of the log-ratio reversed, and so estimates another divergence",
}


def token_kl(estimator: str, formula: str) -> Operation:
    return Operation(
        f"KL by drawn tokens, {formula}", {f"{b} x {n}": (b, n) for b, n in ((64, 512), (8, 64))}, even,
        lambda data: np.add.reduceat(reference.kl_estimates(*data[:2], estimator), data.offsets[:-1]),
        {
            "fastrl": Implementation(partial(kl_ours, estimator=estimator), role="ours"),
            "rlox": Implementation(partial(kl_rlox, estimator=estimator), ("rlox",), differs=WRONG[estimator]),
            "Torch": Implementation(partial(kl_torch, estimator=estimator), ("torch",), role="plain"),
            "NumPy": Implementation(partial(kl_numpy, estimator=estimator), role="plain"),
        },
        unit="response", per=lambda size: size[0],
        note=f"rlox's is timed, but gives another number: {WRONG[estimator]}.",
    )  # fmt: skip


TOKEN_KL = token_kl("k1", "log π − log π_ref")
TOKEN_K3 = token_kl("k3", "e^(−d) − 1 + d")


# -- whitening -------------------------------------------------------------------------------------------------------


def whiten_numpy(data: Ragged) -> Work:
    def call() -> np.ndarray:
        return (data.first - data.first.mean()) / np.sqrt(data.first.var(ddof=1) + 1e-8)

    return Work(call)


def whiten_trl(data: Ragged) -> Work:
    import torch

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.ppo.ppo_trainer import masked_whiten as trl

    mask = data.mask
    return Work(partial(trl, torch.from_numpy(data.padded()[0]), torch.from_numpy(mask)),
                 lambda result: result.numpy()[mask])  # fmt: skip


WHITENING = Operation(
    "Whitening", {f"{b} of up to {n}": (b, n) for b, n in ((64, 512), (8, 64))}, ragged,
    lambda data: reference.masked_whiten(data.first, np.ones(len(data.first), bool), True, 1e-8),
    {
        "fastrl": Implementation(lambda data: Work(partial(masked_whiten, data.first)), role="ours"),
        "TRL, padded": Implementation(whiten_trl, ("trl", "torch")),
        "NumPy": Implementation(whiten_numpy, role="plain"),
    },
    unit="token", per=lambda size: len(ragged(size).first),
)  # fmt: skip
