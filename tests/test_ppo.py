"""PPO's own parts: the surrogate, the heads, the loss, early stopping, schedules, truncation in the rollout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Normal

from fastrl import PPO, compute_gae
from fastrl.kernels.sampling import permutations
from fastrl.learners.torch import clipped_surrogate, normalized
from fastrl.networks import ActorCritic, make_head
from tests.envs import Counter


def test_the_worked_example_of_the_clipped_surrogate():
    ratio = torch.tensor(1.5)
    assert clipped_surrogate(ratio, torch.tensor(2.0), 0.2).item() == pytest.approx(2.4)
    assert clipped_surrogate(ratio, torch.tensor(-2.0), 0.2).item() == pytest.approx(-3.0)


@given(ratio=st.floats(0.01, 10), advantage=st.floats(-5, 5), clip=st.floats(0, 0.9))
def test_the_surrogate_is_a_lower_bound_and_flat_where_clipped(ratio, advantage, clip):
    r = torch.tensor(ratio, dtype=torch.float64, requires_grad=True)
    value = clipped_surrogate(r, torch.tensor(advantage, dtype=torch.float64), clip)
    assert value.item() <= ratio * advantage + 1e-9
    value.backward()
    improved = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
    if improved and advantage:
        assert r.grad == 0


def test_advantages_are_normalised_but_for_a_single_one():
    x = normalized(torch.tensor([1.0, 2.0, 6.0]))
    assert x.mean().abs() < 1e-6 and x.std() == pytest.approx(1)
    assert normalized(torch.tensor([7.0])) == 7


def test_orthogonal_initialisation():
    net = ActorCritic(6, 3)
    for layer, gain in ((net.pi[0], 2**0.5), (net.pi[-1], 0.01), (net.vf[-1], 1.0)):
        singular = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(singular, torch.full_like(singular, gain))
        assert (layer.bias == 0).all()


@pytest.mark.parametrize("space", [Discrete(4), MultiDiscrete([3, 2, 4]), MultiBinary(3)], ids=str)
def test_categorical_heads_equal_torch_distributions(space):
    head, rng = make_head(space), np.random.default_rng(0)
    params = torch.from_numpy(rng.normal(size=(50, head.n_params), scale=3).astype(np.float32))
    noise = torch.from_numpy(head.noise(rng, 50))
    action, log_prob = head.sample(torch.nn.Identity(), params, noise)
    theirs = [Categorical(logits=logits) for logits in params.split(head.nvec, 1)]
    expected = sum(d.log_prob(action[:, i]) for i, d in enumerate(theirs))
    again, entropy = head.evaluate(torch.nn.Identity(), params, action)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(entropy, sum(d.entropy() for d in theirs))
    torch.testing.assert_close(head.mode(params), torch.stack([d.probs.argmax(1) for d in theirs], 1))


def test_categorical_sampling_follows_the_probabilities():
    head, rng, n = make_head(Discrete(4)), np.random.default_rng(1), 100_000
    params = torch.tensor([[0.5, -1.0, 2.0, 0.0]])
    action, _ = head.sample(torch.nn.Identity(), params.expand(n, -1), torch.from_numpy(head.noise(rng, n)))
    p = params.softmax(1).numpy()[0]
    counts = np.bincount(action.numpy()[:, 0], minlength=4)
    assert (np.abs(counts - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()


def test_uniform_noise_of_almost_1_still_gives_a_valid_action():
    head = make_head(Discrete(3))
    top = torch.full((1, 1), 1 - 2**-24)
    assert head.sample(torch.nn.Identity(), torch.tensor([[0.1, 0.2, 0.3]]), top)[0].item() == 2


def test_the_gaussian_head_equals_torch_distributions():
    head, rng = make_head(Box(-1, 1, (3,))), np.random.default_rng(2)
    net = ActorCritic(5, 3, log_std_init=-0.7)
    params = torch.from_numpy(rng.normal(size=(20, 3)).astype(np.float32))
    action, log_prob = head.sample(net, params, torch.from_numpy(head.noise(rng, 20)))
    theirs = Normal(params, net.log_std.exp().expand(20, 3))
    torch.testing.assert_close(log_prob, theirs.log_prob(action).sum(1))
    again, entropy = head.evaluate(net, params, action)
    torch.testing.assert_close(again, log_prob)
    torch.testing.assert_close(entropy, theirs.entropy().sum(1))


def rollout_of(env, n_steps, **options):
    model = PPO("MlpPolicy", env, n_steps=n_steps, batch_size=n_steps, n_epochs=1, seed=0, **options)
    model.learn(n_steps)
    return model, model._rollout


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_rollout_bootstraps_truncated_episodes_from_their_true_final_observation(mode):
    env = SyncVectorEnv([lambda: Counter(length=3, truncate=True)] * 2, autoreset_mode=mode)
    model = PPO("MlpPolicy", env, n_steps=12, n_epochs=1, learning_rate=0.0, seed=0).learn(20)
    rollout = model._rollout
    rows = rollout.truncated[:, 0]
    assert rows.sum() >= 3 and not rollout.terminated.any()
    for t in np.flatnonzero(rows):
        episode = rollout.obs[t, 0, 0]
        expected = model.learner.value(np.array([[episode, 3]], np.float32))[0]
        assert rollout.final_value[t, 0] == pytest.approx(expected, rel=1e-5)
    # A row in which a NEXT_STEP environment only reset itself is no transition.
    resets = 12 - rollout.valid[:, 0].sum()
    assert resets == (rows[:-1].sum() if mode == AutoresetMode.NEXT_STEP else 0)
    assert (rollout.obs[rollout.valid][:, 1] < 3).all()


def test_the_rollouts_advantages_are_compute_gae_s():
    model, rollout = rollout_of("CartPole-v1", 64, n_envs=3, learning_rate=0.0)
    last = model.learner.value(model._features(model._obs))
    advantages, returns = compute_gae(rollout.reward, rollout.value, last, rollout.terminated, rollout.truncated,
                                      rollout.final_value, gamma=model.gamma, gae_lambda=model.gae_lambda)  # fmt: skip
    np.testing.assert_allclose(rollout.advantage, advantages, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rollout.returns, returns, rtol=1e-5, atol=1e-6)


def test_stored_log_probs_and_values_are_those_of_the_policy_that_acted():
    model, rollout = rollout_of("Pendulum-v1", 32, n_envs=2, learning_rate=0.0)
    flat = [torch.from_numpy(x.reshape(-1, *x.shape[2:])) for x in (rollout.obs, rollout.action)]
    params, value = model.policy(flat[0])
    log_prob, _ = model.head.evaluate(model.policy, params, flat[1])
    np.testing.assert_allclose(log_prob.detach().numpy(), rollout.log_prob.ravel(), atol=1e-5)
    np.testing.assert_allclose(value.detach().numpy(), rollout.value.ravel(), atol=1e-5)
    assert model.metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)
    assert model.metrics["train/clip_fraction"] == 0


def one_step(batch_size, **options):
    """PPO's first iteration from a known start, halfway through its schedules, and the model that took it."""
    options = {"n_epochs": 1, **options}
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=40, batch_size=batch_size, seed=0, **options)
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(80, callback=lambda model: False)
    return model, before


