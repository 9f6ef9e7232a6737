"""Updates by libraries that have a function for them, which is given our rows where it would draw its own."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from benches import networks
from benches.operation import Missing
from benches.updates import GAMMA, PPO_EPS, Learner, Rows, Task, Transitions, torch_state


def as_columns(rows: Rows) -> tuple[np.ndarray, ...]:
    """Every field but the observations [B, 1], and actions float32: Stable-Baselines3's buffer."""
    return rows.obs, *(x[:, None].astype(np.float32) for x in rows[1:])


def silent(model: Any) -> Any:
    from stable_baselines3.common.logger import Logger

    model.set_logger(Logger(None, []))
    return model


def sbx_state(*states: Any) -> Any:
    """Parameters and first moments of Flax's train states, as the weights are ordered."""
    from optax.tree_utils import tree_get

    def arrays(tree: Any) -> list[np.ndarray]:
        layers = [tree["params"][f"Dense_{i}"] for i in range(3)]
        return [np.asarray(x) for layer in layers for x in (layer["kernel"].T, layer["bias"])]

    trees = [(state.params, tree_get(state.opt_state, "mu")) for state in states]
    return tuple([x for pair in trees for x in arrays(pair[k])] for k in (0, 1))


def stable_baselines3_ppo(task: Task, *own: np.ndarray, library: str = "stable_baselines3") -> Learner:
    """`train()` on a rollout buffer that lies in our arrays."""
    s, n = task.settings, len(own[0])
    options = {k: s[k] for k in ("learning_rate", "clip_range", "ent_coef", "vf_coef", "max_grad_norm")}
    model = networks.stable_baselines3(
        library, "PPO", task.width, task.weights, n_steps=n, batch_size=n, n_epochs=task.epochs, **options
    )
    silent(model)
    buffer = model.rollout_buffer
    buffer.full = buffer.generator_ready = True
    names = "observations", "actions", "log_probs", "values", "advantages", "returns"
    for name, array in zip(names, own, strict=True):
        setattr(buffer, name, array)
    policy = model.policy
    if library == "sbx":
        return Learner(model.train, lambda: sbx_state(policy.actor_state, policy.vf_state))
    parameters = networks.stable_baselines3_parameters(policy)
    return Learner(model.train, partial(torch_state, parameters, policy.optimizer))


def stable_baselines3_dqn(task: Task, *own: np.ndarray, library: str = "stable_baselines3") -> Learner:
    """`train()`, whose buffer hands out our arrays."""
    import torch
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    s = task.settings
    options = dict(learning_rate=s["learning_rate"], gamma=GAMMA, buffer_size=100)
    if library == "stable_baselines3":
        options["max_grad_norm"] = s["max_grad_norm"]
    model = networks.stable_baselines3(library, "DQN", task.width, task.weights, task.target, **options)
    silent(model)
    obs, action, reward, next_obs, done = map(torch.from_numpy, own)
    rows = ReplayBufferSamples(obs, action, next_obs, done, reward)
    model.replay_buffer = SimpleNamespace(sample=lambda n, env=None: rows)
    call = partial(model.train, batch_size=len(obs), gradient_steps=1)
    if library == "sbx":
        return Learner(call, lambda: sbx_state(model.policy.qf_state))
    return Learner(call, partial(torch_state, list(model.q_net.parameters()), model.policy.optimizer))


def dqn_columns(rows: Transitions) -> tuple[np.ndarray, ...]:
    """Actions, rewards and flags [B, 1], as Stable-Baselines3's and CleanRL's buffers give them."""
    columns = (x[:, None].astype(kind) for x, kind in zip(rows[1:3], (np.int64, np.float32), strict=True))
    return rows.obs, *columns, rows.next_obs, rows.terminated[:, None].astype(np.float32)


def rlox_ppo(task: Task, *own: np.ndarray) -> Learner:
    """`train` for one rollout, whose collector hands out our rows; its value loss has a factor of a half."""
    import torch
    from rlox.algorithms.ppo import PPO as Algorithm
    from rlox.batch import RolloutBatch

    s, n = task.settings, len(own[0])
    policy = networks.rlox_policy(task.width, task.weights)
    model = Algorithm(
        "CartPole-v1", n_envs=1, policy=policy, n_steps=n, batch_size=n, n_epochs=task.epochs, anneal_lr=False,
        clip_vloss=False, learning_rate=s["learning_rate"], clip_eps=s["clip_range"], ent_coef=s["ent_coef"],
        vf_coef=2 * s["vf_coef"], max_grad_norm=s["max_grad_norm"],
    )  # fmt: skip
    obs, action, log_prob, value, advantage, returns = map(torch.from_numpy, own)
    rows = RolloutBatch(obs, action, torch.zeros(n), torch.zeros(n), log_prob, value, advantage, returns)
    model.collector = SimpleNamespace(collect=lambda policy, n_steps: rows)
    return Learner(partial(model.train, n), partial(torch_state, list(policy.parameters()), model.optimizer))


