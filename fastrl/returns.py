"""Advantages and returns of anybody's rollouts: checks and views around one kernel each. Torch is not needed."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrl.checks import check_int
from fastrl.kernels import returns as kernels
from fastrl.rollouts import check_unit, prepare, results

__all__ = ["compute_gae", "discounted_returns", "lambda_returns", "n_step_returns", "vtrace"]

NAMES = ("rewards", "values")
GAE_OUT, VTRACE_OUT = ("advantages", "returns"), ("targets", "advantages")


def compute_gae(
    rewards: Any,
    values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    gamma: float = 0.99,
    gae_lambda: float = 0.95,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Generalised advantage estimates and the returns that a value function should fit.

    δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t) and A_t = δ_t + γλ (1 − done_t) A_{t+1} with
    done = terminated or truncated (Schulman et al. 2016, "High-Dimensional Continuous Control Using
    Generalized Advantage Estimation", eq. 16). An episode cut by a time limit is no terminal state: its last
    step bootstraps from the value of the observation it really ended in, and the trace stops there.

    NumPy arrays or CPU tensors; the results are of the kind of `rewards` and of the common float type of
    `rewards` and `values`, float32 or float64, in which they are calculated. Time comes first.

    Args:
        rewards: (T,) or (T, N). `rewards[t]` follows the action taken in the state that `values[t]` judges.
        values: as rewards; V(s_t).
        last_values: (N,), or a number for (T,) rewards; V of the observation after the last step.
        terminated: as rewards, bool or 0 / 1; step t reached a terminal state.
        truncated: as rewards; step t was the last of its episode for another reason (a time limit).
        final_values: as rewards; V of the true last observation, read only where `truncated`.
        gamma: discount, in [0, 1].
        gae_lambda: λ in [0, 1]; 0 gives one-step errors, 1 gives Monte-Carlo returns less the value.
        out: (advantages, returns) to write into: C-contiguous, of the result's kind, shape and dtype,
            sharing no memory with the inputs.

    Returns:
        (advantages, returns), shaped as rewards; returns = advantages + values.

    Raises:
        ValueError: on shapes that differ, γ or λ outside [0, 1], truncation without `final_values`, flags
            other than 0 / 1, tensors that are not on the CPU, or an unusable `out`.
        TypeError: on dtypes that are not real numbers.
    """
    check_unit("gamma", gamma)
    check_unit("gae_lambda", gae_lambda)
    columns = (rewards, values)
    arrays, made = prepare(NAMES, columns, last_values, terminated, truncated, final_values, out, GAE_OUT)
    arguments = (*arrays, float(gamma), float(gae_lambda), *made)
    kernels.gae(*arguments)
    return results(out, made, rewards)


def lambda_returns(
    rewards: Any,
    values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    gamma: float = 0.99,
    lambda_: float = 0.95,
    out: Any = None,
) -> Any:
    """The λ-returns G_t = r_t + γ ((1 − λ) V(s_{t+1}) + λ G_{t+1}), past an end the value of what follows it.

    Sutton & Barto 2018, eq. 12.2 and 12.3. They are `compute_gae`'s returns; arguments, result and errors are as
    there, with `lambda_` in the place of `gae_lambda` and one array for `out`.
    """
    check_unit("gamma", gamma)
    check_unit("lambda_", lambda_)
    columns, into = (rewards, values), None if out is None else (out,)
    arrays, made = prepare(NAMES, columns, last_values, terminated, truncated, final_values, into, ("returns",))
    arguments = (*arrays, float(gamma), float(lambda_), np.empty_like(made[0]), *made)
    kernels.gae(*arguments)
    return results(into, made, rewards)[0]


