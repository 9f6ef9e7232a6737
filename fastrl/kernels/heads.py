"""From network outputs to actions and back: categorical and diagonal-Gaussian distributions, a row at a time.

`head` int64 [3 + c] = [policy layer, value layer, offset of log_std in the parameters or -1, *nvec]. With nvec, one
count for each of c components, the policy layer's output is their logits side by side; without, the means of Box
actions, whose deviations exp(log_std) are parameters. A Q-network is [layer, layer, -1, n_actions].
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrl.kernels._jit import kernel

POLICY, VALUE, LOG_STD, NVEC = range(4)
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
LOWEST = np.float32(-3.4028235e38)


@kernel
def log_softmax(z: np.ndarray, first: int, n: int) -> None:
    """z[first : first + n] ← its log-softmax; a logit of -∞ becomes the lowest float, so that 0 · log 0 is 0."""
    highest = z[first]
    for j in range(first + 1, first + n):
        highest = max(highest, z[j])
    total = np.float32(0)
    for j in range(first, first + n):
        total += math.exp(z[j] - highest)
    shift = highest + math.log(total)
    for j in range(first, first + n):
        z[j] = max(z[j] - shift, LOWEST)


@kernel
def likeliest(z: np.ndarray, first: int, n: int) -> int:
    """The index of the greatest of n numbers from z[first] on, the first of equals."""
    best = 0
    for j in range(1, n):
        if z[first + j] > z[first + best]:
            best = j
    return best


@kernel
def sample(
    z: np.ndarray, first: int, noise: np.ndarray, params: np.ndarray, head: np.ndarray, action: np.ndarray
) -> Any:
    """Draw `action` [c] by `noise` [c], uniform or normal, from the policy outputs z[first] …; its log-probability.

    Logits become log-probabilities in place.
    """
    log_prob = np.float32(0)
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            n = head[NVEC + c]
            log_softmax(z, first, n)
            j, cumulative = 0, math.exp(z[first])
            # the last sum may fall short of 1 by rounding; the last action takes the rest
            while j < n - 1 and noise[c] >= cumulative:
                j += 1
                cumulative += math.exp(z[first + j])
            action[c] = j
            log_prob += z[first + j]
            first += n
    else:
        for j in range(len(action)):
            log_std = params[head[LOG_STD] + j]
            action[j] = z[first + j] + math.exp(log_std) * noise[j]
            log_prob -= np.float32(0.5) * noise[j] * noise[j] + log_std + np.float32(HALF_LOG_2PI)
    return log_prob


@kernel
def mode(z: np.ndarray, first: int, head: np.ndarray, action: np.ndarray) -> None:
    """The likeliest `action` [c], from the policy outputs z[first] …"""
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            action[c] = likeliest(z, first, head[NVEC + c])
            first += head[NVEC + c]
    else:
        for j in range(len(action)):
            action[j] = z[first + j]


@kernel
def evaluate(
    z: np.ndarray, first: int, d: int, action: np.ndarray, params: np.ndarray, head: np.ndarray
) -> tuple[Any, Any]:
    """(log-probability of `action` [c], entropy), from the policy outputs z[first] … of one row.

    Leaves in z what `differentiate` needs: log-probabilities for the logits and probabilities from z[d] on, or the
    standardised actions.
    """
    log_prob = entropy = np.float32(0)
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            n = head[NVEC + c]
            log_softmax(z, first, n)
            log_prob += z[first + int(action[c])]
            for j in range(n):
                z[d + j] = math.exp(z[first + j])
                entropy -= z[d + j] * z[first + j]
            first, d = first + n, d + n
    else:
        for j in range(len(action)):
            log_std = params[head[LOG_STD] + j]
            z[d + j] = (np.float32(action[j]) - z[first + j]) * math.exp(-log_std)
            log_prob -= np.float32(0.5) * z[d + j] * z[d + j] + log_std + np.float32(HALF_LOG_2PI)
            entropy += log_std + np.float32(0.5 + HALF_LOG_2PI)
    return log_prob, entropy


@kernel
def differentiate(
    z: np.ndarray, first: int, d: int, action: np.ndarray, params: np.ndarray, head: np.ndarray,
    d_loss_d_log_prob: Any, d_loss_d_entropy: Any, grads: np.ndarray,
) -> None:  # fmt: skip
    """z[d] … ← d_loss_d_output of a row after `evaluate`; what falls to log_std is added to `grads`."""
    if head[LOG_STD] < 0:
        for c in range(len(head) - NVEC):
            n, entropy = head[NVEC + c], np.float32(0)
            for j in range(n):
                entropy -= z[d + j] * z[first + j]
            for j in range(n):
                p = z[d + j]
                z[d + j] = -p * (d_loss_d_log_prob + d_loss_d_entropy * (z[first + j] + entropy))
            z[d + int(action[c])] += d_loss_d_log_prob
            first, d = first + n, d + n
    else:
        for j in range(len(action)):
            standard = z[d + j]
            z[d + j] = d_loss_d_log_prob * standard * math.exp(-params[head[LOG_STD] + j])
            grads[head[LOG_STD] + j] += d_loss_d_log_prob * (standard * standard - 1) + d_loss_d_entropy
