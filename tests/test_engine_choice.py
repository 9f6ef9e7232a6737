"""Which engine runs what, and what it says of what it does not run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastrl import DQN, PPO
from fastrl.learners import engine as engines
from fastrl.networks import ActorCritic, QNetwork
from tests.engines import make
from tests.test_algorithms import ALGORITHMS, SMALL, Linear, weights

pytestmark = pytest.mark.usefixtures("few_threads")


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
