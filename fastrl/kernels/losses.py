"""Losses of PPO, REINFORCE and DQN over the rows of a batch: their values, and d_loss_d_output beside the outputs."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.activations import LANES, exp
from fastrl.kernels.heads import (
    LOG_STD,
    POLICY,
    VALUE,
    differentiate,
    evaluate,
    is_narrow,
    likeliest,
    softmax_of_lanes,
)
from fastrl.kernels.mlp import N_OUT, WIDTH, D, H
from fastrl.kernels.simd import at, below, load, splat, store, total, where, zeros


class PPOSettings(NamedTuple):
    """What an update of PPO is told; infinity stands for no limit."""

    learning_rate: float
    adam_eps: float
    max_grad_norm: float
    clip_range: float
    clip_range_vf: float
    ent_coef: float
    vf_coef: float
    target_kl: float
    normalize_advantage: bool


# what `ppo_loss` adds up: the loss, its three parts, the approximate KL divergence, the share of clipped ratios
LOSS, POLICY_LOSS, VALUE_LOSS, ENTROPY_LOSS, APPROX_KL, CLIP_FRACTION = range(6)


@bare
def advantage_sums(advantage: np.ndarray, order: np.ndarray, first: int, rows: int, sums: np.ndarray) -> None:
    """sums ← (count, Σ A, Σ A²) float64 of advantage[order[first]] …: what several processes can add up."""
    sum_ = squares = 0.0
    for i in range(first, first + rows):
        a = float(advantage[order[i]])
        sum_ += a
        squares += a * a
    sums[0], sums[1], sums[2] = rows, sum_, squares


@bare
def standardisation(sums: np.ndarray) -> tuple[float, float]:
    """(mean, 1 / (deviation + 1e-8)) of `advantage_sums`; a single number is left as it is."""
    count, mean = sums[0], sums[1] / sums[0]
    if count < 2:
        return 0.0, 1.0
    return mean, 1 / (math.sqrt(max(sums[2] - sums[1] * mean, 0.0) / (count - 1)) + 1e-8)


@bare
def ppo_loss(
    order: np.ndarray, first: int, rows: int, action: np.ndarray, log_prob: np.ndarray, value: np.ndarray,
    advantage: np.ndarray, returns: np.ndarray, mean: float, scale: float, params: np.ndarray, plan: np.ndarray,
    work: np.ndarray, head: np.ndarray, settings: PPOSettings, grads: np.ndarray, means: np.ndarray,
) -> None:  # fmt: skip
    """−L^CLIP + c_v (V − R)² − c_e H, its mean over the rows order[first] … (Schulman et al. 2017, eq. 7 and 9).

    Expects the outputs of `forward` in `work`, leaves their derivatives there, and those by log_std in `grads`. The
    advantage is (A − mean) · scale. Writes float64 `means` [6].
    """
    policy, critic = plan[head[POLICY]], plan[head[VALUE]]
    low, high = np.float32(1 - settings.clip_range), np.float32(1 + settings.clip_range)
    limit, share = np.float32(settings.clip_range_vf), np.float32(1 / rows)
    clear_log_std(policy, head, grads)
    narrow, like, ent_share = is_narrow(head), zeros(work, LANES), np.float32(-settings.ent_coef) * share
    choices, chosen, log_p, p = below(like, policy[N_OUT]), below(like, 0), like, like
    policy_loss = value_loss = entropy_sum = kl = clipped = 0.0
    for i in range(rows):
        k = order[first + i]
        z, d = policy[H] + i * policy[WIDTH], policy[D] + i * policy[WIDTH]
        if narrow:  # as below, in registers
            log_p, p = softmax_of_lanes(load(work, z, like), choices)
            chosen = at(like, int(action[k, 0]))
            new_log_prob, entropy = total(where(chosen, log_p, like)), -total(p * log_p)
        else:
            new_log_prob, entropy = evaluate(work, z, d, action, k, params, head)
        log_ratio = new_log_prob - log_prob[k]
        ratio = exp(log_ratio)
        A = np.float32((advantage[k] - mean) * scale)
        surrogate: Any = ratio * A
        bounded: Any = min(max(ratio, low), high) * A
        d_loss_d_log_prob = -surrogate * share if surrogate <= bounded else np.float32(0)
        if narrow:
            d_loss_d_logits = where(chosen, splat(d_loss_d_log_prob, like), like)
            store(work, d, d_loss_d_logits - p * ((log_p + entropy) * ent_share + d_loss_d_log_prob))
        else:
            differentiate(work, z, d, action, k, params, head, d_loss_d_log_prob, ent_share, grads)
        v = work[critic[H] + i * critic[WIDTH]]
        moved = v - value[k]
        error = value[k] + min(max(moved, -limit), limit) - returns[k] if abs(moved) > limit else v - returns[k]
        within = np.float32(1) if abs(moved) <= limit else np.float32(0)
        work[critic[D] + i * critic[WIDTH]] = np.float32(2 * settings.vf_coef) * error * share * within
        policy_loss -= min(surrogate, bounded)
        value_loss += error * error
        entropy_sum += entropy
        kl += ratio - 1 - log_ratio  # Schulman's k3, "Approximating KL Divergence"
        clipped += 1.0 if abs(ratio - 1) > settings.clip_range else 0.0
    loss = policy_loss + settings.vf_coef * value_loss - settings.ent_coef * entropy_sum
    for name, sum_ in ((LOSS, loss), (POLICY_LOSS, policy_loss), (VALUE_LOSS, value_loss),
                        (ENTROPY_LOSS, -entropy_sum), (APPROX_KL, kl), (CLIP_FRACTION, clipped)):  # fmt: skip
        means[name] = sum_ / rows


@inlined
def clear_log_std(policy: np.ndarray, head: np.ndarray, grads: np.ndarray) -> None:
    """Begin the gradient by log_std, which `differentiate` adds to."""
    if head[LOG_STD] >= 0:
        for j in range(policy[N_OUT]):
            grads[head[LOG_STD] + j] = 0


@bare
def reinforce_loss(
    first: int, rows: int, n_rows: int, action: np.ndarray, advantage: np.ndarray, returns: np.ndarray,
    params: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray, ent_coef: float, vf_coef: float,
    grads: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """−log π(a|s) A + c_v (V − G)² − c_e H of the rows first … of `n_rows`, whose mean is the loss (Williams 1992).

    As `ppo_loss`; adds Σ −log π A, Σ (V − G)² and Σ −H to float64 `sums` [3]. A vf_coef of 0 leaves V alone.
    """
    policy, critic, share = plan[head[POLICY]], plan[head[VALUE]], np.float32(1 / n_rows)
    for i in range(rows):
        k = first + i
        z, d = policy[H] + i * policy[WIDTH], policy[D] + i * policy[WIDTH]
        log_prob, entropy = evaluate(work, z, d, action, k, params, head)
        differentiate(
            work, z, d, action, k, params, head, -advantage[k] * share, np.float32(-ent_coef) * share, grads
        )
        error = work[critic[H] + i * critic[WIDTH]] - returns[k]
        work[critic[D] + i * critic[WIDTH]] = np.float32(2 * vf_coef) * error * share if vf_coef != 0 else np.float32(0)
        sums[0] -= log_prob * advantage[k]
        sums[1] += error * error
        sums[2] -= entropy


@bare
def q_target(
    reward: np.ndarray, discount: np.ndarray, terminated: np.ndarray, plan: np.ndarray, chosen_by: np.ndarray,
    target_work: np.ndarray, head: np.ndarray, y: np.ndarray,
) -> None:  # fmt: skip
    """y = r + γ (1 − terminated) Q̂(s', a'), all [B], from the outputs of `forward` for s' in `target_work`.

    a' is the greatest of the outputs in `chosen_by`: `target_work` again (Mnih et al. 2015), or the online network's
    `work` (van Hasselt et al. 2016).
    """
    layer = plan[head[POLICY]]
    for i in range(len(reward)):
        q = layer[H] + i * layer[WIDTH]
        best = likeliest(chosen_by, q, layer[N_OUT])
        y[i] = reward[i] + (np.float32(0) if terminated[i] else discount[i] * target_work[q + best])


@bare
def q_loss(
    action: np.ndarray, y: np.ndarray, weights: np.ndarray, huber: bool, plan: np.ndarray, work: np.ndarray,
    head: np.ndarray, td_error: np.ndarray,
) -> float:  # fmt: skip
    """The mean of w ℓ(Q(s, a) − y), ℓ Huber's loss with threshold 1 or the square; writes `td_error` = Q − y [B].

    As `ppo_loss`. `weights` are importance weights [B] (Schaul et al. 2016).
    """
    layer, rows, loss = plan[head[POLICY]], len(y), 0.0
    for i in range(rows):
        q, d = layer[H] + i * layer[WIDTH], layer[D] + i * layer[WIDTH]
        for j in range(layer[N_OUT]):
            work[d + j] = 0
        error = work[q + action[i]] - y[i]
        td_error[i] = error
        size, share = abs(error), weights[i] / np.float32(rows)
        if huber:
            loss += weights[i] * (0.5 * size * size if size < 1 else size - 0.5)
            work[d + action[i]] = min(max(error, np.float32(-1)), np.float32(1)) * share
        else:
            loss += weights[i] * size * size
            work[d + action[i]] = 2 * error * share
    return loss / rows
