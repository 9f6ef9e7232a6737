import os

from stable_baselines3 import DQN
from stable_baselines3.common.env_util import make_vec_env

env = make_vec_env("CartPole-v1", n_envs=1)
model = DQN("MlpPolicy", env, buffer_size=300, learning_starts=20, verbose=0)
model.learn(total_timesteps=60)
model.save("dqn_cartpole")
model.save_replay_buffer("dqn_replay_buffer")
parameters = model.get_parameters()
assert "policy" in parameters

del model
model = DQN.load("dqn_cartpole", env=env)
model.load_replay_buffer("dqn_replay_buffer")
model.learn(total_timesteps=40, reset_num_timesteps=False)
assert model.num_timesteps == 100

model.set_parameters(parameters)
model.set_parameters("dqn_cartpole")
other = DQN("MlpPolicy", env, buffer_size=300)
other.policy.load_state_dict(model.policy.state_dict())
obs = env.reset()
assert (model.predict(obs, deterministic=True)[0] == other.predict(obs, deterministic=True)[0]).all()
assert any(name.startswith("dqn_cartpole") for name in os.listdir("."))
