"""Several environments as one object, in Stable-Baselines3's shape: what `make_vec_env` makes and `get_env` returns.

The algorithms themselves step a `Stepper`; this is its face for people and their code.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from fastrl.checks import check_int, check_number
from fastrl.envs import records
from fastrl.envs.env_list import EnvList
from fastrl.envs.stepper import EnvLike, Stepper, is_compiled, make_stepper
from fastrl.envs.workers import Workers, WorkerStepper, is_wrapped
from fastrl.monitor import Monitor
from fastrl.pictures import Painter, show, tile

__all__ = ["DummyVecEnv", "SubprocVecEnv", "VecEnv", "make_vec_env"]

Indices = int | Iterable[int] | None


class VecEnv:
    """N environments that are reset and stepped together; each begins a new episode by itself where one ends.

    Args:
        env: anything that an algorithm takes as `env`.

    Attributes:
        stepper: what the algorithms step.
        num_envs: N.
        observation_space, action_space: of one environment.
        render_mode: the environments' own; "rgb_array" for compiled ones.
        reset_infos: [N] dicts, of each environment's last reset.
    """

    def __init__(self, env: EnvLike | Stepper) -> None:
        self.stepper = make_stepper(env)
        self.num_envs = self.stepper.num_envs
        self.observation_space, self.action_space = self.stepper.observation_space, self.stepper.action_space
        self._actions: np.ndarray | None = None
        self._painter: Painter | None = None

    def seed(self, seed: int | None = None) -> list[int]:
        """Seed the next `reset`: environment i gets seed + i. None draws a seed. Returns the N seeds."""
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        check_int("seed", seed, 0)
        self.stepper.seed(int(seed))
        return [int(seed) + i for i in range(self.num_envs)]

    def reset(self) -> Any:
        """Begin new episodes; observations [N, *obs], of a Dict space a dict of such."""
        with self._looked_at() as stepper:
            return records.as_users_have_them(self.observation_space, stepper.reset())

    def step_async(self, actions: Any) -> None:
        """Take the actions of the next `step_wait`, [N, *action]."""
        array = np.asarray(actions)
        shape = (self.num_envs, *(self.action_space.shape or ()))
        if array.dtype.kind not in ("biuf" if isinstance(self.action_space, Box) else "biu"):
            raise TypeError(f"the actions are {array.dtype}; they must be of {self.action_space}")
        if array.shape != shape:
            raise ValueError(f"the actions have the shape {array.shape}; it must be {shape}, one for each environment")
        self._actions = array.astype(self.action_space.dtype)

    def step_wait(self) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """The second half of `step`; a ValueError without `step_async`."""
        if self._actions is None:
            raise ValueError("step_wait came without step_async(actions)")
        actions, self._actions = self._actions, None
        with self._looked_at() as stepper:
            step = stepper.step(actions)
        stepper.take_finished()
        obs = records.as_users_have_them(self.observation_space, step.obs)
        return obs, step.reward.astype(np.float32), step.terminated | step.truncated, stepper.infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Act in each environment.

        Args:
            actions: [N, *action].

        Returns:
            (observations [N, *obs], of new episodes where one ended; rewards float32 [N]; dones bool [N]: whether an
            episode ended; infos, N dicts: the environment's own and "TimeLimit.truncated", and where an episode ended
            "terminal_observation", and "episode" with its return "r", length "l" and the seconds "t" since the start).

        Raises:
            ValueError, TypeError: for actions of another shape or kind; EnvironmentFailure: of an environment.
        """
        self.step_async(actions)
        return self.step_wait()

    @contextmanager
    def _looked_at(self) -> Iterator[Stepper]:
        """Keep infos, which training has no use for, and let who trains know that the episodes are not its own."""
        stepper = self.stepper
        kept, stepper.keep_infos, stepper.disturbed = stepper.keep_infos, True, True
        try:
            yield stepper
        finally:
            stepper.keep_infos = kept

    @property
    def reset_infos(self) -> list[dict[str, Any]]:
        """[N] dicts, of each environment's last reset."""
        return self.stepper.reset_infos

    @property
    def unwrapped(self) -> VecEnv:
        """This object: wrappers stand around single environments here."""
        return self

    def close(self) -> None:
        """Close the environments, and end the processes of those that have some."""
        self.stepper.close()
        self.close_painter()

    def close_painter(self) -> None:
        """Close what paints compiled environments, which themselves stay open; the next picture makes it again."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None

    # -- the environments behind it ------------------------------------------------------------------------------

    @property
    def envs(self) -> list[gym.Env]:
        """The environments themselves, where they are objects in this process; an AttributeError else."""
        envs = self._objects()
        if envs is None:
            raise AttributeError(f"the environments of {self._kind()} are no objects of this process")
        return envs

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """The attribute of each environment, or of those of `indices`; wrappers are looked through."""
        chosen, envs, vector = self._indices(indices), self._objects(), getattr(self.stepper, "env", None)
        if envs is not None:
            return [envs[i].get_wrapper_attr(attr_name) for i in chosen]
        if isinstance(vector, Workers):
            return vector.ask(chosen, "get", attr_name)
        return [getattr(vector, attr_name) for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set the attribute of each environment, or of those of `indices`."""
        chosen, envs, vector = self._indices(indices), self._objects(), getattr(self.stepper, "env", None)
        if isinstance(vector, Workers):
            vector.ask(chosen, "set", attr_name, value)
        elif envs is None:
            raise AttributeError(f"{self._kind()} takes its constants when it is made, {attr_name} too")
        else:
            for i in chosen:
                envs[i].set_wrapper_attr(attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Indices = None, **kwargs: Any) -> list[Any]:
        """What the method of each environment, or of those of `indices`, returns."""
        chosen, envs, vector = self._indices(indices), self._objects(), getattr(self.stepper, "env", None)
        if isinstance(vector, Workers):
            return vector.ask(chosen, "call", method_name, args, kwargs)
        if envs is None:
            raise AttributeError(f"the environments of {self._kind()} have no methods, {method_name} neither")
        return [envs[i].get_wrapper_attr(method_name)(*args, **kwargs) for i in chosen]

    def env_is_wrapped(self, wrapper_class: type, indices: Indices = None) -> list[bool]:
        """Whether a wrapper of this class is around each environment."""
        chosen, envs, vector = self._indices(indices), self._objects(), getattr(self.stepper, "env", None)
        if isinstance(vector, Workers):
            return vector.ask(chosen, "is_wrapped", wrapper_class)
        return [envs is not None and is_wrapped(envs[i], wrapper_class) for i in chosen]

    # -- pictures ------------------------------------------------------------------------------------------------

    @property
    def render_mode(self) -> str | None:
        """The environments' own; "rgb_array" for compiled ones."""
        return "rgb_array" if self._compiled() else self.get_attr("render_mode", 0)[0]

    def get_images(self) -> list[Any]:
        """A picture of each environment, uint8 [height, width, 3]."""
        if not self._compiled():
            return self.env_method("render")
        vector: Any = self.stepper.env  # type: ignore[attr-defined]
        if self._painter is None:
            self._painter = Painter(self.stepper.env_id, **_options(vector))
        return list(self._painter(vector.states))

    def render(self, mode: str | None = None) -> Any:
        """The environments' pictures side by side, uint8 [height, width, 3], or in a window.

        Args:
            mode: "human" for a window, "rgb_array" for the picture; None: the environments' own mode. Environments that
                were made with `render_mode="human"` show themselves.
        """
        own = self.render_mode
        if own == "human":
            return self.env_method("render")[0]
        if own != "rgb_array":
            raise ValueError(f'render_mode is {own!r}: make the environments with render_mode="rgb_array" or "human"')
        tiled = tile(self.get_images())
        return show(tiled) if mode == "human" else tiled

    def _compiled(self) -> bool:
        return hasattr(self.stepper, "arrays")

    def _objects(self) -> list[gym.Env] | None:
        owner = self.stepper if isinstance(self.stepper, EnvList) else getattr(self.stepper, "env", None)
        return getattr(owner, "envs", None)

    def _kind(self) -> str:
        return type(getattr(self.stepper, "env", self.stepper)).__name__

    def _indices(self, indices: Indices) -> list[int]:
        if indices is None:
            return list(range(self.num_envs))
        chosen = [indices] if isinstance(indices, (int, np.integer)) else list(indices)
        for i in chosen:
            if not -self.num_envs <= i < self.num_envs:
                raise IndexError(f"there is no environment {i}; there are {self.num_envs}")
        return [int(i) % self.num_envs for i in chosen]


