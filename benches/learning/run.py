"""One run in a process of its own: python -m benches.learning.run JSON writes one line of JSON to its output.

The clocks stand still while the model is evaluated, and begin after a first small run, of another seed, in which
libraries import and compile what they need; its seconds are in the line as "first".
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benches.learning.evaluation import EPISODES, evaluate
from benches.learning.libraries import LIBRARIES, Trainer, options_of, smallest
from benches.learning.settings import SETTINGS, UNWATCHED, Setting

FINAL_SEED = 20_000  # of the first environment of the last evaluation; no mark's


class Clock:
    """Seconds of something that only grows, less those between `stop` and `go`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.before, self.began = now, 0.0, now()

    def stop(self) -> float:
        """Stand still; returns the seconds so far."""
        self.before += self.now() - self.began
        return self.before

    def go(self) -> None:
        """Go on."""
        self.began = self.now()


class Marks:
    """A `Watch` that evaluates the model at the first iteration's end at which the steps have reached each mark.

    An iteration that passes several marks gives all of them one evaluation.
    """

    def __init__(self, setting: Setting, steps: int, wall: Callable[[], float], processor: Callable[[], float]) -> None:
        self.setting = setting
        self.marks = [round(steps * (i + 1) / setting.marks) for i in range(setting.marks)]
        self.line: dict[str, Any] = {"steps": [], "scores": [], "wall": [], "processor": []}
        self.wall, self.processor = Clock(wall), Clock(processor)

    def __call__(self, model: Any) -> bool:
        n = len(self.line["scores"])
        if n == len(self.marks) or model.num_timesteps < self.marks[n]:
            return True
        seconds = self.wall.stop(), self.processor.stop()
        reached = sum(mark <= model.num_timesteps for mark in self.marks)
        score = self._evaluate(model, 10_000, self.setting.episodes)
        for name, value in zip(self.line, (model.num_timesteps, score, *seconds), strict=True):
            self.line[name] += [value] * (reached - n)
        promised = self.setting.until and score >= self.setting.promised
        going_on = True
        if promised or reached == len(self.marks):
            final = self._evaluate(model, FINAL_SEED, EPISODES)
            going_on = not (promised and final >= self.setting.promised)
            if not going_on or reached == len(self.marks):
                self.line["final"] = final
        if self.setting.until and not going_on:
            self.line["reached"] = seconds
        self.wall.go()
        self.processor.go()
        return going_on

    def _evaluate(self, model: Any, seed: int, episodes: int) -> float:
        return evaluate(model, self.setting.env, seed, episodes, self.setting.env_options)


def run(setting: Setting, train: Trainer, steps: int, seed: int) -> dict[str, Any]:
    """Train once; what a line of results says of it: at each mark steps, score, seconds, and the score at the end."""
    marks = Marks(setting, steps, time.perf_counter, time.process_time)
    train(seed, steps, marks)
    if "final" not in marks.line:
        raise RuntimeError(f"the run ended after {(marks.line['steps'] or [0])[-1]:,} of {steps:,} steps")
    return marks.line


def unwatched(setting: Setting, train: Trainer, steps: int, seed: int) -> dict[str, Any]:
    """Train once without a callback; the same line, with a single mark, the end."""
    wall, processor = Clock(time.perf_counter), Clock(time.process_time)
    model = train(seed, steps, None)
    seconds = {"wall": [wall.stop()], "processor": [processor.stop()]}
    final = evaluate(model, setting.env, FINAL_SEED, EPISODES, setting.env_options)
    return {"steps": [model.num_timesteps], "scores": [final], **seconds, "final": final}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """The line for {"setting", "library", "seed", "steps"}."""
    setting, library = SETTINGS[asked["setting"]], asked["library"]
    make = LIBRARIES[library]
    began = time.perf_counter()
    small = smallest(setting)
    make(small, library)(0, small.steps, None if library == UNWATCHED else lambda model: True)
    first = time.perf_counter() - began
    steps = asked.get("steps") or options_of(setting, library)[2]
    do = unwatched if library == UNWATCHED else run
    line = do(replace(setting, steps=steps), make(setting, library), steps, asked["seed"])
    return {**line, "first": first, "load": os.getloadavg()[0]}


def main() -> None:
    """Answer the JSON of the first argument; what libraries print goes elsewhere."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        line = answer(json.loads(sys.argv[1]))
    print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main()
