"""The update kernels against autograd: gradients for random shapes, heads and losses, and Adam's steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import smooth_l1_loss

from fastrl.kernels import acting, activations, mlp, optim, updates
from fastrl.kernels.losses import PPOSettings, advantage_sums
from fastrl.networks import CategoricalHead, GaussianHead

MODULES = [nn.Identity, nn.Tanh, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.Sigmoid, nn.Softplus]
widths = st.integers(1, 40)


class Tree(nn.Module):
    """A trunk (perhaps of no layer), and two branches from it, as a module and as the kernels' layers."""

    def __init__(self, n_in, trunk, pi, vf, n_params, activation, bias, log_std):
        super().__init__()
        self.layers, self.linears, self.code = [], nn.ModuleList(), activation
        self.trunk = self._chain(n_in, -1, trunk)
        source, n = len(self.layers) - 1, [n_in, *trunk][-1]
        self.pi = self._chain(n, source, pi, n_params, bias)
        self.pi_layer = len(self.layers) - 1
        self.vf = self._chain(n, source, vf, 1)
        if log_std is not None:
            self.log_std = nn.Parameter(log_std)

    def _chain(self, n, source, hidden, n_out=None, bias=True):
        steps = []
        for i, width in enumerate([*hidden, *([] if n_out is None else [n_out])]):
            last = n_out is not None and i == len(hidden)
            linear = nn.Linear(n, width, bias=bias or not last)
            self.linears.append(linear)
            self.layers.append([source, linear, 0 if last else self.code])
            steps += [linear, nn.Identity() if last else MODULES[self.code]()]
            source, n = len(self.layers) - 1, width
        return nn.Sequential(*steps)

    def forward(self, obs):
        x = self.trunk(obs)
        return self.pi(x), self.vf(x).squeeze(-1)

    def flatten(self):
        """(flat parameters, the kernels' layers, offset of log_std)."""
        offset, at = 0, {}
        for p in self.parameters():
            at[p], offset = offset, offset + p.numel()
        flat = torch.cat([p.detach().reshape(-1) for p in self.parameters()]).numpy().copy()
        layers = [
            mlp.Layer(s, m.in_features, m.out_features, at[m.weight], -1 if m.bias is None else at[m.bias], code)
            for s, m, code in self.layers
        ]
        return flat, layers, at[self.log_std] if hasattr(self, "log_std") else -1

    def gradient(self):
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in self.parameters()])


@st.composite
def trees(draw):
    """(network, head, rng, obs_dim): any depth, widths, activation, with or without a trunk, each kind of head."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    torch.manual_seed(int(rng.integers(2**31)))
    n_in, code = draw(widths), draw(st.integers(1, 6))
    if draw(st.booleans()):
        head = CategoricalHead(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
        log_std = None
    else:
        head = GaussianHead(draw(st.integers(1, 4)))
        log_std = 0.5 * torch.randn(head.n_params)
    chain = st.lists(widths, max_size=2)
    net = Tree(n_in, draw(chain), draw(chain), draw(chain), head.n_params, code, draw(st.booleans()), log_std)
    return net, head, rng, n_in


def kernel_head(net, head, log_std):
    return np.array([net.pi_layer, len(net.layers) - 1, log_std, *getattr(head, "nvec", [])])


def rollout(net, head, rng, n_in, M):
    """Arrays as a rollout leaves them, of a policy that has moved a little since."""
    f4 = np.float32
    obs = rng.standard_normal((M, n_in)).astype(f4)
    with torch.no_grad():
        params, value = net(torch.from_numpy(obs))
        action, log_prob = head.sample(net, params, torch.from_numpy(head.noise(rng, M)))
    log_prob = log_prob.numpy() + 0.3 * rng.standard_normal(M).astype(f4)
    value = value.numpy() + rng.standard_normal(M).astype(f4)
    return obs, action.numpy(), log_prob, value, *rng.standard_normal((2, M)).astype(f4)


def exact(net, *arrays):
    """The network in float64, and the arrays as tensors, floats in float64: rounding is the kernels' alone."""
    net.double()
    tensors = map(torch.from_numpy, arrays)
    return [x.double() if x.is_floating_point() else x for x in tensors]


def close(found, expected, tolerance=1e-5):
    # Differences of numbers of about one, as of value and return, are rounded as these are, however small they are.
    scale = max(np.abs(expected).max(), 0.05)
    assert np.abs(found - expected).max() <= tolerance * scale, np.abs(found - expected).max() / scale


