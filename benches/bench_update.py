"""One update of PPO, DQN and REINFORCE: the compiled engine beside eager Torch, and PPO's by its parts.

python -m benches.bench_update                               every table; see --help
python -m benches.bench_update --widths 1024 2048 --no-parts from which width on Torch is faster
pytest benches/bench_update.py                               under pytest-benchmark; --benchmark-disable: small and once

Both engines run the very learner that the algorithms use, on the same module and the same optimiser's settings, with
one thread: CartPole's 4 numbers and 2 actions, two hidden layers of the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benches.bench_replay import medians
from fastrl.kernels import mlp, optim
from fastrl.kernels._jit import kernel
from fastrl.kernels.losses import PPOSettings, ppo_loss
from fastrl.kernels.matmul import product
from fastrl.learners.compiled import CompiledActorCritic
from fastrl.learners.engine import with_engine
from fastrl.learners.torch import ActorCriticLearner, QLearner
from fastrl.networks import ActorCritic, CategoricalHead, QNetwork

OBS, ACTIONS = 4, 2
MINIBATCHES = 4  # of a timed call of PPO's update
TURN = 0.05  # seconds: Torch's first calls after another's turn take longer
CPU = torch.device("cpu")
PPO = dict(
    learning_rate=3e-4, clip_range=0.2, clip_range_vf=None, normalize_advantage=True, ent_coef=0.0, vf_coef=0.5,
    max_grad_norm=0.5, target_kl=None,
)  # fmt: skip
REINFORCE = dict(learning_rate=1e-3, baseline=True, vf_coef=0.5, ent_coef=0.0, max_grad_norm=0.5)
DQN = dict(learning_rate=1e-4, double_q=False, huber=True, max_grad_norm=10.0)
PARTS = ("refresh", "put", "forward", "loss", "backward", "Adam")
Update = Callable[[], Any]


def rollout(rows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The fields of a Batch: obs, action, log_prob, value, advantage, returns."""
    obs, floats = rng.standard_normal((rows, OBS), np.float32), rng.standard_normal((3, rows), np.float32)
    action, log_prob = rng.integers(ACTIONS, size=(rows, 1)), np.full(rows, -np.log(ACTIONS), np.float32)
    return [obs, action, log_prob, *floats]


def actor_critic(width: int, engine: Any) -> ActorCriticLearner:
    module = ActorCritic(OBS, ACTIONS, pi=[width, width], vf=[width, width])
    learner = with_engine(ActorCriticLearner(module, CategoricalHead([ACTIONS]), CPU, 1e-5), engine)
    learner.begin()  # as within an iteration
    return learner


def ppo(width: int, batch: int, engine: Any) -> Update:
    learner, rng = actor_critic(width, engine), np.random.default_rng(0)
    rows, order = learner.batch(*rollout(MINIBATCHES * batch, rng)), rng.permutation(MINIBATCHES * batch)[None]
    return lambda: learner.update_ppo(rows, order, batch_size=batch, **PPO)


def reinforce(width: int, batch: int, engine: Any) -> Update:
    learner = actor_critic(width, engine)
    rows = learner.batch(*rollout(batch, np.random.default_rng(0)))
    return lambda: learner.update_reinforce(rows, **REINFORCE)


def dqn(width: int, batch: int, engine: Any) -> Update:
    module, target = (QNetwork(OBS, ACTIONS, [width, width]) for _ in range(2))
    learner, rng = with_engine(QLearner(module, target, CPU, 1e-8), engine), np.random.default_rng(0)
    learner.begin()
    obs, action, _, reward, *_ = rollout(batch, rng)
    next_obs, terminated = rng.standard_normal((batch, OBS), np.float32), rng.random(batch) < 0.05
    fields = (obs, action[:, 0].copy(), reward, np.float32(0.99), next_obs, terminated)
    return lambda: learner.update(*fields, **DQN)


UPDATES: dict[str, tuple[Callable[[int, int, Any], Update], int]] = {  # and how many updates a call makes
    "PPO": (ppo, MINIBATCHES), "DQN": (dqn, 1), "REINFORCE": (reinforce, 1),
}  # fmt: skip


