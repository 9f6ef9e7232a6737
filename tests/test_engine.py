"""The two engines: which one runs what, and that they do the same."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastrl import DQN, PPO, REINFORCE
from fastrl.algorithms.dqn import _explore
from fastrl.learners import engine as engines
from fastrl.learners.compiled import CompiledActorCritic, CompiledQ
from fastrl.learners.torch import ActorCriticLearner, QLearner, one_thread
from fastrl.networks import ACTIVATIONS, ActorCritic, CategoricalHead, GaussianHead, QNetwork, make_head
from tests import test_algorithms
from tests.envs import Identity
from tests.test_algorithms import ALGORITHMS, SMALL, Linear, weights

CPU = torch.device("cpu")
CARTPOLE = lambda: gym.make("CartPole-v1")  # noqa: E731  stepped in Python by either engine, which an id is not
KNOWN = [name for name in ACTIVATIONS if name not in ("GELU", "SiLU")]


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    """More than one only wait for each other in networks as small as these."""
    with one_thread(True):
        yield


def make(cls, env=CARTPOLE, **options):
    return test_algorithms.make(cls, env, **options)


# -- the same updates --------------------------------------------------------------------------------------------


def twins(module, learner, compiled, *more, eps):
    """A Torch learner and a compiled one, of equal modules."""
    both = [learner(*copy.deepcopy((module, *more)), CPU, eps) for _ in range(2)]
    return both[0], compiled(both[1])


def assert_close(a, b, tolerance=1e-4):
    """Parameters and moments of two learners."""
    for p, q in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
        if p in a.optimizer.state and "exp_avg" in a.optimizer.state[p]:
            theirs, ours = a.optimizer.state[p], b.optimizer.state[q]
            assert theirs["step"] == ours["step"]
            scale = theirs["exp_avg"].abs().max().item() + 1e-6
            assert (theirs["exp_avg"] - ours["exp_avg"]).abs().max() <= 10 * tolerance * scale


def metrics_close(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert b[name] == pytest.approx(value, rel=2e-3, abs=2e-4), name


@st.composite
def actor_critics(draw):
    sizes = st.lists(st.integers(1, 33), max_size=2)
    if draw(st.booleans()):
        head = CategoricalHead(draw(st.lists(st.integers(2, 5), min_size=1, max_size=3)))
    else:
        head = GaussianHead(draw(st.integers(1, 3)))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    module = ActorCritic(
        draw(st.integers(1, 20)), head.n_params, pi=draw(sizes), vf=draw(sizes), shared=draw(sizes),
        activation_fn=ACTIVATIONS[draw(st.sampled_from(KNOWN))], ortho_init=draw(st.booleans()),
        log_std_init=-0.3 if isinstance(head, GaussianHead) else None,
    )  # fmt: skip
    return module, head


def rollout(learner, head, rng, n):
    first = next(m for m in learner.policy.modules() if isinstance(m, nn.Linear))
    obs = rng.standard_normal((n, first.in_features)).astype(np.float32)
    action, log_prob, value = learner.act(obs, head.noise(rng, n))
    return obs, action, log_prob, value, *rng.standard_normal((2, n)).astype(np.float32)


limits = st.sampled_from([None, 0.4])


@settings(max_examples=6)
@given(actor_critics(), st.integers(0, 2**32), st.booleans(), limits, limits)
def test_a_hundred_updates_of_ppo(network, seed, normalize, clip_vf, max_norm):
    module, head = network
    theirs, ours = twins(module, ActorCriticLearner, CompiledActorCritic, head, eps=1e-5)
    rng = np.random.default_rng(seed)
    arrays = rollout(theirs, head, rng, 90)
    orders = np.stack([rng.permutation(90) for _ in range(34)])
    options = dict(batch_size=32, learning_rate=3e-4, clip_range=0.2, clip_range_vf=clip_vf,
                   normalize_advantage=normalize, ent_coef=0.01, vf_coef=0.5, max_grad_norm=max_norm,
                   target_kl=None)  # fmt: skip
    found, expected = (x.update_ppo(x.batch(*arrays), orders, **options) for x in (ours, theirs))
    assert found["n_updates"] == expected["n_updates"] == 102
    metrics_close(expected, found)
    assert_close(theirs, ours)


@settings(max_examples=6)
@given(actor_critics(), st.integers(0, 2**32), st.booleans(), st.sampled_from([None, 0.5]))
def test_a_hundred_updates_of_reinforce(network, seed, baseline, max_norm):
    module, head = network
    theirs, ours = twins(module, ActorCriticLearner, CompiledActorCritic, head, eps=1e-8)
    rng = np.random.default_rng(seed)
    options = dict(learning_rate=3e-4, baseline=baseline, vf_coef=0.5, ent_coef=0.01, max_grad_norm=max_norm)
    before = torch.cat([p.detach().flatten().clone() for p in ours.policy.vf.parameters()])
    for _ in range(100):
        arrays = rollout(theirs, head, rng, int(rng.integers(1, 150)))
        metrics_close(*(x.update_reinforce(x.batch(*arrays), **options) for x in (theirs, ours)))
    assert_close(theirs, ours)
    after = torch.cat([p.detach().flatten() for p in ours.policy.vf.parameters()])
    assert torch.equal(before, after) != baseline


@settings(max_examples=6)
@given(st.data(), st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from([None, 0.7]))
def test_a_hundred_updates_of_dqn(data, seed, double_q, huber, max_norm):
    obs_dim, n_actions = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    hidden = data.draw(st.lists(st.integers(1, 33), max_size=2))
    torch.manual_seed(seed)
    activation = ACTIVATIONS[data.draw(st.sampled_from(KNOWN))]
    module, target = (QNetwork(obs_dim, n_actions, hidden, activation) for _ in range(2))
    theirs, ours = twins(module, QLearner, CompiledQ, target, eps=1e-8)
    rng = np.random.default_rng(seed)
    for i in range(100):
        n = int(rng.integers(1, 40))
        obs, next_obs = rng.standard_normal((2, n, obs_dim)).astype(np.float32)
        discount = np.float32(0.9) if i % 2 else rng.random(n).astype(np.float32)
        arrays = (obs, rng.integers(n_actions, size=n), 3 * rng.standard_normal(n).astype(np.float32), discount,
                  next_obs, rng.random(n) < 0.3)  # fmt: skip
        options = dict(learning_rate=3e-4, double_q=double_q, huber=huber, max_grad_norm=max_norm)
        found, expected = (float(x.update(*arrays, **options)) for x in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
        if i % 20 == 7:
            for learner in (ours, theirs):
                learner.update_target(1.0 if i == 7 else 0.25)
    assert_close(theirs, ours)
    for p, q in zip(theirs.target.parameters(), ours.target.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


# -- the same runs ------------------------------------------------------------------------------------------------


def both(cls, env=CARTPOLE, **options):
    return [make(cls, env, engine=engine, **options) for engine in ("torch", "compiled")]


def assert_same_run(theirs, ours, tolerance=2e-4):
    assert (theirs.engine, ours.engine) == ("torch", "compiled")
    np.testing.assert_allclose(list(ours.episodes), list(theirs.episodes), rtol=1e-5)
    for name in ("num_timesteps", "num_episodes", "n_updates"):
        assert getattr(theirs, name) == getattr(ours, name)
    for model in (theirs, ours):
        model._fps = 0.0
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


# -- which engine runs what ---------------------------------------------------------------------------------------


class Plain(ActorCritic):
    """A subclass with the same forward."""


class Doubled(ActorCritic):
    def forward(self, obs):
        params, value = super().forward(obs)
        return 2 * params, value


class OwnLinear(nn.Linear):
    """Not nn.Linear itself."""


def actor_critic(change=None, kind=ActorCritic, **options):
    torch.manual_seed(0)
    module = kind(4, 2, pi=[8], vf=[8], **options)
    if change is not None:
        change(module)
    return module


def sequential(*middle, bias=True):
    return nn.Sequential(nn.Linear(4, 8, bias=bias), *middle, nn.Linear(8, 2))


@pytest.mark.parametrize("module", [
    actor_critic(), actor_critic(kind=Plain), actor_critic(shared=[5]),
    actor_critic(lambda m: setattr(m, "pi", nn.Sequential(nn.Linear(4, 2, bias=False)))),
])  # fmt: skip
def test_actor_critics_that_are_compiled(module):
    model = PPO(module, "CartPole-v1", **SMALL[PPO], seed=0, device="cpu")
    assert model.engine == "compiled" and model.policy is module
    model.learn(40)
    assert PPO("MlpPolicy", "CartPole-v1", engine="torch").engine == "torch"


@pytest.mark.parametrize("module", [
    QNetwork(4, 2), nn.Sequential(nn.Linear(4, 2)), sequential(nn.Sigmoid()), sequential(), sequential(bias=False),
])  # fmt: skip
def test_q_networks_that_are_compiled(module):
    assert DQN(module, "CartPole-v1", **SMALL[DQN], seed=0, device="cpu").learn(60).engine == "compiled"


def freeze(module):
    module.pi[0].weight.requires_grad_(False)


def tie(module):
    module.vf[0].weight = module.pi[0].weight


def overlap(module):
    module.vf[0].weight.data = module.pi[0].weight.data


def hook(module):
    module.pi[0].register_forward_hook(lambda *args: None)


def tensor_hook(module):
    module.pi[0].weight.register_hook(lambda gradient: gradient)


def subclass_parameter(module):
    class Marked(nn.Parameter):
        pass

    module.pi[0].weight = Marked(module.pi[0].weight.data)


def replace(index, layer):
    return lambda module: module.pi.__setitem__(index, layer)


REFUSED = {
    "has a forward of its own": [Linear(), actor_critic(kind=Doubled),
                                 actor_critic(lambda m: setattr(m, "forward", m.forward)),
                                 actor_critic(lambda m: setattr(m.pi[1], "forward", m.pi[1].forward))],
    "kernels know no GELU": [actor_critic(activation_fn=nn.GELU)],
    "kernels know no SiLU": [actor_critic(activation_fn=nn.SiLU)],
    "kernels know no OwnLinear": [actor_critic(lambda m: m.pi.insert(1, OwnLinear(8, 8)))],
    "kernels know no Dropout": [actor_critic(replace(1, nn.Dropout()))],
    "OwnLinear follows no": [actor_critic(replace(0, OwnLinear(4, 8)))],
    "ParametrizedLinear follows no": [actor_critic(lambda m: nn.utils.parametrizations.weight_norm(m.pi[0]))],
    "Tanh follows no": [actor_critic(lambda m: m.pi.insert(2, nn.Tanh()))],
    "LeakyReLU has negative_slope=0.2": [actor_critic(replace(1, nn.LeakyReLU(0.2)))],
    "ELU has alpha=0.5": [actor_critic(replace(1, nn.ELU(0.5)))],
    "Softplus has beta=2": [actor_critic(replace(1, nn.Softplus(2)))],
    "Softplus has threshold=9": [actor_critic(replace(1, nn.Softplus(threshold=9)))],
    "where kernels know nn.Sequential": [actor_critic(lambda m: setattr(m, "vf", nn.Linear(4, 1)))],
    "pi.0.weight is not trained": [actor_critic(freeze)],
    "vf.0.weight is shared by two layers": [actor_critic(tie), actor_critic(overlap)],
    "a Linear of it has hooks": [actor_critic(hook)],
    "pi.0.weight is a Parameter with hooks": [actor_critic(tensor_hook)],
    "pi.0.weight is a Marked": [actor_critic(subclass_parameter)],
    "log_std belongs to none": [actor_critic(log_std_init=0.0)],
    "its logits come from an activation": [actor_critic(lambda m: m.pi.append(nn.Tanh()))],
    "extra.weight belongs to none": [actor_critic(lambda m: m.add_module("extra", nn.Linear(2, 2)))],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "module"), [(r, m) for r, modules in REFUSED.items() for m in modules])
def test_reasons_of_refusal(reason, module):
    options = dict(n_steps=32, batch_size=16, n_epochs=1, seed=0, device="cpu")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(ValueError, match=rf'engine="compiled" cannot run this policy: .*{reason}.* Use engine="auto"'):
        PPO(module, "CartPole-v1", engine="compiled", **options)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    if reason != "vf.0.weight is shared by two layers":
        assert PPO(module, "CartPole-v1", **options).learn(32).engine == "torch"


def test_a_deviation_that_is_no_parameter_of_the_module_itself():
    class Elsewhere(ActorCritic):
        def __init__(self):
            super().__init__(3, 1)
            self.more = nn.ParameterDict(dict(log_std=torch.zeros(1)))

        @property
        def log_std(self):
            return self.more["log_std"]

    with pytest.raises(ValueError, match="log_std is no parameter"):
        PPO(Elsewhere(), "Pendulum-v1", engine="compiled", device="cpu")


OPTIMISERS = {
    "is a SGD": lambda model: torch.optim.SGD(model.policy.parameters(), lr=0.1),
    "parameters are not the module's": lambda model: torch.optim.Adam(list(model.policy.parameters())[1:]),
    "weight_decay is 0.1": lambda model: torch.optim.Adam(model.policy.parameters(), weight_decay=0.1),
    "betas is": lambda model: torch.optim.Adam(model.policy.parameters(), betas=(0.5, 0.9)),
}


@pytest.mark.parametrize("reason", OPTIMISERS)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_other_optimisers_are_torchs(cls, reason):
    model = make(cls, engine="compiled").learn(60)
    model.learner.optimizer = OPTIMISERS[reason](model)
    before = weights(model)
    with pytest.raises(ValueError, match=reason):
        model.learn(60)
    assert torch.equal(weights(model), before)
    with pytest.raises(ValueError, match=reason):
        model.set_engine("compiled")
    model.set_engine("auto")
    assert model.engine == "torch"


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_unknown_engine(cls):
    with pytest.raises(ValueError, match=r'engine is .numba.; it must be "auto", "compiled" or "torch"'):
        make(cls, engine="numba")
    model = make(cls)
    with pytest.raises(ValueError, match="engine is None"):
        model.set_engine(None)
    assert model.engine == "compiled"


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_auto_leaves_wide_networks_to_torch(cls, monkeypatch):
    monkeypatch.setattr(engines, "WIDEST", 32)
    assert make(cls, policy_kwargs=dict(net_arch=[33])).engine == "torch"
    assert make(cls, policy_kwargs=dict(net_arch=[32])).engine == "compiled"
    assert make(cls, policy_kwargs=dict(net_arch=[33]), engine="compiled").learn(60).engine == "compiled"


# -- what users do to the module ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_that_diverges(cls):
    for model in both(cls, learning_rate=1e38, max_grad_norm=None):
        with pytest.raises(ValueError, match="the training has diverged"):
            model.learn(2000)


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


# -- prediction ---------------------------------------------------------------------------------------------------


SPACES = [Discrete(3), Discrete(3, start=-4), MultiDiscrete([2, 3], start=[1, 0]), MultiBinary([2, 2]),
          Box(np.float32([-0.1, 0]), np.float32([0.1, 3])), Box(-1, 1, (2, 2)),
          Box(-1, 1, (2,), np.float64)]  # fmt: skip


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("shape", [(5,), (2, 3), ()])
def test_one_observation_gives_what_a_batch_gives(space, shape, normalize):
    """Action, dtype and shape; drawn ones from the same stream, whichever way an observation takes."""
    algorithms = [PPO, DQN] if isinstance(space, Discrete) else [PPO]
    for cls in algorithms:
        models = both(cls, lambda: Identity(space, Box(-9, 9, shape)), normalize=normalize)
        rng = np.random.default_rng(0)
        for model in models:
            model.total_timesteps = 100
            if normalize:
                model.normalizer.observe(3 * np.random.default_rng(1).standard_normal((50, model.obs_dim)) + 1)
        models[1].policy.load_state_dict(models[0].policy.state_dict())
        for deterministic in (True, False) * 20:
            obs = np.asarray(3 * rng.standard_normal(shape), np.float32)
            kept = obs.copy()
            forms = [obs, obs.astype(np.float64), obs.tolist(), obs[None], torch.from_numpy(obs)]
            frozen = obs.copy()
            frozen.setflags(write=False)
            theirs, ours = (m.predict(obs, deterministic=deterministic)[0] for m in models)
            assert type(theirs) is type(ours) and theirs.dtype == ours.dtype == space.dtype
            assert space.contains(ours)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(obs, kept)
            if deterministic:
                for form in [*forms, frozen]:
                    again = models[1].predict(form, deterministic=True)[0]
                    np.testing.assert_array_equal(again[0] if form is forms[3] else again, ours)
        assert models[0]._predict_rng.bit_generator.state == models[1]._predict_rng.bit_generator.state


def test_what_predict_returns_is_the_callers():
    model = make(PPO, "Pendulum-v1")
    first = model.predict(np.ones(3, np.float32), deterministic=True)[0]
    kept = first.copy()
    model.predict(np.full(3, -1, np.float32), deterministic=True)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_one_observation_is_checked_as_any_other(cls, value):
    for model in both(cls):
        for bad, message in ((np.float32([0, value, 0, 0]), "NaN or infinity"), (np.zeros(3, np.float32), "shape")):
            with pytest.raises(ValueError, match=message):
                model.predict(bad)


def test_threads_predict_while_another_trains():
    """Kernels run side by side, so each needs memory of its own; of the weights only their values change."""
    options = dict(learning_rate=0.0, policy_kwargs=dict(net_arch=[256, 256]))
    model = make(PPO, "Pendulum-v1", **options)
    obs = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    expected = model.predict(obs, deterministic=True)[0]
    wrong = []

    def predict():
        for i in range(200):
            for found, right in (
                (model.predict(obs, deterministic=True)[0], expected),
                (model.predict(obs[i], deterministic=True)[0], expected[i]),
            ):
                if not np.allclose(found, right, rtol=1e-5, atol=1e-6):
                    wrong.append(found)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    model.learn(200)
    for thread in threads:
        thread.join()
    assert not wrong
    alone = make(PPO, "Pendulum-v1", **options).learn(200)
    assert {k: v for k, v in model.metrics.items() if k != "time/fps"} == {
        k: v for k, v in alone.metrics.items() if k != "time/fps"
    }


# -- exploration --------------------------------------------------------------------------------------------------


def test_one_number_decides_whether_and_what_to_explore():
    u = np.random.default_rng(0).random(200_000)
    action, explore = _explore(u, 0.3, 5)
    np.testing.assert_array_equal(explore, u < 0.3)
    np.testing.assert_array_equal(action[explore], np.floor(u[explore] / 0.3 * 5))
    counts = np.bincount(action[explore], minlength=5)
    assert (np.abs(counts - 12_000) < 5 * np.sqrt(12_000)).all()


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.integers(1, 2**40))
def test_exploration_stays_within_the_actions(u, epsilon, n_actions):
    for x in (u, np.nextafter(epsilon, 0)):
        action, explore = _explore(np.array([x]), epsilon, n_actions)
        assert explore[0] == (x < epsilon) and 0 <= action[0] < n_actions


def test_a_stretch_of_steps_draws_what_single_steps_draw():
    """[T, N] numbers at once are the same stream, so that either engine may draw as it likes."""
    one, two = np.random.default_rng(0), np.random.default_rng(0)
    many = one.random((7, 3))
    np.testing.assert_array_equal(many, [two.random(3) for _ in range(7)])
    for space in (Discrete(2), MultiDiscrete([2, 3, 4]), Box(-1, 1, (3,))):
        head = make_head(space)
        many = head.noise(one, 21).reshape(7, 3, -1)
        np.testing.assert_array_equal(many, [head.noise(two, 3) for _ in range(7)])


def test_the_optimiser_is_an_ordinary_adam():
    model = make(PPO)
    ours, theirs = model.learner.optimizer, torch.optim.Adam(model.policy.parameters(), lr=0.0, eps=1e-5, fused=True)
    assert type(ours) is torch.optim.Adam and ours.defaults == theirs.defaults
    assert vars(ours).keys() == vars(theirs).keys()
    groups = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (ours, theirs)]
    assert groups[0] == groups[1]
    calls = []
    ours.register_step_post_hook(lambda *args: calls.append(1))
    ours.step()
    assert calls == [1]


def test_training_does_not_load_what_torch_compile_needs(tmp_path):
    """It takes longer to import than a run of 10,000 steps."""
    code = """
import sys
from fastrl import DQN, PPO
for cls, options in ((PPO, dict(n_steps=32)), (DQN, dict(learning_starts=10))):
    model = cls("MlpPolicy", "CartPole-v1", seed=0, **options).learn(40)
    model.save("model")
    cls.load("model", "CartPole-v1").learn(40)
    model.predict(model.observation_space.sample())
print("torch._dynamo" in sys.modules)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.stdout.strip() == "False", run.stderr


def test_a_model_runs_alone_on_the_engine_that_it_was_given(tmp_path):
    """"auto" is kept as such: what it comes to depends on where the model is loaded."""
    make(PPO).learn(40).save(tmp_path / "m")
    assert PPO.load(tmp_path / "m")._wanted_engine == "auto"
    make(PPO, engine="torch").save(tmp_path / "m")
    assert PPO.load(tmp_path / "m").engine == "torch"
