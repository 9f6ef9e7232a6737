import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env


class Signals(gym.Env):
    """Two numbers and a lamp: press the button that the lamp says."""

    observation_space = spaces.Dict({"numbers": spaces.Box(-1, 1, (2,), np.float32), "lamp": spaces.Discrete(3)})
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def _look(self):
        self.lamp = int(self.np_random.integers(3))
        return {"numbers": self.np_random.uniform(-1, 1, 2).astype(np.float32), "lamp": self.lamp}

    def step(self, action):
        reward, self.t = float(action == self.lamp), self.t + 1
        return self._look(), reward, False, self.t == 8, {"is_success": reward > 0}


model = PPO("MultiInputPolicy", make_vec_env(Signals, n_envs=2), n_steps=32, batch_size=16, verbose=0)
model.learn(128)
obs = model.get_env().reset()
assert set(obs) == {"numbers", "lamp"} and obs["numbers"].shape == (2, 2)
action, _ = model.predict(obs, deterministic=True)
assert action.shape == (2,)
DQN("MultiInputPolicy", Signals(), buffer_size=100, learning_starts=10).learn(40)
