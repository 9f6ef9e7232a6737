"""Prioritised experience replay (Schaul et al. 2016): transitions in proportion to what they have left to teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space
from numpy.typing import ArrayLike, NDArray

from fastrl.buffers.layout import as_rows, make_leaf
from fastrl.buffers.replay import ReplayBuffer, ReplaySample
from fastrl.checks import check_number
from fastrl_ext.trees import PriorityTrees

__all__ = ["PrioritizedReplayBuffer", "PrioritizedReplaySample"]

INDICES, PRIORITIES = make_leaf("indices", np.int64, ()), make_leaf("priorities", np.float32, ())


def as_updates(indices: ArrayLike, priorities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Both, of the shape [B], as `PriorityTrees.update` takes them, or an error that says why not."""
    shape = np.shape(indices)
    if len(shape) != 1:
        raise ValueError(f"indices has the shape {shape}; it must be (B,)")
    ordinals = as_rows(INDICES, indices if shape[0] else np.empty(0, np.int64), *shape)
    return ordinals, as_rows(PRIORITIES, priorities, *shape)


class PrioritizedReplaySample(NamedTuple):
    """A `ReplaySample`, and the weights that correct for its not being drawn uniformly."""

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminated: Any
    truncated: Any
    indices: Any  # [B] int64: which transitions, as `update_priorities` takes them
    extra: dict[str, Any]
    discount: Any  # [B] float32, or None where n_step is 1
    weights: Any  # [B] float32, in (0, 1]


class PrioritizedReplayBuffer(ReplayBuffer):
    """A `ReplayBuffer` that draws transition i with the probability P(i) = p_i^α / Σ_j p_j^α.

    The priority p_i is what `update_priorities` was last told of i, usually |TD error| + ε. A new transition gets
    the highest one that was ever told, at first 1, and so is soon drawn. Schaul et al. 2016, Prioritized Experience
    Replay, eq. 1, and appendix B.2.1 for what makes it fast: sum and minimum trees, which take 9.3 bytes a transition.

    Args:
        capacity, observation_space, action_space: as in `ReplayBuffer`.
        alpha: α, in [0, 1]: 0 draws uniformly.
        options: `ReplayBuffer`'s other arguments, but for `path`.

    Raises:
        ValueError, TypeError, MemoryError: as `ReplayBuffer`; ValueError for an alpha outside [0, 1], or a path.
    """

    _fixed = (*ReplayBuffer._fixed, "alpha")
    _reserved = (*ReplayBuffer._reserved, "alpha", "max_priority", "priorities")

    def __init__(
        self,
        capacity: int,
        observation_space: Space[Any],
        action_space: Space[Any],
        *,
        alpha: float = 0.6,
        **options: Any,
    ) -> None:
        check_number("alpha", alpha, 0, 1)
        if options.get("path") is not None:
            raise ValueError("path and priorities do not combine: use a ReplayBuffer, or no path")
        super().__init__(capacity, observation_space, action_space, **options)
        self._trees = PriorityTrees(capacity, alpha)

    def sample(  # type: ignore[override]
        self, batch_size: int, beta: float = 0.4, *, out: PrioritizedReplaySample | None = None
    ) -> PrioritizedReplaySample:
        """Draw `batch_size` stored transitions by priority, one from each of as many equal parts of Σ p^α.

        The order of the sample is by slot. One transition may be drawn more than once.

        Args:
            batch_size: at least 1.
            beta: β, in [0, 1], how far `weights` make up for the priorities; 1 is in full.
            out: a sample of this size, from an earlier call, to write into and return.

        Returns:
            What `ReplayBuffer.sample` does, and `weights` = (N P(i))^-β divided by the greatest such number of all
            stored transitions, that of the least P; N is len(self).

        Raises:
            ValueError, TypeError: as `ReplayBuffer.sample`; ValueError for a beta outside [0, 1].
        """
        check_number("beta", beta, 0, 1)
        if out is None:
            sample, weights = self._sample_by(self._trees, batch_size, beta, None, None)
            return PrioritizedReplaySample._make((*sample, self._given(weights)))
        if not isinstance(out, PrioritizedReplaySample):
            raise TypeError(f"out must be a PrioritizedReplaySample; got {out!r:.80}")
        weights = out.weights
        if self.device is not None and hasattr(weights, "numpy"):
            weights = weights.numpy()
        self._sample_by(self._trees, batch_size, beta, ReplaySample(*out[:-1]), weights)
        return out

    def update_priorities(self, indices: ArrayLike, priorities: ArrayLike) -> None:
        """Set the priorities of transitions that were drawn. Of several for one, the last counts.

        A transition that has been overwritten since it was drawn is left out: its place is another's now.

        Args:
            indices: [B] integers, as `sample` gave them.
            priorities: [B] numbers p_i, of which α is still to be taken; kept as float32.

        Raises:
            IndexError: an index that no transition has had since the beginning or `clear`.
            ValueError: a priority that is 0, negative, NaN or infinite (as a float32), or shapes that differ.
            TypeError: indices that are no integers, priorities that are no numbers. In none is anything changed.
        """
        if not PriorityTrees.takes(indices, priorities):
            indices, priorities = as_updates(indices, priorities)
        with self._lock:
            self._trees.update(self._added, indices, priorities)  # type: ignore[arg-type]

    @property
    def alpha(self) -> float:
        """α."""
        return self._trees.alpha

    @property
    def max_priority(self) -> float:
        """The highest priority that was ever told, at first 1; new transitions get it."""
        return self._trees.highest

    @property
    def priorities(self) -> NDArray[np.float32]:
        """p of what is stored, float32 [len(self)], a new array with rows as in a column `buffer["reward"]`."""
        with self._lock:
            return self._trees.priorities(self._added)

    def _forget(self) -> None:
        super()._forget()
        self._trees.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the full buffer occupies, the trees included."""
        return super().nbytes + self._trees.nbytes

    def _header(self) -> dict[str, NDArray[Any]]:
        numbers = {"alpha": np.array(self.alpha), "max_priority": np.array(self.max_priority, np.float32)}
        return {**super()._header(), **numbers}

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {**super()._columns(), "priorities": self._trees.priorities(self._added)}

    def _check_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        super()._check_state(state)
        for name in ("max_priority", "priorities"):
            if not ((state[name] > 0) & (state[name] < np.inf)).all():
                raise ValueError(f"{name} of the saved buffer must be above 0 and finite")

    def _restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        super()._restore(state)
        self._trees.restore(self._added, state["priorities"], float(state["max_priority"]))
