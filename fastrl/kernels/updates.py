"""Whole updates: forward, loss, backward, clip and Adam in one call, or the gradient by itself."""

from __future__ import annotations

import math

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.acting import load_rows
from fastrl.kernels.heads import POLICY
from fastrl.kernels.losses import (
    APPROX_KL,
    LOSS,
    PPOSettings,
    advantage_sums,
    clear_log_std,
    ppo_loss,
    q_loss,
    q_target,
    reinforce_loss,
    standardisation,
)
from fastrl.kernels.mlp import N_OUT, ROWS, backward, forward, put, refresh
from fastrl.kernels.optim import descend

BAD_BATCH, DIVERGED = -5, -6  # beside the codes of `kernels.environment`


@inlined
def ppo_gradient(
    order: np.ndarray, first: int, rows: int, obs: np.ndarray, action: np.ndarray, log_prob: np.ndarray,
    value: np.ndarray, advantage: np.ndarray, returns: np.ndarray, sums: np.ndarray, params: np.ndarray,
    plan: np.ndarray, work: np.ndarray, head: np.ndarray, settings: PPOSettings, grads: np.ndarray, means: np.ndarray,
) -> None:  # fmt: skip
    """The gradient of PPO's loss over the minibatch order[first] … order[first + rows − 1]; see `ppo_loss`.

    `sums` are those of `advantage_sums`, of this minibatch or, added up, of those of several processes.
    """
    refresh(params, plan, work)
    put(obs, order, first, rows, plan, work)
    forward(plan, work, rows)
    mean, scale = standardisation(sums) if settings.normalize_advantage else (0.0, 1.0)
    ppo_loss(order, first, rows, action, log_prob, value, advantage, returns, mean, scale, params, plan, work, head,
             settings, grads, means)  # fmt: skip
    backward(params, plan, work, rows, False, grads)


@bare
def gradient_ppo(
    order: np.ndarray, first: int, rows: int, obs: np.ndarray, action: np.ndarray, log_prob: np.ndarray,
    value: np.ndarray, advantage: np.ndarray, returns: np.ndarray, sums: np.ndarray, params: np.ndarray,
    plan: np.ndarray, work: np.ndarray, head: np.ndarray, settings: PPOSettings, grads: np.ndarray, means: np.ndarray,
) -> None:  # fmt: skip
    """`ppo_gradient` by itself: what several processes add up before they step."""
    ppo_gradient(order, first, rows, obs, action, log_prob, value, advantage, returns, sums, params, plan, work, head,
                 settings, grads, means)  # fmt: skip


@bare
def update_ppo(
    order: np.ndarray, batch_size: int, obs: np.ndarray, action: np.ndarray, log_prob: np.ndarray, value: np.ndarray,
    advantage: np.ndarray, returns: np.ndarray, params: np.ndarray, grads: np.ndarray, exp_avg: np.ndarray,
    exp_avg_sq: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray, step: int, settings: PPOSettings,
    totals: np.ndarray, means: np.ndarray, sums: np.ndarray,
) -> tuple[int, int]:  # fmt: skip
    """K epochs over a rollout in minibatches (Schulman et al. 2017, algorithm 1); (updates, minibatches seen).

    Or (updates, DIVERGED) before the first step for which loss or gradient are not finite.

    Args:
        order: int64 [K, M], the order in which each epoch visits the M rows.
        batch_size: rows of a minibatch, at most those of the plan; a smaller last one is used too.
        obs: float32 [M, obs_dim]. action: [M, c], int64 or float32. The others float32 [M].
        params, grads, exp_avg, exp_avg_sq: flat float32 vectors; `grads` holds the last gradient in the end.
        step: how many steps Adam has taken.
        settings: see there; ends before the first step at which the KL divergence exceeds 1.5 · target_kl.
        totals: float64 [6], written: `losses.LOSS` … summed over the minibatches seen.
        means, sums: float64 [6] and [3], scratch memory.
    """
    n_updates = seen = 0
    for j in range(len(totals)):
        totals[j] = 0
    for epoch in order:
        for first in range(0, len(epoch), batch_size):
            rows = min(batch_size, len(epoch) - first)
            if settings.normalize_advantage:
                advantage_sums(advantage, epoch, first, rows, sums)
            ppo_gradient(epoch, first, rows, obs, action, log_prob, value, advantage, returns, sums, params, plan,
                         work, head, settings, grads, means)  # fmt: skip
            for j in range(len(totals)):
                totals[j] += means[j]
            seen += 1
            if means[APPROX_KL] > 1.5 * settings.target_kl:
                return n_updates, seen
            if not math.isfinite(means[LOSS]) or not descend(
                params, grads, exp_avg, exp_avg_sq, step + n_updates + 1, settings.learning_rate, settings.adam_eps,
                settings.max_grad_norm,
            ):  # fmt: skip
                return n_updates, DIVERGED
            n_updates += 1
    return n_updates, seen


