"""Environments in processes of their own, and what is said when one of them fails, dies or hangs."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing import TimeoutError as WorkerTimeout
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState

from fastrl.envs.base import EnvironmentFailure, Step
from fastrl.envs.stepper import VectorStepper

PATIENCE = 10.0  # seconds in which a process is expected to end


class Workers(AsyncVectorEnv):
    """`gymnasium.vector.AsyncVectorEnv`, whose failures say what happened where, and leave no process behind.

    Args:
        env_fns: N functions, each of which makes an environment, in a process of its own.
        start_method: "forkserver", "spawn" or "fork"; None: the first of these that the platform has.
        timeout: seconds that a step, a reset or a call of a method may take; None: for ever.

    Raises:
        EnvironmentFailure: from any method, where an environment raised, died or took too long; all are closed then.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], start_method: str | None = None, timeout: float | None = None
    ) -> None:
        self.timeout, self._asked = timeout, "make its environment"
        self._whom: Sequence[int] = range(len(env_fns))
        self._cut_short = ""  # at what Ctrl-C had to end the workers
        makers = [_Maker(env_fn) for env_fn in env_fns]
        self._guarded(
            super().__init__, makers, context=start_method, autoreset_mode=AutoresetMode.SAME_STEP, copy=False
        )

    def reset(self, **arguments: Any) -> Any:
        """As Gymnasium's."""
        self._asked, self._whom = "reset", range(self.num_envs)
        return self._guarded(super().reset, **arguments)

    def step(self, actions: Any) -> Any:
        """As Gymnasium's."""
        self._asked, self._whom = "step", range(self.num_envs)
        return self._guarded(super().step, actions)

    def reset_wait(self, timeout: float | None = None) -> Any:
        """As Gymnasium's, but not for longer than the timeout."""
        return super().reset_wait(self.timeout if timeout is None else timeout)

    def step_wait(self, timeout: float | None = None) -> Any:
        """As Gymnasium's, but not for longer than the timeout."""
        return super().step_wait(self.timeout if timeout is None else timeout)

    def ask(self, indices: Sequence[int], method: str, *arguments: Any) -> list[Any]:
        """What a method of `Asked` returns in the workers of `indices`; errors there end nothing.

        Raises:
            AttributeError: for a name that the environment does not have; EnvironmentFailure for anything else.
        """
        self._asked, self._whom = str(arguments[0]), indices
        answers = self._guarded(self._ask, indices, ("answer", (method, *arguments), {}))
        for i, (_, error, trace) in zip(indices, answers, strict=True):
            if isinstance(error, AttributeError):
                raise AttributeError(f"environment {i}: {error}") from error
            if error is not None:
                raise EnvironmentFailure(_told(i, error, self._asked, trace)) from error
        return [answer for answer, *_ in answers]

    def _ask(self, indices: Sequence[int], call: tuple[Any, ...]) -> list[Any]:
        self._assert_is_running()
        for i in indices:
            self.parent_pipes[i].send(("_call", call))
        self._wait_for(indices, self.timeout)
        answers = [self.parent_pipes[i].recv() for i in indices]
        self._raise_if_errors([True] * (self.num_envs - len(answers)) + [success for _, success in answers])
        return [answer for answer, _ in answers]

    def _wait_for(self, indices: Iterable[int], timeout: float | None) -> None:
        """Wait until something has come from each; a WorkerTimeout after `timeout` seconds in all."""
        end = None if timeout is None else time.perf_counter() + timeout
        for i in indices:
            if end is not None and not self.parent_pipes[i].poll(max(end - time.perf_counter(), 0)):
                raise WorkerTimeout

    def _drain(self) -> None:
        """After Ctrl-C, throw away the answers that nobody has read; end the workers where these do not come soon."""
        try:
            token = time.perf_counter_ns()
            for pipe in self.parent_pipes:
                pipe.send(("_call", ("answer", ("echo", token), {})))
            end = time.perf_counter() + min(PATIENCE, PATIENCE if self.timeout is None else self.timeout)
            for i, pipe in enumerate(self.parent_pipes):
                answer: Any = None
                while answer != ((token, None, ""), True):
                    self._wait_for([i], max(end - time.perf_counter(), 0))
                    answer = pipe.recv()
            self._state = AsyncState.DEFAULT
        except BaseException:  # another Ctrl-C, too
            self._cut_short = self._asked
            self._stop()

    def _assert_is_running(self) -> None:
        if self._cut_short:
            raise EnvironmentFailure(f"the workers were ended by Ctrl-C at {self._cut_short}: make new environments")
        super()._assert_is_running()

    def _guarded(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return method(*arguments, **options)
        except KeyboardInterrupt:
            if hasattr(self, "_state"):  # it is set when all workers have begun
                self._drain()
            raise
        except WorkerTimeout:
            hanging = [i for i in self._whom if not self.parent_pipes[i].poll(0)]
            who = ", ".join(f"{i} (pid {self.processes[i].pid})" for i in hanging)
            self._fail(f"worker {who} did not answer to {self._asked} within {self.timeout:g} seconds (timeout=)")
        except (EOFError, ConnectionError):
            self._fail(self._who_died())

    def _who_died(self) -> str:
        for process in self.processes:
            process.join(0.1)
        dead = [(i, process) for i, process in enumerate(self.processes) if process.exitcode is not None]
        for i, process in dead:
            code = process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            hint = ""
            if self._asked == "make its environment" and code == 1:
                hint = '; a script that starts workers begins with if __name__ == "__main__":'
            return f"worker {i} (pid {process.pid}) died, {how}, at {self._asked}{hint}"
        return f"a worker closed its connection at {self._asked}"

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        if all(successes):
            return
        i, kind, value, trace = self.error_queue.get(timeout=PATIENCE)
        self._fail(_told(i, value if isinstance(value, BaseException) else kind(value), self._asked, trace), value)

    def _fail(self, message: str, cause: BaseException | None = None) -> NoReturn:
        self._stop()
        raise EnvironmentFailure(message) from cause

    def _stop(self) -> None:
        """End all processes, whatever they are doing, and close the environment."""
        self.closed = True
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(1)
            if process.is_alive():
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """As Gymnasium's, but patient for so long only; then the processes are ended."""
        with suppress(EOFError, ConnectionError):
            super().close_extras(PATIENCE if timeout is None else timeout, terminate)
        self._stop()


class WorkerStepper(VectorStepper):
    """N environments in processes of their own."""

    env: Workers
    tells = (EnvironmentFailure,)

    def _step(self, action: np.ndarray) -> Step:
        try:
            return super()._step(action)
        except KeyboardInterrupt:
            self.disturbed = True  # they may have taken the step, whose observations are lost
            raise


class _Maker:
    """Makes an environment; in a worker, one that a Ctrl-C on the terminal leaves alone."""

    def __init__(self, env_fn: Callable[[], gym.Env]) -> None:
        self.env_fn, self.main = env_fn, os.getpid()

    def __call__(self) -> gym.Env:
        if os.getpid() != self.main:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # whatever the main process does about it
        return Asked(self.env_fn())


def _told(i: int, error: BaseException, asked: str, trace: str) -> str:
    return f"environment {i} raised {type(error).__name__} in {asked}: {error}\n\nIn its process:\n{trace}"


class Asked(gym.Wrapper):
    """Around an environment in a worker: what can be asked of it."""

    def answer(self, method: str, *arguments: Any) -> tuple[Any, Exception | None, str]:
        """(what the method returns, None, "") or (None, what it raised, the traceback)."""
        try:
            return getattr(self, method)(*arguments), None, ""
        except Exception as error:
            return None, error, traceback.format_exc()

    def echo(self, token: int) -> int:
        """`token`, which comes after whatever was to be answered before."""
        return token

    def get(self, name: str) -> Any:
        """An attribute of the environment."""
        return self.env.get_wrapper_attr(name)

    def set(self, name: str, value: Any) -> None:
        """Set it."""
        self.env.set_wrapper_attr(name, value)

    def call(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a method of the environment returns."""
        return self.env.get_wrapper_attr(name)(*arguments, **options)

    def is_wrapped(self, wrapper_class: type) -> bool:
        """Whether one of the wrappers is of this class."""
        return is_wrapped(self.env, wrapper_class)


def is_wrapped(env: gym.Env, wrapper_class: type) -> bool:
    """Whether one of the wrappers around `env` is of this class."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, wrapper_class):
            return True
        env = env.env
    return False
