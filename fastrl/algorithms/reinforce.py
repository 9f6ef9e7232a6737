"""REINFORCE. Williams 1992, "Simple statistical gradient-following algorithms"; Sutton & Barto 2018, §13.3-4."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from fastrl.algorithms.actor_critic import ActorCriticAlgorithm
from fastrl.buffers.rollout import Rollout
from fastrl.checks import check_int, check_number
from fastrl.envs.stepper import EnvLike
from fastrl.kernels import returns
from fastrl.learners.engine import Engine
from fastrl.schedules import Schedule, schedule_value

LONGEST = 100_000  # steps of each environment in one update
TOO_LONG = (
    f"after {LONGEST:,} steps an environment had still not ended its episodes; REINFORCE learns from whole ones: give "
    "it a time limit with gymnasium.wrappers.TimeLimit"
)
CHUNK = 512  # steps that kernels take in one call
PLAYED = ("obs", "action", "value", "reward", "terminated", "truncated", "final_value", "valid")


class REINFORCE(ActorCriticAlgorithm):
    """The policy gradient by whole episodes, with normalised returns and an optional value baseline.

    Args:
        policy: "MlpPolicy", "CnnPolicy" (images), "MultiInputPolicy" (Dict), or a module
            `forward(obs) -> (params, value)`; see `fastrl.networks`. Without a
            baseline the value is not used.
        env: an id, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` in any autoreset mode, or a callable that
            makes an environment. Actions: Discrete, MultiDiscrete, MultiBinary or Box.
        learning_rate: of Adam; a number, "lin_0.001" (linear to 0) or a function of the remaining progress.
        n_episodes: episodes for one update, shared evenly by the environments (rounded up to a multiple).
        gamma: discount γ.
        baseline: learn V and subtract it; an episode cut by a time limit then bootstraps from V of its final
            observation. Without, its return is the sum of the rewards it got.
        normalize_returns: what weighs log π is brought to zero mean and unit deviation over the update.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the squared error of the value, with a baseline.
        max_grad_norm: limit of the gradient's global norm; None for none.
        policy_kwargs: net_arch ([64, 64], or dict(pi=..., vf=...), with shared=... for layers that both stand on),
            activation_fn (a torch.nn class, Tanh), ortho_init (True), log_std_init (0.0), features_extractor_class,
            features_extractor_kwargs, share_features_extractor, normalize_images, optimizer_class, optimizer_kwargs.
        stats_window_size: episodes in the mean return that is told.
        tensorboard_log: folder for TensorBoard's files, a numbered one in it for each run; None for none.
        verbose: 1 prints a table of metrics, not more than one a second unless `log_interval` of `learn` says so.
        seed: of everything random; None for a fresh one.
        device: "auto", "cpu", "cuda", ... "auto" keeps "MlpPolicy" on the CPU, where small networks are faster.
        engine: "compiled" runs multilayer perceptrons on the CPU by kernels, "torch" any module on any device;
            "auto" takes the former where it applies. Weights, optimiser and file are the same.
        n_envs: copies of the environment, for an id or a callable.
        normalize: normalise observations and rewards by running statistics.

    Raises:
        ValueError, TypeError: for an argument out of its range, or an environment that does not fit.
    """

    adam_eps = 1e-8

    def __init__(
        self,
        policy: str | nn.Module,
        env: EnvLike,
        learning_rate: Schedule = 1e-3,
        n_episodes: int = 1,
        gamma: float = 0.99,
        baseline: bool = False,
        normalize_returns: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = None,
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
        check_int("n_episodes", n_episodes)
        check_number("ent_coef", ent_coef)
        check_number("vf_coef", vf_coef)
        if max_grad_norm is not None:
            check_number("max_grad_norm", max_grad_norm)
        self.learning_rate, self.n_episodes, self.baseline = learning_rate, n_episodes, baseline
        self.normalize_returns, self.ent_coef, self.vf_coef = normalize_returns, ent_coef, vf_coef
        self.max_grad_norm = max_grad_norm
        super().__init__(policy, env, gamma=gamma, n_envs=n_envs, normalize=normalize, policy_kwargs=policy_kwargs,
                         seed=seed, device=device, engine=engine, verbose=verbose,
                         stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
                         foreign=foreign)  # fmt: skip

    def _iterate(self) -> dict[str, float]:
        # 1. Play whole episodes with the policy as it is.
        obs, action, value, reward, terminated, truncated, final_value, valid = self._play()
        self._rollout_ended()

        # 2. Compute the return G_t that followed every step, and what of it the value did not foresee.
        G = np.empty_like(reward)
        returns.discounted_returns(
            reward, np.zeros(self.num_envs, np.float32), terminated, truncated, final_value, self.gamma, G
        )
        weight = G - value if self.baseline else G
        used = weight[valid]
        total, mean, deviation = self._moments(used)
        if self.normalize_returns and total > 1:
            weight = (weight - mean) / (deviation + np.float32(1e-8))

        # 3. Step along the mean of ∇ log π(a_t | s_t) times it.
        batch = self._batch(obs, action, value, value, weight, G, valid=valid)
        self.n_updates += 1
        rate = schedule_value("learning_rate", self.learning_rate, self._remaining())
        metrics = self.learner.update_reinforce(
            batch,
            learning_rate=rate,
            baseline=self.baseline,
            vf_coef=self.vf_coef,
            ent_coef=self.ent_coef,
            max_grad_norm=self.max_grad_norm,
            total=total,
        )
        return {**metrics, "learning_rate": rate}

    def _moments(self, x: np.ndarray) -> tuple[int, np.float32, np.float32]:
        """How many numbers there are over all ranks, their mean, and their deviation."""
        if self.ranks.size == 1:
            return (len(x), x.mean(), x.std()) if len(x) else (0, np.float32(0), np.float32(1))
        sums = np.array([len(x), x.sum(dtype=np.float64)])
        self.ranks.add_up(sums)
        mean = sums[1] / sums[0]
        squares = np.array([np.square(x - mean, dtype=np.float64).sum()])
        self.ranks.add_up(squares)
        return int(sums[0]), np.float32(mean), np.float32(np.sqrt(squares[0] / sums[0]))

    def _play(self) -> list[np.ndarray]:
        """Episodes as [T, N, ...] arrays; `valid` marks the rows that belong to each environment's share."""
        assert self._obs is not None and self.env is not None
        if self.env.running().any():  # with several environments, the last update left some half played
            self._new_episodes()
        left = np.full(self.num_envs, -(-self.n_episodes // self.total_envs))
        if (played := self._play_compiled(left)) is not None:
            return played
        rows: list[tuple[np.ndarray, ...]] = []
        obs = self._features(self._obs)
        while left.any():
            action, _, value = self.learner.act(obs, self.head.noise(self.rng, self.num_envs))
            step = self._step(action)
            reward, done = self._scaled_reward(step), step.terminated | step.truncated
            final_value = self._final_values(step) if self.baseline else np.zeros(self.num_envs, np.float32)
            valid = step.valid & (left > 0)
            rows.append((obs, action, value, reward, step.terminated, step.truncated, final_value, valid))
            left -= done & (left > 0)
            obs = self._features(step.obs)
            if len(rows) >= LONGEST and left.any():
                raise ValueError(TOO_LONG)
        return [np.stack(column) for column in zip(*rows, strict=True)]

    def _play_compiled(self, left: np.ndarray) -> list[np.ndarray] | None:
        """The same by kernels, or None where these do not apply."""
        parts: list[list[np.ndarray]] = []
        while left.any():
            rollout = Rollout(CHUNK, self.num_envs, self.obs_dim, self.head.n_components, self.action_dtype)
            taken = self._collect_compiled(rollout, left, self.baseline)
            if taken is None:
                return None
            parts.append([getattr(rollout, name)[:taken] for name in PLAYED])
            if len(parts) * CHUNK >= LONGEST and left.any():
                raise ValueError(TOO_LONG)
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
