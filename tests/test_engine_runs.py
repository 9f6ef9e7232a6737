"""The same runs by either engine, changed from one to the other and resumed by the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiBinary, MultiDiscrete
from torch import nn

from fastrl import DQN, PPO, REINFORCE
from tests.engines import CARTPOLE, both, make, metrics_close
from tests.envs import Identity
from tests.test_algorithms import ALGORITHMS, weights

pytestmark = pytest.mark.usefixtures("few_threads")


def assert_same_run(theirs, ours, tolerance=2e-4):
    assert (theirs.engine, ours.engine) == ("torch", "compiled")
    np.testing.assert_allclose(list(ours.episodes), list(theirs.episodes), rtol=1e-5)
    for name in ("num_timesteps", "num_episodes", "n_updates"):
        assert getattr(theirs, name) == getattr(ours, name)
    metrics_close(theirs.metrics, ours.metrics)
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=tolerance, atol=tolerance)
    assert theirs.rng.bit_generator.state == ours.rng.bit_generator.state


OPTIONS = {
    PPO: [{}, dict(n_envs=3, normalize=True, clip_range_vf=0.3, ent_coef=0.01), dict(target_kl=1e-5, n_epochs=6),
          dict(policy_kwargs=dict(net_arch=dict(shared=[16], pi=[], vf=[8, 8]), activation_fn=nn.ELU))],
    REINFORCE: [{}, dict(n_envs=2, n_episodes=5, baseline=True, normalize=True), dict(max_grad_norm=0.1)],
    DQN: [{}, dict(n_envs=3, normalize=True, tau=0.3), dict(double_q=True, loss="mse", n_steps=3, max_grad_norm=None)],
}  # fmt: skip


@pytest.mark.parametrize(("cls", "options"), [(cls, o) for cls in ALGORITHMS for o in OPTIONS[cls]])
@pytest.mark.parametrize("env", [CARTPOLE, "fastrl/CartPole-v1"], ids=["python", "compiled"])
def test_the_same_seed_gives_the_same_run(cls, options, env):
    """A few iterations: the longer they run, the further two roundings lead apart."""
    theirs, ours = both(cls, env, **options)
    for model in (theirs, ours):
        model.learn(60, callback=lambda model: None)  # with which each iteration has metrics of its own
    assert_same_run(theirs, ours)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_second_run_over_compiled_environments_begins_with_their_own_observations(cls):
    theirs, ours = both(cls, "fastrl/CartPole-v1", n_envs=2, learning_rate=1e-5)
    for model in (theirs, ours):
        model.learn(60).learn(64)  # of its own episodes, after the first run's
    np.testing.assert_array_equal(theirs._obs, ours._obs)
    assert theirs.episodes == ours.episodes and theirs.n_updates == ours.n_updates
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=5e-4, atol=5e-5)
    if cls is PPO:
        for name in ("obs", "action", "reward", "terminated"):
            np.testing.assert_array_equal(getattr(theirs._rollout, name), getattr(ours._rollout, name))


ACTIONS = [MultiDiscrete([2, 3], start=[1, 0]), MultiBinary(3), Box(-1, 1, (2,)), Box(0, 1, (2, 1), np.float64)]


@pytest.mark.parametrize("space", ACTIONS, ids=str)
@pytest.mark.parametrize("cls", [PPO, REINFORCE])
def test_the_same_run_with_other_actions(cls, space):
    theirs, ours = both(cls, lambda: Identity(space), n_envs=2)
    for model in (theirs, ours):
        model.learn(60)
    assert_same_run(theirs, ours)


@pytest.mark.parametrize("first", ["torch", "compiled"])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_the_engine_may_change_in_mid_run(cls, first):
    steady = make(cls, engine="torch").learn(130)
    moves = []

    def change(model):
        if model.num_timesteps >= 60 and not moves:
            moves.append(model.engine)
            model.set_engine("compiled" if first == "torch" else "torch")

    model = make(cls, engine=first).learn(130, callback=change)
    assert moves == [first] and model.engine != first
    torch.testing.assert_close(weights(steady), weights(model), rtol=5e-4, atol=5e-4)
    assert steady.rng.bit_generator.state == model.rng.bit_generator.state


@pytest.mark.parametrize("first", ["torch", "compiled"])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_saved_by_one_and_resumed_by_the_other(cls, first, tmp_path):
    second = {"torch": "compiled", "compiled": "torch"}[first]
    models = [make(cls, engine=first).learn(130, callback=lambda m: m.num_timesteps < 60) for _ in range(2)]
    models[0].save(tmp_path / "m")
    resumed = cls.load(tmp_path / "m", CARTPOLE, engine=second)
    if cls is DQN:
        models[0].save_replay_buffer(tmp_path / "r")
        resumed.load_replay_buffer(tmp_path / "r")
    assert resumed.engine == second and cls.load(tmp_path / "m").engine == first
    obs = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_array_equal(resumed.predict(obs)[0], models[0].predict(obs)[0])
    for model in (resumed, models[1]):
        model.learn(60, reset_num_timesteps=False)
    torch.testing.assert_close(weights(resumed), weights(models[1]), rtol=5e-4, atol=5e-4)


def test_a_switched_model_is_resumed_bit_for_bit(tmp_path):
    """Torch rounds by where a tensor lies: after a change of engines its tensors are its own again."""
    model = make(PPO).learn(64)
    model.set_engine("torch")
    model.save(tmp_path / "m")
    resumed = PPO.load(tmp_path / "m", CARTPOLE)
    for m in (model, resumed):
        m.learn(64, reset_num_timesteps=False)
    assert resumed.engine == "torch" and torch.equal(weights(model), weights(resumed))


def test_a_value_that_begins_to_learn_late(tmp_path):
    """Adam has then counted other steps for the value than for the policy, and goes on from there."""
    make(REINFORCE, baseline=False).learn(200).save(tmp_path / "m")
    load = lambda engine: REINFORCE.load(tmp_path / "m", CARTPOLE, baseline=True, engine=engine)  # noqa: E731
    theirs, ours = load("torch"), load("compiled")
    for model in (theirs, ours):
        model.learn(60, reset_num_timesteps=False)
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=5e-4, atol=5e-4)
    steps = [[int(m.learner.optimizer.state[p]["step"]) for p in m.policy.parameters()] for m in (theirs, ours)]
    assert steps[0] == steps[1] and len(set(steps[0])) == 2