@inlined
def reinforce_gradient(
    order: np.ndarray, total: int, obs: np.ndarray, action: np.ndarray, advantage: np.ndarray, returns: np.ndarray,
    params: np.ndarray, grads: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray, ent_coef: float,
    vf_coef: float, sums: np.ndarray,
) -> None:  # fmt: skip
    """The gradient of REINFORCE's loss over M rows, which is a mean over `total`: see `update_reinforce`."""
    for j in range(len(sums)):
        sums[j] = 0
    refresh(params, plan, work)
    clear_log_std(plan[head[POLICY]], head, grads)
    for first in range(0, len(obs), plan[0, ROWS]):
        rows = min(len(obs) - first, plan[0, ROWS])
        put(obs, order, first, rows, plan, work)
        forward(plan, work, rows)
        reinforce_loss(order, first, rows, total, action, advantage, returns, params, plan, work, head, ent_coef,
                       vf_coef, grads, sums)  # fmt: skip
        backward(params, plan, work, rows, first > 0, grads)


@bare
def gradient_reinforce(
    order: np.ndarray, total: int, obs: np.ndarray, action: np.ndarray, advantage: np.ndarray, returns: np.ndarray,
    params: np.ndarray, grads: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray, ent_coef: float,
    vf_coef: float, sums: np.ndarray,
) -> None:  # fmt: skip
    """`reinforce_gradient` by itself: what several processes, with `total` rows between them, add up."""
    reinforce_gradient(order, total, obs, action, advantage, returns, params, grads, plan, work, head, ent_coef,
                       vf_coef, sums)  # fmt: skip


@bare
def update_reinforce(
    order: np.ndarray, obs: np.ndarray, action: np.ndarray, advantage: np.ndarray, returns: np.ndarray,
    params: np.ndarray, grads: np.ndarray, exp_avg: np.ndarray, exp_avg_sq: np.ndarray, plan: np.ndarray,
    work: np.ndarray, head: np.ndarray, step: int, learning_rate: float, adam_eps: float, max_grad_norm: float,
    ent_coef: float, vf_coef: float, sums: np.ndarray,
) -> bool:  # fmt: skip
    """One step along ∇ log π(a|s) A over M rows, any number; sums as in `reinforce_loss`.

    `order` int64 [M] is any order of the rows; the other arrays as in `update_ppo`. Returns False, and no step is
    taken, where loss or gradient are not finite.
    """
    reinforce_gradient(order, len(obs), obs, action, advantage, returns, params, grads, plan, work, head, ent_coef,
                       vf_coef, sums)  # fmt: skip
    finite = math.isfinite(sums[0]) and math.isfinite(sums[2]) and (vf_coef == 0 or math.isfinite(sums[1]))
    return finite and descend(params, grads, exp_avg, exp_avg_sq, step + 1, learning_rate, adam_eps, max_grad_norm)


@bare
def update_q(
    obs: np.ndarray, action: np.ndarray, reward: np.ndarray, discount: np.ndarray, next_obs: np.ndarray,
    terminated: np.ndarray, weights: np.ndarray, double_q: bool, huber: bool, params: np.ndarray, grads: np.ndarray,
    exp_avg: np.ndarray, exp_avg_sq: np.ndarray, plan: np.ndarray, work: np.ndarray, target_work: np.ndarray,
    head: np.ndarray, step: int, learning_rate: float, adam_eps: float, max_grad_norm: float, y: np.ndarray,
    td_error: np.ndarray,
) -> float:  # fmt: skip
    """One step of Q towards r + γ (1 − terminated) Q̂(s', a') over B transitions, at most the plan's rows.

    Args:
        obs, next_obs: float32 [B, obs_dim]. action: int64 [B]. terminated: bool [B]. The others float32 [B]:
            `discount` is γ, or γ^m of windows of m steps; `weights` are importance weights; `y` and `td_error` are
            written.
        work, target_work: scratch memory of the plan, refreshed from both networks' parameters; `work` is so again
            in the end.
        step: how many steps Adam has taken.

    Returns the mean loss; or, and nothing has happened, BAD_BATCH where an action is none of the network's, DIVERGED
    where loss or gradient are not finite.
    """
    rows = len(obs)
    for a in action:
        if a < 0 or a >= plan[head[POLICY], N_OUT]:
            return float(BAD_BATCH)
    load_rows(next_obs, 0, rows, plan, target_work)
    forward(plan, target_work, rows)
    if double_q:
        load_rows(next_obs, 0, rows, plan, work)
        forward(plan, work, rows)
    q_target(reward, discount, terminated, plan, work if double_q else target_work, target_work, head, y)
    load_rows(obs, 0, rows, plan, work)
    forward(plan, work, rows)
    loss = q_loss(action, y, weights, huber, plan, work, head, td_error)
    backward(params, plan, work, rows, False, grads)
    if not math.isfinite(loss) or not descend(
        params, grads, exp_avg, exp_avg_sq, step + 1, learning_rate, adam_eps, max_grad_norm
    ):
        return float(DIVERGED)
    refresh(params, plan, work)
    return loss
