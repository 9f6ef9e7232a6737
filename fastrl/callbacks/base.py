"""What callbacks are, several of them as one, and functions as callbacks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastrl.checks import check_int

if TYPE_CHECKING:
    from fastrl.logger import Logger

FOREVER = 2**62  # steps


class BaseCallback:
    """The base of callbacks: override `_on_step` and, as you need them, the other methods that begin with `_`.

    Attributes:
        model: the agent that learns.
        num_timesteps: environment steps taken so far.
        n_calls: steps of all environments at once since the callback was given to `learn` first; for a callback
            that another one calls, how often it was called.
        locals: after a step `rewards`, `dones`, `infos`, `new_obs` and `actions` of it; always `self`, the model.
        logger, training_env: the model's.
        parent: the callback that calls this one, if any.
    """

    each_step = False

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.model: Any = None
        self.num_timesteps = self.n_calls = 0
        self.locals: dict[str, Any] = {}
        self.globals: dict[str, Any] = {}
        self.parent: BaseCallback | None = None
        self._advanced = 1  # how far the last call took n_calls

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_on_step" in vars(cls) and "each_step" not in vars(cls):
            cls.each_step = True

    @property
    def logger(self) -> Logger:
        """The model's logger."""
        return self.model.logger

    @property
    def training_env(self) -> Any:
        """The model's environments, in the shape of Stable-Baselines3's."""
        return self.model.get_env()

    @property
    def sees_rollouts(self) -> bool:
        """Whether it asks to be called between gathering experience and learning from it."""
        own, base = type(self), BaseCallback
        return own._on_rollout_end is not base._on_rollout_end or own._on_rollout_start is not base._on_rollout_start

    # -- what a subclass may override ----------------------------------------------------------------------------

    def _init_callback(self) -> None: ...

    def _on_training_start(self) -> None: ...

    def _on_rollout_start(self) -> None: ...

    def _on_step(self) -> bool:
        """Returns whether to go on training."""
        return True

    def _on_rollout_end(self) -> None: ...

    def _on_training_end(self) -> None: ...

    def steps_until_due(self) -> int:
        """How many environment steps may pass before it looks again; 1 is after each iteration."""
        return 1

    # -- what `learn` calls --------------------------------------------------------------------------------------

    def init_callback(self, model: Any) -> None:
        """Take the model; called when `learn` begins."""
        self.model = model
        self._init_callback()

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        """Tell that training begins."""
        self.locals, self.globals, self.num_timesteps = locals_, globals_, self.model.num_timesteps
        self._on_training_start()

    def on_rollout_start(self) -> None:
        """Tell that experience is going to be gathered."""
        self._on_rollout_start()

    def on_step(self, steps: int = 1) -> bool:
        """Tell that the environments took `steps` more steps each; returns whether to go on."""
        self.n_calls, self._advanced = self.n_calls + steps, steps
        self.num_timesteps = self.model.num_timesteps
        going_on = self._on_step()
        return going_on is None or bool(going_on)

    def on_rollout_end(self) -> None:
        """Tell that it is gathered; learning from it begins."""
        self._on_rollout_end()

    def on_training_end(self) -> None:
        """Tell that training is over."""
        self._on_training_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        """What the last step gave."""
        self.locals.update(locals_)

    def _due(self, every: int) -> bool:
        """Whether the last call took n_calls to or past a multiple of `every`."""
        return self.n_calls // every > (self.n_calls - self._advanced) // every

    def _steps_until(self, every: int) -> int:
        return (every - self.n_calls % every) * int(self.model.total_envs)


