import os

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor, load_results

os.makedirs("logs", exist_ok=True)
env = Monitor(gym.make("CartPole-v1"), "logs/single")
PPO("MlpPolicy", env, n_steps=64).learn(256)
env.close()
results = load_results("logs")
assert {"r", "l", "t"} <= set(results.columns) and results["l"].sum() <= 256

vec_env = make_vec_env("MountainCar-v0", n_envs=2, monitor_dir="more", wrapper_class=gym.wrappers.TimeLimit,
                       wrapper_kwargs=dict(max_episode_steps=10))  # fmt: skip
PPO("MlpPolicy", vec_env, n_steps=64).learn(128)
assert len(load_results("more")) == 0 or vec_env.env_is_wrapped(Monitor) == [True, True]
