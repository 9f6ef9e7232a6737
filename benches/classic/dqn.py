"""DQN (Mnih et al. 2015) with a replay buffer and a target network: python -m benches.classic.dqn"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

LEARNING_RATE = 5e-4
GAMMA = 0.99
BUFFER_SIZE = 10_000
BATCH_SIZE = 64
LEARNING_STARTS = 1000
TARGET_UPDATE = 500  # steps
EPSILON, EPSILON_END, EXPLORATION = 1.0, 0.05, 0.2  # linear, over this part of the steps
HIDDEN = 128


class Agent:
    def __init__(self, n_inputs: int, n_actions: int) -> None:
        def network() -> nn.Module:
            return nn.Sequential(
                nn.Linear(n_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(),
                nn.Linear(HIDDEN, n_actions),
            )  # fmt: skip

        self.n_actions = n_actions
        self.q, self.target = network(), network()
        self.target.load_state_dict(self.q.state_dict())
        self.optimizer = torch.optim.Adam(self.q.parameters(), lr=LEARNING_RATE)
        self.memory: deque[tuple[Any, ...]] = deque(maxlen=BUFFER_SIZE)
        self.num_timesteps = 0

    def act(self, obs: np.ndarray, epsilon: float) -> int:
        if random.random() < epsilon:
            return random.randrange(self.n_actions)
        return int(self.predict(obs)[0])

    @torch.no_grad()
    def predict(self, obs: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return self.q(torch.as_tensor(obs)).argmax(-1).numpy(), None

    def learn(self) -> None:
        batch = random.sample(self.memory, BATCH_SIZE)
        obs, action, reward, next_obs, terminated = (np.array(column) for column in zip(*batch, strict=True))
        q = self.q(torch.as_tensor(obs)).gather(1, torch.as_tensor(action)[:, None])[:, 0]
        with torch.no_grad():
            best = self.target(torch.as_tensor(next_obs)).max(1).values
            alive = 1 - torch.as_tensor(terminated, dtype=torch.float32)
            y = torch.as_tensor(reward, dtype=torch.float32) + GAMMA * alive * best
        loss = nn.functional.smooth_l1_loss(q, y)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.q.parameters(), 10)
        self.optimizer.step()


def train(
    env_id: str = "CartPole-v1", seed: int = 0, steps: int = 50_000,
    watch: Callable[[Agent], bool] = lambda agent: True,
) -> Agent:  # fmt: skip
    random.seed(seed)
    torch.manual_seed(seed)
    env: Any = gym.make(env_id)
    agent = Agent(env.observation_space.shape[0], env.action_space.n)
    obs, _ = env.reset(seed=seed)
    while agent.num_timesteps < steps:
        done = agent.num_timesteps / (EXPLORATION * steps)
        epsilon = max(EPSILON_END, EPSILON + (EPSILON_END - EPSILON) * done)
        action = agent.act(obs, epsilon)
        next_obs, reward, terminated, truncated, _ = env.step(action)
        # A time limit is no end of the world: what follows next_obs still counts.
        agent.memory.append((obs, action, reward, next_obs, terminated))
        obs = env.reset()[0] if terminated or truncated else next_obs
        agent.num_timesteps += 1
        if agent.num_timesteps > LEARNING_STARTS:
            agent.learn()
        if agent.num_timesteps % TARGET_UPDATE == 0:
            agent.target.load_state_dict(agent.q.state_dict())
        if not watch(agent):
            break
    env.close()
    return agent


if __name__ == "__main__":
    from benches.learning import evaluate

    print("mean return of 100 episodes:", evaluate(train(), "CartPole-v1"))