def test_the_loss_is_the_papers():
    """One full-batch step equals Adam on the loss written out with Torch's own distributions."""
    model, before = one_step(40, ent_coef=0.03, vf_coef=0.4, max_grad_norm=0.5, learning_rate=1e-3)
    r = model._rollout
    twin = ActorCritic(4, 2)
    twin.load_state_dict(before)
    optimizer = torch.optim.Adam(twin.parameters(), lr=1e-3, eps=1e-5)
    logits, value = twin(torch.from_numpy(r.obs[:, 0]))
    d = Categorical(logits=logits)
    advantage = torch.from_numpy(r.advantage[:, 0])
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    ratio = (d.log_prob(torch.from_numpy(r.action[:, 0, 0])) - torch.from_numpy(r.log_prob[:, 0])).exp()
    surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    value_loss = (value - torch.from_numpy(r.returns[:, 0])).square().mean()
    (-surrogate + 0.4 * value_loss - 0.03 * d.entropy().mean()).backward()
    torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
    optimizer.step()
    for (name, found), wanted in zip(model.policy.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6, msg=name)


def test_a_smaller_last_minibatch_is_used():
    model, _ = one_step(32)
    assert model.n_updates == 2
    model, _ = one_step(39)  # the second minibatch has one row: its advantage is not normalised
    assert model.n_updates == 2 and all(torch.isfinite(p).all() for p in model.policy.parameters())


def test_target_kl_stops_before_the_step():
    options = dict(n_steps=64, batch_size=64, learning_rate=0.1, seed=0)
    free = PPO("MlpPolicy", "CartPole-v1", n_epochs=10, **options).learn(64)
    held = PPO("MlpPolicy", "CartPole-v1", n_epochs=10, target_kl=0.01, **options).learn(64)
    assert free.n_updates == 10 and 1 <= held.n_updates < 10
    # What it stopped at is the policy after its own updates, not one step further.
    same = PPO("MlpPolicy", "CartPole-v1", n_epochs=held.n_updates, **options).learn(64)
    assert all(torch.equal(a, b) for a, b in zip(held.policy.parameters(), same.policy.parameters(), strict=True))


