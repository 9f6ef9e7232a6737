import csv
import os

from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

new_logger = configure("./sb3_log/", ["stdout", "csv", "json", "tensorboard"])
model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, verbose=1)
model.set_logger(new_logger)
model.learn(256, log_interval=1)
assert {"progress.csv", "progress.json"} <= set(os.listdir("sb3_log"))
with open("sb3_log/progress.csv") as file:
    rows = list(csv.DictReader(file))
assert len(rows) >= 2 and {"rollout/ep_rew_mean", "train/approx_kl", "time/total_timesteps"} <= set(rows[-1])
