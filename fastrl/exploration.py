"""ε-greedy exploration: what ε is, and what is drawn by it."""

from __future__ import annotations

import numpy as np


def exploration_rate(
    initial: float, final: float, fraction: float, decay: float | None, done: float, num_episodes: int
) -> float:
    """ε where the share `done` of the training lies behind, after `num_episodes`.

    It falls linearly over the first `fraction` of the training; or with `decay` by that factor in every episode.
    """
    if decay is not None:
        return max(final, initial * decay**num_episodes)
    return final + (initial - final) * max(0.0, 1 - done / fraction) if fraction else final


def explore(u: np.ndarray, epsilon: float, n_actions: int) -> tuple[np.ndarray, np.ndarray]:
    """(action, whether it is to be explored) for u uniform on [0, 1): one number decides both.

    Explore where u < ε; u / ε is then uniform on [0, 1) again, and chooses one of the actions.
    """
    chosen = u < epsilon
    action = np.zeros(u.shape, np.int64)
    if np.count_nonzero(chosen):
        action[chosen] = np.minimum(u[chosen] / epsilon * n_actions, n_actions - 1)
    return action, chosen


def explore_one(action: np.ndarray, u: float, epsilon: float, n_actions: int) -> None:
    """As `explore`, for one observation: the greedy `action` [1] becomes the explored one where u < ε."""
    if u < epsilon:
        action[0] = min(int(u / epsilon * n_actions), n_actions - 1)
