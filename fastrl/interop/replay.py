"""A replay buffer with the attributes, the arithmetic and the random numbers of Stable-Baselines3's.

CleanRL's buffer is a copy of that one, so both libraries' classes are made of this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.spaces import Dict
from numpy.typing import NDArray

from fastrl.buffers.layout import make_leaf
from fastrl.checks import check_int
from fastrl.interop.memory import Column, Memory, action_leaf, as_tensors, observation_leaves
from fastrl_ext.legacy import integers


class Transitions:
    """Uniform replay; a subclass sets the attributes that `_allocate` reads, and makes samples of tensors.

    Indices come from NumPy's global stream, as the other libraries' do: first the steps, then (with more than one
    environment) the environments.
    """

    buffer_size: int
    n_envs: int
    pos: int
    full: bool
    optimize_memory_usage: bool
    handle_timeout_termination: bool
    observation_space: Any
    action_space: Any
    device: Any

    observations = Column()
    next_observations = Column()
    actions = Column()
    rewards = Column()
    dones = Column()
    timeouts = Column()

    def _allocate(self, check_finite: bool) -> None:
        """Reserve the records of `buffer_size` transitions in all, after checks; `buffer_size` becomes rows."""
        check_int("n_envs", self.n_envs)
        check_int("buffer_size", self.buffer_size)
        if self.optimize_memory_usage and self.handle_timeout_termination:
            raise ValueError(
                "optimize_memory_usage keeps no observation that an episode was cut at, so it cannot be combined with "
                "handle_timeout_termination: pass handle_timeout_termination=False"
            )
        self.buffer_size = max(self.buffer_size // self.n_envs, 1)
        space, actions = self.observation_space, self.action_space
        self._keys = list(space.spaces) if isinstance(space, Dict) else None
        obs = observation_leaves(space, "observations")
        next_obs = [] if self.optimize_memory_usage else observation_leaves(space, "next_observations")
        action = action_leaf(actions, np.float32 if actions.dtype == np.float64 else actions.dtype)
        reward, *flags = (make_leaf(name, np.float32, (1,)) for name in ("rewards", "dones", "timeouts"))
        inputs = [*obs, *next_obs, action, reward]
        self._memory = Memory(
            [*inputs, *flags], self.buffer_size, self.n_envs, len(inputs) if check_finite else 0, True
        )
        self._following = self._memory.only(*(leaf.name for leaf in next_obs or obs))
        self._no_timeouts = np.zeros(self.n_envs, np.float32)

    def _column(self, name: str) -> Any:
        column = self._memory.column(name)
        return column[..., 0] if name in ("rewards", "dones", "timeouts") else column

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Store one transition of each environment; the oldest make room.

        Args:
            obs: [n_envs, *shape], or a mapping of them by the keys of a Dict space.
            next_obs: likewise; at the end of an episode its true last observation.
            action: n_envs actions.
            reward: [n_envs].
            done: [n_envs] bool; the episode ended.
            infos: a dict for each environment; read is "TimeLimit.truncated", where timeouts are handled.

        Raises:
            ValueError: a wrong shape, a number outside the stored dtype's range, NaN or infinity, another `done`.
            TypeError: a dtype that has no safe cast, or an object array.
            KeyError: a key of a Dict observation that is missing.
        """
        timeouts: Any = self._no_timeouts
        if self.handle_timeout_termination:
            if isinstance(infos, dict):
                raise TypeError(
                    "infos must be a list of dicts, one for each environment, as timeouts are read from them: pass "
                    "handle_timeout_termination=False for infos of another kind"
                )
            timeouts = [info.get("TimeLimit.truncated", False) for info in infos]
        if getattr(getattr(done, "dtype", None), "kind", "") != "b" and not np.isin(done, (0, 1)).all():
            raise ValueError(f"done must be bool, or 0 and 1; got {done}")
        if self.optimize_memory_usage:
            with self._memory.unchanged_on_error(self.pos):
                self._memory.put(self.pos, (obs, action, reward, done, timeouts))
                self._following.put((self.pos + 1) % self.buffer_size, (next_obs,))
        elif self._keys is None:
            self._memory.put(self.pos, (obs, next_obs, action, reward, done, timeouts))
        else:
            parts = [part[key] for part in (obs, next_obs) for key in self._keys]
            self._memory.put(self.pos, (*parts, action, reward, done, timeouts))
        self.pos += 1
        if self.pos == self.buffer_size:
            self.pos, self.full = 0, True

    def _draw_steps(self, batch_size: int) -> NDArray[np.int64]:
        """`batch_size` stored steps; where next observations are shared, not the one whose own is overwritten."""
        n_steps = self.buffer_size if self.full else self.pos
        hidden = 1 if self.full and self.optimize_memory_usage else 0
        self._check_draw(batch_size, n_steps - hidden)
        steps = integers(hidden, n_steps, batch_size)
        return (steps + self.pos) % self.buffer_size if hidden else steps

    def _check_draw(self, batch_size: int, n_stored: int) -> None:
        if n_stored == 0:
            raise ValueError(
                f"cannot sample {batch_size} transitions from an empty {type(self).__name__}: add some first"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")

    def _draw_slots(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of a record in each of `steps`, of any environment."""
        return steps if self.n_envs == 1 else steps * self.n_envs + integers(0, self.n_envs, len(steps))

    def _gather(self, slots: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, Any]:
        """Observations, actions, next observations, dones [B, 1] (but 0 where cut by time) and rewards [B, 1]."""
        rows = self._memory.take(slots)
        if self._keys is None and not self.optimize_memory_usage:
            obs, next_obs, actions, rewards, dones = rows
            return obs, actions, next_obs, dones, rewards
        *observations, actions, rewards, dones = rows
        if self.optimize_memory_usage:
            observations += self._following.take((slots + self.n_envs) % (self.buffer_size * self.n_envs))
        half = len(observations) // 2
        return self._by_key(observations[:half]), actions, self._by_key(observations[half:]), dones, rewards

    def _by_key(self, rows: list[Any]) -> Any:
        return rows[0] if self._keys is None else dict(zip(self._keys, rows, strict=True))

    def _tensors(self, parts: Iterable[Any]) -> list[Any]:
        """New arrays, and dicts of them, as tensors on the buffer's device."""
        if self._keys is None:
            return as_tensors(parts, self.device)
        return [
            dict(zip(part, as_tensors(part.values(), self.device), strict=True))
            if isinstance(part, dict)
            else as_tensors([part], self.device)[0]
            for part in parts
        ]
