"""Our parts behind other libraries' interfaces, beside the parts that they replace: single calls, and whole runs.

In each table "fastrl" is the other library's class or function of ours, called as that library calls its own.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from benches import gae
from benches.buffers import our_buffers, their_buffers
from benches.gae import GAMMA, LAMBDA, Rollout
from benches.operation import Implementation, Operation, Work

MINIBATCH = 64
Modules = Callable[[], ModuleType]


def filled(module: Modules, r: Rollout) -> Any:
    """Its rollout buffer; the first number of an observation is that of its row."""
    T, N = r.reward.shape
    buffer = module().RolloutBuffer(T, Box(-np.inf, np.inf, (4,)), Box(-1, 1, (1,)), "cpu", LAMBDA, GAMMA, N)
    fill(buffer, r)
    buffer.observations[..., 0] = np.arange(T * N).reshape(T, N)
    buffer.advantages[:], buffer.returns[:], buffer.log_probs[:] = r.value, r.reward, r.value
    buffer.pos, buffer.full = T, True
    return buffer


def fill(buffer: Any, r: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """What its own advantages need; the last values and flags, which are arguments, are returned."""
    buffer.rewards[:], buffer.values[:], last, buffer.episode_starts[:], done = gae.sb3_layout(r)
    return last, done


def advantages(module: Modules, made: list[Rollout]) -> Work:
    import torch

    buffer = filled(module, made[0])
    last, done = (x.copy() for x in fill(buffer, made[0]))
    values = torch.from_numpy(last)

    def fresh(round: int) -> None:
        last[:], done[:] = fill(buffer, made[round % len(made)])

    return Work(lambda: buffer.compute_returns_and_advantage(values, done), lambda _: buffer.advantages, fresh)


def minibatches(module: Modules, made: list[Rollout]) -> Work:
    buffer = filled(module, made[0])

    def result(batches: list[Any]) -> np.ndarray:
        """All of them, by row."""
        names = ("observations", "actions", "old_values", "old_log_prob", "advantages", "returns")
        parts = [np.concatenate([np.asarray(getattr(batch, name)) for batch in batches]) for name in names]
        columns = np.stack([x.reshape(len(x), -1)[:, 0] for x in parts])
        return columns[:, np.argsort(columns[0])]

    return Work(lambda: list(buffer.get(MINIBATCH)), result)


def all_rows(made: list[Rollout]) -> np.ndarray:
    value, reward = made[0].value.ravel(), made[0].reward.ravel()
    return np.stack([np.arange(value.size), np.zeros(value.size), value, value, value, reward])


def ours_for_cleanrl(*own: np.ndarray) -> Callable[[], Any]:
    import torch

    from fastrl.interop import cleanrl

    return partial(cleanrl.gae, *map(torch.from_numpy, own), GAMMA, LAMBDA)


def ours_for_torchrl(*own: np.ndarray) -> Callable[[], Any]:
    import torch

    from fastrl.interop.torchrl import generalized_advantage_estimate

    return partial(generalized_advantage_estimate, GAMMA, LAMBDA, *map(torch.from_numpy, own))


def torchrl_loop(*own: np.ndarray) -> Callable[[], Any]:
    import torch
    from torchrl.objectives.value import functional

    return partial(functional.generalized_advantage_estimate, GAMMA, LAMBDA, *map(torch.from_numpy, own))


def run(module: Modules, work: tuple[str, int]) -> Work:
    """A seeded run on CartPole-v1, hyperparameters by default; its clock leaves out what is made before."""
    import stable_baselines3
    import torch

    algorithm, steps = work
    kind, name = {"DQN": ("replay", "ReplayBuffer"), "PPO": ("rollout", "RolloutBuffer")}[algorithm]
    buffer = getattr(module(), name)

    def call() -> tuple[float, Any]:
        options: dict[str, Any] = {f"{kind}_buffer_class": buffer, "device": "cpu", "seed": 0}
        model = getattr(stable_baselines3, algorithm)("MlpPolicy", "CartPole-v1", **options)
        start = time.perf_counter()
        model.learn(steps)
        took = time.perf_counter() - start
        return took, torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach().numpy()

    return Work(call, lambda found: found[1], seconds=lambda found: found[0])


def their_run(work: tuple[str, int]) -> Any:
    """The weights that the library's own buffer leads to."""
    if importlib.util.find_spec("stable_baselines3") is None:
        return None
    own = run(their_buffers, work)
    return own.result(own.call())


def instead(how: Callable[[Modules, Any], Work]) -> dict[str, Implementation]:
    """Of Stable-Baselines3, with our class and its own."""
    needs = ("stable_baselines3",)
    return {
        "fastrl": Implementation(partial(how, our_buffers), needs, "ours"),
        "Stable-Baselines3": Implementation(partial(how, their_buffers), needs),
    }


def sizes(*cases: tuple[int, int]) -> dict[str, tuple[int, int]]:
    return {str(size): size for size in cases}


SB3_ADVANTAGES = Operation(
    "In Stable-Baselines3: RolloutBuffer's advantages", sizes((2048, 1), (128, 8)), gae.rollouts, gae.reference,
    instead(advantages),
)  # fmt: skip
SB3_MINIBATCHES = Operation(
    "In Stable-Baselines3: RolloutBuffer's minibatches", sizes((2048, 1), (128, 8)), gae.rollouts, all_rows,
    instead(minibatches),
)  # fmt: skip
CLEANRL_ADVANTAGES = Operation(
    "In CleanRL: advantages", sizes((128, 4)), gae.rollouts, gae.reference,
    {
        "fastrl": gae.gae(gae.cleanrl_layout, ours_for_cleanrl, role="ours", needs=("torch",)),
        "CleanRL": gae.gae(gae.cleanrl_layout, gae.cleanrl, needs=("torch",)),
    },
)  # fmt: skip
TORCHRL_ADVANTAGES = Operation(
    "In TorchRL: advantages", sizes((128, 8), (1024, 32)), gae.rollouts, gae.reference,
    {
        "fastrl": gae.gae(
            gae.torchrl_layout, ours_for_torchrl, gae.by_environment, role="ours", needs=("torch",)
        ),
        "TorchRL": gae.gae(gae.torchrl_layout, torchrl_loop, gae.by_environment, needs=("torchrl",)),
        "TorchRL, vectorised": gae.gae(gae.torchrl_layout, gae.torchrl, gae.by_environment, needs=("torchrl",)),
    },
)  # fmt: skip
SB3_RUNS = Operation(
    "In Stable-Baselines3: a run on CartPole-v1 with our buffer", {"DQN": ("DQN", 1000), "PPO": ("PPO", 2048)},
    lambda work: work, their_run, instead(run), np.testing.assert_array_equal, unit="step", per=lambda work: work[1],
    rounds=(5, 5),
)  # fmt: skip
