"""What PPO and its relatives compute of the tokens of language models: checks around one kernel each, without Torch.

Tokens of B responses may lie end to end, without padding: `offsets` [B + 1] says where each begins, from 0 on, and
last how many there are in all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrl.checks import check_int, check_number
from fastrl.kernels import tokens as kernels
from fastrl.rollouts import as_array, check_unit, results

__all__ = ["group_advantages", "kl_estimates", "masked_whiten", "token_gae"]

ESTIMATORS = {"k1": kernels.K1, "k2": kernels.K2, "k3": kernels.K3}
BASELINES = {"grpo": kernels.DEVIATION, "rloo": kernels.LEAVE_ONE_OUT, "mean": kernels.DIFFERENCE}


def token_gae(
    rewards: Any, values: Any, offsets: Any, *, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Any, Any]:
    """Generalised advantage estimates of responses of different lengths, and the returns that values should fit.

    δ_t = r_t + γ V(s_{t+1}) − V(s_t) and A_t = δ_t + γλ A_{t+1} within each response, after whose last token both are 0
    (Schulman et al. 2016, eq. 16; Ziegler et al. 2019 for tokens).

    Args:
        rewards: (tokens,), of all responses end to end; the last token of each usually has the score.
        values: as rewards; V of the prompt and the tokens before.
        offsets: (B + 1,) ints; response b has the tokens from `offsets[b]` up to `offsets[b + 1]`.
        gamma: discount, in [0, 1].
        gae_lambda: λ in [0, 1].

    Returns:
        (advantages, returns), each (tokens,), of the kind of `rewards` (NumPy or CPU tensors) and of the common float
        type; returns = advantages + values.

    Raises:
        ValueError: for shapes that differ, offsets that do not rise from 0 to the number of tokens, a response without
            tokens, γ or λ outside [0, 1], tensors that are not on the CPU.
        TypeError: for dtypes that are not real numbers.
    """
    check_unit("gamma", gamma)
    check_unit("gae_lambda", gae_lambda)
    reward, value = _floats(("rewards", rewards), ("values", values))
    bounds = _offsets(offsets, reward)
    made = np.empty_like(reward), np.empty_like(reward)
    kind = reward.dtype.type
    kernels.token_gae(reward, value, bounds, kind(gamma), kind(gamma * gae_lambda), *made)
    return results(None, made, rewards)


def group_advantages(scores: Any, group_size: int, baseline: str = "grpo", eps: float = 1e-4) -> Any:
    """Advantages of responses by what other responses to the same prompt scored; there is no value function.

    "grpo": (s − mean) / (standard deviation + ε), of n − 1 (Shao et al. 2024, "DeepSeekMath", section 4.1).
    "rloo": s − the mean of the others (Ahmadian et al. 2024, "Back to Basics", eq. 7).
    "mean": s − mean (Liu et al. 2025, "Understanding R1-Zero-Like Training": the deviation is no part of the gradient).

    Args:
        scores: (groups * group_size,), those of a group side by side, or (groups, group_size).
        group_size: responses to each prompt, at least 2.
        baseline: as above.
        eps: ε of "grpo".

    Returns:
        Advantages, shaped as scores, of their kind and float type; 0 where all scores of a group are equal.

    Raises:
        ValueError: for a number of scores that is no multiple of `group_size`, another baseline, ε below 0.
        TypeError: for a dtype that is not real numbers.
    """
    if not (type(group_size) is int and group_size > 1):  # what a full look takes is longer than the kernel
        check_int("group_size", group_size, 2)
    if not (type(eps) is float and eps >= 0):
        check_number("eps", eps)
    if baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}; it must be one of {', '.join(BASELINES)}")
    plain = type(scores) is np.ndarray and scores.dtype.char in "fd" and scores.flags.c_contiguous
    score = scores if plain else _floats(("scores", scores))[0]
    shape = score.shape
    if len(shape) not in (1, 2) or shape[-1] % group_size or (len(shape) == 2 and shape[1] != group_size):
        raise ValueError(f"scores have shape {shape}; it must be (n * {group_size},) or (n, {group_size})")
    out = np.empty_like(score)
    flat = (score, out) if len(shape) == 1 else (score.reshape(-1), out.reshape(-1))
    kernels.group_advantages(flat[0], group_size, BASELINES[baseline], eps, flat[1])
    return out if plain else results(None, (out,), scores)[0]


def masked_whiten(x: Any, mask: Any = None, shift_mean: bool = True, eps: float = 1e-8) -> Any:
    """`x` scaled to variance 1, and to mean 0 unless not `shift_mean`, by the numbers where `mask` is set alone.

    (x − μ) / √(σ² + ε), σ² of n − 1. Rewards keep their mean, advantages do not (Ziegler et al. 2019; Huang et al.
    2024, "The N+ Implementation Details of RLHF with PPO").

    Args:
        x: numbers of any shape.
        mask: as x, bool or 0 / 1; None for all.
        shift_mean: subtract the mean.
        eps: ε.

    Returns:
        As x, of its kind and float type; 0 where the mask is not set.

    Raises:
        ValueError: for a mask of another shape or with other numbers, ε that is not positive.
        TypeError: for a dtype that is not real numbers.
    """
    check_number("eps", eps, np.finfo(np.float64).tiny)
    (array,) = _floats(("x", x))
    chosen = np.ones(array.shape, bool) if mask is None else as_array("mask", mask)
    if chosen.shape != array.shape:
        raise ValueError(f"mask has shape {chosen.shape}; x has {array.shape}: they must be equal")
    if chosen.dtype != bool and not ((chosen == 0) | (chosen == 1)).all():
        raise ValueError("mask has other numbers than 0 and 1")
    out = np.empty_like(array)
    flags = np.ascontiguousarray(chosen, bool).reshape(-1)
    kernels.whiten(array.reshape(-1), flags, bool(shift_mean), float(eps), out.reshape(-1))
    return results(None, (out,), x)[0]


def kl_estimates(log_probs: Any, ref_log_probs: Any, estimator: str = "k1", offsets: Any = None) -> Any:
    """Estimates of KL(π ‖ π_ref) by tokens that π has drawn, with d = log π − log π_ref.

    "k1": d, without bias. "k2": d² / 2, biased, of low variance; its gradient is that of the KL. "k3": e^(−d) − 1 + d,
    without bias, never negative (Schulman 2020, "Approximating KL Divergence").

    Args:
        log_probs: log π of the tokens drawn, any shape.
        ref_log_probs: log π_ref of them, as log_probs.
        estimator: as above.
        offsets: (B + 1,) ints, for (tokens,) log-probabilities: sums over the tokens of each response instead.

    Returns:
        float32, as log_probs, of its kind; (B,) with `offsets`. No gradient goes through it.

    Raises:
        ValueError: for shapes that differ, another estimator, unusable offsets, tensors that are not on the CPU.
        TypeError: for dtypes that are not real numbers.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be one of {', '.join(ESTIMATORS)}")
    own, ref = _floats(("log_probs", log_probs), ("ref_log_probs", ref_log_probs), dtype=np.float32)
    if offsets is None:
        out = np.empty_like(own)
        kernels.divergences(own.reshape(-1), ref.reshape(-1), ESTIMATORS[estimator], out.reshape(-1))
    else:
        bounds = _offsets(offsets, own)
        out = np.empty(len(bounds) - 1, np.float32)
        kernels.divergence_sums(own, ref, bounds, ESTIMATORS[estimator], out)
    return results(None, (out,), log_probs)[0]


