"""What users do to a model that kernels run: other weights, layers, dtypes; errors and threads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fastrl import DQN, REINFORCE, perceptron
from fastrl.learners import network
from tests.engines import CARTPOLE, both, make
from tests.test_algorithms import ALGORITHMS, weights

pytestmark = pytest.mark.usefixtures("few_threads")


def scale(module):
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(0.5).add_(0.01)


CHANGES = {
    "in place": scale,
    "load_state_dict": lambda m: m.load_state_dict({k: 0.5 * v for k, v in m.state_dict().items()}),
    "assigned": lambda m: m.load_state_dict({k: 0.5 * v for k, v in m.state_dict().items()}, assign=True),
    "data": lambda m: [setattr(p, "data", p.data * 0.5) for p in m.parameters()],
    "there and back": lambda m: (m.double(), scale(m), m.float()),
    "another activation": lambda m: (m.q if hasattr(m, "q") else m.pi).__setitem__(1, nn.Softplus()),
    "a hook": lambda m: m.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_prediction_follows_whatever_is_done_to_the_module(cls, what):
    model, obs = make(cls).learn(60), np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    model.predict(obs)
    CHANGES[what](model.policy)
    if what == "a hook":  # which only a second look notices
        model.set_engine("auto")
    with torch.no_grad():
        out = model.policy(torch.from_numpy(obs))
    expected = (out if cls is DQN else out[0]).argmax(1).numpy()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], expected)
    assert [model.predict(row, deterministic=True)[0] for row in obs] == expected.tolist()


@pytest.mark.parametrize("what", [what for what in CHANGES if what != "assigned"])  # Adam knows none of those
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_follows_whatever_is_done_to_the_module(cls, what):
    theirs, ours = make(cls, engine="torch"), make(cls)
    for model in (theirs, ours):
        model.learn(60)
        CHANGES[what](model.policy)
        model.learn(40, reset_num_timesteps=False)
    # DQN's target has kept the old activation, which kernels do not have for one of two.
    by_torch = what == "a hook" or (cls is DQN and what == "another activation")
    assert ours.engine == ("torch" if by_torch else "compiled")
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=5e-4, atol=5e-4)


WITHIN = {**CHANGES, "frozen": lambda m: next(m.parameters()).requires_grad_(False)}
del WITHIN["assigned"]


@pytest.mark.parametrize("env", [CARTPOLE, "fastrl/CartPole-v1"], ids=["python", "compiled"])
@pytest.mark.parametrize("what", WITHIN)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_follows_what_a_callback_does_to_the_module(cls, what, env):
    def callback(model):
        if model.num_timesteps >= 60 and not done.get(model):
            done[model] = True
            WITHIN[what](model.policy)

    done, theirs, ours = {}, make(cls, env, engine="torch"), make(cls, env)
    for model in (theirs, ours):
        model.learn(130, callback=callback)
    by_torch = what in ("a hook", "frozen") or (cls is DQN and what == "another activation")
    assert ours.engine == ("torch" if by_torch else "compiled")
    torch.testing.assert_close(weights(theirs), weights(ours), rtol=5e-4, atol=5e-4)
    if by_torch:
        done = {}
        with pytest.raises(ValueError, match="cannot run this policy"):
            make(cls, env, engine="compiled").learn(130, callback=callback)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_look_that_fails_leaves_no_half_of_it(cls, at, monkeypatch):
    """As memory or a second Ctrl-C may end it, anywhere: the next look begins anew."""
    model, obs = make(cls).learn(60), np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    CHANGES["another activation"](model.policy)
    calls = []

    def failing(real):
        def fail(*arguments):
            calls.append(real)
            if len(calls) == at + 1:
                raise MemoryError
            return real(*arguments)

        return fail

    for module, name in ((network, "FlatParameters"), (perceptron, "make_plan"), (network, "make_plan")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))
    with pytest.raises(MemoryError):
        model.predict(obs)
    monkeypatch.undo()
    with torch.no_grad():
        out = model.policy(torch.from_numpy(obs))
    expected = (out if cls is DQN else out[0]).argmax(1).numpy()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], expected)
    assert [model.predict(row, deterministic=True)[0] for row in obs] == expected.tolist()
    steady = make(cls, engine="torch").learn(60)
    CHANGES["another activation"](steady.policy)
    for each in (model, steady):
        each.learn(40, reset_num_timesteps=False)
    torch.testing.assert_close(weights(model), weights(steady), rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_memory_that_is_not_there_leaves_what_was(cls):
    """A plan for more rows than there is memory for would let kernels write anywhere."""
    model, steady = make(cls).learn(60), make(cls).learn(60)
    for _ in range(2):
        with pytest.raises(MemoryError):
            (model.learner if cls is DQN else model.learner.net).reserve(2**44)
    for each in (model, steady):
        each.learn(60, reset_num_timesteps=False)
    assert torch.equal(weights(model), weights(steady))


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_layers_of_other_sizes_are_left_to_torch(cls, place):
    model = make(cls)
    chain = model.policy.q if cls is DQN else model.policy.pi
    old = chain[place]
    n_in, n_out = (4000, old.out_features) if place == 0 else (old.in_features, 1)
    chain[place] = nn.Linear(n_in, n_out)
    for obs in np.zeros(4, np.float32), np.zeros((3, 4), np.float32):
        if place == 0 or cls is not DQN:
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied" if place == 0 else "split_sizes"):
                model.predict(obs)
        else:
            assert not np.any(model.predict(obs, deterministic=True)[0])
    with pytest.raises((RuntimeError, ValueError)):
        model.learn(100)


@pytest.mark.parametrize("action", [-1, 2, 10**9])
@pytest.mark.parametrize("env", ["CartPole-v1", CARTPOLE])
def test_actions_that_the_network_does_not_have(env, action):
    model = DQN("MlpPolicy", env, learning_starts=0, batch_size=64, buffer_size=100, seed=0, engine="compiled")
    obs = np.zeros((100, 4), np.float32)
    nothing = np.zeros(100, bool)
    model.replay_buffer.add_batch(obs, np.full(100, action), np.zeros(100), obs, nothing, nothing)
    before = weights(model)
    with pytest.raises(ValueError, match="an action"):
        model.learn(50)
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_float64_is_refused_as_by_torch(cls):
    models = both(cls)
    for model in (*models, make(cls)):
        model.learn(60)
        model.policy.double()
        with pytest.raises(RuntimeError):
            model.predict(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"torch.float64 on cpu"):
        models[1].learn(60)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_deep_copy_of_the_policy_stays_behind(cls):
    model = make(cls).learn(60)
    twin = copy.deepcopy(model.policy)
    before = [p.clone() for p in twin.parameters()]
    model.learn(100)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), before, strict=True))
    assert not torch.equal(weights(model), torch.cat([p.flatten() for p in before]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about such numbers
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_that_diverges(cls):
    """The step that would spoil the weights is not taken, and both engines say the same of it."""
    for env in (CARTPOLE, "fastrl/CartPole-v1"):
        options = dict(baseline=True) if cls is REINFORCE else {}
        for model in both(cls, env, learning_rate=1e30, max_grad_norm=None, **options):
            with pytest.raises(ValueError, match=r"the training has diverged: .*Lower the learning rate"):
                model.learn(2000)
            assert torch.isfinite(weights(model)).all()
            for state in model.learner.optimizer.state.values():
                assert all(torch.isfinite(x).all() for x in state.values())


@pytest.mark.parametrize("env", [CARTPOLE, "fastrl/CartPole-v1"], ids=["python", "compiled"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("max_grad_norm", [0.5, None])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_no_step_is_taken_down_a_gradient_that_is_not_finite(cls, max_grad_norm, value, env):
    options = dict(max_grad_norm=max_grad_norm, **(dict(baseline=True) if cls is REINFORCE else {}))
    for model in both(cls, env, **options):
        model.learn(64)
        last = (model.policy.q if cls is DQN else model.policy.vf)[-1]
        with torch.no_grad():
            last.bias[0] = value
        before, steps = weights(model), [int(s["step"]) for s in model.learner.optimizer.state.values()]
        with pytest.raises(ValueError, match=r"has diverged: the loss or its gradient is not finite\. Lower"):
            model.learn(64, reset_num_timesteps=False)
        torch.testing.assert_close(weights(model), before, rtol=0, atol=0, equal_nan=True)
        assert [int(s["step"]) for s in model.learner.optimizer.state.values()] == steps


def test_a_value_that_is_not_used_may_be_anything():
    """REINFORCE without a baseline."""
    for env in (CARTPOLE, "fastrl/CartPole-v1"):
        runs = both(REINFORCE, env, max_grad_norm=0.5, ent_coef=0.01)
        for model in runs:
            with torch.no_grad():
                model.policy.vf[-1].bias.fill_(np.nan)
            model.learn(64)
        found, expected = (torch.nan_to_num(weights(model)) for model in reversed(runs))
        torch.testing.assert_close(found, expected, rtol=5e-4, atol=5e-4)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_the_number_of_threads_comes_back(cls):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for fail in (False, True):
            counts = []

            def callback(model, fail=fail, counts=counts):
                counts.append(torch.get_num_threads())
                if fail:
                    raise KeyError

            model = make(cls, engine="compiled")
            if fail:
                with pytest.raises(KeyError):
                    model.learn(60, callback=callback)
            else:
                model.learn(60, callback=callback)
            assert set(counts) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
