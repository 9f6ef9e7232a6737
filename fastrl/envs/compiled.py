"""Environments written as three plain functions, which are compiled: the contract, and the decorator.

    @fastrl.envs.environment
    class Ball:
        observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        action_space = Discrete(2)
        state_size = 2
        max_episode_steps = 200
        gravity = 9.8

        def reset(self, state, rng): ...           # write the first state of an episode
        def step(self, state, action, rng): ...    # change the state; return (reward, terminated)
        def observe(self, state, obs): ...         # write what the agent sees of the state

`state` is float64[state_size], zeros before `reset`. `rng` is a random stream for `fastrl.envs.uniform`, `integer` and
`normal`. `action` is an int (Discrete), int64[c] (MultiDiscrete, MultiBinary) or float32[c] (Box). `obs` is float32
with as many numbers as the observation space (Box of float32, or Discrete: the one number). `self` has the class's
constants, and nothing else: no method can be called through it, and nothing be kept in it.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from numba import config

from fastrl.checks import check_int
from fastrl.envs.constants import gather, replaced
from fastrl.envs.machine import compile_function
from fastrl.kernels.environment import interpreted

__all__ = ["Environment", "environment"]

ARGUMENTS = {"reset": ("state", "rng"), "step": ("state", "action", "rng"), "observe": ("state", "obs")}
SETTINGS = ("observation_space", "action_space", "state_size", "max_episode_steps", "reward_threshold")
LARGEST = 2**24  # integers up to here are exact in float32


class Environment:
    """An environment as compiled functions, made by `fastrl.envs.environment`; never changed.

    Attributes:
        name: the class's.
        observation_space, action_space: of one environment.
        state_size: S, how many float64 numbers hold its state.
        max_episode_steps: its episodes are truncated then; 0: never.
        reward_threshold: from which mean return on it counts as solved, or None.
        obs_size: the numbers that `observe` writes.
        nvec: int64[c], the choices of each number of an action; empty for Box.
        constants: [1], a structured array of what `self` is in the functions.
    """

    def __init__(self, namespace: type, constants: np.ndarray | None = None) -> None:
        self._class = namespace
        self.name: str = namespace.__name__
        self.__doc__ = namespace.__doc__
        self.__module__, self.__qualname__ = namespace.__module__, namespace.__qualname__
        for name in ("observation_space", "action_space", "state_size"):
            if not hasattr(namespace, name):
                raise TypeError(f"class {self.name} has no {name}; an environment needs one")
        self.observation_space: gym.Space = namespace.observation_space  # type: ignore[attr-defined]
        self.action_space: gym.Space = namespace.action_space  # type: ignore[attr-defined]
        self.state_size: int = namespace.state_size  # type: ignore[attr-defined]
        self.max_episode_steps: int = getattr(namespace, "max_episode_steps", 0)
        self.reward_threshold: float | None = getattr(namespace, "reward_threshold", None)
        check_int("state_size", self.state_size)
        check_int("max_episode_steps", self.max_episode_steps, 0)
        self.obs_size = _obs_size(self.observation_space, self.name)
        self.nvec = _choices(self.action_space, self.name)
        self._functions = {name: _function(namespace, name) for name in ARGUMENTS}
        self.constants = gather(namespace, {*SETTINGS, *ARGUMENTS}) if constants is None else constants
        self._handles: dict[bool, np.ndarray] = {}
        self._kept: list[Any] = []  # machine code, for as long as addresses of it may be used

    def handle(self, debug: bool = False) -> np.ndarray:
        """int64[5], the environment as kernels take it (`fastrl.kernels.environment`); compiled if need be.

        It is good for as long as this object lives. With `debug`, functions that check every index are compiled.

        Raises:
            TypeError: for a function that cannot be compiled, with its name, file and line.
        """
        if debug not in self._handles:
            self._handles[debug] = self._link(debug)
        return self._handles[debug]

    def __call__(self, **constants: Any) -> Environment:
        """As `replace`: a compiled class may be called like any other."""
        return self.replace(**constants)

    def replace(self, **constants: Any) -> Environment:
        """The same environment with other values of some constants; nothing is compiled anew for numbers.

        Raises:
            TypeError: for a name that is no constant of the class, or a value of another kind.
        """
        return Environment(self._class, replaced(self.constants, constants, self.name)) if constants else self

    def _link(self, debug: bool) -> np.ndarray:
        one_hot = int(self.observation_space.n) if isinstance(self.observation_space, Discrete) else 0
        if config.DISABLE_JIT:  # type: ignore[attr-defined]
            interpreted.extend([*self._functions.values(), self.constants.view(np.recarray)[0]])
            return np.array([*range(len(interpreted) - 4, len(interpreted)), one_hot])
        action = 1 if isinstance(self.action_space, Box) else 0 if isinstance(self.action_space, Discrete) else 2
        addresses = []
        for name, function in self._functions.items():
            address, code = compile_function(name, function, self.constants.dtype, action, debug)
            addresses.append(address)
            self._kept.append(code)
        return np.array([*addresses, self.constants.ctypes.data, one_hot])

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type]:
        return (self._class,)  # so that a class can be derived from it, and made an environment in its turn

    def __deepcopy__(self, memo: Any) -> Environment:
        return self  # it is never changed, and addresses point into it

    def __reduce__(self) -> Any:
        """By name, as classes are; a class without functions of its own, as tables are, by what it consists of."""
        namespace, own = self._class, vars(self._class)
        found = _found(self.__module__, self.__qualname__)
        if isinstance(found, Environment) and found._class is namespace:
            return _restored, (self.__module__, self.__qualname__, self.constants)
        bases = namespace.__bases__
        at_home = all(_found(base.__module__, base.__qualname__) is base for base in bases)
        if not at_home or any(map(inspect.isroutine, own.values())):
            raise TypeError(
                f"{self.name} cannot be pickled: the module {self.__module__} has no {self.__qualname__}, or another; "
                "define the class where `import` finds it, outside of functions"
            )
        values = {name: value for name, value in own.items() if not name.startswith("__") or name == "__module__"}
        return _derived, (self.name, bases, values, self.constants)

    def __repr__(self) -> str:
        return f"Environment({self.name})"


def environment(namespace: type) -> Environment:
    """Make an `Environment` of a class that has spaces, constants and the functions reset, step and observe.

    The functions compile when the environment is first used, and the machine code is kept on disk beside the file
    (or in NUMBA_CACHE_DIR). They may use what Numba compiles: numbers, arrays, `math`, `numpy`, global constants,
    and helper functions that are decorated with `numba.njit`. What changes the machine code makes it anew: the file,
    global constants and helpers, also those from other modules. The class's own constants are read when they are
    needed, so that no other value of them compiles anything.

    Raises:
        TypeError: if something is missing, of the wrong kind, or has other arguments.
        ValueError: for a space that is not supported, or a size out of range.
    """
    if not isinstance(namespace, type):
        raise TypeError(f"environment decorates a class; got {namespace!r}")
    return Environment(namespace)


def _found(module: str, qualname: str) -> Any:
    """What has that name; None if there is none."""
    found: Any = sys.modules.get(module) or import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def _restored(module: str, qualname: str, constants: np.ndarray) -> Environment:
    found = _found(module, qualname)
    if not isinstance(found, Environment):
        raise TypeError(f"the module {module} has no environment {qualname}, as it had when that was pickled")
    return Environment(found._class, constants)


def _derived(name: str, bases: tuple[type, ...], values: dict[str, Any], constants: np.ndarray) -> Environment:
    return Environment(type(name, bases, values), constants)


def _function(namespace: type, name: str) -> Callable[..., Any]:
    function = inspect.getattr_static(namespace, name, None)
    if not inspect.isfunction(function):
        raise TypeError(f"class {namespace.__name__} has no function {name}(self, {', '.join(ARGUMENTS[name])})")
    wanted = ("self", *ARGUMENTS[name])
    n_given = len(inspect.signature(function).parameters)
    if n_given != len(wanted):
        code = function.__code__
        raise TypeError(
            f"{namespace.__name__}.{name} has {n_given} arguments; they must be {', '.join(wanted)} "
            f"({code.co_filename}, line {code.co_firstlineno})"
        )
    return function


def _obs_size(space: gym.Space, name: str) -> int:
    if isinstance(space, Box) and space.dtype == np.float32:
        return math.prod(space.shape)
    if isinstance(space, Discrete) and space.start == 0 and space.n <= LARGEST:
        return 1
    raise ValueError(
        f"the observation space of {name} is {space}; it must be a Box of float32, or Discrete from 0, of {LARGEST} "
        "at most"
    )


def _choices(space: gym.Space, name: str) -> np.ndarray:
    if isinstance(space, Box) and space.dtype == np.float32 and len(space.shape) == 1:
        return np.empty(0, np.int64)
    if isinstance(space, Discrete) and space.start == 0:
        return np.array([space.n], np.int64)
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1 and not space.start.any():
        return space.nvec.astype(np.int64)
    if isinstance(space, MultiBinary) and len(space.shape) == 1:
        return np.full(space.shape, 2)
    raise ValueError(
        f"the action space of {name} is {space}; it must be Discrete, MultiDiscrete or MultiBinary, counted from 0, or "
        "a Box of float32, with one dimension"
    )
