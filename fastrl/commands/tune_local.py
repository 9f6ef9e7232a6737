"""The search of `fastrl tune` in processes of this machine, which share the study."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import resource_tracker
from typing import Any

from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.commands.common import describe
from fastrl.commands.study import ask, finished, give_up, import_optuna, tell
from fastrl.commands.trials import GivenUp, Search, mean_return, prepare, settings_of

PATIENCE = 3.0  # seconds for a process to write down that it was interrupted


def search_locally(optuna: Any, search: Search, study: Any) -> bool:
    """Search with as many processes as asked for; returns whether that was interrupted."""
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_take_part, args=(search, i)) for i in range(1, search.options.jobs or 1)]
    ended = False
    try:
        for process in others:
            _start(process)
        interrupted = _search(optuna, search, study, 0)
        ended = not interrupted
    except KeyboardInterrupt:
        interrupted = True
    finally:
        for process in others:
            _end(process, at_once=not ended)
    if ended and any(process.exitcode for process in others):
        print("fastrl: not all processes of the search came to its end; what they tried is kept", file=sys.stderr)
    return interrupted


def _start(process: Any) -> None:
    """Start a process that is deaf to Ctrl-C until `_take_part` listens: its imports could not be left silently."""
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with GracefulInterrupt() as pressed:  # another thread may hear it
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pressed.requested:
        raise KeyboardInterrupt


def _end(process: Any, at_once: bool) -> None:
    """Wait for the end of a process; where that is wanted at once, it may still write down what it was trying."""
    if process.pid is not None:
        if at_once:
            process.join(PATIENCE)  # Ctrl-C in a terminal has reached it too; a second one would not let it finish
            if process.is_alive():
                os.kill(process.pid, signal.SIGINT)
                process.join(PATIENCE)
                process.terminate()
        process.join()


def _take_part(search: Search, index: int) -> None:
    """Another process of the search."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # until the search looks after it: no import can be left
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        optuna = import_optuna()
        _search(optuna, search, optuna.load_study(storage=search.storage, study_name=search.name), index)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"fastrl: process {index} of the search: {describe(error)}")


def _search(optuna: Any, search: Search, study: Any, index: int) -> bool:
    """Try settings until there are enough trials, or the time is up; returns whether Ctrl-C came before.

    The loop is not Optuna's, in the middle of whose bookkeeping Ctrl-C would end it.
    """
    options, states, started = search.options, optuna.trial.TrialState, time.monotonic()
    prepare(optuna, search, study, index)
    with GracefulInterrupt() as pressed:
        while len(finished(study)) < options.trials and not pressed.requested:
            if options.timeout is not None and time.monotonic() - started >= options.timeout:
                break
            trial, value, state = ask(study), None, states.FAIL
            try:
                value, state = _objective(search, trial), states.COMPLETE
            except GivenUp:
                state = states.PRUNED
            except ValueError as error:  # it diverged
                trial.set_user_attr("error", describe(error))
            except KeyboardInterrupt:
                pressed.requested = True
                give_up(study, trial)
            finally:
                tell(study, trial, value, state)
    return pressed.requested


def _objective(search: Search, trial: Any) -> float:
    def report(score: float, step: int) -> bool:
        trial.report(score, step)
        return bool(trial.should_prune())

    return mean_return(search, settings_of(search, trial), report)
