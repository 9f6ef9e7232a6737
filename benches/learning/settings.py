"""What is trained: one line a setting. Steps are equal for all libraries; options bear Stable-Baselines3's names.

"published" hyperparameters are those of RL Zoo (rl-baselines3-zoo, hyperparams/ppo.yml and dqn.yml); "ours" are those
of `fastrl/presets.py` where they differ. Settings of the course's programs stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastrl.presets import preset

COMPILED, TORCH, SB3 = "fastrl, compiled", "fastrl, Torch", "Stable-Baselines3"
PROGRAM, SAME, PRESET = "the course's program", "fastrl, the same", "fastrl, preset"
UNWATCHED = "fastrl, compiled, without a callback"  # DQN: what being shown to whom keeps the marks costs it
AGENTS, COURSE = (COMPILED, TORCH, SB3), (PROGRAM, SAME, PRESET)

# What a reader is promised, and what a policy of uniformly drawn actions gets (1,000 episodes; Acrobot 200).
PROMISED = {
    "CartPole-v1": 475.0, "Acrobot-v1": -100.0, "MountainCar-v0": -110.0, "Pendulum-v1": -200.0,
    "LunarLander-v3": 200.0,
}  # fmt: skip
FLOOR = {
    "CartPole-v1": 22.0, "Acrobot-v1": -497.0, "MountainCar-v0": -200.0, "Pendulum-v1": -1231.0,
    "LunarLander-v3": -182.0, "FrozenLake-v1": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One problem, and all that a library has to know to train on it."""

    key: str
    algorithm: str  # "PPO", "DQN", "REINFORCE", "Q-learning"
    env: str
    whose: str  # the hyperparameters: "published", "ours", "course"
    steps: int
    options: dict[str, Any]
    n_envs: int = 1
    published: int = 0  # steps of those who published the hyperparameters
    default: bool = True  # a part of the default run
    env_options: dict[str, Any] = field(default_factory=dict)  # of gymnasium.make
    promised: float = 0.0
    libraries: tuple[str, ...] = AGENTS
    marks: int = 20  # evaluations, at equal distances
    episodes: int = 20  # of each
    until: bool = False  # the run ends where what is promised is reached
    without: str = ""  # what those who published the hyperparameters have besides, and no library here is given

    @property
    def title(self) -> str:
        """As the page names it."""
        if "is_slippery" not in self.env_options:
            return f"{self.algorithm}, {self.env}"
        return f"{self.algorithm}, {self.env}, {'' if self.env_options['is_slippery'] else 'not '}slippery"

    def normalized(self, score: Any) -> Any:
        """0 for a random policy, 1 for what is promised."""
        floor = FLOOR[self.env]
        return (score - floor) / (self.promised - floor)


def _published(algorithm: str, env: str, steps: int, published: int, n_envs: int = 1, default: bool = True,
               without: str = "", **options: Any) -> Setting:  # fmt: skip
    key = f"{algorithm}-{env.split('-')[0]}".lower()
    return Setting(
        key, algorithm, env, "published", steps, options, n_envs, published, default, {}, PROMISED[env],
        _libraries(algorithm), without=without,
    )  # fmt: skip


def _ours(algorithm: str, env: str, steps: int | None = None, default: bool = True) -> Setting:
    options = preset(algorithm.lower(), env)
    published, n_envs = options.pop("total_timesteps"), options.pop("n_envs", 1)
    key = f"{algorithm}-{env.split('-')[0]}-ours".lower()
    return Setting(
        key, algorithm, env, "ours", steps or published, options, n_envs, published, default, {}, PROMISED[env],
        _libraries(algorithm),
    )  # fmt: skip


def _libraries(algorithm: str) -> tuple[str, ...]:
    return (*AGENTS, UNWATCHED) if algorithm == "DQN" else AGENTS


def _course(key: str, algorithm: str, env: str, steps: int, promised: float, n_envs: int = 1, marks: int = 50,
            episodes: int = 20, env_options: dict[str, Any] | None = None, **options: Any) -> Setting:  # fmt: skip
    return Setting(
        key, algorithm, env, "course", steps, options, n_envs, 0, True, env_options or {}, promised, COURSE, marks,
        episodes, True,
    )  # fmt: skip