def _floats(*named: tuple[str, Any], dtype: Any = None) -> list[np.ndarray]:
    """Contiguous arrays of one shape and one float type, `dtype` or the common one."""
    first = named[0][1]
    if type(first) is np.ndarray and first.dtype.char in ("f" if dtype else "fd"):  # nothing to do, mostly
        given = [x for _, x in named if type(x) is np.ndarray and x.dtype == first.dtype and x.shape == first.shape]
        if len(given) == len(named) and all(x.flags.c_contiguous for x in given):
            return given
    arrays = [as_array(name, x) for name, x in named]
    for (name, _), array in zip(named, arrays, strict=True):
        if array.dtype.kind not in "iubf":
            raise TypeError(f"{name} have dtype {array.dtype}; they must be real numbers, float32 or float64")
        if array.shape != arrays[0].shape:
            raise ValueError(f"{name} have shape {array.shape}; {named[0][0]} have {arrays[0].shape}")
    kind = dtype or (np.float64 if any(array.dtype == np.float64 for array in arrays) else np.float32)
    return [np.ascontiguousarray(array, kind) for array in arrays]


def _offsets(offsets: Any, flat: np.ndarray) -> np.ndarray:
    bounds = as_array("offsets", offsets)
    if bounds.dtype.kind not in "iu" or bounds.ndim != 1:
        raise TypeError(f"offsets are {bounds.dtype}{bounds.shape}; they must be ints (B + 1,)")
    if flat.ndim != 1:
        raise ValueError(f"the tokens have shape {flat.shape}; with offsets it must be (tokens,), responses end to end")
    bounds = np.ascontiguousarray(bounds, np.int64)
    if not kernels.rise(bounds, len(flat)):
        raise ValueError(f"offsets must rise from 0 to the {len(flat)} tokens: each response has at least one")
    return bounds
