"""The obvious way: responses as a list, one token after the other, in float64."""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def responses(x, offsets):
    return [np.asarray(x[a:b], np.float64) for a, b in pairwise(offsets)]


def token_gae(rewards, values, offsets, gamma, gae_lambda):
    advantages, returns = [], []
    for r, v in zip(responses(rewards, offsets), responses(values, offsets), strict=True):
        following = next_value = 0.0
        own = []
        for reward, value in zip(r[::-1], v[::-1], strict=True):
            following = reward + gamma * next_value - value + gamma * gae_lambda * following
            next_value = value
            own.append(following)
        advantages.extend(own[::-1])
        returns.extend(np.array(own[::-1]) + v)
    return np.array(advantages), np.array(returns)


def group_advantages(scores, group_size, baseline, eps):
    found = []
    for group in np.asarray(scores, np.float64).reshape(-1, group_size):
        for i, score in enumerate(group):
            if baseline == "rloo":
                found.append(score - np.delete(group, i).mean())
            else:
                found.append((score - group.mean()) / (group.std(ddof=1) + eps if baseline == "grpo" else 1))
    return np.array(found)


def masked_whiten(x, mask, shift_mean, eps):
    x, chosen = np.asarray(x, np.float64), np.asarray(x, np.float64)[mask]
    if chosen.size == 0:
        return np.zeros_like(x)
    mean, variance = chosen.mean(), chosen.var(ddof=1) if chosen.size > 1 else 0.0
    return np.where(mask, (x - mean) / np.sqrt(variance + eps) + (0 if shift_mean else mean), 0)


def kl_estimates(log_probs, ref_log_probs, estimator):
    d = np.asarray(log_probs, np.float64) - np.asarray(ref_log_probs, np.float64)
    return {"k1": d, "k2": d**2 / 2, "k3": np.expm1(-d) + d}[estimator]
