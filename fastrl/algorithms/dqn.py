"""Deep Q-learning. Mnih et al. 2015, "Human-level control through deep reinforcement learning"."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import nn

from fastrl import policies
from fastrl.algorithms import q_rounds
from fastrl.algorithms.base import Algorithm
from fastrl.buffers.replay import ReplayBuffer
from fastrl.checks import check_int, check_number
from fastrl.envs import records
from fastrl.envs.stepper import EnvLike, Step
from fastrl.exploration import exploration_rate, explore, explore_one
from fastrl.learners.engine import Engine
from fastrl.learners.torch import QLearner
from fastrl.schedules import Schedule, schedule_value

Frequency = int | tuple[int, str]


class _Interval:
    """An attribute that takes n, (n, "step") or (n, "episode"), and is such a pair; checked whenever it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, model: Any, owner: type | None = None) -> tuple[int, str]:
        return self if model is None else model.__dict__[self.name]  # type: ignore[return-value]

    def __set__(self, model: Any, value: Frequency) -> None:
        model.__dict__[self.name] = _frequency(self.name, value)


class DQN(Algorithm):
    """DQN with replay and a target network; arguments and defaults are Stable-Baselines3's.

    Args:
        policy: "MlpPolicy", "CnnPolicy" (images), "MultiInputPolicy" (Dict), or a module
            `forward(obs) -> q_values`; see `fastrl.networks`.
        env: an id, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` in any autoreset mode, or a callable that
            makes an environment. Actions: Discrete.
        learning_rate: of Adam; a number, "lin_0.001" (linear to 0) or a function of the remaining progress.
        buffer_size: capacity of the replay buffer, in transitions.
        learning_starts: steps of random actions before the first update.
        batch_size: transitions in an update.
        tau: share of the online weights that a target update takes over; 1 copies them.
        gamma: discount γ.
        train_freq: steps, over all environments, between rounds of updates; (n, "episode") counts episodes.
        gradient_steps: updates in a round; -1 for as many as steps were taken.
        target_update_interval: steps between target updates; (n, "episode") counts episodes.
        exploration_fraction: share of the training over which ε falls linearly.
        exploration_initial_eps: ε at the start.
        exploration_final_eps: ε in the end.
        exploration_decay: if given, ε is multiplied by it after every episode instead, down to the final one.
        max_grad_norm: limit of the gradient's global norm; None for none.
        double_q: choose the next action by the online network (van Hasselt et al. 2016).
        loss: "huber" (quadratic up to an error of 1) or "mse".
        optimize_memory_usage: keep each observation once in the replay buffer, for half of its memory.
        n_steps: fit Q to the rewards of this many steps and the value of what follows them. More than 1 needs an
            environment whose every step is a transition: any but a vector environment of the mode NEXT_STEP.
        policy_kwargs: net_arch ([64, 64]), activation_fn (a torch.nn class, ReLU), features_extractor_class,
            features_extractor_kwargs, normalize_images, optimizer_class, optimizer_kwargs.
        stats_window_size: episodes in the mean return that is told.
        tensorboard_log: folder for TensorBoard's files, a numbered one in it for each run; None for none.
        verbose: 1 prints a table of metrics, not more than one a second unless `log_interval` of `learn` says so.
        seed: of everything random; None for a fresh one.
        device: "auto", "cpu", "cuda", ... "auto" keeps "MlpPolicy" on the CPU, where small networks are faster.
        engine: "compiled" runs multilayer perceptrons on the CPU by kernels, "torch" any module on any device;
            "auto" takes the former where it applies. Weights, optimiser and file are the same.
        n_envs: copies of the environment, for an id or a callable.
        normalize: normalise observations by running statistics; the buffer keeps them as they came.

    Raises:
        ValueError, TypeError: for an argument out of its range, or an environment that does not fit.
    """

    action_kinds = (Discrete,)
    policy_options = policies.FOR_Q
    learner: QLearner
    logs_by_episode = True
    train_freq = _Interval()
    target_update_interval = _Interval()

    def __init__(
        self,
        policy: str | nn.Module,
        env: EnvLike,
        learning_rate: Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: Frequency = 4,
        gradient_steps: int = 1,
        *,
        target_update_interval: Frequency = 10_000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        exploration_decay: float | None = None,
        max_grad_norm: float | None = 10.0,
        double_q: bool = False,
        loss: str = "huber",
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: str = "auto",
        engine: Engine = "auto",
        n_envs: int = 1,
        normalize: bool = False,
        **foreign: Any,
    ) -> None:
        check_int("buffer_size", buffer_size)
        check_int("batch_size", batch_size)
        check_int("n_steps", n_steps)
        check_int("learning_starts", learning_starts, 0)
        check_int("gradient_steps", gradient_steps, -1)
        for name, share in (("tau", tau), ("exploration_fraction", exploration_fraction),
                            ("exploration_initial_eps", exploration_initial_eps),
                            ("exploration_final_eps", exploration_final_eps)):  # fmt: skip
            check_number(name, share, 0, 1)
        if exploration_decay is not None:
            check_number("exploration_decay", exploration_decay, 0, 1)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm)
        if not isinstance(optimize_memory_usage, (bool, np.bool_)):
            raise TypeError(f"optimize_memory_usage is {optimize_memory_usage!r}; it must be True or False")
        if loss not in ("huber", "mse"):
            raise ValueError(f'loss is {loss!r}; it must be "huber" or "mse"')
        self.train_freq, self.target_update_interval = train_freq, target_update_interval
        self.learning_rate, self.buffer_size, self.learning_starts = learning_rate, buffer_size, learning_starts
        self.batch_size, self.tau, self.gradient_steps, self.n_steps = batch_size, tau, gradient_steps, n_steps
        self.exploration_fraction, self.exploration_decay = exploration_fraction, exploration_decay
        self.exploration_initial_eps, self.exploration_final_eps = exploration_initial_eps, exploration_final_eps
        self.max_grad_norm, self.double_q, self.loss = max_grad_norm, double_q, loss
        self.optimize_memory_usage = bool(optimize_memory_usage)
        super().__init__(policy, env, gamma=gamma, n_envs=n_envs, normalize=normalize, policy_kwargs=policy_kwargs,
                         seed=seed, device=device, engine=engine, verbose=verbose,
                         stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
                         foreign=foreign)  # fmt: skip

    def _build(self, policy: str | nn.Module) -> None:
        assert isinstance(self.action_space, Discrete)
        self.n_actions = int(self.action_space.n)
        if isinstance(policy, nn.Module):
            module = policy
        else:
            module = policies.make_q_network(policy, self.observation_space, self.n_actions, self.policy_kwargs)
        device = torch.device(self.device)
        optimizer = policies.make_policy_optimizer(module, self.policy_kwargs, 1e-8, device)
        self.learner = QLearner(module, copy.deepcopy(module), device, optimizer)
        out = policies.try_out(module, self.observation_space, self.learner.tensor)
        found = tuple(getattr(out, "shape", ())) or type(out).__name__
        if found != (2, self.n_actions):
            raise ValueError(f"for 2 observations the policy returned {found}; it must return {(2, self.n_actions)}")
        self.replay_buffer = ReplayBuffer(
            self.buffer_size, self.observation_space, self.action_space, num_envs=self.num_envs,
            seed=int(self.rng.integers(2**63)), n_step=self.n_steps, gamma=self.gamma,
            share_next_obs=self.optimize_memory_usage,
        )  # fmt: skip

    @property
    def exploration_rate(self) -> float:
        """ε now."""
        return exploration_rate(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction, self.exploration_decay,
            1 - self._remaining(), self.num_episodes,
        )  # fmt: skip

    def _new_episodes(self) -> None:
        super()._new_episodes()
        self.replay_buffer.end_episodes()  # what is stored so far does not lead to what comes

    def _iterate(self) -> dict[str, float]:
        if q_rounds.applies(self):
            return q_rounds.run(self)

        # 1. Act ε-greedily, and store what happens.
        collected = self._collect()

        self._rollout_ended()

        # 2. Move Q towards r + γ max Q̂ on transitions drawn from all that is stored.
        losses = []
        if self.num_timesteps > self.learning_starts:
            rate = schedule_value("learning_rate", self.learning_rate, self._remaining())
            for _ in range(collected if self.gradient_steps == -1 else self.gradient_steps):
                losses.append(self._update(rate))
                self.n_updates += 1
        return {"loss": float(sum(losses)) / len(losses), "learning_rate": rate} if losses else {}

    def _describe(self) -> dict[str, float]:
        return {"rollout/exploration_rate": self.exploration_rate}

    def _collect(self) -> int:
        """Steps until `train_freq` is met; returns how many."""
        count, unit = self.train_freq
        first_step, first_episode = self.num_timesteps, self.num_episodes
        while (self.num_episodes - first_episode if unit == "episode" else self.num_timesteps - first_step) < count:
            assert self._obs is not None
            obs, before = self._obs, self._progress(self.target_update_interval)
            action = self._epsilon_greedy(obs)
            step = self._step(action[:, None])
            self._store(obs, action, step)
            if self._progress(self.target_update_interval) != before:
                self.learner.update_target(self.tau)
        return self.num_timesteps - first_step

    def _progress(self, frequency: tuple[int, str]) -> int:
        """How often an interval has passed since the run began: counted, so that resuming does not shift it."""
        count, unit = frequency
        return (self.num_episodes if unit == "episode" else self.num_timesteps) // count

    def _epsilon_greedy(self, obs: np.ndarray) -> np.ndarray:
        """Actions [N] from 0; each environment draws for itself whether it explores."""
        epsilon = 1.0 if self.num_timesteps < self.learning_starts else self.exploration_rate
        action, explored = explore(self.rng.random(self.num_envs), epsilon, self.n_actions)
        n_exploring = np.count_nonzero(explored)
        if n_exploring < self.num_envs:
            greedy = self.learner.q_values(self._features(obs)).argmax(1)
            action = np.where(explored, action, greedy) if n_exploring else greedy
        return action

    def _store(self, obs: np.ndarray, action: np.ndarray, step: Step) -> None:
        reward = step.reward.astype(np.float32)  # as it is stored: the buffer takes that thirty times as fast
        fields = [obs, self._env_action(action), reward, step.final_obs, step.terminated, step.truncated]
        whole = np.count_nonzero(step.valid) == self.num_envs
        if not whole:
            fields = [field[step.valid] for field in fields]
        for i in (0, 3):  # the buffer keeps the parts of a Dict
            fields[i] = records.as_users_have_them(self.observation_space, fields[i])
        if whole and self.num_envs == self.replay_buffer.num_envs:
            self.replay_buffer.add(*fields)
        elif self.n_steps > 1:
            raise ValueError(
                f"n_steps is {self.n_steps}, which needs the same environments from the first step on, each step a "
                "transition: use n_steps=1, an id with n_envs, or a vector environment of the mode SAME_STEP"
            )
        else:
            self.replay_buffer.add_batch(*fields)

    def _update(self, learning_rate: float) -> Any:
        assert isinstance(self.action_space, Discrete)
        batch = self.replay_buffer.sample(self.batch_size)
        discount = np.float32(self.gamma) if batch.discount is None else batch.discount
        return self.learner.update(
            self._features(batch.obs), batch.action.astype(np.int64) - self.action_space.start, batch.reward, discount,
            self._features(batch.next_obs), batch.terminated, learning_rate=learning_rate, double_q=self.double_q,
            huber=self.loss == "huber", max_grad_norm=self.max_grad_norm,
        )  # fmt: skip

    def _act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        greedy = self.learner.predict(obs)[:, None]
        if deterministic:
            return greedy
        action, explored = explore(self._predict_rng.random((len(obs), 1)), self.exploration_rate, self.n_actions)
        return np.where(explored, action, greedy)

    def _act_one(self, obs: np.ndarray, deterministic: bool) -> np.ndarray | None:
        if not self.learner.has_predict_one():
            return None
        statistics = None if self.normalizer is None else self.normalizer.obs_stats
        action = self.learner.predict_one(obs, None, statistics, None)
        if action is not None and not deterministic:
            explore_one(action, self._predict_rng.random(), self.exploration_rate, self.n_actions)
        return action

    def save_replay_buffer(self, path: str | os.PathLike[str]) -> None:
        """Write the replay buffer to a file of its own, atomically: resuming bit for bit needs it."""
        self.replay_buffer.save(path)

    def load_replay_buffer(self, path: str | os.PathLike[str]) -> None:
        """Read back what `save_replay_buffer` wrote; a ValueError for a file that does not fit changes nothing."""
        self.replay_buffer.load(path)


def _frequency(name: str, value: Frequency) -> tuple[int, str]:
    pair = value if isinstance(value, (tuple, list)) else (value, "step")
    if len(pair) != 2 or pair[1] not in ("step", "episode"):
        raise ValueError(f'{name} is {value!r}; it must be a number of steps, or (n, "step") or (n, "episode")')
    check_int(name, pair[0])
    return int(pair[0]), pair[1]
