"""Constructor arguments of Stable-Baselines3 that have nothing to set here: what is said of them."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

# Name: the values that ask for nothing, and what to do instead of others.
FOREIGN: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_sde": ((False,), "there is no state-dependent exploration; Box actions have independent Gaussian noise, whose "
                          'size starts at policy_kwargs=dict(log_std_init=...)'),
    "sde_sample_freq": ((-1,), "there is no state-dependent exploration"),
    "rollout_buffer_class": ((None,), "rollouts are arrays that kernels fill; leave it out"),
    "rollout_buffer_kwargs": ((None, {}), "rollouts are arrays that kernels fill; leave it out"),
    "replay_buffer_class": ((None,), "DQN has a fastrl.ReplayBuffer; leave it out (n_steps=... has n-step returns)"),
    "replay_buffer_kwargs": (
        (None, {}, {"handle_timeout_termination": True}),
        "DQN keeps a fastrl.ReplayBuffer, which tells time limits from terminal states; leave it out",
    ),
    "_init_setup_model": ((True,), "a model is always complete; use PPO.load for one from a file"),
}  # fmt: skip
ATTRIBUTES = {  # of Stable-Baselines3's models, and what to use
    "q_net": "model.policy is the Q-network", "q_net_target": "model.learner.target is the target network",
    "rollout_buffer": "rollouts are arrays that kernels fill; a callback sees rewards, dones and infos in its locals",
    "ep_info_buffer": "model.episodes has (return, length) of the last episodes",
    "ep_success_buffer": "an EvalCallback records eval/success_rate", "lr_schedule": "it is model.learning_rate",
    "actor": "model.policy is the network", "critic": "model.policy is the network",
    "train": "there is no loop over objects to override; see fastrl/algorithms/ppo.py",
    "collect_rollouts": "there is no loop over objects to override; see fastrl/algorithms/ppo.py",
    "dump_logs": "model.logger.dump(model.num_timesteps)",
    "get_vec_normalize_env": "normalize=True is part of the model",
}  # fmt: skip
OF_METHODS = {
    "print_system_info": (False, "there is no such report"),
    "force_reset": (True, "the episodes of another environment always begin anew"),
}


def check_foreign(cls: type, given: dict[str, Any]) -> None:
    """Raise for constructor arguments that `cls` does not have, unless they ask for nothing.

    Raises:
        ValueError: for Stable-Baselines3's that cannot apply, saying what to use.
        TypeError: for unknown ones, naming the nearest.
    """
    for name, value in given.items():
        if name not in FOREIGN:
            known = [p for p in inspect.signature(cls).parameters if p != "foreign"]
            close = ["learning_rate"] if name == "lr" else difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {close[0]}?)" if close else f"; it takes {', '.join(known)}"
            raise TypeError(f"{cls.__name__} has no argument {name}{hint}")
        neutral, advice = FOREIGN[name]
        if not any(type(value) is type(allowed) and value == allowed for allowed in neutral):
            raise ValueError(f"{cls.__name__} cannot apply {name}={value!r}: {advice}")


def check_neutral(**given: Any) -> None:
    """Raise a ValueError for arguments of Stable-Baselines3's methods that ask for what there is not."""
    for name, value in given.items():
        neutral, advice = OF_METHODS[name]
        if value is not neutral:
            raise ValueError(f"{name}={value!r} cannot apply: {advice}")


def missing(cls: str, name: str) -> str:
    """What is said of an attribute that `cls` does not have."""
    return f"{cls} has no attribute {name!r}" + (f": {ATTRIBUTES[name]}" if name in ATTRIBUTES else "")
