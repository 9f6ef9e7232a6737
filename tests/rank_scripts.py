"""What ranks do in tests, one function each: called with the group, a folder and options, they return what is saved."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from typing import ClassVar

import gymnasium as gym
import numpy as np
import torch

import fastrl
from fastrl.algorithms import parallel as keeping
from fastrl.learners import parallel
from fastrl.learners.optimizers import optimizer_tensors

CLASSES = {"PPO": fastrl.PPO, "REINFORCE": fastrl.REINFORCE}
SMALL = dict(n_envs=4, n_steps=32, batch_size=32, n_epochs=2, seed=1)
FATAL = {"dies"}  # what is to end the process


def weights(model):
    """Weights and optimiser as arrays."""
    found = {f"policy.{k}": v for k, v in model.policy.state_dict().items()}
    found |= {f"optimizer.{k}": v for k, v in optimizer_tensors(model.learner.optimizer).items()}
    return {name: tensor.numpy().copy() for name, tensor in found.items()}


def make(algorithm, env, **options):
    return CLASSES[algorithm]("MlpPolicy", env, policy_kwargs=dict(net_arch=[16, 16]), **options)


def record(model, kept):
    """Keep what every update of `model` is given."""
    name = "update_ppo" if isinstance(model, fastrl.PPO) else "update_reinforce"
    original = getattr(model.learner, name)

    def update(batch, *more, **options):
        kept.append([np.array(x) for x in (*batch, *more)])
        return original(batch, *more, **options)

    setattr(model.learner, name, update)


def train(ranks, folder, algorithm, env, total, mutant=False, **options):
    """Train, and save weights, what each update was given, counters."""
    right = parallel.advantage_moments
    parallel.advantage_moments = _own_moments if mutant else right
    model, kept = make(algorithm, env, **options), []
    record(model, kept)
    model.learn(total)
    parallel.advantage_moments = right
    given = {f"update{i}.{j}": x for i, update in enumerate(kept) for j, x in enumerate(update)}
    counts = {"steps": model.num_timesteps, "n": len(kept), "n_updates": model.n_updates}
    return {**weights(model), **given, **counts}


def _own_moments(advantage, epochs, batch_size, ranks):
    """Advantages that each rank normalises by itself: wrong."""
    found = []
    for order, first, rows in parallel.minibatches(epochs, batch_size):
        a = advantage[order[first : first + rows]].astype(np.float64)
        found.append([len(a), a.sum(), (a * a).sum()])
    return np.array(found)


class Seen(gym.Wrapper):
    """Keeps the observations that are acted on."""

    kept: ClassVar[list] = []

    def reset(self, **options):
        obs, info = super().reset(**options)
        self.kept.append(obs)
        return obs, info

    def step(self, action):
        found = super().step(action)
        if not (found[2] or found[3]):  # the next episode's first one is acted on in its place
            self.kept.append(found[0])
        return found


def statistics(ranks, folder, iterations, n_steps):
    """Save the merged statistics, and the observations that they are of."""
    model = fastrl.PPO("MlpPolicy", lambda: Seen(gym.make("Pendulum-v1")), n_envs=4, n_steps=n_steps, batch_size=32,
                       n_epochs=1, seed=5, normalize=True)  # fmt: skip
    model.learn(iterations * 4 * n_steps)
    episodes = dict(num_episodes=model.num_episodes, episodes=np.array(model.episodes))
    return {"obs": np.array(Seen.kept), **model.normalizer.state(), **episodes}


def resume(ranks, folder, algorithm, stop_after, total, **options):
    """Train in two parts with a file in between, from objects that know nothing of each other."""
    model = make(algorithm, **options)
    model.learn(stop_after)
    model.save(folder / "model.fastrl")
    ranks.greatest(0)  # wait until it is written
    model = CLASSES[algorithm].load(folder / "model.fastrl", env=options["env"])
    if model.num_timesteps < total:
        model.learn(total - model.num_timesteps, reset_num_timesteps=False)
    return {**weights(model), "steps": model.num_timesteps}


def again(ranks, folder):
    """Two runs, the second of which counts from 0."""
    model = make("PPO", "CartPole-v1", **SMALL)
    model.learn(512)
    model.learn(256)
    return {"lengths": [length for _, length in model.episodes], "num_episodes": model.num_episodes,
            "steps": model.num_timesteps, **weights(model)}  # fmt: skip


def go_on(ranks, folder, file, total, env):
    """Load and train."""
    model = fastrl.PPO.load(file, env=env)
    model.learn(total, reset_num_timesteps=False)
    return {**weights(model), "steps": model.num_timesteps}


class Shown(fastrl.KVWriter):
    """An output of a logger, whose file shows that it was used."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, key_values, key_excluded, step=0):
        self.folder.mkdir(exist_ok=True)
        (self.folder / "written").touch()

    def flush(self): ...

    def close(self): ...