def rlox_reinforce(task: Task, *own: np.ndarray) -> Learner:
    """`train` of its VPG for one rollout, whose collector hands out our rows."""
    import torch
    from rlox.algorithms.vpg import VPG
    from rlox.batch import RolloutBatch

    s, n = task.settings, len(own[0])
    if not s["baseline"]:
        raise Missing("its VPG always learns a baseline")
    policy = networks.rlox_policy(task.width, task.weights)
    rate = s["learning_rate"]
    model = VPG("CartPole-v1", policy=policy, n_envs=1, n_steps=n, learning_rate=rate, vf_lr=rate, vf_epochs=1,
                max_grad_norm=s["max_grad_norm"], ent_coef=s["ent_coef"])  # fmt: skip
    obs, action, log_prob, value, advantage, returns = map(torch.from_numpy, own)
    rows = RolloutBatch(obs, action, torch.zeros(n), torch.zeros(n), log_prob, value, advantage, returns)
    model.collector = SimpleNamespace(collect=lambda policy, n_steps: rows)
    halves = [(list(policy.actor.parameters()), model.policy_optimizer),
              (list(policy.critic.parameters()), model.vf_optimizer)]  # fmt: skip

    def state() -> Any:
        (actor, critic) = (torch_state(*half) for half in halves)
        return actor[0] + critic[0], actor[1] + critic[1]

    return Learner(partial(model.train, n), state)


def rlox_dqn(task: Task, *own: np.ndarray) -> Learner:
    """Its update, whose buffer hands out our rows."""
    from rlox.algorithms.dqn import DQN as Algorithm

    s, n = task.settings, len(own[0])
    model = Algorithm("CartPole-v1", hidden=task.width, buffer_size=n, batch_size=n, double_dqn=False, gamma=GAMMA,
                      learning_rate=s["learning_rate"], max_grad_norm=s["max_grad_norm"])  # fmt: skip
    parameters = networks.load(model.q_network.parameters(), task.weights)
    networks.load(model.target_network.parameters(), task.target)
    names = "obs", "actions", "rewards", "next_obs", "terminated"
    rows = dict(zip(names, own, strict=True))
    model.buffer = SimpleNamespace(sample=lambda n, step: rows)
    return Learner(partial(model._update, 0, 1), partial(torch_state, parameters, model.optimizer))


def tianshou_ppo(task: Task, *own: np.ndarray) -> Learner:
    """`learn` on a batch whose advantages and returns are worked out."""
    import torch
    from tianshou.data import Batch

    s = task.settings
    policy = networks.tianshou_policy(
        "PPO", task.width, task.weights, s["learning_rate"], PPO_EPS, eps_clip=s["clip_range"], vf_coef=s["vf_coef"],
        ent_coef=s["ent_coef"], max_grad_norm=s["max_grad_norm"],
    )  # fmt: skip
    obs, (action, log_prob, value, advantage, returns) = own[0], map(torch.from_numpy, own[1:])

    def call() -> None:
        rows = Batch(obs=obs, act=action, logp_old=log_prob, v_s=value, adv=advantage, returns=returns, info=Batch())
        policy.learn(rows, batch_size=len(obs), repeat=task.epochs)

    return Learner(call, partial(torch_state, policy.optim.param_groups[0]["params"], policy.optim))


def tianshou_reinforce(task: Task, *own: np.ndarray) -> Learner:
    from tianshou.data import Batch

    if task.settings["baseline"]:
        raise Missing("its REINFORCE has no baseline")
    obs, action, _, _, advantage, _ = own
    policy = networks.tianshou_policy("PG", task.width, task.weights[:6], task.settings["learning_rate"])

    def call() -> None:
        policy.learn(Batch(obs=obs, act=action, returns=advantage, info=Batch()), batch_size=len(obs), repeat=1)

    def state() -> Any:
        halves = torch_state(policy.optim.param_groups[0]["params"], policy.optim)
        return halves[0] + task.weights[6:], halves[1] + [np.zeros_like(w) for w in task.weights[6:]]

    return Learner(call, state)


def tianshou_dqn(task: Task, *own: np.ndarray) -> Learner:
    """The targets and `learn`, as its `update` does them, of all rows of a buffer."""
    from tianshou.data import Batch, ReplayBuffer

    s = task.settings
    policy = networks.tianshou_policy("DQN", task.width, task.weights, s["learning_rate"], discount_factor=GAMMA,
                                      target_update_freq=10**9, clip_loss_grad=s["huber"])  # fmt: skip
    networks.load(policy.model_old.parameters(), task.target)
    policy._iter = 1  # the target network is never replaced
    obs, action, reward, next_obs, terminated = own
    n = len(obs)
    buffer, indices = ReplayBuffer(n), np.arange(n)
    rows = Batch(obs=obs, act=action, rew=reward, obs_next=next_obs, terminated=terminated, done=terminated)
    rows.truncated = np.zeros(n, bool)
    buffer.set_batch(rows)
    buffer._size = n

    def call() -> None:
        policy.learn(policy.process_fn(buffer[indices], buffer, indices))

    return Learner(call, partial(torch_state, list(policy.model.parameters()), policy.optim))


def float64_rewards(rows: Transitions) -> tuple[np.ndarray, ...]:
    """As Tianshou's buffer stores them."""
    return rows._replace(reward=rows.reward.astype(np.float64))
