from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

vec_env = make_vec_env("CartPole-v1", n_envs=4, seed=0)
model = PPO("MlpPolicy", vec_env, n_steps=32, batch_size=64, verbose=0)
model.learn(total_timesteps=256)
model.save("ppo_cartpole")

del model
model = PPO.load("ppo_cartpole")

obs = vec_env.reset()
finished = []
for _ in range(200):
    action, _states = model.predict(obs)
    obs, rewards, dones, infos = vec_env.step(action)
    picture = vec_env.render("rgb_array")
    finished += [info["episode"]["r"] for info in infos if "episode" in info]
assert picture.ndim == 3 and finished
assert all("terminal_observation" in info for info, done in zip(infos, dones, strict=True) if done)