def discounted_returns(
    rewards: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    gamma: float = 0.99,
    out: Any = None,
) -> Any:
    """The returns G_t = r_t + γ G_{t+1}; past an end G is 0, `final_values[t]` where truncated, or `last_values`.

    Sutton & Barto 2018, eq. 3.9. Arguments, result and errors are as in `compute_gae`, with one array for `out`.
    """
    check_unit("gamma", gamma)
    columns, into = (rewards,), None if out is None else (out,)
    arrays, made = prepare(NAMES[:1], columns, last_values, terminated, truncated, final_values, into, ("returns",))
    arguments = (*arrays, float(gamma), *made)
    kernels.discounted_returns(*arguments)
    return results(into, made, rewards)[0]


def n_step_returns(
    rewards: Any,
    values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    n_steps: int,
    gamma: float = 0.99,
    out: Any = None,
) -> Any:
    """G_t = r_t + γ r_{t+1} + … + γ^m V(s_{t+m}), m = `n_steps` or fewer where the episode or the rollout ends.

    Sutton & Barto 2018, eq. 7.1; after a terminal state V is 0, after a time limit `final_values`, after the last
    step `last_values`. Arguments, result and errors are as in `compute_gae`, with one array for `out`;
    ValueError for `n_steps` below 1.
    """
    check_int("n_steps", n_steps)
    check_unit("gamma", gamma)
    columns, into = (rewards, values), None if out is None else (out,)
    arrays, made = prepare(NAMES, columns, last_values, terminated, truncated, final_values, into, ("returns",))
    arguments = (*arrays, min(int(n_steps), len(made[0])), float(gamma), *made)
    kernels.n_step_returns(*arguments)
    return results(into, made, rewards)[0]


def vtrace(
    rewards: Any,
    values: Any,
    last_values: Any,
    terminated: Any,
    truncated: Any = None,
    final_values: Any = None,
    *,
    ratios: Any,
    gamma: float = 0.99,
    lambda_: float = 1.0,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    clip_pg_rho: float = 1.0,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """V-trace targets and policy-gradient advantages of rollouts that another policy μ gathered.

    v_t = V(s_t) + ρ_t δ_t + γ c_t (v_{t+1} − V(s_{t+1})) with δ_t as in `compute_gae`, ρ_t = min(clip_rho, ratio),
    c_t = λ min(clip_c, ratio), and the advantages min(clip_pg_rho, ratio) (r_t + γ q_t − V(s_t)) with
    q_t = λ v_{t+1} + (1 − λ) V(s_{t+1}). Espeholt et al. 2018, "IMPALA", eq. 1 and section 4.2.

    Args:
        rewards, values, last_values, terminated, truncated, final_values, gamma: as in `compute_gae`.
        ratios: as rewards; π(a_t|s_t) / μ(a_t|s_t), at least 0.
        lambda_: λ in [0, 1].
        clip_rho, clip_c, clip_pg_rho: upper bounds of the ratios; infinity for none.
        out: (targets, advantages) to write into, as in `compute_gae`.

    Returns:
        (targets, advantages), shaped as rewards.

    Raises:
        ValueError: as `compute_gae`; for negative or NaN ratios and clips that are not positive.
        TypeError: as `compute_gae`.
    """
    check_unit("gamma", gamma)
    check_unit("lambda_", lambda_)
    clips = {"clip_rho": clip_rho, "clip_c": clip_c, "clip_pg_rho": clip_pg_rho}
    for name, clip in clips.items():
        if not clip > 0:
            raise ValueError(f"{name} is {clip}; it must be positive, or infinity for none")
    names, columns = (*NAMES, "ratios"), (rewards, values, ratios)
    arrays, made = prepare(names, columns, last_values, terminated, truncated, final_values, out, VTRACE_OUT)
    reward, value, ratio, *rest = arrays
    if not (ratio >= 0).all():
        raise ValueError("ratios hold negative numbers or NaN; they must be π(a|s) / μ(a|s)")
    bounds = [float(clip) for clip in clips.values()]
    arguments = (reward, value, *rest, ratio, float(gamma), float(lambda_), *bounds, *made)
    kernels.vtrace(*arguments)
    return results(out, made, rewards)
