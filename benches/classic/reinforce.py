"""REINFORCE (Williams 1992; Sutton & Barto 2018, section 13.3): python -m benches.classic.reinforce"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

LEARNING_RATE = 3e-3
GAMMA = 0.99
HIDDEN = 128


class Agent:
    def __init__(self, n_inputs: int, n_actions: int) -> None:
        self.policy = nn.Sequential(nn.Linear(n_inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, n_actions))
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=LEARNING_RATE)
        self.num_timesteps = 0

    @torch.no_grad()
    def predict(self, obs: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return self.policy(torch.as_tensor(obs)).argmax(-1).numpy(), None

    def play(self, env: gym.Env) -> tuple[list[torch.Tensor], list[float]]:
        """log π(a | s) and reward of each step of one episode."""
        log_probs, rewards = [], []
        obs, _ = env.reset()
        done = False
        while not done:
            distribution = Categorical(logits=self.policy(torch.as_tensor(obs)))
            action = distribution.sample()
            log_probs.append(distribution.log_prob(action))
            obs, reward, terminated, truncated, _ = env.step(action.item())
            rewards.append(float(reward))
            self.num_timesteps += 1
            done = terminated or truncated
        return log_probs, rewards

    def learn(self, log_probs: list[torch.Tensor], rewards: list[float]) -> None:
        returns, G = [], 0.0
        for reward in reversed(rewards):
            G = reward + GAMMA * G
            returns.append(G)
        weight = torch.tensor(returns[::-1])
        weight = (weight - weight.mean()) / (weight.std(correction=0) + 1e-8)
        loss = -(torch.stack(log_probs) * weight).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def train(
    env_id: str = "CartPole-v1", seed: int = 0, steps: int = 300_000,
    watch: Callable[[Agent], bool] = lambda agent: True,
) -> Agent:  # fmt: skip
    torch.manual_seed(seed)
    env: Any = gym.make(env_id)
    env.reset(seed=seed)
    agent = Agent(env.observation_space.shape[0], env.action_space.n)
    while agent.num_timesteps < steps:
        agent.learn(*agent.play(env))
        if not watch(agent):
            break
    env.close()
    return agent


if __name__ == "__main__":
    from benches.learning import evaluate

    print("mean return of 100 episodes:", evaluate(train(), "CartPole-v1"))