class CallbackList(BaseCallback):
    """Several callbacks, in this order; training ends as soon as one of them says so."""

    def __init__(self, callbacks: Sequence[BaseCallback | Callable[..., Any]]) -> None:
        super().__init__()
        self.callbacks = [as_callback(callback) for callback in callbacks]
        self.each_step = any(callback.each_step for callback in self.callbacks)
        for callback in self.callbacks:
            callback.parent = self

    @property
    def sees_rollouts(self) -> bool:
        return any(callback.sees_rollouts for callback in self.callbacks)

    def steps_until_due(self) -> int:
        return min((callback.steps_until_due() for callback in self.callbacks), default=FOREVER)

    def _init_callback(self) -> None:
        for callback in self.callbacks:
            callback.init_callback(self.model)

    def _on_training_start(self) -> None:
        for callback in self.callbacks:
            callback.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_start()

    def on_step(self, steps: int = 1) -> bool:
        self.n_calls, self.num_timesteps = self.n_calls + steps, self.model.num_timesteps
        answers = [callback.on_step(steps) for callback in self.callbacks]  # each is told, whatever others say
        return all(answers)

    def _on_rollout_end(self) -> None:
        for callback in self.callbacks:
            callback.on_rollout_end()

    def _on_training_end(self) -> None:
        for callback in self.callbacks:
            callback.on_training_end()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals(locals_)
        for callback in self.callbacks:
            callback.update_locals(locals_)


class ConvertCallback(BaseCallback):
    """A function as a callback: of (locals, globals) after every step, or of the model after every iteration."""

    each_step = False

    def __init__(self, callback: Callable[..., Any], verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback
        self.each_step = _takes_two(callback)

    def _on_step(self) -> bool:
        going_on = self.callback(self.locals, self.globals) if self.each_step else self.callback(self.model)
        return going_on is None or bool(going_on)


def _takes_two(callback: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(callback).parameters.values()
    except ValueError:  # of C
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) == 2


def as_callback(callback: Any) -> BaseCallback:
    """A callback, a function or a list of either, as one callback.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, (list, tuple)):
        return CallbackList(callback)
    if callback is None:
        return CallbackList([])
    if isinstance(callback, type) or not callable(callback):
        raise TypeError(
            f"callback is {callback!r}; it must be a fastrl.BaseCallback, a function of the model (after each "
            "iteration) or of (locals, globals) (after each step), or a list of these"
        )
    return ConvertCallback(callback)


class EventCallback(BaseCallback):
    """The base of callbacks that call another one, `callback`, at certain events.

    Where that is one of your own that overrides `_on_step`, training takes steps one by one, so that it finds in
    `locals` what the last step gave; `each_step = False` in its body says that it does not look there.
    """

    def __init__(self, callback: BaseCallback | None = None, verbose: int = 0) -> None:
        super().__init__(verbose)
        self.callback = callback
        self._adopt(callback)

    def _adopt(self, child: BaseCallback | None) -> None:
        """Become the parent of `child`, which may want to be told of every step."""
        if child is not None:
            child.parent = self
            self.each_step = self.each_step or child.each_step

    def init_callback(self, model: Any) -> None:
        super().init_callback(model)
        if self.callback is not None:
            self.callback.init_callback(model)

    def _on_training_start(self) -> None:
        if self.callback is not None:
            self.callback.on_training_start(self.locals, self.globals)

    def _on_event(self) -> bool:
        return True if self.callback is None else self.callback.on_step()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        super().update_locals(locals_)
        if self.callback is not None:
            self.callback.update_locals(locals_)


class EveryNTimesteps(EventCallback):
    """Calls `callback` every `n_steps` environment steps, at the end of the iteration that completes them."""

    each_step = False

    def __init__(self, n_steps: int, callback: BaseCallback) -> None:
        check_int("n_steps", n_steps)
        super().__init__(callback)
        self.n_steps = n_steps
        self._next = n_steps

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next = (self.num_timesteps // self.n_steps + 1) * self.n_steps
        return self._on_event()

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._next = (self.num_timesteps // self.n_steps + 1) * self.n_steps

    def steps_until_due(self) -> int:
        return max(1, self._next - int(self.model.num_timesteps))
