import gymnasium as gym
import torch as th
from stable_baselines3 import DQN, PPO

policy_kwargs = dict(activation_fn=th.nn.ReLU, net_arch=dict(pi=[32, 32], vf=[16]))
model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, policy_kwargs=policy_kwargs, verbose=0)
model.learn(total_timesteps=64)
model.save("ppo_custom")
del model
model = PPO.load("ppo_custom", env=gym.make("CartPole-v1"))
model.learn(64)

small = dict(net_arch=[8], log_std_init=-1.0, ortho_init=False)
shared = PPO("MlpPolicy", "Pendulum-v1", n_steps=64, policy_kwargs=small)
shared.learn(64)
q = DQN("MlpPolicy", "CartPole-v1", buffer_size=200, learning_starts=10,
        policy_kwargs=dict(net_arch=[8, 8], optimizer_class=th.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9)))
q.learn(40)