@settings(max_examples=60)
@given(trees(), st.integers(1, 70), st.booleans(), st.sampled_from([np.inf, 0.3]))
def test_the_gradient_of_ppo(tree, M, normalize, clip_vf):
    net, head, rng, n_in = tree
    flat, layers, log_std = net.flatten()
    obs, action, log_prob, value, advantage, returns = rollout(net, head, rng, n_in, M)
    options = PPOSettings(0.0, 1e-5, np.inf, 0.2, clip_vf, 0.01, 0.5, np.inf, normalize)
    plan, size = mlp.make_plan(layers, M)
    order, sums, grads, means = rng.permutation(M), np.empty(3), np.full_like(flat, np.nan), np.empty(6)
    advantage_sums(advantage, order, 0, M, sums)
    work, k_head = np.zeros(size, np.float32), kernel_head(net, head, log_std)
    updates.ppo_gradient(order, 0, M, obs, action, log_prob, value, advantage, returns, sums, flat, plan, work, k_head,
                         options, grads, means)  # fmt: skip

    obs, action, log_prob, value, advantage, returns = exact(net, obs, action, log_prob, value, advantage, returns)
    params, v = net(obs)
    new_log_prob, entropy = head.evaluate(net, params, action)
    ratio = (new_log_prob - log_prob).exp()
    if normalize and M > 1:
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    value_loss = (value + (v - value).clamp(-clip_vf, clip_vf) - returns).square().mean()
    loss = policy_loss + 0.5 * value_loss - 0.01 * entropy.mean()
    loss.backward()
    close(grads, net.gradient().numpy())
    kl = (ratio - 1 - ratio.log()).mean()
    clipped = ((ratio - 1).abs() > 0.2).float().mean()
    expected = [x.item() for x in (loss, policy_loss, value_loss, -entropy.mean(), kl, clipped)]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(2, 20), st.sampled_from([1e-4, 30.0, 1e3, 1e6]))
def test_the_gradient_of_ppo_for_sharp_and_flat_policies(seed, M, n, scale):
    """Probabilities next to 0, 1 and each other: Torch's within what float32 leaves of the logits; at 1e6, finite."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = Tree(3, [], [], [], n, 1, True, None)
    with torch.no_grad():
        net.pi[0].weight.mul_(scale)
    head, (flat, layers, _) = CategoricalHead([n]), net.flatten()
    obs, action, _, value, advantage, returns = rollout(net, head, rng, 3, M)
    plan, size = mlp.make_plan(layers, M)
    with torch.no_grad():
        log_prob = head.evaluate(net, net(torch.from_numpy(obs))[0], torch.from_numpy(action))[0].numpy()
    grads, means = np.full_like(flat, np.nan), np.empty(6)
    options = PPOSettings(0.0, 1e-5, np.inf, 0.2, np.inf, 0.01, 0.5, np.inf, False)
    updates.ppo_gradient(np.arange(M), 0, M, obs, action, log_prob, value, advantage, returns, np.empty(3), flat, plan,
                         np.zeros(size, np.float32), kernel_head(net, head, -1), options, grads, means)  # fmt: skip

    params, v = net(torch.from_numpy(obs))
    new_log_prob, entropy = head.evaluate(net, params, torch.from_numpy(action))
    ratio = (new_log_prob - torch.from_numpy(log_prob)).exp()
    loss = -(ratio * torch.from_numpy(advantage)).mean() + 0.5 * (v - torch.from_numpy(returns)).square().mean()
    (loss - 0.01 * entropy.mean()).backward()
    close(grads, net.gradient().numpy(), 1e-5 * max(1.0, scale))


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.sampled_from([1e3, 1e5, 4e6]), st.sampled_from([0.01, 5.0]))
def test_a_common_offset_of_logits_changes_nothing(seed, n, offset, ent_coef):
    """Logits that float32 has exactly, so that what differs is what the loss made of them."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    M, found, sums = 20, [], np.empty(3)
    obs, action = np.zeros((M, 2), np.float32), rng.integers(n, size=(M, 1))
    advantage, returns, value = rng.standard_normal((3, M)).astype(np.float32)
    logits = rng.integers(-3, 4, n).astype(np.float32)
    options = PPOSettings(0.0, 1e-5, np.inf, 0.2, np.inf, ent_coef, 0.5, np.inf, False)
    for common in (0.0, offset):
        net, head = Tree(2, [], [], [], n, 1, True, None), CategoricalHead([n])
        with torch.no_grad():
            net.pi[0].bias.copy_(torch.from_numpy(logits + np.float32(common)))
            net.vf[0].bias.zero_()
        flat, layers, _ = net.flatten()
        plan, size = mlp.make_plan(layers, M)
        grads, means = np.full_like(flat, np.nan), np.empty(6)
        log_prob = (logits - np.log(np.exp(logits).sum()))[action[:, 0]]
        work, k_head = np.zeros(size, np.float32), kernel_head(net, head, -1)
        updates.ppo_gradient(np.arange(M), 0, M, obs, action, log_prob, value, advantage, returns, sums, flat, plan,
                             work, k_head, options, grads, means)  # fmt: skip
        found.append(grads)
    np.testing.assert_array_equal(found[0], found[1])


