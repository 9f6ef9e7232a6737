"""The search of `fastrl tune` over a cluster: the trials are tasks of Ray, and the study is this process's alone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.commands.common import describe
from fastrl.commands.study import ask, finished, give_up, tell
from fastrl.commands.trials import GivenUp, Search, mean_return, prepare, settings_of

RETRIES = 3  # of a trial whose node, or process, was lost
PATIENCE = 10.0  # seconds for tasks to end once they were interrupted


class Desk:
    """Hands what the trials report to the process of the study, and its answers back: an actor."""

    def __init__(self) -> None:
        self._reports: asyncio.Queue[tuple[int, float, int]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}

    async def report(self, number: int, score: float, step: int) -> bool:
        """Report an evaluation of a trial, and wait to hear whether to give it up."""
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._reports.put((number, score, step))
        return await self._answers[number]

    async def take(self) -> tuple[int, float, int]:
        """The next report."""
        return await self._reports.get()

    async def answer(self, number: int, hopeless: bool) -> None:
        """Answer the report of a trial."""
        if number in self._answers and not self._answers[number].done():
            self._answers[number].set_result(hopeless)


def attempt(search: Search, number: int, settings: dict[str, Any], desk: Any) -> tuple[str, float | None, str]:
    """A trial, as a task: how it ended, what it reached, and the error if there was one."""
    import ray

    try:
        value = mean_return(search, settings, lambda score, step: ray.get(desk.report.remote(number, score, step)))
    except GivenUp:
        return "PRUNED", None, ""
    except ValueError as error:  # it diverged
        return "FAIL", None, describe(error)
    except KeyboardInterrupt:
        return "WAITING", None, ""
    return "COMPLETE", value, ""


class Trials:
    """The trials that are running, and what becomes of them."""

    def __init__(self, ray: Any, optuna: Any, search: Search, study: Any) -> None:
        self.ray, self.states, self.search, self.study = ray, optuna.trial.TrialState, search, study
        self.running: dict[Any, Any] = {}  # of each task the trial
        self._answered: dict[tuple[int, int], bool] = {}
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        here = affinity(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()
        gpus = int(str(search.start()["device"]).startswith("cuda"))
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(attempt)
        self._report = self._desk.take.remote()

    def begin(self) -> None:
        """Begin another."""
        trial = ask(self.study)
        settings = settings_of(self.search, trial)
        self.running[self._task.remote(self.search, trial.number, settings, self._desk)] = trial

    def wait(self) -> None:
        """Answer a report, or see a trial end, or neither for a moment."""
        for ref in self.ray.wait([self._report, *self.running], timeout=0.2)[0]:
            if ref == self._report:
                self._answer(*self.ray.get(ref))
                self._report = self._desk.take.remote()
            else:
                self._end(ref, self.running[ref])

    def interrupt(self) -> None:
        """Ctrl-C for all of them."""
        for ref in self.running:
            self.ray.cancel(ref)

    def drop(self) -> None:
        """End them all at once; their turn comes again."""
        for ref, trial in list(self.running.items()):
            self.ray.cancel(ref, force=True)
            del self.running[ref]
            give_up(self.study, trial)
            tell(self.study, trial, None, self.states.FAIL)
        self.ray.kill(self._desk)

    def _answer(self, number: int, score: float, step: int) -> None:
        """One that was begun again after its node was lost hears what it heard before."""
        if (number, step) not in self._answered:
            trial = next((trial for trial in self.running.values() if trial.number == number), None)
            if trial is None:
                return
            trial.report(score, step)
            self._answered[number, step] = bool(trial.should_prune())
        self._desk.answer.remote(number, self._answered[number, step])

    def _end(self, ref: Any, trial: Any) -> None:
        state, value, error = "FAIL", None, ""
        try:
            state, value, error = self.ray.get(ref)
        except self.ray.exceptions.TaskCancelledError:
            state = "WAITING"
        except self.ray.exceptions.RayTaskError:  # raised by the task: neither the settings nor a node are to blame
            raise
        except self.ray.exceptions.RayError as lost:
            error = describe(lost)
        del self.running[ref]
        if state == "WAITING":
            give_up(self.study, trial)
        elif error:
            trial.set_user_attr("error", " ".join(error.split()))
        tell(self.study, trial, value, getattr(self.states, state if state != "WAITING" else "FAIL"))


def search_by_ray(ray: Any, optuna: Any, search: Search, study: Any) -> bool:
    """Try settings until there are enough trials, or the time is up; returns whether Ctrl-C came before."""
    options, started, last = search.options, time.monotonic(), float("inf")
    at_once = options.jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
    prepare(optuna, search, study, 0)
    trials = Trials(ray, optuna, search, study)
    try:
        with GracefulInterrupt() as pressed:
            while time.monotonic() < last:
                if pressed.requested and last == float("inf"):
                    last = time.monotonic() + PATIENCE
                    trials.interrupt()
                in_time = options.timeout is None or time.monotonic() - started < options.timeout
                while (in_time and not pressed.requested and len(trials.running) < at_once
                       and len(finished(study)) + len(trials.running) < options.trials):  # fmt: skip
                    trials.begin()
                if not trials.running:
                    break
                trials.wait()
    except KeyboardInterrupt:
        return True
    finally:
        trials.drop()
    return pressed.requested