ZOO_NET = dict(net_arch=[256, 256])
LAKE: dict[str, Any] = dict(alpha=0.1, gamma=0.99, epsilon=1.0, epsilon_decay=0.999, epsilon_min=0.01, random_ties=True)
_TABLE = (
    _published("PPO", "CartPole-v1", 100_000, 100_000, 8, n_steps=32, batch_size=256, n_epochs=20, gamma=0.98,
               gae_lambda=0.8, learning_rate="lin_0.001", clip_range="lin_0.2"),
    _ours("PPO", "CartPole-v1"),
    _published("PPO", "Acrobot-v1", 200_000, 1_000_000, 16, n_steps=256, n_epochs=4, gae_lambda=0.94, normalize=True),
    _published("PPO", "MountainCar-v0", 300_000, 1_000_000, 16, n_steps=16, n_epochs=4, gae_lambda=0.98,
               normalize=True),
    _published("PPO", "Pendulum-v1", 100_000, 100_000, 4, n_steps=1024, n_epochs=10, gamma=0.9, gae_lambda=0.95,
               learning_rate=1e-3, without="gSDE (use_sde True, sde_sample_freq 4)"),
    _ours("PPO", "Pendulum-v1", 100_000),
    _published("PPO", "LunarLander-v3", 300_000, 1_000_000, 16, n_steps=1024, batch_size=64, n_epochs=4, gamma=0.999,
               gae_lambda=0.98, ent_coef=0.01),
    _ours("PPO", "LunarLander-v3", 300_000),
    _published("DQN", "CartPole-v1", 50_000, 50_000, learning_rate=2.3e-3, batch_size=64, buffer_size=100_000,
               learning_starts=1000, target_update_interval=10, train_freq=256, gradient_steps=128,
               exploration_fraction=0.16, exploration_final_eps=0.04, policy_kwargs=ZOO_NET),
    _ours("DQN", "CartPole-v1"),
    _published("DQN", "MountainCar-v0", 120_000, 120_000, learning_rate=4e-3, batch_size=128, buffer_size=10_000,
               learning_starts=1000, gamma=0.98, target_update_interval=600, train_freq=16, gradient_steps=8,
               exploration_fraction=0.2, exploration_final_eps=0.07, policy_kwargs=ZOO_NET),
    *(_published("DQN", env, 100_000, 100_000, default=False, learning_rate=6.3e-4, batch_size=128, buffer_size=50_000,
                 learning_starts=0, target_update_interval=250, train_freq=4, gradient_steps=-1,
                 exploration_fraction=0.12, exploration_final_eps=0.1, policy_kwargs=ZOO_NET)
      for env in ("Acrobot-v1", "LunarLander-v3")),
    _course("course-lake", "Q-learning", "FrozenLake-v1", 20_000, 1.0, episodes=100, marks=100,
            env_options=dict(is_slippery=False), **LAKE),
    # The best policy reaches the goal in 74 % of all episodes, and in 67 and 69 of the hundreds that are looked at.
    _course("course-lake-slippery", "Q-learning", "FrozenLake-v1", 400_000, 0.65, episodes=100, marks=100,
            env_options=dict(is_slippery=True), **LAKE),
    _course("course-dqn", "DQN", "CartPole-v1", 50_000, 475.0, learning_rate=5e-4, batch_size=64, buffer_size=10_000,
            learning_starts=1000, train_freq=1, gradient_steps=1, target_update_interval=500,
            exploration_fraction=0.2, exploration_final_eps=0.05, policy_kwargs=dict(net_arch=[128, 128])),
    _course("course-reinforce", "REINFORCE", "CartPole-v1", 300_000, 475.0, learning_rate=3e-3, n_episodes=1,
            gamma=0.99, policy_kwargs=dict(net_arch=[128], activation_fn="ReLU")),
    _course("course-ppo", "PPO", "CartPole-v1", 100_000, 475.0, 4, n_steps=128, batch_size=128, n_epochs=4,
            gamma=0.99, gae_lambda=0.95, learning_rate="lin_0.001", ent_coef=0.0, vf_coef=0.5),
)  # fmt: skip
SETTINGS: dict[str, Setting] = {setting.key: setting for setting in _TABLE}
assert len(SETTINGS) == len(_TABLE)
