"""Q-learning by a table (Watkins 1989; Sutton & Barto 2018, section 6.5): python -m benches.classic.q_learning"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

ALPHA = 0.1
GAMMA = 0.99
EPSILON, EPSILON_DECAY, EPSILON_MIN = 1.0, 0.999, 0.01  # the decay is an episode's


class Agent:
    def __init__(self, n_states: int, n_actions: int, seed: int) -> None:
        self.Q = np.zeros((n_states, n_actions))
        self.rng = np.random.default_rng(seed)
        self.num_timesteps = 0

    def act(self, state: int, epsilon: float) -> int:
        if self.rng.random() < epsilon:
            return int(self.rng.integers(self.Q.shape[1]))
        best = np.flatnonzero(self.Q[state] == self.Q[state].max())
        return int(self.rng.choice(best))

    def predict(self, obs: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return self.Q[obs].argmax(axis=-1), None


def train(
    env_id: str = "FrozenLake-v1", seed: int = 0, steps: int = 100_000,
    watch: Callable[[Agent], bool] = lambda agent: True, **env_options: Any,
) -> Agent:  # fmt: skip
    env: Any = gym.make(env_id, **env_options)
    agent = Agent(int(env.observation_space.n), int(env.action_space.n), seed)
    epsilon = EPSILON
    state, _ = env.reset(seed=seed)
    while agent.num_timesteps < steps:
        done = False
        while not done:
            action = agent.act(state, epsilon)
            next_state, reward, terminated, truncated, _ = env.step(action)
            target = reward + (0 if terminated else GAMMA * agent.Q[next_state].max())
            agent.Q[state, action] += ALPHA * (target - agent.Q[state, action])
            state = next_state
            agent.num_timesteps += 1
            done = terminated or truncated
        state, _ = env.reset()
        epsilon = max(EPSILON_MIN, EPSILON_DECAY * epsilon)
        if not watch(agent):
            break
    env.close()
    return agent


def main() -> None:
    agent = train(watch=Progress(), is_slippery=True)
    print(agent.Q.argmax(axis=1).reshape(4, 4))


class Progress:
    """Prints the steps now and then."""

    def __call__(self, agent: Agent) -> bool:
        if agent.num_timesteps % 1000 < 10:
            print(f"{agent.num_timesteps} steps, Q of the start {agent.Q[0].max():.3f}")
        return True


if __name__ == "__main__":
    main()