class DummyVecEnv(VecEnv):
    """Environments one after the other in this process.

    Args:
        env_fns: N functions without arguments, each of which makes a `gymnasium.Env`, a new one each.

    Raises:
        TypeError, ValueError: for something else, or environments whose spaces differ.
    """

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]) -> None:
        super().__init__(EnvList([_made(env_fn) for env_fn in _checked(env_fns)]))


class SubprocVecEnv(VecEnv):
    """Environments in processes of their own, for those that take longer to step than the 0.1 ms of a message.

    Processes start afresh, as if the script were imported in them: what starts them belongs under
    `if __name__ == "__main__":`. `start_method="fork"` needs no such guard and is quicker, but copies the process as it
    is, with all locks that its threads hold. Observations come by shared memory.

    Args:
        env_fns: N functions without arguments, each of which makes a `gymnasium.Env`; the first is called in this
            process once more, to learn of spaces. Lambdas are welcome.
        start_method: "forkserver", "spawn" or "fork"; None: the first of these that the platform has.
        timeout: seconds that a step, a reset or a call of a method may take; None: for ever.

    Raises:
        EnvironmentFailure: here and later, where an environment raised, with the traceback in its process; where a
            process died; and where one did not answer in time. All are ended then, as at `close` and at exit.
        TypeError, ValueError: as `DummyVecEnv`.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], start_method: str | None = None, *,
        timeout: float | None = 300.0,
    ) -> None:  # fmt: skip
        known = multiprocessing.get_all_start_methods()
        if start_method is None:
            start_method = "forkserver" if "forkserver" in known else "spawn"
        if start_method not in known:
            raise ValueError(f"start_method is {start_method!r}; it must be one of {known}")
        if timeout is not None:
            check_number("timeout", timeout, 0)
        super().__init__(WorkerStepper(Workers(_checked(env_fns), start_method, timeout)))


def make_vec_env(
    env_id: str | Callable[..., gym.Env], n_envs: int = 1, seed: int | None = None, start_index: int = 0,
    monitor_dir: str | os.PathLike[str] | None = None, wrapper_class: Callable[..., gym.Env] | None = None,
    env_kwargs: dict[str, Any] | None = None, vec_env_cls: type[VecEnv] | None = None,
    vec_env_kwargs: dict[str, Any] | None = None, monitor_kwargs: dict[str, Any] | None = None,
    wrapper_kwargs: dict[str, Any] | None = None,
) -> VecEnv:  # fmt: skip
    """`n_envs` environments of one kind as a `VecEnv`; the arguments are Stable-Baselines3's.

    An id that has a compiled twin, with no wrappers or arguments of its own, means the twin: training in it is fused.

    Args:
        env_id: an id, a class of environments or another callable that makes one, or a compiled environment.
        n_envs: N.
        seed: of the first reset: environment i gets seed + i. None for fresh ones.
        start_index: the number of the first environment's file in `monitor_dir`.
        monitor_dir: a folder for the episodes of each environment, "0.monitor.csv" and so on: see `Monitor`.
        wrapper_class: called with each environment; what it returns stands in its place.
        env_kwargs: arguments of the environment. One that is made by an id has render_mode="rgb_array", if it can.
        vec_env_cls: `DummyVecEnv` (by default) or `SubprocVecEnv`.
        vec_env_kwargs, monitor_kwargs, wrapper_kwargs: arguments of these.

    Raises:
        ValueError, TypeError: for arguments out of range; and what the environments raise when they are made.
    """
    check_int("n_envs", n_envs)
    check_int("start_index", start_index, 0)
    kind = vec_env_cls or DummyVecEnv
    if not (isinstance(kind, type) and issubclass(kind, (DummyVecEnv, SubprocVecEnv))):
        raise TypeError(f"vec_env_cls is {kind!r}; it must be fastrl's DummyVecEnv or SubprocVecEnv")
    plain = not (monitor_dir or wrapper_class or env_kwargs or vec_env_kwargs or monitor_kwargs)
    if plain and kind is DummyVecEnv and is_compiled(env_id, twins=True):
        made = VecEnv(make_stepper(env_id, n_envs, twins=True))
    else:
        how = (env_id, env_kwargs or {}, wrapper_class, wrapper_kwargs or {}, monitor_dir, monitor_kwargs)
        made = kind([partial(_make_one, *how, start_index + i) for i in range(n_envs)], **vec_env_kwargs or {})
    if seed is not None:
        made.seed(seed)
    return made


def _make_one(
    env_id: Any, env_kwargs: dict[str, Any], wrapper_class: Any, wrapper_kwargs: dict[str, Any], monitor_dir: Any,
    monitor_kwargs: dict[str, Any] | None, index: int,
) -> gym.Env:  # fmt: skip
    if isinstance(env_id, str):
        paints = "render_mode" not in env_kwargs and _paints(env_id)
        options = {"render_mode": "rgb_array", **env_kwargs} if paints else env_kwargs
        env: gym.Env = gym.make(env_id, disable_env_checker=True, **options)
    else:
        env = env_id(**env_kwargs)
    if monitor_dir is not None or monitor_kwargs is not None:
        file = None if monitor_dir is None else Path(monitor_dir) / str(index)
        env = Monitor(env, file, **monitor_kwargs or {})
    return env if wrapper_class is None else wrapper_class(env, **wrapper_kwargs)


def _paints(env_id: str) -> bool:
    entry = gym.spec(env_id).entry_point
    creator = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
    return "rgb_array" in (getattr(creator, "metadata", None) or {}).get("render_modes", ())


def _options(vector: Any) -> dict[str, Any]:
    """Gymnasium's arguments that a table was made with, and its pictures show."""
    given = getattr(vector.spec, "kwargs", None) or {}
    return {name: given[name] for name in ("desc", "map_name", "is_slippery") if name in given}


def _checked(env_fns: Any) -> list[Callable[[], gym.Env]]:
    fns = list(env_fns) if isinstance(env_fns, Iterable) else []
    if not fns or not all(map(callable, fns)) or isinstance(fns[0], gym.Env):
        raise TypeError(f"env_fns is {env_fns!r}; it must be a list of functions, each of which makes an environment")
    return fns


def _made(env_fn: Callable[[], gym.Env]) -> gym.Env:
    env = env_fn()
    if not isinstance(env, gym.Env):
        raise TypeError(f"the function made a {type(env).__name__}; it must make a gymnasium.Env")
    return env
