import gymnasium as gym
from stable_baselines3 import PPO

env = gym.make("CartPole-v1", render_mode="rgb_array")
model = PPO("MlpPolicy", env, n_steps=64, verbose=1)
model.learn(total_timesteps=128)

vec_env = model.get_env()
obs = vec_env.reset()
for _ in range(20):
    action, _states = model.predict(obs, deterministic=True)
    obs, reward, done, info = vec_env.step(action)
    vec_env.render()
    # the environment begins a new episode by itself
assert obs.shape == (1, 4)
env.close()