def scheduled(ranks, folder):
    """Functions, which lie elsewhere in the memory of each rank."""
    model = fastrl.PPO("MlpPolicy", "CartPole-v1", learning_rate=lambda left: 1e-3 * left, clip_range=lambda left: 0.2,
                       policy_kwargs=dict(net_arch=[8]), **SMALL)  # fmt: skip
    model.learn(256)
    return weights(model)


def callbacks(ranks, folder, stop_after):
    """Callbacks of every kind, of which one of rank 1's ends the training."""
    model, seen, each = make("PPO", "CartPole-v1", **SMALL), [], []

    def stop(model):
        seen.append(model.num_timesteps)
        return not (ranks.rank == 1 and model.num_timesteps >= stop_after)

    own = folder / f"of{ranks.rank}"  # so that it shows if another than rank 0 writes
    model.set_logger(fastrl.Logger(None, [Shown(own)]))
    model.learn(10_000, [
        stop, lambda locals_, globals_: each.append(1),
        fastrl.CheckpointCallback(32, own / "checkpoints"),
        fastrl.EvalCallback("CartPole-v1", n_eval_episodes=2, eval_freq=64, verbose=0,
                            best_model_save_path=own / "best", log_path=own / "log"),
    ])  # fmt: skip
    return {"each": len(each), "steps": model.num_timesteps, **weights(model)}


def interrupted(ranks, folder, waiting):
    """Ctrl-C reaches one rank alone, while it is busy or while it is `waiting` for the other one."""
    model, pressed = make("PPO", "CartPole-v1", **SMALL), []

    def press(model):
        if model.num_timesteps < 512 or pressed:
            return
        pressed.append(1)
        if waiting and ranks.rank == 0:
            time.sleep(1.0)
        elif waiting:
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        elif ranks.rank == 1:
            signal.raise_signal(signal.SIGINT)

    model.learn(10_000, press)
    return {"interrupted": model.interrupted, "steps": model.num_timesteps, **weights(model)}


def drift(ranks, folder):
    """One rank's parameters are another's no more."""
    model = make("PPO", "CartPole-v1", **SMALL)

    def disturb(model):
        if ranks.rank == 1 and model.num_timesteps == 256:
            with torch.no_grad():
                next(model.policy.parameters())[0, 0] += 1e-3

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.learn(1024, disturb)
    return {"told": [str(warning.message) for warning in told], **weights(model)}


def differing(ranks, folder, code=False, totals=(256, 256), by_rank=({}, {}), **options):
    """Ranks that do not belong together."""
    right = keeping._digest
    try:
        keeping._digest = (lambda *files: f"of rank {ranks.rank}") if code else right
        make("PPO", "CartPole-v1", **{**SMALL, **options, **by_rank[ranks.rank]}).learn(totals[ranks.rank])
    finally:
        keeping._digest = right
    return {}


def dies(ranks, folder, rank, how):
    """One rank ends in the middle of the training."""
    model = make("PPO", "CartPole-v1", **SMALL)

    def die(model):
        if ranks.rank == rank and model.num_timesteps >= 512:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("this rank has had enough")

    model.learn(10_000, die)
    return {}
