from collections.abc import Callable

from stable_baselines3 import PPO


def linear_schedule(initial_value: float) -> Callable[[float], float]:
    def func(progress_remaining: float) -> float:
        seen.append(progress_remaining)
        return progress_remaining * initial_value

    return func


seen: list = []
model = PPO("MlpPolicy", "CartPole-v1", learning_rate=linear_schedule(0.001), clip_range=0.2, n_steps=64, verbose=0)
model.learn(total_timesteps=128)
model.learn(total_timesteps=128, reset_num_timesteps=False)
assert len(seen) >= 4 and all(0 <= x <= 1 for x in seen)
