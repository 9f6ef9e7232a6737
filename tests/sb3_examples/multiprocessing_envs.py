import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv


def make_env(env_id, rank, seed=0):
    def _init():
        env = gym.make(env_id)
        env.reset(seed=seed + rank)
        return env

    set_random_seed(seed)
    return _init


if __name__ == "__main__":
    vec_env = SubprocVecEnv([make_env("CartPole-v1", i) for i in range(2)])
    model = PPO("MlpPolicy", vec_env, n_steps=32, verbose=0)
    model.learn(total_timesteps=128)
    obs = vec_env.reset()
    for _ in range(5):
        action, _states = model.predict(obs)
        obs, rewards, dones, info = vec_env.step(action)
    assert obs.shape == (2, 4)
    assert [spec.id for spec in vec_env.get_attr("spec")] == ["CartPole-v1"] * 2
    vec_env.close()

    other = make_vec_env("CartPole-v1", n_envs=2, seed=0, vec_env_cls=SubprocVecEnv)
    model.set_env(other)
    model.learn(total_timesteps=64)
    other.close()
    dummy = DummyVecEnv([make_env("CartPole-v1", i) for i in range(3)])
    assert PPO("MlpPolicy", dummy, n_steps=16).learn(48).get_env().num_envs == 3
