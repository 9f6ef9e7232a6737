from stable_baselines3 import PPO

calls = []


def look(local_names, global_names):
    calls.append(local_names["self"].num_timesteps)
    return len(calls) < 100


model = PPO("MlpPolicy", "CartPole-v1", n_steps=64).learn(1000, callback=look)
assert len(calls) == 100 and model.num_timesteps == 100
