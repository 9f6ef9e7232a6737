import gymnasium as gym
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

env = Monitor(gym.make("CartPole-v1"))
model = DQN("MlpPolicy", env, learning_rate=1e-3, buffer_size=500, learning_starts=50, verbose=0)
model.learn(total_timesteps=100, log_interval=4)

mean_reward, std_reward = evaluate_policy(model, env, n_eval_episodes=5, deterministic=True)
assert 1 <= mean_reward <= 500 and std_reward >= 0
rewards, lengths = evaluate_policy(model, model.get_env(), n_eval_episodes=3, return_episode_rewards=True, warn=False)
assert len(rewards) == len(lengths) == 3

steps = []
evaluate_policy(model, env, n_eval_episodes=1, callback=lambda names, _: steps.append(names["i"]))
assert set(steps) == {0}
