"""EnvPool's environments for Stable-Baselines3, which has no wrapper of its own for them."""

from __future__ import annotations

from typing import Any

import envpool
import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecMonitor


class Pool(VecEnv):
    """Episodes that end are followed by new ones within the step, as Stable-Baselines3 expects."""

    def __init__(self, id: str, n_envs: int, threads: int, seed: int) -> None:
        self.pool = envpool.make_gymnasium(id, num_envs=n_envs, num_threads=threads, seed=seed)
        self.render_mode = None
        super().__init__(n_envs, self.pool.observation_space, self.pool.action_space)

    def reset(self) -> np.ndarray:
        return self.pool.reset()[0]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        obs, reward, terminated, truncated, _ = self.pool.step(self.actions)
        done = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = np.flatnonzero(done)
        for i in ended:
            infos[i] = {"terminal_observation": obs[i], "TimeLimit.truncated": bool(truncated[i] & ~terminated[i])}
        if len(ended):
            obs = obs.copy()
            obs[ended] = self.pool.reset(ended)[0]
        return obs, reward, done, infos

    def close(self) -> None:
        self.pool.close()

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *arguments: Any, indices: Any = None, **options: Any) -> list[Any]:
        raise NotImplementedError


def pooled(id: str, n_envs: int, threads: int, seed: int) -> VecMonitor:
    """`n_envs` environments, which tell of their episodes."""
    return VecMonitor(Pool(id, n_envs, threads, seed))
