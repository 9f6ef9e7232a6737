"""What is trained, at hyperparameters that a library or the RL Zoo published."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benches.jobs import Job

CLEANRL = dict(
    n_steps=128, batch_size=128, n_epochs=4, learning_rate="lin_0.00025", clip_range_vf=0.2, ent_coef=0.01,
    vf_coef=0.25,  # its squared error has a factor of a half
)  # fmt: skip
ZOO = dict(
    n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8, learning_rate="lin_0.001",
    clip_range="lin_0.2",
)  # fmt: skip
LUNAR = dict(n_steps=1024, batch_size=64, n_epochs=4, gamma=0.999, gae_lambda=0.98, ent_coef=0.01)
PENDULUM = dict(
    n_steps=1024, batch_size=256, n_epochs=2, gamma=0.9, learning_rate=1e-3, max_grad_norm=None, normalize=True,
    policy_kwargs=dict(net_arch=dict(pi=[64, 64], vf=[64, 64]), activation_fn="ReLU", log_std_init=float(np.log(2))),
)  # fmt: skip
EVERY_STEP = dict(train_freq=1, batch_size=64, policy_kwargs=dict(net_arch=[128, 128]))
EVERY_STEP_RLOX = {  # those of the names that both have, and that differ by default
    **EVERY_STEP, "buffer_size": 1_000_000, "learning_starts": 100, "target_update_interval": 10_000,
}  # fmt: skip
DQN_ZOO = dict(
    learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000, target_update_interval=10,
    train_freq=256, gradient_steps=128, exploration_fraction=0.16, exploration_final_eps=0.04,
    policy_kwargs=dict(net_arch=[256, 256]),
)  # fmt: skip


class Row(NamedTuple):
    """A line of the table; `peers` have a program for it."""

    title: str
    job: Job
    peers: tuple[str, ...]
    slow_steps: int  # for peers that would take minutes
    suite: tuple[int, int]  # steps in the benchmark suite, of others and of slow peers
    learnt: float | None = None  # the least score after all of the job's steps; at random: CartPole 22, Pendulum -1200


SB3 = "stable_baselines3"
ROWS: dict[str, Row] = {
    "ppo-sb3": Row(
        "PPO CartPole-v1, SB3's defaults", Job("PPO", "CartPole-v1", 1, {}, 100_000),
        (SB3, "sbx"), 20_480, (100_000, 4096), 100,
    ),
    "ppo-zoo": Row(
        "PPO CartPole-v1, RL Zoo, 8 envs", Job("PPO", "CartPole-v1", 8, ZOO, 100_000),
        (SB3,), 50_000, (100_000, 16_384), 100,
    ),
    "ppo-rlox": Row(
        "PPO CartPole-v1, rlox's defaults", Job("PPO", "CartPole-v1", 8, {**CLEANRL, "batch_size": 256}, 100_000),
        ("rlox",), 100_000, (100_000, 50_000), 100,
    ),
    "ppo-cleanrl": Row(
        "PPO CartPole-v1, CleanRL's defaults", Job("PPO", "CartPole-v1", 4, CLEANRL, 500_000),
        ("cleanrl", "purejaxrl"), 50_000, (500_000, 20_480), 100,
    ),
    "pendulum": Row(
        "PPO Pendulum-v1, RLtools' configuration", Job("PPO", "Pendulum-v1", 4, PENDULUM, 300_000, True),
        ("rltools", SB3), 40_960, (300_000, 16_384), -500,
    ),
    # In the suite all take the same steps of LunarLander, whose step costs more as the agent learns, and of DQN, which
    # does not update at first.
    "lunar": Row(
        "PPO LunarLander-v3, RL Zoo, 16 envs", Job("PPO", "LunarLander-v3", 16, LUNAR, 98_304),
        (SB3,), 98_304, (32_768, 32_768),
    ),
    "lunar-envpool": Row(
        "PPO LunarLander-v3, RL Zoo, 16 envs of EnvPool",
        Job("PPO", "envpool:LunarLander-v3", 16, LUNAR, 98_304, env_threads=2), (SB3,), 98_304, (32_768, 32_768),
    ),
    "dqn-128": Row(
        "DQN CartPole-v1, [128, 128], an update a step", Job("DQN", "CartPole-v1", 1, EVERY_STEP_RLOX, 50_000),
        (SB3, "rlox"), 8000, (4000, 4000),
    ),
    "dqn-zoo": Row(
        "DQN CartPole-v1, RL Zoo, [256, 256]", Job("DQN", "CartPole-v1", 1, DQN_ZOO, 50_000),
        (SB3,), 12_000, (8000, 8000),
    ),
}  # fmt: skip
SOLVE = Job("PPO", "CartPole-v1", 8, dict(
    n_steps=128, batch_size=64, n_epochs=4, gamma=0.98, gae_lambda=0.9, learning_rate="lin_0.003",
), 60_000, True)  # fmt: skip
