import os

from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
)

checkpoint_callback = CheckpointCallback(
    save_freq=50, save_path="./logs/", name_prefix="rl_model", save_replay_buffer=True, verbose=0
)
every = EveryNTimesteps(n_steps=70, callback=CheckpointCallback(save_freq=1, save_path="./more/"))
callback = CallbackList([checkpoint_callback, every, StopTrainingOnMaxEpisodes(max_episodes=1000)])

model = DQN("MlpPolicy", "CartPole-v1", buffer_size=500, learning_starts=20)
model.learn(150, callback=callback)
assert len([name for name in os.listdir("logs") if name.startswith("rl_model_")]) >= 2
assert os.listdir("more")
model = DQN.load("./logs/rl_model_100_steps", env="CartPole-v1" if isinstance(model.env, str) else model.get_env())
assert model.num_timesteps == 100
