"""Updates in Torch: as CleanRL's scripts and courses write them, by torch.compile, and with TorchRL's losses."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import numpy as np

from benches import networks
from benches.networks import ACTIONS
from benches.operation import Missing, NoPart
from benches.updates import ADAM_EPS, GAMMA, PPO_EPS, Learner, Task, Transitions, torch_state

COMPILED = ((64, 256), (256, 256))  # width, batch: what is given to torch.compile; the quick case is none


def adam(parameters: list[Any], task: Task, eps: float) -> Any:
    import torch

    return torch.optim.Adam(parameters, lr=task.settings["learning_rate"], eps=eps)


def cleanrl_ppo(task: Task, *own: np.ndarray) -> Learner:
    """The epochs of its ppo.py, without clipping of the value's loss; that loss has a factor of a half."""
    import torch
    from torch import nn

    s, agent = task.settings, networks.cleanrl_agent(task.width, task.weights)
    optimizer = adam(list(agent.parameters()), task, PPO_EPS)
    b_obs, b_actions, b_log_probs, _, b_advantages, b_returns = map(torch.from_numpy, own)
    order = np.arange(len(b_obs))

    def call() -> None:
        clipped = []
        for _ in range(task.epochs):
            np.random.shuffle(order)  # noqa: NPY002
            _, log_prob, entropy, value = agent.get_action_and_value(b_obs[order], b_actions.long()[order])
            log_ratio = log_prob - b_log_probs[order]
            ratio = log_ratio.exp()
            with torch.no_grad():
                (-log_ratio).mean(), ((ratio - 1) - log_ratio).mean()  # its two estimates of the divergence
                clipped.append(((ratio - 1.0).abs() > s["clip_range"]).float().mean().item())
            advantages = b_advantages[order]
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            limited = torch.clamp(ratio, 1 - s["clip_range"], 1 + s["clip_range"])
            policy_loss = torch.max(-advantages * ratio, -advantages * limited).mean()
            value_loss = 0.5 * ((value.view(-1) - b_returns[order]) ** 2).mean()
            loss = policy_loss - s["ent_coef"] * entropy.mean() + value_loss * 2 * s["vf_coef"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), s["max_grad_norm"])
            optimizer.step()

    return Learner(call, partial(torch_state, list(agent.parameters()), optimizer))


def compiled(task: Task, batch: int, step: Any) -> Any:
    """`step` by torch.compile, which has forgotten what it compiled before: it gives up after so many networks."""
    import torch

    if (task.width, batch) not in COMPILED:
        sizes = " and ".join(f"[{w}, {w}], batch {n}" for w, n in COMPILED)
        raise NoPart(f"compiling takes up to 20 s a size, so only {sizes}, and nothing quick")
    if shutil.which("c++") is None:
        raise Missing("no C++ compiler, which torch.compile wants")
    torch.compiler.reset()
    return torch.compile(step, dynamic=False)


def compiled_ppo(task: Task, *own: np.ndarray) -> Learner:
    """Loss, gradient, clipping and Adam in one function, given to torch.compile."""
    import torch
    from torch.nn.functional import mse_loss

    s, agent = task.settings, networks.cleanrl_agent(task.width, task.weights)
    parameters = list(agent.parameters())
    optimizer = torch.optim.Adam(parameters, lr=s["learning_rate"], eps=PPO_EPS, foreach=True)

    def step(obs: Any, action: Any, old: Any, advantage: Any, returns: Any) -> Any:
        log_p, value = agent.actor(obs).log_softmax(1), agent.critic(obs)[:, 0]
        ratio = (log_p.gather(1, action[:, None])[:, 0] - old).exp()
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        limited = ratio.clamp(1 - s["clip_range"], 1 + s["clip_range"])
        policy_loss = -torch.min(ratio * advantage, limited * advantage).mean()
        entropy = -(log_p.exp() * log_p).sum(1).mean()
        loss = policy_loss + s["vf_coef"] * mse_loss(value, returns) - s["ent_coef"] * entropy
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
        optimizer.step()
        return loss.detach()

    step = compiled(task, len(own[0]), step)
    obs, action, log_prob, _, advantage, returns = map(torch.from_numpy, own)

    def call() -> None:
        for _ in range(task.epochs):
            order = torch.randperm(len(obs))
            step(*(x[order] for x in (obs, action, log_prob, advantage, returns)))

    return Learner(call, partial(torch_state, parameters, optimizer))


def q_networks(task: Task) -> tuple[Any, Any]:
    """The network and its target."""
    found = networks.perceptron(task.width, ACTIONS, relu=True), networks.perceptron(task.width, ACTIONS, relu=True)
    for module, weights in zip(found, (task.weights, task.target), strict=True):
        networks.load(module.parameters(), weights)
    return found


def cleanrl_dqn(task: Task, *own: np.ndarray) -> Learner:
    """The update of its dqn.py: squared errors, gradients as they are."""
    import torch
    from torch.nn.functional import mse_loss

    q_network, target_network = q_networks(task)
    optimizer = adam(list(q_network.parameters()), task, ADAM_EPS)
    obs, actions, rewards, next_obs, dones = map(torch.from_numpy, own)

    def call() -> None:
        with torch.no_grad():
            target_max, _ = target_network(next_obs).max(dim=1)
            td_target = rewards.flatten() + GAMMA * target_max * (1 - dones.flatten())
        loss = mse_loss(td_target, q_network(obs).gather(1, actions).squeeze())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Learner(call, partial(torch_state, list(q_network.parameters()), optimizer))


