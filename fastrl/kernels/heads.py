"""From network outputs to actions and back: categorical and diagonal-Gaussian distributions.

`head` int64 [3 + c] = [policy layer, value layer, offset of log_std in the parameters or -1, *nvec]. With nvec, one
count for each of c components, the policy layer's output is their logits side by side; without, the means of Box
actions, whose deviations exp(log_std) are parameters. A Q-network is [layer, layer, -1, n_actions].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.activations import EXP_LOW, LANES, exp, log
from fastrl.kernels.simd import (
    below,
    greatest,
    maximum,
    nonzero,
    picked,
    positive,
    scatter,
    splat,
    strided,
    total,
    where,
)

POLICY, VALUE, LOG_STD, NVEC = range(4)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
LOWEST = np.float32(-3.4028235e38)


@inlined
def log_softmax(z: np.ndarray, first: int, n: int, p: int) -> None:
    """z[first] … ← the log-softmax of n logits, z[p] … ← the softmax. One of -∞ gives the lowest float, and 0."""
    highest = z[first]
    for j in range(1, n):
        highest = max(highest, z[first + j])
    total = np.float32(0)
    for j in range(n):
        shifted = z[first + j] - highest
        z[p + j] = exp(shifted) if shifted > EXP_LOW else np.float32(0)
        total += z[p + j]
    log_total, scale = np.float32(math.log(total)), np.float32(1) / total
    for j in range(n):
        z[first + j] = max(z[first + j] - highest - log_total, LOWEST)
        z[p + j] *= scale


@inlined
def softmax_of_lanes(z: Any, choices: Any) -> tuple[Any, Any]:
    """(log-softmax, softmax) of the lanes of a vector of logits that are `choices`; elsewhere the latter is 0."""
    shifted = z - greatest(where(choices, z, splat(LOWEST, z)))
    e = where(choices, exp(shifted), splat(np.float32(0), z))
    e = where(positive(shifted - EXP_LOW), e, splat(np.float32(0), z))
    sum_ = total(e)
    return maximum(shifted - np.float32(math.log(sum_)), LOWEST), e * (np.float32(1) / sum_)


@bare
def is_narrow(head: np.ndarray) -> bool:
    """Whether the action is one choice of so few that their logits fill one vector."""
    return head[LOG_STD] < 0 and len(head) == NVEC + 1 and head[NVEC] <= LANES


@bare
def likeliest(z: np.ndarray, first: int, n: int) -> int:
    """The index of the greatest of n numbers from z[first] on, the first of equals."""
    best = 0
    for j in range(1, n):
        if z[first + j] > z[first + best]:
            best = j
    return best


@inlined
def draw(p: np.ndarray, first: int, n: int, u: Any) -> int:
    """The first index at which the sum of the n probabilities from p[first] on exceeds u, uniform on [0, 1)."""
    j, cumulative = 0, p[first]
    # the last sum may fall short of 1 by rounding; the last index takes the rest
    while j < n - 1 and u >= cumulative:
        j += 1
        cumulative += p[first + j]
    return j


@bare
def sample(
    z: np.ndarray, first: int, d: int, noise: np.ndarray, params: np.ndarray, head: np.ndarray, action: np.ndarray
) -> Any:
    """Draw `action` [c] by `noise` [c], uniform or normal, from the policy outputs z[first] …; its log-probability.

    Logits become log-probabilities in place, and probabilities from z[d] on.
    """
    log_prob = np.float32(0)
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            n = head[NVEC + c]
            log_softmax(z, first, n, d)
            j = draw(z, d, n, noise[c])
            action[c] = j
            log_prob += z[first + j]
            first, d = first + n, d + n
    else:
        for j in range(len(action)):
            log_std = params[head[LOG_STD] + j]
            action[j] = z[first + j] + exp(log_std) * noise[j]
            log_prob -= np.float32(0.5) * noise[j] * noise[j] + log_std + np.float32(HALF_LOG_2PI)
    return log_prob


@bare
def mode(z: np.ndarray, first: int, head: np.ndarray, action: np.ndarray) -> None:
    """The likeliest `action` [c], from the policy outputs z[first] …"""
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            action[c] = likeliest(z, first, head[NVEC + c])
            first += head[NVEC + c]
    else:
        for j in range(len(action)):
            action[j] = z[first + j]


@bare
def _softmax_of_rows(z: np.ndarray, first: int, width: int, last: int, n: int, choice: Any) -> Any:
    """Of n logits from z[first + k width] on, for each lane k: (their highest, log Σ exp(logit − highest), entropy,
    log-probability of `choice`).

    The first two are apart, for their sum would round what depends on differences alone.
    """
    like = splat(np.float32(0), choice)
    highest = strided(z, first, width, last, like)
    for j in range(1, n):
        highest = maximum(highest, strided(z, first + j, width, last, like))
    sum_ = weighted = chosen = like
    for j in range(n):
        shifted = maximum(strided(z, first + j, width, last, like) - highest, LOWEST)
        e = where(positive(shifted - EXP_LOW), exp(shifted), like)
        sum_, weighted = sum_ + e, weighted + e * shifted
        chosen = where(nonzero(choice - np.float32(j)), chosen, shifted)
    log_sum = log(sum_)
    return highest, log_sum, log_sum - weighted / sum_, maximum(chosen - log_sum, LOWEST)


@inlined
def evaluate(
    z: np.ndarray, first: int, width: int, action: np.ndarray, order: np.ndarray, i: int, last: int,
    params: np.ndarray, head: np.ndarray, like: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """(log-probability of `action` [M, c], entropy) of sixteen rows, a lane each.

    Lane k has row order[i + k] of `action`, and the policy outputs from z[first + k width] on; the lanes beyond `last`
    repeat it.
    """
    log_prob = entropy = like
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            choice = picked(action, c, order, i, last, like)
            _, _, own_entropy, own_log_prob = _softmax_of_rows(z, first, width, last, head[NVEC + c], choice)
            log_prob, entropy, first = log_prob + own_log_prob, entropy + own_entropy, first + head[NVEC + c]
    else:
        for j in range(action.shape[1]):
            log_std = params[head[LOG_STD] + j]
            x = (picked(action, j, order, i, last, like) - strided(z, first + j, width, last, like)) * exp(-log_std)
            log_prob = log_prob - x * x * np.float32(0.5) - (log_std + np.float32(HALF_LOG_2PI))
            entropy = entropy + (log_std + np.float32(0.5 + HALF_LOG_2PI))
    return log_prob, entropy


@inlined
def differentiate(
    z: np.ndarray, first: int, d: int, width: int, action: np.ndarray, order: np.ndarray, i: int, last: int,
    params: np.ndarray, head: np.ndarray, d_loss_d_log_prob: Any, d_loss_d_entropy: Any, grads: np.ndarray, like: Any,
) -> None:  # fmt: skip
    """z[d + k width] … ← d_loss_d_output of the rows of `evaluate`; what falls to log_std is added to `grads`."""
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            n, choice = head[NVEC + c], picked(action, c, order, i, last, like)
            highest, log_sum, entropy, _ = _softmax_of_rows(z, first, width, last, n, choice)
            for j in range(n):
                log_p = maximum(strided(z, first + j, width, last, like) - highest - log_sum, LOWEST)
                p = where(positive(log_p - EXP_LOW), exp(log_p), like)
                by_choice = where(nonzero(choice - np.float32(j)), like, d_loss_d_log_prob)
                by_p = p * ((log_p + entropy) * d_loss_d_entropy + d_loss_d_log_prob)
                scatter(z, d + j, width, last, by_choice - where(nonzero(p), by_p, like))
            first, d = first + n, d + n
    else:
        for j in range(action.shape[1]):
            scale = exp(-params[head[LOG_STD] + j])
            x = (picked(action, j, order, i, last, like) - strided(z, first + j, width, last, like)) * scale
            scatter(z, d + j, width, last, d_loss_d_log_prob * x * scale)
            by_log_std = d_loss_d_log_prob * (x * x - np.float32(1)) + d_loss_d_entropy
            grads[head[LOG_STD] + j] += total(where(below(like, last + 1), by_log_std, like))
