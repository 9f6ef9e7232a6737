"""Proximal policy optimisation. Schulman et al. 2017, "Proximal Policy Optimization Algorithms"."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from torch import nn

from fastrl.algorithms.actor_critic import ActorCriticAlgorithm
from fastrl.buffers.rollout import Rollout
from fastrl.checks import check_int, check_number
from fastrl.envs.stepper import EnvLike
from fastrl.kernels import returns
from fastrl.kernels.sampling import permutations
from fastrl.learners.engine import Engine
from fastrl.ranks import Ranks
from fastrl.schedules import Schedule, check_schedule, schedule_value
from fastrl_ext.stepping import put_row

ENDLESS = 2**40  # episodes
NO_TRANSITION = (
    "a step of this environment was no transition, as with vector environments of the mode NEXT_STEP: over several "
    "ranks use an id with n_envs, or the mode SAME_STEP"
)


class PPO(ActorCriticAlgorithm):
    """PPO with the clipped surrogate and GAE; arguments and defaults are Stable-Baselines3's.

    Args:
        policy: "MlpPolicy", "CnnPolicy" (images), "MultiInputPolicy" (Dict), or a module
            `forward(obs) -> (params, value)`; see `fastrl.networks`.
        env: an id, a `gymnasium.Env`, a `gymnasium.vector.VectorEnv` in any autoreset mode, or a callable that
            makes an environment. Actions: Discrete, MultiDiscrete, MultiBinary or Box.
        learning_rate: of Adam; a number, "lin_0.001" (linear to 0) or a function of the remaining progress.
        n_steps: T, steps of each environment in a rollout.
        batch_size: rows of a minibatch; a smaller last one is used too.
        n_epochs: K, passes over each rollout.
        gamma: discount γ.
        gae_lambda: λ of generalised advantage estimation; 1 is Monte Carlo, 0 one-step.
        clip_range: ε of the clipped surrogate; a schedule like the learning rate.
        clip_range_vf: how far the value may move from the one of the rollout; None for no limit. It depends on
            the scale of the rewards.
        normalize_advantage: to zero mean and unit deviation in each minibatch.
        ent_coef: weight of the entropy bonus.
        vf_coef: weight of the squared error of the value.
        max_grad_norm: limit of the gradient's global norm; None for none.
        target_kl: stop an iteration's updates past 1.5 times this approximate KL divergence; None for never.
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
        average: over several ranks, "gradients" steps down the mean gradient of each minibatch, as one process would;
            "parameters" lets each rank take its K epochs by itself and then averages the parameters, another algorithm
            (local SGD, Stich 2019). See docs/distributed.

    Raises:
        ValueError, TypeError: for an argument out of its range, or an environment that does not fit.
    """

    adam_eps = 1e-5

    def __init__(
        self,
        policy: str | nn.Module,
        env: EnvLike,
        learning_rate: Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: Schedule = 0.2,
        clip_range_vf: Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        *,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: str = "auto",
        engine: Engine = "auto",
        n_envs: int = 1,
        normalize: bool = False,
        average: Literal["gradients", "parameters"] = "gradients",
        **foreign: Any,
    ) -> None:
        for name, count in (("n_steps", n_steps), ("batch_size", batch_size), ("n_epochs", n_epochs)):
            check_int(name, count)
        check_number("gae_lambda", gae_lambda, 0, 1)
        for name, weight in (("ent_coef", ent_coef), ("vf_coef", vf_coef)):
            check_number(name, weight)
        for name, limit in (("target_kl", target_kl), ("max_grad_norm", max_grad_norm)):
            if limit is not None:
                check_number(name, limit)
        check_schedule("clip_range", clip_range)
        if clip_range_vf is not None:
            check_schedule("clip_range_vf", clip_range_vf)
        if average not in ("gradients", "parameters"):
            raise ValueError(f'average is {average!r}; it must be "gradients" or "parameters"')
        self.learning_rate, self.clip_range, self.clip_range_vf = learning_rate, clip_range, clip_range_vf
        self.n_steps, self.batch_size, self.n_epochs, self.gae_lambda = n_steps, batch_size, n_epochs, gae_lambda
        self.normalize_advantage, self.target_kl, self.max_grad_norm = normalize_advantage, target_kl, max_grad_norm
        self.ent_coef, self.vf_coef, self.average = ent_coef, vf_coef, average
        self._rollout: Rollout | None = None
        super().__init__(policy, env, gamma=gamma, n_envs=n_envs, normalize=normalize, policy_kwargs=policy_kwargs,
                         seed=seed, device=device, engine=engine, verbose=verbose,
                         stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
                         foreign=foreign)  # fmt: skip
        self.ranks.share("batch_size", batch_size)
        if self.ranks.size > 1 and average == "parameters" and target_kl is not None:
            raise ValueError('average="parameters" lets every rank take all of its steps: leave out target_kl')

    def _iterate(self) -> dict[str, float]:
        # 1. Run the old policy in N environments for T steps.
        rollout, last_value = self._collect()
        self._rollout_ended()

        # 2. Estimate advantages A_1 … A_T.
        returns.gae(
            rollout.reward, rollout.value, last_value, rollout.terminated, rollout.truncated, rollout.final_value,
            self.gamma, self.gae_lambda, rollout.advantage, rollout.returns,
        )  # fmt: skip

        if self.ranks.size > 1 and not rollout.valid.all():
            raise ValueError(NO_TRANSITION)
        if not rollout.valid.any():
            return {}

        # 3. Optimise L^{CLIP+VF+S} for K epochs, in minibatches.
        batch = self._batch(rollout.obs, rollout.action, rollout.log_prob, rollout.value, rollout.advantage,
                            rollout.returns, valid=rollout.valid)  # fmt: skip
        remaining = self._remaining()
        clip_vf = self.clip_range_vf
        now: dict[str, Any] = {
            "learning_rate": schedule_value("learning_rate", self.learning_rate, remaining),
            "clip_range": schedule_value("clip_range", self.clip_range, remaining),
            "clip_range_vf": None if clip_vf is None else schedule_value("clip_range_vf", clip_vf, remaining),
        }
        metrics = self.learner.update_ppo(
            batch,
            permutations(self.rng, self.n_epochs, len(batch.value)),
            batch_size=self.ranks.share("batch_size", self.batch_size),
            **now,
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            max_grad_norm=self.max_grad_norm,
            target_kl=self.target_kl,
        )
        if self._share is not None and self.average == "parameters":
            self._share.average()
        self.n_updates += int(metrics.pop("n_updates"))
        return {**metrics, **{name: value for name, value in now.items() if value is not None}}

    def _ranks_of_updates(self) -> Ranks:
        return self.ranks if self.average == "gradients" else Ranks()

    def _describe(self) -> dict[str, float]:
        found = {}
        if (log_std := getattr(self.policy, "log_std", None)) is not None:
            found["train/std"] = float(log_std.detach().exp().mean())
        if self._rollout is not None and (variance := np.var(target := self._rollout.returns[self._rollout.valid])):
            left = target - self._rollout.value[self._rollout.valid]
            found["train/explained_variance"] = float(1 - np.var(left) / variance)
        return found

    def _collect(self) -> tuple[Rollout, np.ndarray]:
        """A rollout, and V of the observations after it."""
        if self._rollout is None or self._rollout.value.shape[1] != self.num_envs:
            self._rollout = Rollout(
                self.n_steps, self.num_envs, self.obs_dim, self.head.n_components, self.action_dtype
            )
        rollout = self._rollout
        assert self._obs is not None
        if self._collect_compiled(rollout, np.full(self.num_envs, ENDLESS)) is not None:
            return rollout, self.learner.value(self._features(self._obs))
        obs = self._features(self._obs)
        noise = self.head.noise(self.rng, self.n_steps * self.num_envs).reshape(self.n_steps, self.num_envs, -1)
        columns = (rollout.obs, rollout.action, rollout.log_prob, rollout.value, rollout.reward, rollout.terminated,
                   rollout.truncated, rollout.valid, rollout.final_value)  # fmt: skip
        for t in range(self.n_steps):
            action, log_prob, value = self.learner.act(obs, noise[t])
            step = self._step(action)
            put_row(t, columns, (obs, action, log_prob, value, self._scaled_reward(step), step.terminated,
                                 step.truncated, step.valid, self._final_values(step)))  # fmt: skip
            obs = self._features(step.obs)
        return rollout, self.learner.value(obs)
