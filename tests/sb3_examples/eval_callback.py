import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.env_util import make_vec_env

eval_env = make_vec_env("CartPole-v1", n_envs=2)
stop = StopTrainingOnRewardThreshold(reward_threshold=1, verbose=1)
eval_callback = EvalCallback(
    eval_env, callback_on_new_best=stop, eval_freq=64, n_eval_episodes=2, best_model_save_path="./logs/",
    log_path="./logs/", deterministic=True, render=False, verbose=1,
)  # fmt: skip

model = PPO("MlpPolicy", gym.make("CartPole-v1"), n_steps=64, verbose=0)
model.learn(100_000, callback=eval_callback)
assert model.num_timesteps < 1000, "the threshold is low"

best = PPO.load("./logs/best_model")
action, _ = best.predict(eval_env.reset(), deterministic=True)
assert action.shape == (2,)
