"""What the tests of the commands share."""

from __future__ import annotations

import importlib
import sys

import fastrl
from fastrl.cli import main


def refused(capsys, args, code=2):
    """The one line on stderr of a command that does not succeed."""
    capsys.readouterr()
    assert main(args if isinstance(args, list) else args.split()) == code
    err = capsys.readouterr().err
    assert err.startswith("fastrl: ") and err.count("\n") == 1 and "Traceback" not in err, err
    return err


def printed(capsys, args):
    """What a command that succeeds says on stdout."""
    capsys.readouterr()
    assert main(args if isinstance(args, list) else args.split()) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "\x1b" not in out
    return out


def without(monkeypatch, *modules):
    """Lets the import of modules fail, as where they are not installed."""
    for module in modules:
        for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
    importlib.invalidate_caches()


def saved_agent(file, algorithm="PPO", env="CartPole-v1", steps=200, **arguments):
    """A model file of an agent that has learnt little."""
    options = {"n_steps": 16, "batch_size": 16} if algorithm == "PPO" else {}
    model = getattr(fastrl, algorithm)("MlpPolicy", env, seed=0, **{**options, **arguments})
    model.learn(steps).save(file)
    return model


