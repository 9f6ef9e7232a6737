"""What PPO and REINFORCE share: a policy with a value, its learner, and prediction."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import nn

from fastrl import policies
from fastrl.algorithms.base import Algorithm
from fastrl.buffers.rollout import Rollout
from fastrl.envs.fused import CompiledStepper
from fastrl.envs.stepper import Step
from fastrl.learners.compiled import CompiledActorCritic
from fastrl.learners.torch import ActorCriticLearner, Batch
from fastrl.networks import CategoricalHead, make_head
from fastrl.normalize import NO_NORMALIZATION


class ActorCriticAlgorithm(Algorithm):
    """An algorithm over `forward(obs) -> (params, value)`."""

    learner: ActorCriticLearner
    adam_eps: float
    data_parallel = True
    policy_options = policies.FOR_ACTOR_CRITIC

    def _build(self, policy: str | nn.Module) -> None:
        self.head = make_head(self.action_space)
        self.action_dtype = np.int64 if isinstance(self.head, CategoricalHead) else np.float32
        if isinstance(policy, nn.Module):
            module = policy
        else:
            module = policies.make_actor_critic(policy, self.observation_space, self.head, self.policy_kwargs)
        device = torch.device(self.device)
        optimizer = policies.make_policy_optimizer(module, self.policy_kwargs, self.adam_eps, device)
        self.learner = ActorCriticLearner(module, self.head, device, optimizer)
        self._check_module()

    def _check_module(self) -> None:
        out = policies.try_out(self.policy, self.observation_space, self.learner.tensor)
        shapes = [tuple(x.shape) for x in out] if isinstance(out, tuple) else type(out).__name__
        if shapes != [(2, self.head.n_params), (2,)]:
            raise ValueError(
                f"for 2 observations the policy returned {shapes}; it must return (params, value) of shapes "
                f"(2, {self.head.n_params}) and (2,)"
            )
        if isinstance(self.action_space, Box):
            log_std = getattr(self.policy, "log_std", None)
            if not isinstance(log_std, nn.Parameter) or log_std.shape != (self.head.n_params,):
                raise ValueError(f"for Box actions the policy needs a parameter log_std ({self.head.n_params},)")

    def _act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        noise = None if deterministic else self.head.noise(self._predict_rng, len(obs))
        return self.learner.predict(obs, noise)

    def _act_one(self, obs: np.ndarray, deterministic: bool) -> np.ndarray | None:
        if not self.learner.has_predict_one():
            return None
        statistics = None if self.normalizer is None else self.normalizer.obs_stats
        noise = None if deterministic else self.head.noise(self._predict_rng)
        return self.learner.predict_one(obs, noise, statistics, self._bounds)

    def _collect_compiled(self, rollout: Rollout, left: np.ndarray, bootstrap: bool = True) -> int | None:
        """Fill `rollout` by one kernel, and tell the steps taken; None unless environments and policy are compiled.

        Stops before where each environment has played as many episodes as `left` says; `left` is counted down.
        """
        if not isinstance(self.env, CompiledStepper) or not isinstance(self.learner, CompiledActorCritic):
            return None
        if self._stepwise:
            return None
        before, (T, N) = self.rng.bit_generator.state, rollout.reward.shape
        noise = self.head.noise(self.rng, T * N)
        norm = NO_NORMALIZATION if self.normalizer is None else self.normalizer.for_kernels()
        taken = self.env.collect(self.learner.arrays(), norm, rollout, noise, left, bool(bootstrap))
        if taken < T:  # as if no more had been drawn than was used
            self.rng.bit_generator.state = before
            self.head.noise(self.rng, taken * N)
        self._obs = self.env.observations()
        self._count(taken * N)
        return taken

    def _scaled_reward(self, step: Step) -> np.ndarray:
        """Rewards [N] as the learner takes them."""
        if self.normalizer is None:
            return step.reward.astype(np.float32)
        return self.normalizer.reward(step.reward, step.terminated | step.truncated, step.valid)

    def _final_values(self, step: Step) -> np.ndarray:
        """V [N] of the final observations where an episode was truncated: a time limit is no terminal state."""
        values = np.zeros(self.num_envs, np.float32)
        if np.count_nonzero(step.truncated) and np.count_nonzero(cut := step.truncated & ~step.terminated):
            values[cut] = self.learner.value(self._features(step.final_obs[cut]))
        return values

    def _batch(self, *arrays: np.ndarray, valid: np.ndarray) -> Batch:
        """The valid rows of [T, N, ...] arrays, flattened, as the learner takes them."""
        whole = valid.all()
        return self.learner.batch(*(x.reshape(-1, *x.shape[2:]) if whole else x[valid] for x in arrays))