def torch_dqn(task: Task, *own: np.ndarray, by_compiler: bool = False) -> Learner:
    """As a course would have it; Mnih et al. 2015. Or that, with Adam over all tensors at once, by torch.compile."""
    import torch
    from torch.nn.functional import mse_loss, smooth_l1_loss

    s, (q_network, target_network) = task.settings, q_networks(task)
    parameters, distance = list(q_network.parameters()), smooth_l1_loss if s["huber"] else mse_loss
    foreach = True if by_compiler else None
    optimizer = torch.optim.Adam(parameters, lr=s["learning_rate"], eps=ADAM_EPS, foreach=foreach)
    rows = list(map(torch.from_numpy, own))

    def step(obs: Any, action: Any, reward: Any, next_obs: Any, terminated: Any) -> None:
        with torch.no_grad():
            y = reward + GAMMA * (1 - terminated.float()) * target_network(next_obs).max(1).values
        q = q_network(obs).gather(1, action[:, None]).squeeze(1)
        loss = distance(q, y)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
        optimizer.step()

    if by_compiler:
        step = compiled(task, len(own[0]), step)
    return Learner(lambda: step(*rows), partial(torch_state, parameters, optimizer))


def torch_reinforce(task: Task, *own: np.ndarray) -> Learner:
    """As a course would have it; Williams 1992."""
    import torch
    from torch.distributions import Categorical
    from torch.nn.functional import mse_loss

    s, agent = task.settings, networks.cleanrl_agent(task.width, task.weights)
    parameters = list(agent.parameters())
    optimizer = adam(parameters, task, ADAM_EPS)
    obs, action, _, _, advantage, returns = map(torch.from_numpy, own)

    def call() -> None:
        policy = Categorical(logits=agent.actor(obs))
        loss = -(policy.log_prob(action) * advantage).mean() - s["ent_coef"] * policy.entropy().mean()
        if s["baseline"]:
            loss = loss + s["vf_coef"] * mse_loss(agent.critic(obs).squeeze(1), returns)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
        optimizer.step()

    return Learner(call, partial(torch_state, parameters, optimizer))


def torchrl_ppo(task: Task, *own: np.ndarray) -> Learner:
    import torch
    from tensordict import TensorDict
    from torchrl.objectives import ClipPPOLoss

    s, (actor, critic) = task.settings, networks.torchrl_modules(task.width, task.weights)
    parameters = [*actor.parameters(), *critic.parameters()]
    loss_module = ClipPPOLoss(
        actor, critic, clip_epsilon=s["clip_range"], entropy_coeff=s["ent_coef"], critic_coeff=s["vf_coef"],
        loss_critic_type="l2", normalize_advantage=s["normalize_advantage"],
    )  # fmt: skip
    optimizer = adam(parameters, task, PPO_EPS)
    obs, action, log_prob, _, advantage, returns = map(torch.from_numpy, own)
    fields = dict(observation=obs, action=action, action_log_prob=log_prob, advantage=advantage[:, None])
    rows = TensorDict({**fields, "value_target": returns[:, None]}, [len(obs)])

    def call() -> None:
        for _ in range(task.epochs):
            losses = loss_module(rows[torch.randperm(len(obs))])
            loss = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
            optimizer.step()

    return Learner(call, partial(torch_state, parameters, optimizer))


def torchrl_reinforce(task: Task, *own: np.ndarray) -> Learner:
    import torch
    from tensordict import TensorDict
    from torchrl.objectives import ReinforceLoss

    s, (actor, critic) = task.settings, networks.torchrl_modules(task.width, task.weights)
    if not s["baseline"]:
        raise Missing("its ReinforceLoss wants a baseline")
    parameters = [*actor.parameters(), *critic.parameters()]
    loss_module = ReinforceLoss(actor, critic, loss_critic_type="l2")
    optimizer = adam(parameters, task, ADAM_EPS)
    obs, action, _, _, advantage, returns = map(torch.from_numpy, own)
    fields = dict(observation=obs, action=action, advantage=advantage[:, None], value_target=returns[:, None])
    rows = TensorDict(fields, [len(obs)])

    def call() -> None:
        losses = loss_module(rows)
        loss = losses["loss_actor"] + s["vf_coef"] * losses["loss_value"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
        optimizer.step()

    return Learner(call, partial(torch_state, parameters, optimizer))


def torchrl_dqn(task: Task, *own: np.ndarray) -> Learner:
    import torch
    from tensordict import TensorDict
    from torchrl.modules import QValueActor
    from torchrl.objectives import DQNLoss

    s, (q_network, target) = task.settings, q_networks(task)
    parameters = list(q_network.parameters())
    loss_module = DQNLoss(
        QValueActor(q_network, in_keys=["observation"], action_space="categorical"), action_space="categorical",
        loss_function="smooth_l1" if s["huber"] else "l2", delay_value=True,
    )  # fmt: skip
    loss_module.make_value_estimator(gamma=GAMMA)
    targets = loss_module.target_value_network_params.flatten_keys(".")
    for name, parameter in target.named_parameters():
        targets[f"module.0.module.{name}"].data.copy_(parameter)
    optimizer = adam(parameters, task, ADAM_EPS)
    obs, action, reward, next_obs, terminated = map(torch.from_numpy, own)
    after = dict(observation=next_obs, reward=reward, terminated=terminated, done=terminated)
    rows = TensorDict({"observation": obs, "action": action, "next": TensorDict(after, [len(obs)])}, [len(obs)])

    def call() -> None:
        loss = loss_module(rows)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, s["max_grad_norm"])
        optimizer.step()

    return Learner(call, partial(torch_state, parameters, optimizer))


def column_rewards(rows: Transitions) -> tuple[np.ndarray, ...]:
    """Rewards and flags [B, 1]."""
    return rows._replace(reward=rows.reward[:, None], terminated=rows.terminated[:, None])
