"""The study of `fastrl tune`: opened, gone on with after a process was killed, and told what trials came to."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastrl.commands.common import needed
from fastrl.flags import UsageError

INTERRUPTED, OWNER = "interrupted", "process"  # attributes of a trial


def import_optuna() -> Any:
    """Optuna, silenced; a UsageError where it is missing."""
    optuna = needed("optuna", "tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(optuna: Any, storage: str, name: str, about: dict[str, Any], first: dict[str, Any]) -> Any:
    """The study, made or found again, with the parameters `first` as the first trial.

    Raises:
        UsageError: where it is of something else than `about`, or there is no getting at it.
    """
    try:
        study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="maximize")
        for key, value in about.items():
            if study.user_attrs.get(key, value) != value:
                raise UsageError(f"study {name} in {storage} is of {key} {study.user_attrs[key]}, not {value}: "
                                 "name another with --study")  # fmt: skip
            study.set_user_attr(key, value)
        _retry_those_left(optuna, study)
    except UsageError:
        raise
    except Exception as error:  # of SQLAlchemy, of a driver, of Optuna
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"cannot use the storage {storage}: {reason}") from error
    if not finished(study) and not any(trial.state.name == "WAITING" for trial in study.get_trials(deepcopy=False)):
        study.enqueue_trial(first)
    return study


def ask(study: Any) -> Any:
    """A new trial, which says whose it is."""
    trial = study.ask()
    trial.set_user_attr(OWNER, _name(os.getpid()))
    return trial


def give_up(study: Any, trial: Any) -> None:
    """Mark a trial that something else than its settings ends; its turn comes again."""
    trial.set_user_attr(INTERRUPTED, True)
    if trial.params:
        study.enqueue_trial(trial.params)


def finished(study: Any) -> list[Any]:
    """The trials that came to an end, good or bad, but for those that were interrupted."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.is_finished() and INTERRUPTED not in trial.user_attrs]


def best(study: Any) -> list[Any]:
    """The complete trials, the best first."""
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: (-trial.value, trial.number))


def tell(study: Any, trial: Any, value: float | None, state: Any) -> None:
    """What a trial came to, for the study, and as a line on stderr."""
    told = study.tell(trial, value, state)
    name, first = told.state.name.lower(), best(study)[:1]
    reached = f"{told.value:.1f}" if told.value is not None else ""
    failed = f"failed: {told.user_attrs.get('error', INTERRUPTED)}"
    what = {"complete": reached, "pruned": f"given up at {reached}"}.get(name, failed)
    so_far = f"; best {first[0].value:.1f}, of trial {first[0].number}" if first else ""
    print(f"Trial {told.number}: {what}{so_far}", file=sys.stderr, flush=True)


def _retry_those_left(optuna: Any, study: Any) -> None:
    """Have the trials that a killed process of this machine left running tried again."""
    for found in study.get_trials(deepcopy=False):
        owner = found.user_attrs.get(OWNER)
        if found.state.name == "RUNNING" and owner is not None and _is_gone(owner):
            give_up(study, optuna.trial.Trial(study, found._trial_id))
            study.tell(found.number, state=optuna.trial.TrialState.FAIL)


def _name(pid: int) -> list[str]:
    """A process by its machine, its number, and when it began, since numbers come again; OSError where it ended."""
    os.kill(pid, 0)
    began = ""
    with suppress(FileNotFoundError):  # not of this system
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return [platform.node(), str(pid), began]


def _is_gone(owner: list[str]) -> bool:
    node, pid, _ = owner
    if node != platform.node():
        return False  # there is no telling from here
    try:
        return _name(int(pid)) != owner
    except PermissionError:
        return False
    except OSError:
        return True
