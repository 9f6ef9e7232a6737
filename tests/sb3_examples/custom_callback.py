import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback


class RecordAngles(BaseCallback):
    """Logs the largest angle of the pole, and stops after 300 steps."""

    def __init__(self, verbose=0):
        super().__init__(verbose)
        self.angles = []
        self.rollouts = 0

    def _on_training_start(self) -> None:
        assert self.training_env.num_envs == 1 and self.model is not None

    def _on_rollout_start(self) -> None:
        self.rollouts += 1

    def _on_step(self) -> bool:
        self.angles.append(float(np.abs(self.locals["new_obs"][0, 2])))
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            assert ("episode" in info) == done or not done
        self.logger.record("custom/largest_angle", max(self.angles))
        return self.num_timesteps < 300

    def _on_rollout_end(self) -> None:
        self.logger.record("custom/rollouts", self.rollouts)


callback = RecordAngles()
model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, tensorboard_log="./tb/", verbose=0)
model.learn(1000, callback=callback, tb_log_name="angles")
assert model.num_timesteps == 300 == len(callback.angles) and callback.n_calls == 300