@settings(max_examples=12)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([256, 255, 257, 512]), st.integers(1, 6))
def test_the_gradient_of_wide_layers(seed, M, n, code):
    """Rows of a multiple of 256 numbers lie further apart than others."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net, head = Tree(n, [256], [n], [], 3, code, True, None), CategoricalHead([3])
    flat, layers, _ = net.flatten()
    obs, action, _, _, advantage, returns = rollout(net, head, rng, n, M)
    plan, size = mlp.make_plan(layers, M)
    work, sums, k_head = np.zeros(size, np.float32), np.empty(3), kernel_head(net, head, -1)
    for _ in range(3):  # memory that was used before
        grads, m, v = np.zeros((3, len(flat)), np.float32)
        updates.update_reinforce(rng.permutation(M), obs, action, advantage, returns, flat.copy(), grads, m, v, plan,
                                 work, k_head, 0, 1e-3, 1e-8, np.inf, 0.01, 0.5, sums)  # fmt: skip
    obs, action, advantage, returns = exact(net, obs, action, advantage, returns)
    outputs, values = net(obs)
    lp, entropy = head.evaluate(net, outputs, action)
    (-(lp * advantage).mean() + 0.5 * (values - returns).square().mean() - 0.01 * entropy.mean()).backward()
    close(grads, net.gradient().numpy(), 2e-5)


@settings(max_examples=30)
@given(trees(), st.integers(1, 70), st.integers(1, 30))
def test_an_update_of_reinforce(tree, M, rows):
    """Chunks of any size give the gradient over all rows."""
    net, head, rng, n_in = tree
    flat, layers, log_std = net.flatten()
    obs, action, _, _, advantage, returns = rollout(net, head, rng, n_in, M)
    plan, size = mlp.make_plan(layers, rows)
    grads, m, v, sums = np.full_like(flat, np.nan), np.zeros_like(flat), np.zeros_like(flat), np.empty(3)
    params = flat.copy()
    updates.update_reinforce(np.arange(len(obs)), obs, action, advantage, returns, params, grads, m, v, plan,
                             np.zeros(size, np.float32), kernel_head(net, head, log_std), 0, 1e-3, 1e-8, np.inf, 0.01,
                             0.5, sums)  # fmt: skip
    obs, action, advantage, returns = exact(net, obs, action, advantage, returns)
    out, value = net(obs)
    lp, entropy = head.evaluate(net, out, action)
    parts = [-(lp * advantage).sum(), (value - returns).square().sum(), -entropy.sum()]
    ((parts[0] + 0.5 * parts[1] + 0.01 * parts[2]) / M).backward()
    close(grads, net.gradient().numpy())
    np.testing.assert_allclose(sums, [x.item() for x in parts], rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(widths, st.lists(widths, max_size=3), st.integers(1, 6), st.integers(1, 70), st.booleans(), st.booleans(),
       st.integers(0, 2**32))  # fmt: skip
def test_an_update_of_q(n_in, hidden, n_actions, B, double_q, huber, seed):
    rng, f4 = np.random.default_rng(seed), np.float32
    torch.manual_seed(seed)
    net, target = (Tree(n_in, [], hidden, [], n_actions, activations.RELU, True, None) for _ in range(2))
    (flat, layers, _), (target_flat, _, _) = net.flatten(), target.flatten()
    obs, next_obs = rng.standard_normal((2, B, n_in)).astype(f4)
    action, terminated = rng.integers(n_actions, size=B), rng.random(B) < 0.3
    reward, (discount, weights) = 2 * rng.standard_normal(B).astype(f4), rng.random((2, B)).astype(f4)
    plan, size = mlp.make_plan(layers, B)
    work, target_work = np.zeros((2, size), f4)
    mlp.refresh(flat, plan, work)
    mlp.refresh(target_flat, plan, target_work)
    params, grads, m, v = flat.copy(), np.full_like(flat, np.nan), np.zeros_like(flat), np.zeros_like(flat)
    y, td_error = np.empty((2, B), f4)
    loss = updates.update_q(obs, action, reward, discount, next_obs, terminated, weights, double_q, huber, params,
                            grads, m, v, plan, work, target_work, np.array([net.pi_layer, net.pi_layer, -1, n_actions]),
                            0, 1e-3, 1e-8, np.inf, y, td_error)  # fmt: skip

    obs, next_obs, reward, discount, weights, ended = exact(net, obs, next_obs, reward, discount, weights, terminated)
    target.double()
    with torch.no_grad():
        following = target(next_obs)[0]
        best = (net(next_obs)[0] if double_q else following).argmax(1)
        goal = reward + discount * (1 - ended.double()) * following[torch.arange(B), best]
    q = net(obs)[0][torch.arange(B), torch.from_numpy(action)]
    each = smooth_l1_loss(q, goal, reduction="none") if huber else (q - goal).square()
    expected = (weights * each).mean()
    expected.backward()
    close(grads, net.gradient().numpy())
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(td_error, (q - goal).detach().numpy(), rtol=1e-4, atol=1e-5)


@given(st.integers(1, 100), st.integers(0, 2**32), st.sampled_from([np.inf, 0.5]))
def test_a_hundred_steps_of_adam(n, seed, max_grad_norm):
    rng = np.random.default_rng(seed)
    params = rng.standard_normal(n).astype(np.float32)
    p = nn.Parameter(torch.from_numpy(params.copy()))
    adam = torch.optim.Adam([p], lr=1e-2, eps=1e-5)
    m, v = np.zeros((2, n), np.float32)
    for step in range(1, 101):
        grads = rng.standard_normal(n).astype(np.float32)
        p.grad = torch.from_numpy(grads.copy())
        if max_grad_norm < np.inf:
            nn.utils.clip_grad_norm_([p], max_grad_norm)
        adam.step()
        assert optim.descend(params, grads, m, v, step, 1e-2, 1e-5, max_grad_norm)
    np.testing.assert_allclose(params, p.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(m, adam.state[p]["exp_avg"].numpy(), atol=1e-5)
    np.testing.assert_allclose(v, adam.state[p]["exp_avg_sq"].numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, where nothing is compiled
@given(st.integers(1, 100), st.integers(0, 2**32), st.sampled_from([np.inf, 0.5]),
       st.sampled_from([np.nan, -np.inf, 1e25]))  # fmt: skip
def test_no_step_down_what_is_not_finite(n, seed, max_grad_norm, value):
    """As the square of 1e25 in float32."""
    rng = np.random.default_rng(seed)
    params, grads, m, v = rng.standard_normal((4, n)).astype(np.float32)
    grads[rng.integers(n)] = value
    kept = [x.copy() for x in (params, m, v)]
    assert not optim.descend(params, grads, m, v, 3, 1e-2, 1e-5, max_grad_norm)
    for found, expected in zip((params, m, v), kept, strict=True):
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=30)
@given(trees(), st.integers(1, 70), st.integers(1, 30))
def test_acting(tree, N, rows):
    net, head, rng, n_in = tree
    flat, layers, log_std = net.flatten()
    plan, size = mlp.make_plan(layers, rows)
    work, k_head = np.zeros(size, np.float32), kernel_head(net, head, log_std)
    obs, noise = rng.standard_normal((N, n_in)).astype(np.float32), head.noise(rng, N)
    with torch.no_grad():
        params, value = net(torch.from_numpy(obs))
        action, log_prob = head.sample(net, params, torch.from_numpy(noise))
        mode = head.mode(params).numpy()
    found, found_log_prob, found_value = np.zeros_like(action.numpy()), *np.empty((2, N), np.float32)
    mlp.refresh(flat, plan, work)
    acting.act(obs, noise, flat, plan, work, k_head, found, found_log_prob, found_value)
    np.testing.assert_allclose(found_value, value.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, action.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found_log_prob, log_prob.numpy(), rtol=1e-4, atol=1e-5)
    out = np.empty(params.shape, np.float32)
    acting.outputs(obs, plan, work, net.pi_layer, out)
    np.testing.assert_allclose(out, params.numpy(), rtol=1e-4, atol=1e-5)
    one, chosen = np.zeros_like(found[0]), net.layers[: net.pi_layer + 1]
    plan, size = mlp.make_plan(layers[: len(chosen)], 1)
    for i in range(N):
        for expected, drawn in ((action[i].numpy(), noise[i]), (mode[i], noise[i, :0])):
            acting.predict_one(obs[i], drawn, flat, plan, np.zeros(size, np.float32), k_head, one)
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("code", range(1, len(MODULES)))
def test_nan_stays_nan_through_activations(code):
    y = np.linspace(-2, 2, 32, dtype=np.float32)
    y[[0, 17]] = np.nan
    activations.activate(code, y, 0, 32)
    assert np.flatnonzero(np.isnan(y)).tolist() == [0, 17]
