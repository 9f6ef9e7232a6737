"""Runs of every setting and seed, several at a time, kept in a file as they end, and the page that is made of them."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fastrl.checks import check_int
from fastrl.files import replacing
from fastrl.flags import UsageError, nearest

DEFAULT = Path("rlhf-results.md")


@dataclass
class Rlhf:
    """Fine-tune tiny language models with several seeds, and write a page of tables and curves.

    Args:
        seeds: of each setting.
        settings: names of settings; without any, all.
        jobs: runs at once; None for as many as there are processors.
        to: the page; the runs and the curves lie in the folder of its name beside it, and runs that are there already
            are not made again.
        train: make what is missing; without it, only write the page again.
    """

    seeds: int = 5
    settings: tuple[str, ...] = ()
    jobs: int | None = None
    to: Path = DEFAULT
    train: bool = True

    def __call__(self) -> None:
        from benches.rlhf.page import write
        from benches.rlhf.runs import SETTINGS

        check_int("seeds", self.seeds)
        for name in self.settings:
            if name not in SETTINGS:
                raise UsageError(f"unknown setting {name!r}{nearest(name, SETTINGS)}: there are {', '.join(SETTINGS)}")
        names, file = self.settings or tuple(SETTINGS), self.to.with_suffix("") / "runs.json"
        results = read(file)
        if self.train:
            fill(results, names, self.seeds, self.jobs or os.cpu_count() or 1, file)
        write(list(results.values()), self.to)
        print(f"{self.to}, its runs and curves in {self.to.with_suffix('')}")


def read(file: Path) -> dict[str, Any]:
    """Results by setting and seed, as far as the file has them."""
    found = json.loads(file.read_text()) if file.exists() else []
    return {f"{result['setting']} {result['seed']}": result for result in found}


def fill(results: dict[str, Any], names: tuple[str, ...], seeds: int, jobs: int, file: Path) -> None:
    """Make the runs that are missing; the file has each as soon as it has ended."""
    from tqdm import tqdm

    from benches.rlhf.runs import train

    wanted = [(name, seed) for seed in range(1, seeds + 1) for name in names if f"{name} {seed}" not in results]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(train, *job) for job in wanted]
        for future in tqdm(as_completed(futures), total=len(futures), unit="run"):
            result = future.result()
            results[f"{result['setting']} {result['seed']}"] = result
            file.parent.mkdir(parents=True, exist_ok=True)
            ordered = dict(sorted(results.items()))
            with replacing(file) as beside:
                lines = ",\n".join(map(json.dumps, ordered.values()))
                beside.write(f"[\n{lines}\n]\n".encode())
