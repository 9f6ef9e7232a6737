"""The tables of updates: who does them, with which of their fields, and on what sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

from benches import updates as u
from benches import updates_peers as peers
from benches import updates_torch as by_torch
from benches.networks import ACTIONS
from benches.operation import Implementation, Operation
from benches.updates import learning
from benches.updates_reference import compare, dqn_reference, ppo_reference, reinforce_reference

CASES = {f"[{w}, {w}], batch {n}": (w, n) for w, n in ((64, 64), (64, 256), (256, 256))}
QUICK = dict(list(CASES.items())[:1])
SWEEPS = {
    "batch": {n: (64, n) for n in (16, 64, 256, 1024, 4096)},
    "width": {w: (w, 64) for w in (32, 128, 512, 1024, 1536, 2048)},
}
SB3, SBX, TORCH = ("stable_baselines3",), ("sbx",), ("torch",)


def rows(batch: Any) -> Any:
    return batch


def ours(layout: Any, bind: Any) -> dict[str, Implementation]:
    return {
        "fastrl": learning(layout, bind, role="ours"),
        "fastrl, engine torch": learning(layout, partial(bind, engine="torch"), role="ours"),
    }


sbx_ppo = partial(peers.stable_baselines3_ppo, library="sbx")
sbx_dqn = partial(peers.stable_baselines3_dqn, library="sbx")
HUBER, SQUARES, UNCLIPPED = "has Huber's loss alone", "has squared errors alone", "clips no gradients"
APART = "clips the gradients of policy and value apart; its deviation of advantages is over n, not n − 1"
NOTE = (
    "Matrix products alone are Torch's calls, no floor at small widths: a call costs more there than its arithmetic, "
    "and kernels make no calls."
)
BOUND = {"matrix products alone": learning(rows, u.products, role="bound", needs=TORCH)}
PPO_BY = {
    **ours(u.columns, u.our_ppo),
    "Stable-Baselines3": learning(peers.as_columns, peers.stable_baselines3_ppo, needs=SB3),
    "SBX": learning(peers.as_columns, sbx_ppo, needs=SBX, why=APART),
    "CleanRL": learning(rows, by_torch.cleanrl_ppo, needs=TORCH),
    "rlox": learning(rows, peers.rlox_ppo, needs=("rlox",)),
    "Tianshou": learning(rows, peers.tianshou_ppo, needs=("tianshou",)),
    "TorchRL": learning(rows, by_torch.torchrl_ppo, needs=("torchrl",)),
    "torch.compile": learning(rows, by_torch.compiled_ppo, needs=TORCH),
}
DQN_BY = {
    **ours(rows, u.our_dqn),
    "Stable-Baselines3": learning(peers.dqn_columns, peers.stable_baselines3_dqn, needs=SB3, why=HUBER),
    "SBX": learning(peers.dqn_columns, sbx_dqn, needs=SBX, why=f"{HUBER}; {UNCLIPPED}"),
    "CleanRL": learning(peers.dqn_columns, by_torch.cleanrl_dqn, needs=TORCH, why=f"{SQUARES}; {UNCLIPPED}"),
    "rlox": learning(rows, peers.rlox_dqn, needs=("rlox",), why=SQUARES),
    "Tianshou": learning(peers.float64_rewards, peers.tianshou_dqn, needs=("tianshou",), why=UNCLIPPED),
    "TorchRL": learning(by_torch.column_rewards, by_torch.torchrl_dqn, needs=("torchrl",)),
    "Torch": learning(rows, by_torch.torch_dqn, role="plain", needs=TORCH),
    "torch.compile": learning(rows, partial(by_torch.torch_dqn, by_compiler=True), needs=TORCH),
}
REINFORCE_BY = {
    **ours(u.columns, u.our_reinforce),
    "rlox": learning(rows, peers.rlox_reinforce, needs=("rlox",)),
    "Tianshou": learning(rows, peers.tianshou_reinforce, needs=("tianshou",)),
    "TorchRL": learning(rows, by_torch.torchrl_reinforce, needs=("torchrl",)),
    "Torch": learning(rows, by_torch.torch_reinforce, role="plain", needs=TORCH),
}


def ppo(title: str, cases: Any, **settings: Any) -> Operation:
    return Operation(
        title, cases, partial(u.rollouts, settings={**u.PPO, **settings}), ppo_reference, {**PPO_BY, **BOUND},
        compare, unit="update", per=u.epochs,
        operations=lambda case: u.epochs(case) * u.operations(case, ACTIONS + 1, 2, 3), note=NOTE,
    )  # fmt: skip


def dqn(title: str, cases: Any, **settings: Any) -> Operation:
    return Operation(
        title, cases, partial(u.transitions, settings={**u.DQN, **settings}), dqn_reference, {**DQN_BY, **BOUND},
        compare, unit="update", operations=lambda case: u.operations(case, ACTIONS, 1, 4), note=NOTE,
    )  # fmt: skip


PPO = ppo("PPO update", CASES)._replace(sweeps=SWEEPS)
PPO_CLIPPED = ppo("PPO update, gradients beyond max_grad_norm", QUICK, max_grad_norm=0.5)
DQN = dqn("DQN update", CASES)._replace(sweeps=SWEEPS)
DQN_CLIPPED = dqn("DQN update, gradients beyond max_grad_norm", QUICK, max_grad_norm=0.1)
DQN_SQUARES = dqn("DQN update, squared errors", QUICK, huber=False)


def reinforce_rollouts(case: tuple[u.Case, bool]) -> u.Task:
    """With a baseline or without.

    What not everybody has is left out, or such that it makes no difference: no entropy bonus; a weight of 1 of the
    value's error, which rlox has; advantages that are normalised, which rlox does in any case.
    """
    task = u.rollouts(case[0], {**u.REINFORCE, "baseline": case[1], "ent_coef": 0.0})
    batches = [x._replace(advantage=(x.advantage - x.advantage.mean()) / x.advantage.std(ddof=1)) for x in task.batches]
    return task._replace(batches=batches, epochs=1)


REINFORCE = Operation(
    "REINFORCE update", {
        "baseline, [64, 64], batch 256": ((64, 256), True), "no baseline, [64, 64], batch 256": ((64, 256), False),
        "baseline, [256, 256], batch 1024": ((256, 1024), True),
    }, reinforce_rollouts, reinforce_reference, {**REINFORCE_BY, **BOUND}, compare, unit="update",
    operations=lambda case: u.operations(case[0], ACTIONS + 1, 2, 3),
    note=f"rlox normalises advantages in each update, which are normalised already. {NOTE}",
)  # fmt: skip
