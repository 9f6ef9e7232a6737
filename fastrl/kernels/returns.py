"""Advantages and returns. Arrays are time-major, [T, N].

`gae`, `discounted_returns` and `vtrace` are recurrences x_t = d_t + c_t x_{t+1} whose d and c depend on the step alone.
A rollout is worked through once, from its end, in tiles of steps that stay in the first-level cache: first d and c of
all the tile's steps, whatever their order, then `_recur`. The first tile is the last row, which `last_value` follows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrl.kernels._jit import bare, inlined, kernel
from fastrl.kernels.simd import flat, load, minimum, nonzero, shift, splat, spread, store, where, zeros

Array = np.ndarray
Steps = tuple[Any, ...]  # the arrays of a rollout, flat, and the parameters, in the order of the kernel
TILE = 1024  # steps
LANES = 16


@bare
def gae(
    reward: Array, value: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    gamma: float, gae_lambda: float, advantage: Array, returns: Array,
) -> None:  # fmt: skip
    """δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t);   A_t = δ_t + γλ (1 − done_t) A_{t+1}

    V(s_{t+1}) is `final_value[t]` where the episode was truncated, `last_value` at the end of the rollout
    and `value[t + 1]` elsewhere; done = terminated or truncated. `last_value` is [N], the rest [T, N] or [T * N],
    contiguous; flags bool, numbers float32 or float64, all alike. Writes `advantage` and `returns` = advantage +
    value. Schulman et al. 2016, eq. 16.
    """
    n, N = reward.size, last_value.size
    steps = (flat(reward), flat(value), flat(terminated), flat(truncated), flat(final_value), gamma,
             gamma * gae_lambda, flat(advantage), flat(returns))  # fmt: skip
    if N >= LANES:
        _gae_rows(steps, last_value, zeros(advantage, LANES))
        return
    for k in range(_n_tiles(n, N)):
        start, stop, ahead = _tile(k, n, N)
        following = last_value if k == 0 else steps[1]
        if stop - start >= LANES:
            _gae_errors(start, stop, following, ahead, steps, zeros(advantage, LANES))
        else:
            _gae_errors(start, stop, following, ahead, steps, zeros(advantage, 1))
        if k > 0:
            _recur(steps[7], steps[8], 0, N, start, stop)
        if stop - start >= LANES:
            _add(start, stop, steps, zeros(advantage, LANES))
        else:
            _add(start, stop, steps, zeros(advantage, 1))


@inlined
def _add(start: int, stop: int, steps: Steps, zero: Any) -> None:
    lanes, value, advantage, returns = len(zero), steps[1], steps[7], steps[8]
    for k in range(start, stop, lanes):
        i = min(k, stop - lanes)
        store(returns, i, load(advantage, i, zero) + load(value, i, zero))


@inlined
def _gae_rows(steps: Steps, last_value: Array, zero: Any) -> None:
    """All of it, vector by vector, where a row fills a vector."""
    reward, value, terminated, truncated, final_value, gamma, trace, advantage, returns = steps
    n, N, discount, decay = len(reward), len(last_value), splat(gamma, zero), splat(trace, zero)
    for row in range(n - N, -1, -N):
        for k in range(0, N, LANES):
            j = min(k, N - LANES)  # the last vector overlaps the one before
            i = row + j
            if row + N < n:
                next_value, following = load(value, i + N, zero), load(advantage, i + N, zero)
            else:
                next_value, following = load(last_value, j, zero), zero
            end, cut = load(terminated, i, zero), load(truncated, i, zero)
            next_value = where(end, zero, where(cut, load(final_value, i, zero), next_value))
            error = load(reward, i, zero) + discount * next_value - load(value, i, zero)
            total = error + where(end | cut, zero, decay * following)
            store(advantage, i, total)
            store(returns, i, total + load(value, i, zero))


@inlined
def _gae_errors(start: int, stop: int, following: Array, ahead: int, steps: Steps, zero: Any) -> None:
    reward, value, terminated, truncated, final_value, gamma, trace, advantage, returns = steps
    lanes, discount, decay = len(zero), splat(gamma, zero), splat(trace, zero)
    for k in range(start, stop, lanes):
        i = min(k, stop - lanes)  # the last vector overlaps the one before
        end, cut = load(terminated, i, zero), load(truncated, i, zero)
        next_value = where(end, zero, where(cut, load(final_value, i, zero), load(following, i + ahead, zero)))
        store(advantage, i, load(reward, i, zero) + discount * next_value - load(value, i, zero))
        store(returns, i, where(end | cut, zero, decay))


@kernel
def discounted_returns(
    reward: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    gamma: float, returns: Array,
) -> None:  # fmt: skip
    """G_t = r_t + γ G_{t+1}; past an end G is 0 (terminated), `final_value[t]` (truncated) or `last_value`.

    Shapes and types as in `gae`. Writes `returns`. Sutton & Barto 2018, eq. 3.9.
    """
    n, N = reward.size, last_value.size
    steps = (flat(reward), flat(terminated), flat(truncated), flat(final_value), gamma,
             np.empty(max(TILE, N), reward.dtype), flat(returns))  # fmt: skip
    for k in range(_n_tiles(n, N)):
        start, stop, ahead = _tile(k, n, N)
        if stop - start >= LANES:
            _returns_tile(start, stop, last_value, ahead, steps, zeros(returns, LANES))
        else:
            _returns_tile(start, stop, last_value, ahead, steps, zeros(returns, 1))
        if k > 0:
            _recur(steps[6], steps[5], start, N, start, stop)


@inlined
def _returns_tile(start: int, stop: int, last_value: Array, ahead: int, steps: Steps, zero: Any) -> None:
    reward, terminated, truncated, final_value, gamma, decay, returns = steps
    lanes, discount = len(zero), splat(gamma, zero)
    for k in range(start, stop, lanes):
        i = min(k, stop - lanes)
        end, cut = load(terminated, i, zero), load(truncated, i, zero)
        following = load(last_value, i + ahead, zero) if ahead <= 0 else zero
        following = where(end, zero, where(cut, load(final_value, i, zero), following))
        store(returns, i, load(reward, i, zero) + discount * following)
        store(decay, i - start, where(end | cut, zero, discount))


@kernel
def vtrace(
    reward: Array, value: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    ratio: Array, gamma: float, trace_lambda: float, clip_rho: float, clip_c: float, clip_pg_rho: float,
    target: Array, advantage: Array,
) -> None:  # fmt: skip
    """v_t = V(s_t) + ρ_t δ_t + γ c_t (1 − done_t) (v_{t+1} − V(s_{t+1})),   A_t = ρ'_t (r_t + γ q_t − V(s_t))

    ρ, c / λ and ρ' are `ratio` = π(a|s) / μ(a|s) clipped from above, q_t = λ v_{t+1} + (1 − λ) V(s_{t+1}); past an end
    both are V(s_{t+1}) as in `gae`, whose shapes and types these are. Writes `target` (v) and `advantage` (A).
    Espeholt et al. 2018, eq. 1 and section 4.2.
    """
    n, N = reward.size, last_value.size
    clips = (trace_lambda, clip_rho, clip_c, clip_pg_rho)
    steps = (flat(reward), flat(value), flat(terminated), flat(truncated), flat(final_value), flat(ratio),
             gamma, clips, flat(target), flat(advantage))  # fmt: skip
    for k in range(_n_tiles(n, N)):
        start, stop, ahead = _tile(k, n, N)
        following, targets = (last_value, last_value) if k == 0 else (steps[1], steps[8])
        if stop - start >= LANES:
            _vtrace_tile(start, stop, following, targets, ahead, steps, zeros(target, LANES))
        else:
            _vtrace_tile(start, stop, following, targets, ahead, steps, zeros(target, 1))


@kernel
def _vtrace_tile(
    start: int, stop: int, following: Array, targets: Array, ahead: int, steps: Steps, zero: Any
) -> None:
    reward, value, terminated, truncated, final_value, ratio, gamma, clips, target, advantage = steps
    lanes, discount = len(zero), splat(gamma, zero)
    lam, max_rho, max_c = splat(clips[0], zero), splat(clips[1], zero), splat(clips[2], zero)
    max_pg_rho = splat(clips[3], zero)
    for k in range(start, stop, lanes):
        i = min(k, stop - lanes)
        end, cut, rho = load(terminated, i, zero), load(truncated, i, zero), load(ratio, i, zero)
        next_value = where(end, zero, where(cut, load(final_value, i, zero), load(following, i + ahead, zero)))
        error = load(reward, i, zero) + discount * next_value - load(value, i, zero)
        total = load(value, i, zero) + minimum(rho, max_rho) * error
        trace = where(end | cut, zero, discount * lam * minimum(rho, max_c))
        if ahead > 0:
            total = total - trace * next_value
        store(target, i, total)
        store(advantage, i, trace)
    if ahead > 0:
        _recur(target, advantage, 0, ahead, start, stop)
    for k in range(start, stop, lanes):
        i = min(k, stop - lanes)
        end, cut, rho = load(terminated, i, zero), load(truncated, i, zero), load(ratio, i, zero)
        next_value = where(end, zero, where(cut, load(final_value, i, zero), load(following, i + ahead, zero)))
        next_target = where(end | cut, next_value, load(targets, i + ahead, zero))
        q = next_value + lam * (next_target - next_value)
        error = load(reward, i, zero) + discount * q - load(value, i, zero)
        store(advantage, i, minimum(rho, max_pg_rho) * error)


@kernel
def n_step_returns(
    reward: Array, value: Array, last_value: Array, terminated: Array, truncated: Array, final_value: Array,
    n_steps: int, gamma: float, returns: Array,
) -> None:  # fmt: skip
    """G_t = Σ_{k<m} γ^k r_{t+k} + γ^m V(s_{t+m}), m ≤ n steps up to the end of the episode or of the rollout.

    V(s_{t+m}) as in `gae`, whose shapes and types these are. Writes `returns`. Sutton & Barto 2018, eq. 7.1.
    """
    n, N = reward.size, last_value.size
    steps = (flat(reward), flat(value), last_value, flat(terminated), flat(truncated), flat(final_value),
             n_steps, gamma, flat(returns))  # fmt: skip
    whole = n - n_steps * N  # steps whose windows end within the rollout: they need not lie in one row
    if whole >= LANES:
        for k in range(0, whole, LANES):
            _n_step_vector(min(k, whole - LANES), 0, steps, zeros(returns, LANES))
    for row in range(whole if whole >= LANES else 0, n, N):
        wide = N - N % LANES
        for j in range(0, wide, LANES):
            _n_step_vector(row, j, steps, zeros(returns, LANES))
        for j in range(wide, N):
            _n_step_vector(row, j, steps, zeros(returns, 1))


@kernel
def _n_step_vector(row: int, j: int, steps: Steps, zero: Any) -> None:
    reward, value, last_value, terminated, truncated, final_value, n_steps, gamma, returns = steps
    n, N, discount = len(reward), len(last_value), splat(gamma, zero)
    total, weight, i = zero, splat(1.0, zero), row + j
    for _ in range(n_steps):  # `weight` falls to 0 where the episode has ended: what follows there is not looked at
        if i >= n:
            break
        end, cut = load(terminated, i, zero), load(truncated, i, zero)
        total = total + where(nonzero(weight), weight * load(reward, i, zero), zero)
        weight = weight * discount
        total = total + where(end, zero, where(cut & nonzero(weight), weight * load(final_value, i, zero), zero))
        weight = where(end | cut, zero, weight)
        i += N
    following = load(value, i, zero) if i < n else load(last_value, j, zero)
    store(returns, row + j, total + where(nonzero(weight), weight * following, zero))


@inlined
def _n_tiles(n: int, N: int) -> int:
    """How many tiles a rollout of n = T N steps has."""
    rows = max(1, TILE // N)
    return 1 + (n // N - 1 + rows - 1) // rows


@inlined
def _tile(k: int, n: int, N: int) -> tuple[int, int, int]:
    """(start, stop, ahead) of the k-th tile from the end: step i is followed by i + ahead, of `last_value` if k = 0."""
    if k == 0:
        return n - N, n, N - n
    rows = max(1, TILE // N)
    stop = n - N - (k - 1) * rows * N
    return max(0, stop - rows * N), stop, N


@kernel
def _recur(x: Array, decay: Array, offset: int, N: int, start: int, stop: int) -> None:
    """x[i] += decay[i - offset] * x[i + N] for i from stop - 1 down to start."""
    if N == 1:
        first = _recur_within(x, decay, offset, start, stop, zeros(x, LANES))
        _recur_columns(x, decay, offset, N, start, first, 0, N, zeros(x, 1))
        return
    wide = N - N % LANES
    half = wide + (N - wide) // 8 * 8
    _recur_columns(x, decay, offset, N, start, stop, 0, wide, zeros(x, LANES))
    _recur_columns(x, decay, offset, N, start, stop, wide, half, zeros(x, 8))
    _recur_columns(x, decay, offset, N, start, stop, half, N, zeros(x, 1))


@inlined
def _times(decay: Any, x: Any, zero: Any) -> Any:
    """decay * x, but 0 where `decay` is: NaN does not cross the end of an episode."""
    return where(nonzero(decay), decay * x, zero)


@inlined
def _recur_columns(
    x: Array, decay: Array, offset: int, N: int, start: int, stop: int, first: int, last: int, zero: Any
) -> None:
    for j in range(first, last, len(zero)):
        after = load(x, stop + j, zero)
        for i in range(stop - N + j, start - 1, -N):
            after = load(x, i, zero) + _times(load(decay, i - offset, zero), after, zero)
            store(x, i, after)


@inlined
def _recur_within(x: Array, decay: Array, offset: int, start: int, stop: int, zero: Any) -> int:
    """For N = 1, sixteen steps at a time: each lane's x as a function d + c x_after of what follows the vector.

    After the doublings by 1, 2, 4 and 8 a lane's d and c span all lanes up to the last. Returns where it stopped.
    """
    one, after = splat(1.0, zero), splat(x[stop], zero)
    i = stop - LANES
    while i >= start:
        d, c = load(x, i, zero), load(decay, i - offset, zero)
        d, c = d + _times(c, shift(d, 1, zero), zero), c * shift(c, 1, one)
        d, c = d + _times(c, shift(d, 2, zero), zero), c * shift(c, 2, one)
        d, c = d + _times(c, shift(d, 4, zero), zero), c * shift(c, 4, one)
        d, c = d + _times(c, shift(d, 8, zero), zero), c * shift(c, 8, one)
        d = d + _times(c, after, zero)
        store(x, i, d)
        after = spread(d)
        i -= LANES
    return i + LANES