def operations(algorithm: str, width: int, batch: int) -> int:
    """Multiplications and additions of the matrix products of one update.

    A product forward is two backward, but for the first layer, whose input needs no derivative. DQN's target network
    goes forward too.
    """
    first, rest = OBS * width, width * width
    outputs, networks, passes = (ACTIONS, 1, 4) if algorithm == "DQN" else (ACTIONS + 1, 2, 3)
    return 2 * batch * (networks * (passes * rest + (passes - 1) * first) + passes * width * outputs)


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
    learner, rng = actor_critic(width, "compiled"), np.random.default_rng(0)
    assert isinstance(learner, CompiledActorCritic)
    rows, order = rollout(MINIBATCHES * batch, rng), rng.permutation(MINIBATCHES * batch)
    learner.update_ppo(learner.batch(*rows), order[None], batch_size=batch, **PPO)
    net, flat = learner.net, learner.net.flat
    settings = PPOSettings(0.0, 1e-5, 0.5, 0.2, np.inf, 0.0, 0.5, np.inf, True)  # a rate of 0: repeated at one place
    arrays = (order, *rows, flat.params, flat.grads, flat.exp_avg, flat.exp_avg_sq, net.plan, net.work, net.head)
    times = max(1, int(1e9 / operations("PPO", width, batch)))
    calls: dict[str, Update] = {
        name: lambda part=part: repeat(part, times, batch, *arrays, settings, np.empty(6))
        for part, name in enumerate(PARTS)
    }
    found = {name: us / times for name, us in medians(calls, rounds).items()}
    return {**found, "an update": medians({"": ppo(width, batch, "compiled")}, rounds)[""] / MINIBATCHES}


def torch_parts(width: int, batch: int, rounds: int) -> dict[str, float]:
    """Those of PARTS that Torch has too."""
    learner, (obs, *_) = actor_critic(width, "torch"), rollout(batch, np.random.default_rng(0))
    rows = learner.tensor(obs)
    total = sum(x.sum() for x in learner.policy(rows))

    def backward() -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        total.backward(retain_graph=True)

    def descend() -> None:
        torch.nn.utils.clip_grad_norm_(learner.parameters, 0.5)
        learner.optimizer.step()

    backward()
    calls: dict[str, Update] = {"forward": lambda: learner.policy(rows), "backward": backward, "Adam": descend}
    found = medians(calls, rounds)
    return {**found, "an update": medians({"": ppo(width, batch, "torch")}, rounds)[""] / MINIBATCHES}


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
    calls: dict[str, Update] = {
        "tiles": lambda: multiply(times, rows, n, a.ravel(), b.ravel(), c.ravel()),
        "Torch": lambda: torch.mm(x, y, out=z),
    }
    us = medians(calls, rounds)
    return {"tiles": 2e-3 * rows * n * n * times / us["tiles"], "Torch": 2e-3 * rows * n * n / us["Torch"]}


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("algorithm", UPDATES)
def test_update(benchmark: Any, request: pytest.FixtureRequest, algorithm: str, width: int, engine: str) -> None:
    if request.config.getoption("benchmark_disable"):
        width //= 8
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    benchmark.group = f"{algorithm}, [{width}, {width}], {UPDATES[algorithm][1]} of 64 rows"
    benchmark(UPDATES[algorithm][0](width, 64, engine))
    torch.set_num_threads(before)


def test_parts(request: pytest.FixtureRequest) -> None:
    small = request.config.getoption("benchmark_disable")
    size = (8, 16, 1) if small else (64, 64, 20)
    ours, theirs = parts(*size), torch_parts(*size)
    assert set(ours) == {*PARTS, "an update"} and set(theirs) < set(ours)
    assert min(*ours.values(), *theirs.values(), *product_rates(16, 16, 1).values()) > 0


def engine_table(algorithms: list[str], widths: list[int], batches: list[int], rounds: int) -> None:
    """Print both engines' times."""
    print("| update | hidden layers | batch | compiled, μs | GFLOP/s | Torch, μs | times as fast |")
    print("|---|---|---|---|---|---|---|")
    for algorithm in algorithms:
        make, count = UPDATES[algorithm]
        for width in widths:
            for batch in batches:
                calls = {engine: make(width, batch, engine) for engine in ("compiled", "torch")}
                us = {engine: time / count for engine, time in medians(calls, rounds, turn=TURN).items()}
                rate = operations(algorithm, width, batch) / us["compiled"] / 1e3
                print(f"| {algorithm} | [{width}, {width}] | {batch} | {us['compiled']:,.1f} | {rate:.0f} "
                      f"| {us['torch']:,.1f} | {us['torch'] / us['compiled']:.2f} |", flush=True)  # fmt: skip


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
    algorithms: tuple[str, ...] = tuple(UPDATES), widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
    batches: tuple[int, ...] = (64, 256), rounds: int = 15, parts: bool = True,
) -> None:  # fmt: skip
    """Print the tables: medians of interleaved rounds.

    Args:
        algorithms: of the first table.
        widths: units of each of the two hidden layers.
        batches: rows of an update.
        rounds: in which each engine has its turn.
        parts: print PPO's parts and the matrix products too.
    """
    torch.set_num_threads(1)
    engine_table(list(algorithms), list(widths), list(batches), rounds)
    if parts:
        parts_table(list(widths), list(batches), rounds)
        products_table(list(widths), list(batches), rounds)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
