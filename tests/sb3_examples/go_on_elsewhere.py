import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

model = PPO("MlpPolicy", make_vec_env("CartPole-v1", n_envs=1), n_steps=32, seed=1, device="cpu")
model.learn(64)
model.set_env(gym.make("CartPole-v1", max_episode_steps=20))
model.set_random_seed(3)
model.learn(64, reset_num_timesteps=False)
assert model.num_timesteps == 128
loaded = None
model.save("here")
loaded = PPO.load("here", env=gym.make("CartPole-v1"), custom_objects={"learning_rate": 1e-4}, device="cpu")
loaded.learn(32)
