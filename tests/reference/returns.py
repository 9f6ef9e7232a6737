"""GAE and returns as the papers write them, one step at a time, in float64: the specification of the kernels."""

from __future__ import annotations

import numpy as np


def next_values(value, last_value, terminated, truncated, final_value):
    """V(s_{t+1}) for every t: 0 after a terminal state, V of the final observation after a truncation."""
    following = np.concatenate([value[1:], np.asarray(last_value)[None]])
    following = np.where(truncated, final_value, following)
    return np.where(terminated, 0.0, following)


def gae(reward, value, last_value, terminated, truncated, final_value, gamma, gae_lambda):
    """Schulman et al. 2016, eq. 16, by its definition: A_t = Σ_l (γλ)^l δ_{t+l} up to the episode's end."""
    reward, value = np.asarray(reward, np.float64), np.asarray(value, np.float64)
    delta = reward + gamma * next_values(value, last_value, terminated, truncated, final_value) - value
    done = terminated | truncated
    advantage = np.zeros_like(reward)
    for t in range(len(reward)):
        weight = np.ones(reward.shape[1:])
        for k in range(t, len(reward)):
            advantage[t] += weight * delta[k]
            weight = weight * gamma * gae_lambda * ~done[k]
    return advantage, advantage + value


def discounted_returns(reward, last_value, terminated, truncated, final_value, gamma):
    """Sutton & Barto 2018, eq. 3.8: G_t = Σ_k γ^k r_{t+k}, and past the end what the state there is worth."""
    returns = np.zeros(reward.shape, np.float64)
    for t in range(len(reward)):
        weight = np.ones(reward.shape[1:])
        for k in range(t, len(reward)):
            returns[t] += weight * reward[k]
            end = np.where(terminated[k], 0.0, np.where(truncated[k], final_value[k], 0.0))
            returns[t] += weight * gamma * end
            weight = weight * gamma * ~(terminated[k] | truncated[k])
        returns[t] += weight * last_value
    return returns


def n_step_returns(reward, value, last_value, terminated, truncated, final_value, n_steps, gamma):
    """Sutton & Barto 2018, eq. 7.1, one step at a time."""
    T, N = reward.shape
    returns = np.zeros((T, N))
    following = next_values(value, last_value, terminated, truncated, final_value)
    for t in range(T):
        for j in range(N):
            k = t
            while k < min(t + n_steps, T) - 1 and not (terminated[k, j] or truncated[k, j]):
                k += 1
            returns[t, j] = sum(gamma ** (i - t) * reward[i, j] for i in range(t, k + 1))
            returns[t, j] += gamma ** (k + 1 - t) * following[k, j]
    return returns


def vtrace(reward, value, last_value, terminated, truncated, final_value, ratio, gamma, lam, clip_rho, clip_c,
           clip_pg_rho):  # fmt: skip
    """Espeholt et al. 2018, eq. 1: v_t = V_t + Σ_k γ^k (Π c) ρ δ up to the episode's end; and the advantages."""
    T, N = reward.shape
    following = next_values(value, last_value, terminated, truncated, final_value)
    done = terminated | truncated
    delta = np.minimum(ratio, clip_rho) * (reward + gamma * following - value)
    c = lam * np.minimum(ratio, clip_c)
    target = value.astype(np.float64)
    for t in range(T):
        weight = np.ones(N)
        for k in range(t, T):
            target[t] += weight * delta[k]
            weight = weight * gamma * c[k] * ~done[k]
    next_target = np.concatenate([target[1:], np.asarray(last_value)[None]])
    q = np.where(done, following, lam * next_target + (1 - lam) * following)
    return target, np.minimum(ratio, clip_pg_rho) * (reward + gamma * q - value)


def n_step_window(history, start, n_steps, gamma):
    """(R, γ^m, last) of the window that begins at `start` in one environment's [(reward, terminated, truncated)]."""
    total, k = 0.0, start
    while True:
        reward, terminated, truncated = history[k]
        total += gamma ** (k - start) * reward
        if terminated or truncated or k - start == n_steps - 1 or k == len(history) - 1:
            return total, gamma ** (k - start + 1), k
        k += 1
