"""Whole training runs at equal hyperparameters: ours beside each peer's, steps/s.

python -m benches.bench_train                             every row, every library that is here; see --help
python -m benches.bench_train --rows ppo-sb3 --libraries fastrl stable_baselines3 --rounds 3
python -m benches.bench_train --rows --solve-seeds 10     seconds for a CartPole-v1 that is solved
python -m benches.bench_train --rows --curve-seeds 10     training returns at 10,000, 20,000, … steps
pytest benches/bench_train.py                             under pytest-benchmark; --benchmark-disable: small and once

Each library trains in a process of its own with one thread. Rounds are interleaved: in each, every library has its
turn with a fresh model; the table holds medians. The first call in a process, where libraries compile, is a short
run that is not counted; its seconds are in the table. `benches.peers` says where the peers come from.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from benches import peers
from benches.learning import SOLVED, Run
from benches.peers import ONE_THREAD, PEERS, Work

CLEANRL = dict(
    n_steps=128, batch_size=128, n_epochs=4, learning_rate="lin_0.00025", clip_range_vf=0.2, ent_coef=0.01,
    vf_coef=0.25,  # its squared error has a factor of a half
)  # fmt: skip
ZOO = dict(
    n_steps=32, batch_size=256, n_epochs=20, gamma=0.98, gae_lambda=0.8, learning_rate="lin_0.001",
    clip_range="lin_0.2",
)  # fmt: skip
LUNAR = dict(n_steps=1024, batch_size=64, n_epochs=4, gamma=0.999, gae_lambda=0.98, ent_coef=0.01)
PENDULUM = dict(
    n_steps=1024, batch_size=256, n_epochs=2, gamma=0.9, learning_rate=1e-3, max_grad_norm=None, normalize=True,
    policy_kwargs=dict(net_arch=dict(pi=[64, 64], vf=[64, 64]), activation_fn="ReLU", log_std_init=float(np.log(2))),
)  # fmt: skip
EVERY_STEP = dict(train_freq=1, batch_size=64, policy_kwargs=dict(net_arch=[128, 128]))
EVERY_STEP_RLOX = {  # those of the names that both have, and that differ by default
    **EVERY_STEP, "buffer_size": 1_000_000, "learning_starts": 100, "target_update_interval": 10_000,
}  # fmt: skip
DQN_ZOO = dict(
    learning_rate=2.3e-3, batch_size=64, buffer_size=100_000, learning_starts=1000, target_update_interval=10,
    train_freq=256, gradient_steps=128, exploration_fraction=0.16, exploration_final_eps=0.04,
    policy_kwargs=dict(net_arch=[256, 256]),
)  # fmt: skip


class Row(NamedTuple):
    """A line of the table, and how many times as fast as each peer fastrl is to be."""

    title: str
    work: Work
    bars: dict[str, float]
    slow_steps: int  # for peers that would take minutes


SB3 = "stable_baselines3"
ROWS: dict[str, Row] = {
    "ppo-sb3": Row("PPO CartPole-v1, SB3's defaults",
        Work("PPO", "CartPole-v1", 1, {}, 100_000), {SB3: 60, "sbx": 0}, 20_480),
    "ppo-zoo": Row("PPO CartPole-v1, RL Zoo, 8 envs",
        Work("PPO", "CartPole-v1", 8, ZOO, 100_000), {SB3: 18}, 50_000),
    "ppo-rlox": Row("PPO CartPole-v1, rlox's defaults",
        Work("PPO", "CartPole-v1", 8, {**CLEANRL, "batch_size": 256}, 100_000), {"rlox": 18}, 100_000),
    "ppo-cleanrl": Row("PPO CartPole-v1, CleanRL's defaults",
        Work("PPO", "CartPole-v1", 4, CLEANRL, 500_000), {"cleanrl": 40, "purejaxrl": 1.6}, 50_000),
    "pendulum": Row("PPO Pendulum-v1, RLtools' configuration",
        Work("PPO", "Pendulum-v1", 4, PENDULUM, 300_000, True), {"rltools": 1.2, SB3: 0}, 40_960),
    "lunar": Row("PPO LunarLander-v3, RL Zoo, 16 envs",
        Work("PPO", "LunarLander-v3", 16, LUNAR, 98_304), {SB3: 6}, 98_304),  # a step costs more as the agent learns
    "lunar-envpool": Row("the same, ours with EnvPool on 2 cores",
        Work("PPO", "envpool:LunarLander-v3", 16, LUNAR, 98_304), {SB3: 13}, 98_304),
    "dqn-128": Row("DQN CartPole-v1, [128, 128], an update a step",
        Work("DQN", "CartPole-v1", 1, EVERY_STEP_RLOX, 50_000), {SB3: 14, "rlox": 14}, 8000),
    "dqn-zoo": Row("DQN CartPole-v1, RL Zoo, [256, 256]",
        Work("DQN", "CartPole-v1", 1, DQN_ZOO, 50_000), {SB3: 6}, 12_000),
}  # fmt: skip
SOLVE = Work("PPO", "CartPole-v1", 8, dict(
    n_steps=128, batch_size=64, n_epochs=4, gamma=0.98, gae_lambda=0.9, learning_rate="lin_0.003",
), 60_000, True)  # fmt: skip
SLOW = (SB3, "sbx", "rlox", "cleanrl")
PAIRS = [(row, name) for row in ROWS for name in ("fastrl", *ROWS[row].bars)]


class Library:
    """A process in which one library trains; `first` is the seconds of its first call."""

    def __init__(self, name: str, work: Work, steps: int, engine: str, python: str) -> None:
        asked = json.dumps({"peer": name, "work": work._asdict(), "steps": steps, "engine": engine})
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [python, "-m", "benches.peers", asked], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL, cwd=root, env={**os.environ, **ONE_THREAD, "PYTHONPATH": paths},
        )  # fmt: skip
        answer = self._answer()
        self.missing, self.first = answer.get("missing"), answer.get("first", float("nan"))

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"missing": f"the process ended with code {self.process.wait()}"}

    def ask(self, job: str, seed: int) -> Any:
        """What `benches.peers.main` answers: job "speed" or "curve"."""
        assert self.process.stdin is not None
        print(job, seed, file=self.process.stdin, flush=True)
        answer = self._answer()
        if isinstance(answer, dict):
            raise RuntimeError(f"{self.process.args}: {answer['missing']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def start(names: list[str], work: Work, slow_steps: int, engine: str, python: str) -> dict[str, Library]:
    """The libraries that are here, warm; says what is not."""
    libraries = {}
    for name in names:
        steps = slow_steps if name in SLOW else work.steps
        library = Library(name, work, steps, engine, sys.executable if name == "fastrl" else python)
        if library.missing:
            print(f"skipped: {name}: {library.missing}", file=sys.stderr, flush=True)
            library.close()
        else:
            libraries[name] = library
    return libraries


def interleaved(libraries: dict[str, Library], job: str, seeds: range) -> dict[str, list[Any]]:
    """Answers of each library, which have their turns with every seed; the processes are ended."""
    answers: dict[str, list[Any]] = {name: [] for name in libraries}
    for seed in seeds:
        for name, library in libraries.items():
            answers[name].append(library.ask(job, seed))
    for library in libraries.values():
        library.close()
    return answers


def speed_table(
    rows: list[str], names: list[str], rounds: int, full: bool, engine: str, clock: str, python: str
) -> None:
    """Print steps/s."""
    print("| work | library | steps/s | lowest – highest | first call, s | return | fastrl is x | bar |")
    print("|---|---|---|---|---|---|---|---|")
    for key in rows:
        row = ROWS[key]
        wanted = [name for name in ("fastrl", *row.bars) if name in names]
        libraries = start(wanted, row.work, row.work.steps if full else row.slow_steps, engine, python)
        ours = float("nan")
        for name, answers in interleaved(libraries, "speed", range(1, rounds + 1)).items():
            runs = [Run(*answer) for answer in answers]
            speeds = [run.steps / (run.seconds if clock == "wall" else run.processor) for run in runs]
            speed, scores = statistics.median(speeds), [run.score for run in runs if run.score is not None]
            ours = speed if name == "fastrl" else ours
            times = "" if name == "fastrl" or np.isnan(ours) else f"{ours / speed:.2f}"
            bar = row.bars.get(name) or ""
            score = f"{statistics.median(scores):.1f}" if scores else ""
            print(f"| {row.title} | {name} | {speed:,.0f} | {min(speeds):,.0f} – {max(speeds):,.0f} "
                  f"| {libraries[name].first:.2f} | {score} | {times} | {bar} |", flush=True)  # fmt: skip


def solve_table(names: list[str], seeds: int, engine: str, python: str) -> None:
    """Print the seconds of `learn` for a budget of steps that is enough, and what each seed has learnt by then."""
    libraries = start([name for name in ("fastrl", SB3) if name in names], SOLVE, SOLVE.steps, engine, python)
    print(f"\n| PPO CartPole-v1, {SOLVE.steps:,} steps | median, s | lowest – highest | worst return | at least 475 |")
    print("|---|---|---|---|---|")
    for name, answers in interleaved(libraries, "speed", range(seeds)).items():
        runs = [Run(*answer) for answer in answers]
        seconds, scores = sorted(run.seconds for run in runs), [run.score or 0.0 for run in runs]
        print(f"| {name} | {statistics.median(seconds):.2f} | {seconds[0]:.2f} – {seconds[-1]:.2f} | {min(scores):.0f} "
              f"| {sum(score >= SOLVED for score in scores)} of {seeds} |", flush=True)  # fmt: skip


def learning_curves(names: list[str], seeds: int, engine: str, python: str) -> dict[str, np.ndarray]:
    """Training returns [seeds, marks] of each library, SB3's defaults on CartPole-v1; prints means and deviations."""
    work = ROWS["ppo-sb3"].work
    libraries = start([name for name in ("fastrl", SB3) if name in names], work, work.steps, engine, python)
    curves = {name: np.array(answers) for name, answers in interleaved(libraries, "curve", range(seeds)).items()}
    print(f"\n| steps, mean return of the last 100 episodes, {seeds} seeds | {' | '.join(curves)} |")
    print("|---|" + "---|" * len(curves))
    for mark in range(work.steps // 10_000):
        cells = [f"{points[:, mark].mean():.1f} ± {points[:, mark].std():.1f}" for points in curves.values()]
        print(f"| {10_000 * (mark + 1):,} | {' | '.join(cells)} |", flush=True)
    return curves


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize(("row", "name"), PAIRS)
def test_train(benchmark: Any, request: pytest.FixtureRequest, row: str, name: str) -> None:
    work, small = ROWS[row].work, request.config.getoption("benchmark_disable")
    if small:
        sizes = {"n_steps": 32} if work.algorithm == "PPO" else {"learning_starts": 64, "gradient_steps": 1}
        work = work._replace(options={**work.options, **sizes}, scored=False)
    try:
        train = PEERS[name](work, "auto")
    except peers.Missing as missing:
        pytest.skip(str(missing))
    benchmark.pedantic(train, (0, 200 if small else ROWS[row].slow_steps, None), rounds=3, warmup_rounds=1)


def main(
    rows: tuple[str, ...] = tuple(ROWS), libraries: tuple[str, ...] = tuple(PEERS), rounds: int = 5,
    full: bool = False, engine: str = "auto", clock: Literal["wall", "processor"] = "wall",
    python: str = sys.executable, solve_seeds: int = 0, curve_seeds: int = 0,
) -> None:  # fmt: skip
    """Print the tables.

    Args:
        rows: of the table of speeds.
        libraries: to run.
        rounds: of which the table has the median.
        full: give the slow peers all the steps of a row, not just enough for a speed.
        engine: of fastrl, where it has a choice.
        clock: "processor" is disturbed less on a busy machine; not for the rows on two cores.
        python: the interpreter that runs the peers.
        solve_seeds: seeds of the table of seconds for a CartPole-v1 that is solved.
        curve_seeds: seeds of the learning curves.
    """
    for given, known in ((rows, ROWS), (libraries, PEERS)):
        if unknown := set(given) - set(known):
            raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    print(f"load of the machine: {os.getloadavg()[0]:.2f}", file=sys.stderr)
    if rows:
        speed_table(list(rows), list(libraries), rounds, full, engine, clock, python)
    if solve_seeds:
        solve_table(list(libraries), solve_seeds, engine, python)
    if curve_seeds:
        learning_curves(list(libraries), curve_seeds, engine, python)


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
