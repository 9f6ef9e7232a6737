"""An update of PPO by its parts, and how fast matrices are multiplied: our kernels beside Torch's operations.

python -m benches.parts        prints both tables; see --help

One thread, CartPole's 4 numbers and 2 actions, two hidden layers of the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benches import conditions, networks, updates
from fastrl.kernels import mlp, optim
from fastrl.kernels._jit import kernel
from fastrl.kernels.losses import PPOSettings, ppo_loss
from fastrl.kernels.matmul import product

PARTS = ("refresh", "put", "forward", "loss", "backward", "Adam")
Call = Callable[[], Any]


def medians(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Microseconds a call, of turns in which Torch has time to warm up."""
    found = conditions.interleave(calls, rounds=(rounds, rounds), turn=0.05)
    return {name: 1e6 * float(np.median(seconds)) for name, seconds in found.items()}


@kernel
def repeat(
    part: int, times: int, batch: int, order: np.ndarray, obs: np.ndarray, action: np.ndarray, log_prob: np.ndarray,
    value: np.ndarray, advantage: np.ndarray, returns: np.ndarray, params: np.ndarray, grads: np.ndarray,
    exp_avg: np.ndarray, exp_avg_sq: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray,
    settings: PPOSettings, means: np.ndarray,
) -> None:  # fmt: skip
    """One of PARTS, so many times, without the way from Python into a kernel."""
    for _ in range(times):
        if part == 0:
            mlp.refresh(params, plan, work)
        elif part == 1:
            mlp.put(obs, order, 0, batch, plan, work)
        elif part == 2:
            mlp.forward(plan, work, batch)
        elif part == 3:
            ppo_loss(order, 0, batch, action, log_prob, value, advantage, returns, 0.0, 1.0, params, plan, work, head,
                     settings, grads, means)  # fmt: skip
        elif part == 4:
            mlp.backward(params, plan, work, batch, False, grads)
        else:
            optim.descend(params, grads, exp_avg, exp_avg_sq, 1000, settings.learning_rate, settings.adam_eps,
                          settings.max_grad_norm)  # fmt: skip


def parts(width: int, batch: int, rounds: int) -> dict[str, float]:
    """Microseconds of each part of one of PPO's updates, and of "an update", whole."""
    task = updates.rollouts((width, batch), updates.PPO)
    learner = networks.ours(task.weights, width, "compiled")
    rows, order = list(updates.columns(task.batches[0])), np.random.default_rng(0).permutation(batch)
    learner.update_ppo(learner.batch(*rows), order[None], batch_size=batch, **task.settings)
    net, flat = learner.net, learner.net.flat
    settings = PPOSettings(0.0, 1e-5, 0.5, 0.2, np.inf, 0.0, 0.5, np.inf, True)  # a rate of 0: repeated at one place
    arrays = (order, *rows, flat.params, flat.grads, flat.exp_avg, flat.exp_avg_sq, net.plan, net.work, net.head)
    times = max(1, int(2e7 / (batch * width * (width + 8))))
    calls: dict[str, Call] = {
        name: lambda part=part: repeat(part, times, batch, *arrays, settings, np.empty(6))
        for part, name in enumerate(PARTS)
    }
    found = {name: us / times for name, us in medians(calls, rounds).items()}
    return {**found, "an update": whole(task, "compiled", rounds)}


def whole(task: updates.Task, engine: str, rounds: int) -> float:
    """Microseconds of an update."""
    learner = updates.our_ppo(task, *updates.columns(task.batches[0]), engine=engine)
    return medians({"": learner.call}, rounds)[""] / task.epochs


def torch_parts(width: int, batch: int, rounds: int) -> dict[str, float]:
    """Those of PARTS that Torch has too."""
    task = updates.rollouts((width, batch), updates.PPO)
    learner = networks.ours(task.weights, width, "torch")
    rows = learner.tensor(task.batches[0].obs)
    total = sum(x.sum() for x in learner.policy(rows))

    def backward() -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        total.backward(retain_graph=True)

    def descend() -> None:
        torch.nn.utils.clip_grad_norm_(learner.parameters, 0.5)
        learner.optimizer.step()

    backward()
    calls: dict[str, Call] = {"forward": lambda: learner.policy(rows), "backward": backward, "Adam": descend}
    return {**medians(calls, rounds), "an update": whole(task, "torch", rounds)}


@kernel
def multiply(times: int, rows: int, n: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    """C = A B, so many times: A [rows, n], B [n, n]."""
    for _ in range(times):
        product(a, 0, n, 1, b, 0, n, c, 0, n, c, 0, n, False, rows, n, n)


def product_rates(rows: int, n: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a product [rows, n] · [n, n]: register tiles within a kernel, and a call of Torch's."""
    rng, times = np.random.default_rng(0), max(1, int(1e8 / (rows * n * n)))
    a, b, c = (rng.standard_normal(size, np.float32) for size in ((rows, n), (n, n), (rows, n)))
    x, y, z = map(torch.from_numpy, (a, b, c))
    calls: dict[str, Call] = {
        "tiles": lambda: multiply(times, rows, n, a.ravel(), b.ravel(), c.ravel()),
        "Torch": lambda: torch.mm(x, y, out=z),
    }
    us = medians(calls, rounds)
    return {"tiles": 2e-3 * rows * n * n * times / us["tiles"], "Torch": 2e-3 * rows * n * n / us["Torch"]}


def parts_table(widths: list[int], batches: list[int], rounds: int) -> None:
    """Print what the parts of PPO's update take."""
    names = (*PARTS, "an update")
    print("\n| PPO, μs (ns a row) | batch | |", " | ".join(names), "|\n|---|---|---|" + "---|" * len(names))
    for width in widths:
        for batch in batches:
            for engine, measure in (("compiled", parts), ("Torch", torch_parts)):
                found = measure(width, batch, rounds)
                cells = [f"{found[x]:,.1f} ({1e3 * found[x] / batch:,.0f})" if x in found else "–" for x in names]
                print(f"| [{width}, {width}] | {batch} | {engine} |", " | ".join(cells), "|", flush=True)


def products_table(widths: list[int], batches: list[int], rounds: int) -> None:
    """Print how fast matrices are multiplied."""
    print("\n| product, GFLOP/s | tiles, in a kernel | Torch's, a call |\n|---|---|---|")
    for width in widths:
        for batch in batches:
            rate = product_rates(batch, width, rounds)
            print(
                f"| [{batch}, {width}] · [{width}, {width}] | {rate['tiles']:.0f} | {rate['Torch']:.0f} |", flush=True
            )


def main(
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024), batches: tuple[int, ...] = (64, 256), rounds: int = 15,
) -> None:  # fmt: skip
    """Print the tables: medians of interleaved rounds.

    Args:
        widths: units of each of the two hidden layers.
        batches: rows of an update.
        rounds: in which each has its turn.
    """
    torch.set_num_threads(1)
    parts_table(list(widths), list(batches), rounds)
    products_table(list(widths), list(batches), rounds)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
