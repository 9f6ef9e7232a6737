"""Flat parameters: one memory under the module, its Adam and the kernels, whatever is done to any of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parameters_to_vector

from fastrl.learners.flat import FlatParameters
from fastrl.networks import ActorCritic


def made(steps=0, seed=0):
    """A module, its Adam after `steps` steps, and what binds both."""
    torch.manual_seed(seed)
    module = ActorCritic(3, 2, pi=[5], vf=[4], shared=[6], log_std_init=-0.5)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, fused=True)
    descend(module, optimizer, steps)
    return module, optimizer, FlatParameters(module, optimizer)


def descend(module, optimizer, steps):
    for i in range(steps):
        generator = torch.Generator().manual_seed(i)
        params, value = module(torch.randn(8, 3, generator=generator))
        optimizer.zero_grad()
        ((params * module.log_std.exp()).square().sum() + (value - 1).square().sum()).backward()
        optimizer.step()


def vector(module):
    return parameters_to_vector(module.parameters()).detach().numpy()


def moments(module, optimizer, name):
    return torch.cat([optimizer.state[p][name].reshape(-1) for p in module.parameters()]).numpy()


def assert_one_memory(module, optimizer, flat):
    """What is written on one side is read on the other."""
    assert flat.is_bound()
    rng = np.random.default_rng(1)
    for own in (flat.params, flat.exp_avg, flat.exp_avg_sq, flat.steps):
        own[:] = rng.random(len(own))
    np.testing.assert_array_equal(vector(module), flat.params)
    for name, own in (("exp_avg", flat.exp_avg), ("exp_avg_sq", flat.exp_avg_sq), ("step", flat.steps)):
        np.testing.assert_array_equal(moments(module, optimizer, name), own)
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(3.0)
    assert (flat.params == 3).all()


@pytest.mark.parametrize("steps", [0, 3])
def test_binding_keeps_every_value(steps):
    module, optimizer, flat = made(steps)
    twin, twins, _ = made(steps)
    np.testing.assert_array_equal(flat.params, vector(twin))
    for name, own in (("exp_avg", flat.exp_avg), ("exp_avg_sq", flat.exp_avg_sq), ("step", flat.steps)):
        np.testing.assert_array_equal(own, moments(twin, twins, name))
    assert flat.steps.tolist() == [steps] * len(list(module.parameters()))
    assert_one_memory(module, optimizer, flat)


def test_an_adam_that_never_stepped_gets_the_state_that_it_would_make():
    module, optimizer, _ = made()
    twin = ActorCritic(3, 2, pi=[5], vf=[4], shared=[6], log_std_init=0.0)
    theirs = torch.optim.Adam(twin.parameters(), lr=0.0, fused=True)
    descend(twin, theirs, 1)
    for ours, other in zip(module.parameters(), twin.parameters(), strict=True):
        found, expected = optimizer.state[ours], theirs.state[other]
        assert {k: (x.shape, x.dtype) for k, x in found.items()} == {k: (x.shape, x.dtype) for k, x in expected.items()}
        assert not any(x.any() for x in found.values())


@pytest.mark.parametrize("before", [0, 3])
def test_adam_goes_on_from_the_views(before):
    module, optimizer, flat = made(before)
    descend(module, optimizer, 4)
    twin, theirs, other = made(before)
    other.release()
    descend(twin, theirs, 4)
    assert flat.is_bound() and not other.is_bound()
    np.testing.assert_allclose(flat.params, vector(twin), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat.exp_avg_sq, moments(twin, theirs, "exp_avg_sq"), rtol=1e-5, atol=1e-8)
    assert (flat.steps == before + 4).all()


def test_load_state_dict_writes_through():
    module, optimizer, flat = made()
    other, _, _ = made(2, seed=5)
    module.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(flat.params, vector(other))
    assert_one_memory(module, optimizer, flat)


SURPRISES = {
    "double and back": lambda module, optimizer: module.double().float(),
    "assigned state_dict": lambda module, optimizer: module.load_state_dict(
        {k: v.clone() + 1 for k, v in module.state_dict().items()}, assign=True
    ),
    "assigned data": lambda module, optimizer: setattr(module.pi[0].weight, "data", torch.ones(5, 6)),
    "Adam's load_state_dict": lambda module, optimizer: optimizer.load_state_dict(
        copy.deepcopy(optimizer.state_dict())
    ),
    "another layer": lambda module, optimizer: module.pi.__setitem__(0, nn.Linear(6, 5)),
    "exchanged tensors": lambda module, optimizer: exchange(module.pi[0], module.vf[0]),
}


def exchange(a, b):
    a.weight.data, b.weight.data = b.weight.data[[0, 1, 2, 3, 0]], a.weight.data[:4]


@pytest.mark.parametrize("what", SURPRISES)
def test_what_puts_other_tensors_in_place_is_noticed_and_taken_over(what):
    module, optimizer, flat = made(3)
    SURPRISES[what](module, optimizer)
    assert not flat.is_bound()
    expected, average = vector(module).copy(), flat.exp_avg.copy()
    flat.bind()
    np.testing.assert_array_equal(flat.params, expected)
    if what not in ("another layer", "assigned state_dict"):  # whose parameters Adam has never seen
        np.testing.assert_array_equal(flat.exp_avg, average)
    assert_one_memory(module, optimizer, flat)


def test_another_activation_is_noticed():
    module, _, flat = made()
    module.pi[1] = nn.ReLU()
    assert not flat.is_bound()


def test_a_deep_copy_is_a_module_of_its_own():
    module, _, flat = made()
    twin = copy.deepcopy(module)
    flat.params[:] = 0
    assert vector(twin).any() and not vector(module).any()
    both = copy.deepcopy(flat)
    assert not both.is_bound()
    both.bind()
    both.params[:] = 7
    assert (vector(both.module) == 7).all() and not flat.params.any()


def test_released_tensors_are_their_own():
    module, optimizer, flat = made(2)
    expected, average = flat.params.copy(), flat.exp_avg.copy()
    flat.release()
    flat.params[:], flat.exp_avg[:] = 0, 0
    np.testing.assert_array_equal(vector(module), expected)
    np.testing.assert_array_equal(moments(module, optimizer, "exp_avg"), average)


def test_a_bound_module_is_saved_as_any_other(tmp_path):
    module, _, _ = made()
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    for state in (load_file(tmp_path / "weights.safetensors"), torch.load(tmp_path / "weights.pt")):
        assert all(torch.equal(state[k], v) for k, v in module.state_dict().items())


def test_without_an_optimiser():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    flat = FlatParameters(module.requires_grad_(False))
    assert flat.is_bound() and len(flat.params) == 6 + 3 + 1
    module.double()
    assert not flat.is_bound()
