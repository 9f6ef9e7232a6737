import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Pixels(gym.Env):
    """Where is the bright half of the picture?"""

    observation_space = spaces.Box(0, 255, (12, 12, 1), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def _look(self):
        self.side = int(self.np_random.integers(2))
        picture = np.zeros((12, 12, 1), np.uint8)
        picture[:, 6 * self.side : 6 * self.side + 6] = 255
        return picture

    def step(self, action):
        reward, self.t = float(action == self.side), self.t + 1
        return self._look(), reward, False, self.t == 10, {}


class SmallCNN(BaseFeaturesExtractor):
    def __init__(self, observation_space: spaces.Box, features_dim: int = 16):
        super().__init__(observation_space, features_dim)
        n_input_channels = observation_space.shape[0]
        self.cnn = nn.Sequential(nn.Conv2d(n_input_channels, 4, kernel_size=4, stride=2), nn.ReLU(), nn.Flatten())
        with th.no_grad():
            sample = th.as_tensor(observation_space.sample()[None]).float()
            n_flatten = self.cnn(sample).shape[1]
        self.linear = nn.Sequential(nn.Linear(n_flatten, features_dim), nn.ReLU())

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.linear(self.cnn(observations))


policy_kwargs = dict(features_extractor_class=SmallCNN, features_extractor_kwargs=dict(features_dim=8))
model = PPO("CnnPolicy", Pixels(), n_steps=32, batch_size=16, policy_kwargs=policy_kwargs, verbose=0)
model.learn(64)
action, _ = model.predict(model.get_env().reset())
assert action.shape == (1,)
