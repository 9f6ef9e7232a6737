"""Against Stable-Baselines3: the same modules, the same outputs for the same weights, weights drawn alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

import fastrl
from fastrl import spaces
from tests.envs import Identity

sb3 = pytest.importorskip("stable_baselines3")

IMAGE = Box(0, 255, (40, 36, 3), np.uint8)  # channels last
SPACES = {
    "MlpPolicy": Box(-1, 1, (3, 2)),
    "CnnPolicy": IMAGE,
    "CnnPolicy of channels first": Box(0, 255, (2, 44, 38), np.uint8),
    "MultiInputPolicy": Dict(
        image=IMAGE,
        vector=Box(-1, 1, (4,)),
        one=Discrete(3),
        bits=MultiBinary(2),
        many=MultiDiscrete([2, 3]),
    ),
}
CASES = [
    ("MlpPolicy", {}), ("MlpPolicy", dict(net_arch=dict(pi=[5]))), ("MlpPolicy", dict(net_arch=[])),
    ("CnnPolicy", {}), ("CnnPolicy", dict(net_arch=[7], features_extractor_kwargs=dict(features_dim=32))),
    ("CnnPolicy", dict(share_features_extractor=False)), ("CnnPolicy", dict(normalize_images=False)),
    ("CnnPolicy of channels first", {}),
    ("MultiInputPolicy", {}), ("MultiInputPolicy", dict(features_extractor_kwargs=dict(cnn_output_dim=16))),
]  # fmt: skip
SMALL = {"PPO": dict(n_steps=8, batch_size=8), "DQN": dict(buffer_size=10)}


def both(name, policy, options, actions, seed=0):
    """(ours, theirs), of the same spaces and options."""
    if name == "DQN":
        options = {k: v for k, v in options.items() if k != "share_features_extractor"}
        if isinstance(options.get("net_arch"), dict):
            pytest.skip("DQN takes a list")
    env = lambda: Identity(actions, SPACES[policy])  # noqa: E731
    make = lambda lib, env: getattr(lib, name)(  # noqa: E731
        policy.split()[0], env, policy_kwargs=dict(options), seed=seed, device="cpu", **SMALL[name]
    )
    return make(fastrl, env), make(sb3, env())


def ours_of(name, theirs):
    """Stable-Baselines3's weights under our names."""
    if name == "DQN":
        state = theirs.policy.q_net.state_dict()
        return {k.replace("q_net.", "q."): v for k, v in state.items()}
    state, found = theirs.policy.state_dict(), {}
    depth = {kind: sum(k.startswith(f"mlp_extractor.{kind}_net") for k in state) for kind in ("policy", "value")}
    for key, value in state.items():
        if (
            key.startswith(("pi_features_extractor.", "vf_features_extractor."))
            and theirs.policy.share_features_extractor
        ):
            continue
        if key.startswith("pi_features_extractor."):
            continue
        for old, new in (("mlp_extractor.policy_net", "pi"), ("mlp_extractor.value_net", "vf"),
                         ("action_net", f"pi.{depth['policy']}"), ("value_net", f"vf.{depth['value']}")):  # fmt: skip
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        found[key] = value
    return found


def batch(space, n, rng):
    space.seed(int(rng.integers(2**31)))
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, Dict):
        return {key: np.stack([s[key] for s in samples]) for key in space.spaces}
    return np.stack(samples)


def transposed(space, obs):
    """What Stable-Baselines3's VecTransposeImage hands to the policy."""
    if isinstance(space, Dict):
        return {key: transposed(part, obs[key]) for key, part in space.spaces.items()}
    return obs.transpose(0, 3, 1, 2) if spaces.is_channels_last(space) else obs


