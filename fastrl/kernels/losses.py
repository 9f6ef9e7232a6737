"""Losses of PPO, REINFORCE and DQN over the rows of a batch: their values, and d_loss_d_output beside the outputs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.activations import LANES, exp
from fastrl.kernels.heads import LOG_STD, POLICY, VALUE, differentiate, evaluate, likeliest
from fastrl.kernels.mlp import N_OUT, WIDTH, D, H
from fastrl.kernels.simd import below, maximum, minimum, picked, positive, scatter, splat, strided, total, where, zeros


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
    policy, critic, like = plan[head[POLICY]], plan[head[VALUE]], zeros(work, LANES)
    low, high = np.float32(1 - settings.clip_range), np.float32(1 + settings.clip_range)
    limit, share, one = np.float32(settings.clip_range_vf), np.float32(1 / rows), np.float32(1)
    clear_log_std(policy, head, grads)
    policy_loss = value_loss = entropy_sum = kl = clipped = 0.0
    for i in range(0, rows, LANES):
        last, k = min(LANES, rows - i) - 1, first + i
        these, z = below(like, last + 1), policy[H] + i * policy[WIDTH]
        new_log_prob, entropy = evaluate(work, z, policy[WIDTH], action, order, k, last, params, head, like)
        log_ratio = new_log_prob - picked(log_prob, 0, order, k, last, like)
        ratio = exp(log_ratio)
        A = (picked(advantage, 0, order, k, last, like) - np.float32(mean)) * np.float32(scale)
        surrogate, bounded = ratio * A, minimum(maximum(ratio, low), high) * A
        d_loss_d_log_prob = where(positive(surrogate - bounded), like, surrogate * -share)
        differentiate(work, z, policy[D] + i * policy[WIDTH], policy[WIDTH], action, order, k, last, params, head,
                      d_loss_d_log_prob, np.float32(-settings.ent_coef) * share, grads, like)  # fmt: skip
        v = strided(work, critic[H] + i * critic[WIDTH], critic[WIDTH], last, like)
        old = picked(value, 0, order, k, last, like)
        beyond = positive(maximum(v - old, old - v) - limit)
        clipped_value = old + minimum(maximum(v - old, -limit), limit)
        error = where(beyond, clipped_value, v) - picked(returns, 0, order, k, last, like)
        scatter(work, critic[D] + i * critic[WIDTH], critic[WIDTH], last,
                where(beyond, like, error) * (np.float32(2 * settings.vf_coef) * share))  # fmt: skip
        policy_loss -= total(where(these, minimum(surrogate, bounded), like))
        value_loss += total(where(these, error * error, like))
        entropy_sum += total(where(these, entropy, like))
        kl += total(where(these, ratio - one - log_ratio, like))  # Schulman's k3, "Approximating KL Divergence"
        outside = positive(maximum(ratio - one, one - ratio) - np.float32(settings.clip_range))
        clipped += total(where(these & outside, splat(one, like), like))
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
    order: np.ndarray, first: int, rows: int, n_rows: int, action: np.ndarray, advantage: np.ndarray,
    returns: np.ndarray, params: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray, ent_coef: float,
    vf_coef: float, grads: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """−log π(a|s) A + c_v (V − G)² − c_e H of the rows order[first] … of `n_rows`, whose mean is the loss.

    Williams 1992. As `ppo_loss`; adds Σ −log π A, Σ (V − G)² and Σ −H to float64 `sums` [3]. A vf_coef of 0 leaves V
    alone.
    """
    policy, critic, like, share = plan[head[POLICY]], plan[head[VALUE]], zeros(work, LANES), np.float32(1 / n_rows)
    for i in range(0, rows, LANES):
        last, k = min(LANES, rows - i) - 1, first + i
        these, z = below(like, last + 1), policy[H] + i * policy[WIDTH]
        log_prob, entropy = evaluate(work, z, policy[WIDTH], action, order, k, last, params, head, like)
        A = picked(advantage, 0, order, k, last, like)
        differentiate(work, z, policy[D] + i * policy[WIDTH], policy[WIDTH], action, order, k, last, params, head,
                      A * -share, np.float32(-ent_coef) * share, grads, like)  # fmt: skip
        v = strided(work, critic[H] + i * critic[WIDTH], critic[WIDTH], last, like)
        error = v - picked(returns, 0, order, k, last, like)
        d_loss_d_v = error * (np.float32(2 * vf_coef) * share) if vf_coef != 0 else like
        scatter(work, critic[D] + i * critic[WIDTH], critic[WIDTH], last, d_loss_d_v)
        sums[0] -= total(where(these, log_prob * A, like))
        sums[1] += total(where(these, error * error, like))
        sums[2] -= total(where(these, entropy, like))


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