def test_value_clipping_limits_the_gradient():
    """With a value limit of 0 every row is clipped once V has moved, so the value network stays."""
    options = dict(n_steps=64, batch_size=64, learning_rate=0.01, seed=0, vf_coef=1.0)
    one = PPO("MlpPolicy", "CartPole-v1", n_epochs=1, clip_range_vf=1e-6, **options).learn(64)
    many = PPO("MlpPolicy", "CartPole-v1", n_epochs=2, clip_range_vf=1e-6, **options).learn(64)
    free = PPO("MlpPolicy", "CartPole-v1", n_epochs=2, **options).learn(64)
    loss = [m.metrics["train/value_loss"] for m in (one, many, free)]
    assert loss[2] < loss[0] and loss[1] == pytest.approx(loss[0], rel=1e-3)


def test_schedules_run_from_1_to_0():
    seen = []

    def schedule(remaining):
        seen.append(remaining)
        return 1e-3 * remaining

    options = dict(n_steps=50, batch_size=50, n_epochs=1, seed=0)
    by_function = PPO("MlpPolicy", "CartPole-v1", learning_rate=schedule, **options).learn(200)
    by_words = PPO("MlpPolicy", "CartPole-v1", learning_rate="lin_0.001", **options).learn(200)
    np.testing.assert_allclose(seen, [0.75, 0.5, 0.25, 0])
    both = zip(by_function.policy.parameters(), by_words.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_box_actions_reach_the_environment_within_their_bounds():
    class Narrow(Counter):
        action_space = Box(-0.01, 0.01, (2,), np.float32)

    _, rollout = rollout_of(lambda: Narrow(length=5), 32)
    assert np.abs(rollout.action).max() > 0.5  # the rollout keeps what was drawn


def test_several_minibatches_are_the_papers_too():
    """Shuffled minibatches of two epochs, advantages normalised in each, equal the loop written out."""
    model, before = one_step(16, learning_rate="lin_0.01", clip_range="lin_0.4", n_epochs=2)
    r = model._rollout
    twin = ActorCritic(4, 2)
    twin.load_state_dict(before)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01 * (1 - 40 / 80), eps=1e-5)
    orders = np.random.default_rng(np.random.SeedSequence(0).spawn(1)[0])
    for _ in range(40):
        model.head.noise(orders, 1)  # what acting drew from the same stream
    for order in permutations(orders, 2, 40):
        for rows in (order[:16], order[16:32], order[32:]):
            logits, value = twin(torch.from_numpy(r.obs[rows, 0]))
            d = Categorical(logits=logits)
            advantage = torch.from_numpy(r.advantage[rows, 0])
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            ratio = (d.log_prob(torch.from_numpy(r.action[rows, 0, 0])) - torch.from_numpy(r.log_prob[rows, 0])).exp()
            surrogate = torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
            value_loss = (value - torch.from_numpy(r.returns[rows, 0])).square().mean()
            optimizer.zero_grad()
            (-surrogate + 0.5 * value_loss).backward()
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
    for found, wanted in zip(model.policy.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_masked_actions_leave_finite_gradients():
    head = make_head(Discrete(3))
    params = torch.tensor([[0.3, -torch.inf, 0.1]], requires_grad=True)
    log_prob, entropy = head.evaluate(torch.nn.Identity(), params, torch.tensor([[0]]))
    (log_prob + entropy).sum().backward()
    assert torch.isfinite(entropy).all() and torch.isfinite(params.grad).all()


def test_the_deviation_learns_from_the_entropy():
    options = dict(n_steps=32, batch_size=32, n_epochs=1, seed=0, learning_rate=0.01, vf_coef=0.0)
    with_bonus = PPO("MlpPolicy", "Pendulum-v1", ent_coef=100.0, **options).learn(32)
    assert (with_bonus.policy.log_std > 0.009).all()


def test_without_a_limit_gradients_are_not_clipped():
    weights = []
    for limit in (None, 1e9, 1e-3):
        model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, n_epochs=1, max_grad_norm=limit, seed=0).learn(32)
        weights.append(torch.cat([p.detach().ravel() for p in model.policy.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 3, 4]), Box(-1, 1, (3,))])
def test_the_noise_of_a_rollout_is_that_of_its_steps(space):
    head, one, other = make_head(space), np.random.default_rng(3), np.random.default_rng(3)
    steps = [head.noise(one, 5) for _ in range(7)]
    np.testing.assert_array_equal(head.noise(other, 35), np.concatenate(steps))
    assert one.bit_generator.state == other.bit_generator.state