@pytest.mark.parametrize("name", ["PPO", "DQN"])
@pytest.mark.parametrize(("policy", "options"), CASES)
def test_the_same_weights_give_the_same_outputs(name, policy, options):
    rng = np.random.default_rng()
    ours, theirs = both(name, policy, options, Discrete(3))
    for p in theirs.policy.parameters():  # far from the small outputs that policies begin with
        p.data += 0.02 * torch.randn_like(p)
    ours.policy.load_state_dict(ours_of(name, theirs))  # strict: the same names and shapes
    space = SPACES[policy]
    obs = batch(space, 5, rng)
    tensors, _ = theirs.policy.obs_to_tensor(transposed(space, obs))
    flat = torch.from_numpy(ours._features(obs))
    with torch.no_grad():
        if name == "DQN":
            torch.testing.assert_close(ours.policy(flat), theirs.policy.q_net(tensors), rtol=1e-4, atol=1e-4)
        else:
            params, value = ours.policy(flat)
            torch.testing.assert_close(value, theirs.policy.predict_values(tensors)[:, 0], rtol=1e-4, atol=1e-4)
            logits = theirs.policy.get_distribution(tensors).distribution.logits
            torch.testing.assert_close(params.log_softmax(1), logits, rtol=1e-4, atol=1e-4)
    action, _ = ours.predict(obs, deterministic=True)
    np.testing.assert_array_equal(action, theirs.predict(transposed(space, obs), deterministic=True)[0])
    one = {key: part[0] for key, part in obs.items()} if isinstance(space, Dict) else obs[0]
    assert ours.predict(one, deterministic=True)[0] == action[0]


@pytest.mark.parametrize("name", ["PPO", "DQN"])
@pytest.mark.parametrize(("policy", "options"), CASES)
def test_initial_weights_are_distributed_alike(name, policy, options):
    actions = Discrete(3) if name == "DQN" else Box(-1, 1, (2,))
    ours, theirs = both(name, policy, options, actions, seed=int(np.random.default_rng().integers(2**31)))
    expected, found = ours_of(name, theirs), ours.policy.state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    for key, value in found.items():
        other = expected[key]
        if value.numel() < 300:
            continue
        assert value.mean().item() == pytest.approx(
            other.mean().item(), abs=6 * other.std().item() / value.numel() ** 0.5 + 1e-6
        )
        assert value.std().item() == pytest.approx(other.std().item(), rel=0.15, abs=1e-7), key


@pytest.mark.parametrize("options", [
    {}, dict(optimizer_kwargs=dict(weight_decay=0.01)), dict(optimizer_kwargs={}),
    dict(optimizer_class=torch.optim.RMSprop),
    dict(optimizer_class=torch.optim.RMSprop, optimizer_kwargs=dict(alpha=0.9)),
])  # fmt: skip
@pytest.mark.parametrize("name", ["PPO", "DQN"])
def test_optimisers_have_the_same_settings(name, options):
    ours, theirs = both(name, "MlpPolicy", options, Discrete(2))
    own, other = ours.learner.optimizer, theirs.policy.optimizer
    assert type(own) is type(other)
    settings = [
        {k: v for k, v in o.param_groups[0].items() if k not in ("params", "lr", "fused", "foreach")}
        for o in (own, other)
    ]
    assert settings[0] == settings[1]


def test_extractors_of_ones_own_get_the_same(monkeypatch):
    """An extractor written for Stable-Baselines3, with the import changed, sees the same space and observations."""
    seen = {}

    def of(lib):
        base = fastrl.BaseFeaturesExtractor if lib is fastrl else sb3.common.torch_layers.BaseFeaturesExtractor

        class Own(base):
            def __init__(self, observation_space, features_dim=8):
                super().__init__(observation_space, features_dim)
                self.cnn = torch.nn.Conv2d(observation_space.spaces["image"].shape[0], 1, 3)
                seen[lib] = [observation_space]

            def forward(self, observations):
                seen[lib].append({key: x.clone() for key, x in observations.items()})
                return torch.zeros(len(observations["image"]), 8) + self.cnn(observations["image"]).mean()

        return Own

    space = SPACES["MultiInputPolicy"]
    obs = batch(space, 2, np.random.default_rng())
    for lib in (fastrl, sb3):
        env = (lambda: Identity(Discrete(2), space)) if lib is fastrl else Identity(Discrete(2), space)
        model = lib.PPO("MultiInputPolicy", env, policy_kwargs=dict(features_extractor_class=of(lib)), **SMALL["PPO"])
        model.predict(obs if lib is fastrl else transposed(space, obs), deterministic=True)
    ours, theirs = seen[fastrl], seen[sb3]
    assert ours[0] == theirs[0]
    assert list(ours[-1]) == list(theirs[-1])
    for key in ours[-1]:
        torch.testing.assert_close(ours[-1][key], theirs[-1][key].reshape(ours[-1][key].shape))
