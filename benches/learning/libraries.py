"""How each library trains a setting: `train(seed, steps, watch)`, which shows the model after every iteration.

A model has `predict(obs, deterministic=)` for batches and `num_timesteps`. Libraries are imported where they are used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benches.jobs import linear, policy_kwargs, require
from benches.learning.evaluation import Watch
from benches.learning.settings import COMPILED, PRESET, PROGRAM, SAME, SB3, TORCH, UNWATCHED, Setting
from benches.operation import Missing
from fastrl.presets import preset

Trainer = Callable[[int, int, Watch | None], Any]  # seed, steps, who is shown the model
CLASSIC = {"Q-learning": "q_learning", "DQN": "dqn", "REINFORCE": "reinforce", "PPO": "ppo"}
EPISODES_A_CALL = 20  # of q_learning


def unable(setting: Setting, library: str) -> str | None:
    """Why `library` cannot train `setting` here; None where it can."""
    try:
        if library == SB3:
            require("stable_baselines3")
            if setting.options.get("double_q"):
                return "its DQN has no double Q-learning"
        if setting.env.startswith("LunarLander"):
            require("Box2D")
    except Missing as why:
        return str(why)
    return None


def options_of(setting: Setting, library: str) -> tuple[dict[str, Any], int, int]:
    """(options, copies of the environment, steps) that `library` is given."""
    if library == PRESET and setting.algorithm != "Q-learning":  # whose defaults are our preset
        options = preset(setting.algorithm.lower(), setting.env)
        return options, options.pop("n_envs", 1), options.pop("total_timesteps")
    return {} if library == PRESET else dict(setting.options), setting.n_envs, setting.steps


def smallest(setting: Setting) -> Setting:
    """The same with as little work as will load, or compile, all that a run needs; `steps` are enough for an update."""
    options = dict(setting.options)
    batch = options.get("batch_size", 64)
    if setting.algorithm == "PPO":
        options.update(n_steps=max(16, -(-batch // setting.n_envs)), n_epochs=1)
        steps = options["n_steps"] * setting.n_envs
    elif setting.algorithm == "DQN":
        options.update(learning_starts=batch, train_freq=min(4, options["train_freq"]), gradient_steps=1)
        steps = 2 * batch
    else:
        steps = 200
    return replace(setting, options=options, steps=steps)


def fastrl(setting: Setting, library: str) -> Trainer:
    """Ours; by the compiled engine, in the compiled environments where there are any, or by Torch in Gymnasium's."""
    import torch

    import fastrl

    torch.set_num_threads(1)
    options, n_envs, _ = options_of(setting, library)
    if setting.algorithm == "Q-learning":
        return partial(_q_learning, setting, options)
    algorithm = getattr(fastrl, setting.algorithm)
    options = policy_kwargs(options)
    engine = "torch" if library == TORCH else "compiled"

    def train(seed: int, steps: int, watch: Watch | None) -> Any:
        model = algorithm("MlpPolicy", setting.env, n_envs=n_envs, seed=seed, engine=engine, **options)
        return model.learn(steps, callback=watch)

    return train


def _q_learning(setting: Setting, options: dict[str, Any], seed: int, steps: int, watch: Watch) -> None:
    """A few episodes a call, each of which goes on with the table and the ε that the one before it left."""
    import gymnasium

    from fastrl import q_learning

    env = gymnasium.make(setting.env, **setting.env_options)
    schedule = {"epsilon": 1.0, "epsilon_decay": 0.9995, "epsilon_min": 0.01, **options}
    rest = {name: value for name, value in options.items() if name not in schedule or "epsilon" not in name}
    decay, least = schedule["epsilon_decay"], schedule["epsilon_min"]
    taken, calls, going_on = 0, 0, True
    table: Any = 0.0
    while taken < steps and going_on:
        epsilon = max(least, schedule["epsilon"] * decay ** (calls * EPISODES_A_CALL))
        result = q_learning(
            env, EPISODES_A_CALL, epsilon=epsilon, epsilon_decay=decay, epsilon_min=least, q_init=table,
            seed=seed * 1_000_000 + calls, **rest,
        )  # fmt: skip
        table, calls, taken = result.Q, calls + 1, taken + int(result.lengths.sum())
        going_on = watch(Counted(result.predict, taken))
    env.close()


class Counted:
    """A model of `predict` and the steps that it was trained for."""

    def __init__(self, predict: Callable[..., Any], num_timesteps: int) -> None:
        self.predict, self.num_timesteps = predict, num_timesteps


def stable_baselines3(setting: Setting, library: str = SB3) -> Trainer:
    """Stable-Baselines3's, on the CPU, with VecNormalize where normalised; whose statistics evaluations leave alone."""
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    options = policy_kwargs(setting.options)
    normalize = options.pop("normalize", False)
    for name in ("learning_rate", "clip_range"):
        if isinstance(options.get(name), str):
            options[name] = linear(float(options[name].removeprefix("lin_")))

    class AfterIterations(BaseCallback):
        """Shows the model when a rollout begins: after the update that the last one led to."""

        def __init__(self, show: Callable[[], bool]) -> None:
            super().__init__()
            self.show, self.going_on = show, True

        def _on_rollout_start(self) -> None:
            self.going_on = self.num_timesteps == 0 or self.show()

        def _on_step(self) -> bool:
            return self.going_on

    def train(seed: int, steps: int, watch: Watch | None) -> None:
        # As for ours: its own default, to be ready for pictures, makes LunarLander's steps many times as dear.
        env: Any = make_vec_env(setting.env, n_envs=setting.n_envs, seed=seed, env_kwargs={"render_mode": None})
        if normalize:
            env = VecNormalize(env, gamma=options.get("gamma", 0.99))
        model = getattr(stable_baselines3, setting.algorithm)("MlpPolicy", env, seed=seed, device="cpu", **options)

        def predict(obs: np.ndarray, deterministic: bool = True) -> Any:
            return model.predict(env.normalize_obs(obs) if normalize else obs, deterministic=deterministic)

        def show() -> bool:
            return watch is None or watch(Counted(predict, model.num_timesteps))

        model.learn(steps, callback=AfterIterations(show))
        show()  # no rollout begins after the last update

    return train


def program(setting: Setting, library: str = PROGRAM) -> Trainer:
    """The course's program, as it stands in `benches/classic/`."""
    import torch

    torch.set_num_threads(1)
    module = importlib.import_module(f"benches.classic.{CLASSIC[setting.algorithm]}")
    return partial(module.train, setting.env, **setting.env_options)


LIBRARIES: dict[str, Callable[[Setting, str], Trainer]] = {
    COMPILED: fastrl, TORCH: fastrl, SB3: stable_baselines3, PROGRAM: program, SAME: fastrl, PRESET: fastrl,
    UNWATCHED: fastrl,
}  # fmt: skip
PACKAGE = {SB3: "stable_baselines3"}  # whose version a run depends on; else fastrl's
