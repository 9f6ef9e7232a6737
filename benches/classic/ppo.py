"""PPO with the clipped surrogate (Schulman et al. 2017) and GAE: python -m benches.classic.ppo"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch import nn
from torch.distributions import Categorical

N_ENVS, N_STEPS = 4, 128
EPOCHS, BATCH_SIZE = 4, 128
LEARNING_RATE = 1e-3  # falls to 0, linearly
GAMMA, LAMBDA = 0.99, 0.95
CLIP = 0.2
VALUE_COEF, MAX_GRAD_NORM = 0.5, 0.5
HIDDEN = 64


def network(n_inputs: int, n_outputs: int, gain: float) -> nn.Module:
    layers = [nn.Linear(n_inputs, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, n_outputs)]
    for layer, g in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, g)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Agent:
    def __init__(self, n_inputs: int, n_actions: int) -> None:
        self.actor, self.critic = network(n_inputs, n_actions, 0.01), network(n_inputs, 1, 1.0)
        self.parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LEARNING_RATE, eps=1e-5)
        self.num_timesteps = 0

    @torch.no_grad()
    def predict(self, obs: np.ndarray, deterministic: bool = True) -> tuple[np.ndarray, None]:
        return self.actor(torch.as_tensor(obs)).argmax(-1).numpy(), None

    @torch.no_grad()
    def value(self, obs: np.ndarray) -> torch.Tensor:
        return self.critic(torch.as_tensor(obs))[..., 0]

    @torch.no_grad()
    def rollout(self, envs: Any, obs: np.ndarray) -> tuple[tuple[torch.Tensor, ...], np.ndarray]:
        """N_STEPS of each environment, with advantages and returns; and the observations to go on from."""
        observations, actions, log_probs, values = [], [], [], []
        next_values, rewards, ends = [], [], []
        for _ in range(N_STEPS):
            distribution = Categorical(logits=self.actor(torch.as_tensor(obs)))
            action = distribution.sample()
            observations.append(torch.as_tensor(obs))
            actions.append(action)
            log_probs.append(distribution.log_prob(action))
            values.append(self.value(obs))
            obs, reward, terminated, truncated, info = envs.step(action.numpy())
            done, last_obs = terminated | truncated, obs.copy()
            if done.any():  # obs is the first one of the next episode there
                last_obs[done] = np.stack(list(info["final_obs"][done]))
            # After a time limit the value of what would have come still counts; after a true end it is 0.
            next_values.append(self.value(last_obs) * torch.as_tensor(~terminated))
            rewards.append(torch.as_tensor(reward, dtype=torch.float32))
            ends.append(torch.as_tensor(done))
        self.num_timesteps += N_STEPS * N_ENVS
        advantages, advantage = [], torch.zeros(N_ENVS)
        for t in reversed(range(N_STEPS)):
            delta = rewards[t] + GAMMA * next_values[t] - values[t]
            advantage = delta + GAMMA * LAMBDA * ~ends[t] * advantage
            advantages.append(advantage)
        A, V = torch.stack(advantages[::-1]), torch.stack(values)
        columns = torch.stack(observations), torch.stack(actions), torch.stack(log_probs), A, A + V
        return tuple(column.flatten(0, 1) for column in columns), obs

    def learn(self, rollout: tuple[torch.Tensor, ...]) -> None:
        for _ in range(EPOCHS):
            for rows in torch.randperm(N_STEPS * N_ENVS).split(BATCH_SIZE):
                obs, action, old_log_prob, advantage, returns = (column[rows] for column in rollout)
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                ratio = (Categorical(logits=self.actor(obs)).log_prob(action) - old_log_prob).exp()
                surrogate = torch.min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
                value_loss = (self.critic(obs)[:, 0] - returns).pow(2).mean()
                loss = -surrogate.mean() + VALUE_COEF * value_loss
                self.optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(self.parameters, MAX_GRAD_NORM)
                self.optimizer.step()


def train(
    env_id: str = "CartPole-v1", seed: int = 0, steps: int = 100_000,
    watch: Callable[[Agent], bool] = lambda agent: True,
) -> Agent:  # fmt: skip
    torch.manual_seed(seed)
    envs: Any = gym.make_vec(
        env_id, N_ENVS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}
    )
    agent = Agent(envs.single_observation_space.shape[0], envs.single_action_space.n)
    obs, _ = envs.reset(seed=seed)
    while agent.num_timesteps < steps:
        agent.optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - agent.num_timesteps / steps)
        rollout, obs = agent.rollout(envs, obs)
        agent.learn(rollout)
        if not watch(agent):
            break
    envs.close()
    return agent


if __name__ == "__main__":
    from benches.learning import evaluate

    print("mean return of 100 episodes:", evaluate(train(), "CartPole-v1"))
