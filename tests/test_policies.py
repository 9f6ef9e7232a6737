"""Images, Dict observations, features extractors and optimisers of one's own, through whole runs."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

import fastrl
from fastrl import DQN, PPO, REINFORCE, evaluate_policy, spaces
from fastrl.checkpoint import ModelFileError
from fastrl.envs import records
from fastrl.extractors import CombinedExtractor, NatureCNN, Unflatten, channels_first

pytestmark = pytest.mark.usefixtures("few_threads")

SMALL = {PPO: dict(n_steps=16, batch_size=16, n_epochs=2), REINFORCE: dict(n_episodes=2),
         DQN: dict(buffer_size=200, learning_starts=10, batch_size=8, target_update_interval=20)}  # fmt: skip
VECTORS = Dict(vector=Box(-1, 1, (3,)), mode=Discrete(4, start=1), inner=Dict(bits=MultiBinary([2, 1])))


class Signal(gym.Env):
    """A signal of 0 or 1 shows in every part of the observation; repeating it earns 1."""

    action_space = Discrete(2)

    def __init__(self, kind="image", length=6, wrong=None):
        self.kind, self.length, self.wrong, self.steps = kind, length, wrong, 0
        image = Box(0, 255, (36, 40, 1), np.uint8)
        self.observation_space = {
            "image": image, "vectors": VECTORS, "dict": Dict(image=image, **VECTORS.spaces), "floats": Box(0, 1, (2,))
        }[kind]  # fmt: skip

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._next(), {}

    def _next(self):
        self.signal = int(self.np_random.integers(2))
        self.noise = self.np_random.random(2).astype(np.float32)
        return self._show(self.observation_space)

    def _show(self, space):
        if isinstance(space, Dict):
            return {key: self._show(part) for key, part in space.spaces.items()}
        if isinstance(space, Discrete):
            return int(space.start) + 2 * self.signal
        if space.dtype == np.uint8:
            return np.full(space.shape, 200 * self.signal + 10 * self.noise[0], np.uint8)
        return np.full(space.shape, self.signal, space.dtype)

    def step(self, action):
        reward, self.t, self.steps = float(action == self.signal), self.t + 1, self.steps + 1
        obs = self._next()
        if self.wrong and self.steps == 5:
            obs = self.wrong(obs)
        return obs, reward, False, self.t >= self.length, {}


POLICY = {"image": "CnnPolicy", "vectors": "MultiInputPolicy", "dict": "MultiInputPolicy", "floats": "MlpPolicy"}


def make(cls, kind, env=None, **options):
    options = {**SMALL[cls], "seed": 0, "device": "cpu", **options}
    return cls(POLICY[kind], env or (lambda: Signal(kind)), **options)


def weights(model):
    return [p.detach().clone() for p in model.policy.state_dict().values()]


# -- spaces, records ---------------------------------------------------------------------------------------------

LEAVES = st.sampled_from([
    Box(-1, 1, (2, 3)), Box(0, 255, (2, 3, 1), np.uint8), Box(0, 255, (1, 4, 5), np.uint8), Box(0, 1, (2, 3, 4)),
    Discrete(3, start=-1), MultiDiscrete([2, 3]), MultiBinary(3), Box(-5, 5, (), np.float64),
])  # fmt: skip
KEYS = st.sampled_from(["a", "b", "image", "0"])
DICTS = st.dictionaries(KEYS, LEAVES | st.dictionaries(KEYS, LEAVES, min_size=1).map(Dict), min_size=1).map(Dict)


def rows_of(space, n, seed):
    space.seed(seed)
    return records.as_rows(space, n, stack(space, [space.sample() for _ in range(n)]), "it", 0)


def stack(space, samples):
    if isinstance(space, Dict):
        return {key: stack(part, [s[key] for s in samples]) for key, part in space.spaces.items()}
    return np.stack(samples)


@given(DICTS, st.integers(1, 4), st.integers(0, 2**31))
def test_flat_rows_are_gymnasiums_and_extractors_get_the_parts(space, n, seed):
    rows = rows_of(space, n, seed)
    dicts = records.as_users_have_them(space, rows)
    flat = spaces.flatten(space, rows)
    np.testing.assert_array_equal(flat, spaces.flatten(space, dicts))
    assert flat.dtype == np.float32 and flat.shape == (n, spaces.flat_dim(space))
    for i in range(n):
        one = spaces.as_batch(space, pick(dicts, i))
        assert one[1]
        np.testing.assert_array_equal(spaces.flatten(space, one[0])[0], flat[i])
        unscaled = spaces.flatten(space, one[0], scale_images=False)[0]
        np.testing.assert_allclose(unscaled, gym.spaces.flatten(space, pick(dicts, i)), rtol=1e-6)
    check_parts(space, Unflatten(space)(torch.from_numpy(flat)), dicts)
    assert spaces.from_json(spaces.to_json(space)) == space


def pick(batch, i):
    return {key: pick(part, i) for key, part in batch.items()} if isinstance(batch, dict) else batch[i]


def check_parts(space, found, dicts):
    for key, part in space.spaces.items():
        if isinstance(part, Dict):
            check_parts(part, found[key], dicts[key])
            continue
        expected = dicts[key].astype(np.float32)
        if isinstance(part, (Discrete, MultiDiscrete)):
            expected = spaces.flatten(part, dicts[key])
        elif spaces.is_image(part):
            expected = expected / np.float32(255)
            expected = expected.transpose(0, 3, 1, 2) if part.shape[0] > min(part.shape) else expected
        np.testing.assert_array_equal(found[key].numpy(), expected)
        if isinstance(part, Box):
            assert channels_first(part).shape == expected.shape[1:]


@given(DICTS, st.integers(0, 2**31))
def test_records_are_rows(space, seed):
    rows = rows_of(space, 3, seed)
    room = records.empty(space, 3)
    for i in (2, 0, 1):
        room[i] = records.as_row(space, pick(records.as_users_have_them(space, rows), i), "it", 0)
    assert np.array_equal(room, rows) and records.finite(rows).all()
    assert np.array_equal(room[np.array([True, False, True])], rows[[0, 2]])


def test_observations_that_do_not_fit_a_dict():
    space = Signal("vectors").observation_space
    good = {"vector": np.zeros(3, np.float32), "mode": 1, "inner": {"bits": np.zeros((2, 1), np.int8)}}
    model = make(PPO, "vectors")
    assert model.predict(good)[0] in (0, 1)
    batched = {"vector": np.zeros((2, 3)), "mode": np.array([1, 2]), "inner": {"bits": np.zeros((2, 2, 1))}}
    assert model.predict(batched)[0].shape == (2,)
    for bad, error, match in [
        ([1, 2], TypeError, "dict with the keys"), ({**good, "more": 1}, KeyError, "more"),
        ({**good, "vector": np.zeros(4)}, ValueError, "'vector'"), ({**good, "mode": 9}, ValueError, "outside"),
        ({**good, "vector": np.full(3, np.nan)}, ValueError, "NaN"), ({**batched, "mode": 1}, ValueError, "lengths"),
        ({**good, "inner": {"bits": "no"}}, TypeError, "inner"),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            model.predict(bad)
    for wrong, match in [
        (lambda obs: {**obs, "vector": np.zeros(4)}, r"'vector', returned .* shape \(4,\) at step 5"),
        (lambda obs: {**obs, "vector": np.full(3, np.inf)}, "at step 5; it must be finite|finite"),
        (lambda obs: {"vector": np.zeros(3)}, "not a dict of"), (lambda obs: 3, "not a dict of"),
        (lambda obs: {**obs, "vector": ["a", "b", "c"]}, "dtype <U1"),
    ]:  # fmt: skip
        for env in (lambda w=wrong: Signal("vectors", wrong=w),):
            with pytest.raises(ValueError, match=match):
                make(PPO, "vectors", env).learn(100)
    with pytest.raises(ValueError, match="outside its space"):
        spaces.flatten(space, {**{k: np.stack([v]) for k, v in good.items() if k != "inner"}, "mode": np.array([0]),
                               "inner": {"bits": np.zeros((1, 2, 1))}})  # fmt: skip


# -- runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "dict", "vectors"])
@pytest.mark.parametrize("cls", [PPO, DQN, REINFORCE])
def test_runs_resume_bit_for_bit(cls, kind, tmp_path):
    """Through a file, with the buffer of DQN, and with what the environments were in the middle of."""
    whole = make(cls, kind).learn(40)
    parts = make(cls, kind).learn(40)
    parts.save(tmp_path / "model")
    again = cls.load(tmp_path / "model.zip", env=lambda: Signal(kind), device="cpu")
    if cls is DQN:
        parts.save_replay_buffer(tmp_path / "buffer")
        again.load_replay_buffer(tmp_path / "buffer")
    for model in (whole, again):
        model.learn(40, reset_num_timesteps=False)
    assert all(map(torch.equal, weights(whole), weights(again)))
    assert whole.metrics.keys() == again.metrics.keys()


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("cls", [PPO, DQN, REINFORCE])
def test_vector_environments_of_dicts(cls, mode):
    """Every mode gives the transitions that the copies one by one give: the reward is for the signal in the obs."""
    env = SyncVectorEnv([lambda: Signal("dict")] * 2, autoreset_mode=mode)
    model = make(cls, "dict", env).learn(48)
    if cls is DQN:
        batch = model.replay_buffer.sample(64)
        assert batch.obs["image"].dtype == np.uint8
        signal = batch.obs["image"][:, 0, 0, 0] >= 200
        np.testing.assert_array_equal(batch.reward, (batch.action.ravel() == signal).astype(np.float32))
        for obs in (batch.obs, batch.next_obs):  # the parts belong together
            np.testing.assert_array_equal(obs["image"][:, 0, 0, 0] >= 200, obs["mode"] == 3)
            np.testing.assert_array_equal(obs["inner"]["bits"][:, 0, 0] == 1, obs["vector"][:, 0] == 1)
    mean, _ = evaluate_policy(model, lambda: Signal("dict"), n_eval_episodes=3)
    assert 0 <= mean <= 6


def test_a_dict_of_vectors_is_a_perceptron_and_learns():
    """No image, nothing to extract: kernels run it, and what it sees is what the flattened environment shows."""
    model = make(PPO, "vectors", n_steps=128, batch_size=64, n_epochs=10, learning_rate=3e-3, gamma=0.0)
    assert model.engine == "compiled" and model.policy.features_extractor is None
    model.learn(1500)
    assert evaluate_policy(model, lambda: Signal("vectors"), n_eval_episodes=20)[0] == 6


def test_images_learn():
    model = make(PPO, "image", n_steps=64, batch_size=32, n_epochs=4, learning_rate=1e-3, gamma=0.0).learn(320)
    assert evaluate_policy(model, lambda: Signal("image"), n_eval_episodes=10)[0] == 6


def test_normalization_leaves_images_alone():
    model = make(PPO, "dict", normalize=True).learn(32)
    obs, _ = Signal("dict").reset(seed=1)
    batch, _ = spaces.as_batch(model.observation_space, obs)
    flat, seen = spaces.flatten(model.observation_space, batch), model._features(batch)
    (image,) = spaces.image_columns(model.observation_space)
    np.testing.assert_array_equal(seen[:, image], flat[:, image])
    others = np.ones(flat.shape[1], bool)
    others[image] = False
    np.testing.assert_array_equal(seen[:, others], model.normalizer.obs(flat)[:, others])
    assert not np.array_equal(seen[:, others], flat[:, others])


# -- options -----------------------------------------------------------------------------------------------------


class Small(fastrl.BaseFeaturesExtractor):
    """An extractor as users write them."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.layer = torch.nn.Linear(observation_space.shape[0], features_dim)

    def forward(self, observations):
        return self.layer(observations).relu()


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("cls", [PPO, DQN, REINFORCE])
def test_extractors_of_ones_own(cls, share, tmp_path):
    options = dict(features_extractor_class=Small, features_extractor_kwargs=dict(features_dim=7))
    if cls is not DQN:
        options["share_features_extractor"] = share
    model = make(cls, "floats", policy_kwargs=options)
    before = weights(model)
    model.learn(40)
    assert model.engine == "torch" and type(model.policy.features_extractor) is Small
    names = list(model.policy.state_dict())
    assert all(not torch.equal(a, b) for name, a, b in zip(names, before, weights(model), strict=True)
               if not (cls is REINFORCE and name.startswith("vf")))  # fmt: skip
    assert any(name.startswith("vf_features_extractor.") for name in names) == (not share and cls is not DQN)
    with pytest.raises(ValueError, match="a Small stands before its layers"):
        make(cls, "floats", policy_kwargs=options, engine="compiled")

    model.save(tmp_path / "a" / "model")  # the directory is made
    with pytest.raises(ModelFileError, match=r"the class Small.*policy_kwargs=dict\(features_extractor_class=\.\.\.\)"):
        cls.load(tmp_path / "a" / "model")
    own = dict(features_extractor_class=Small)
    again = cls.load(tmp_path / "a" / "model", env=lambda: Signal("floats"), policy_kwargs=own)
    assert all(map(torch.equal, weights(model), weights(again)))


OPTIMIZERS = {"RMSprop": dict(alpha=0.9), "SGD": dict(momentum=0.9), "AdamW": None, "Adadelta": None, "NAdam": None,
              "Adam": dict(amsgrad=True), "Adagrad": None}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cls", [PPO, DQN])
def test_optimisers_of_ones_own(cls, name, tmp_path):
    kind = getattr(torch.optim, name)
    options = dict(optimizer_class=kind, optimizer_kwargs=OPTIMIZERS[name], net_arch=[8])
    settings = dict(policy_kwargs=options, learning_rate="lin_0.01")
    whole = make(cls, "floats", **settings).learn(48)
    assert type(whole.learner.optimizer) is kind and whole.engine == "torch"
    assert 0 <= whole.learner.optimizer.param_groups[0]["lr"] < 0.005  # the schedule reaches it
    parts = make(cls, "floats", **settings).learn(48)
    parts.save(tmp_path / "model")
    again = cls.load(tmp_path / "model", env=lambda: Signal("floats"))
    assert type(again.learner.optimizer) is kind
    assert again.policy_kwargs == parts.policy_kwargs
    if cls is DQN:
        parts.save_replay_buffer(tmp_path / "buffer")
        again.load_replay_buffer(tmp_path / "buffer")
    for model in (whole, again):
        model.learn(32, reset_num_timesteps=False)
    assert all(map(torch.equal, weights(whole), weights(again)))


def test_optimisers_that_kernels_know_stay_compiled():
    assert make(PPO, "floats", policy_kwargs=dict(optimizer_class=torch.optim.Adam)).engine == "compiled"
    made = make(PPO, "floats", policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-3)))
    assert made.engine == "compiled" and made.learner.optimizer.param_groups[0]["eps"] == 1e-3
    with pytest.raises(ValueError, match="AdamW"):
        make(PPO, "floats", policy_kwargs=dict(optimizer_class=torch.optim.AdamW), engine="compiled")


class Mine(torch.optim.SGD):
    """An optimiser that no file can name."""


def test_optimisers_that_no_file_can_name(tmp_path):
    model = make(PPO, "floats", policy_kwargs=dict(optimizer_class=Mine)).learn(20)
    model.save(tmp_path / "model")
    with pytest.raises(ModelFileError, match="the class Mine"):
        PPO.load(tmp_path / "model")
    assert type(PPO.load(tmp_path / "model", policy_kwargs=dict(optimizer_class=Mine)).learner.optimizer) is Mine


@pytest.mark.parametrize(("arch", "pi", "vf", "shared"), [
    (None, [64, 64], [64, 64], []), ([], [], [], []), ([3, 4], [3, 4], [3, 4], []), (dict(pi=[3]), [3], [], []),
    (dict(vf=(5,), pi=[3]), [3], [5], []), ([dict(pi=[3], vf=[4])], [3], [4], []),
    ([7, dict(pi=[3], vf=[4])], [3], [4], [7]), (dict(shared=[6], pi=[3], vf=[4]), [3], [4], [6]),
])  # fmt: skip
def test_every_form_of_net_arch(arch, pi, vf, shared, tmp_path):
    model = make(PPO, "floats", policy_kwargs=dict(net_arch=arch))
    widths = lambda chain: [m.out_features for m in chain or [] if isinstance(m, torch.nn.Linear)]  # noqa: E731
    policy = model.policy
    assert (widths(policy.pi), widths(policy.vf), widths(policy.shared)) == ([*pi, 2], [*vf, 1], shared)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model")
    assert all(map(torch.equal, weights(model), weights(again))) and again.engine == model.engine


def test_flattening_is_the_plain_perceptron():
    """The same names, weights and engine."""
    plain = make(PPO, "floats")
    flat = make(PPO, "floats", policy_kwargs=dict(features_extractor_class=fastrl.FlattenExtractor))
    assert list(plain.policy.state_dict()) == list(flat.policy.state_dict()) and flat.engine == "compiled"
    assert all(map(torch.equal, weights(plain), weights(flat)))


@pytest.mark.parametrize("size", [36, 37, 41, 84, 96])
def test_how_many_features_the_convolutions_give(size):
    cnn = NatureCNN(Box(0, 255, (2, size, size + 5), np.uint8))
    assert cnn(torch.zeros(1, 2, size, size + 5)).shape == (1, 512)


def test_parts_of_another_order_keep_their_weights():
    space = Dict([("z", Box(0, 255, (36, 36, 1), np.uint8)), ("a", Box(-1, 1, (2,)))])
    extractor = CombinedExtractor(channels_first(space), 4)
    assert list(extractor.extractors) == ["z", "a"] and extractor.features_dim == 6
    found = extractor(Unflatten(space)(torch.arange(36 * 36 + 2.0)[None] / 1e3))
    np.testing.assert_allclose(found[0, 4:].detach(), [1.296, 1.297])


BAD = [
    (dict(policy="CNNPolicy"), ValueError, 'did you mean "CnnPolicy"'),
    (dict(policy="MlpLstmPolicy"), ValueError, "no recurrent policies"),
    (dict(policy="CnnPolicy"), ValueError, 'use "MlpPolicy"'),
    (dict(policy="MultiInputPolicy"), ValueError, 'use "MlpPolicy"'),
    (dict(policy=Small), TypeError, "class Small"),
    (dict(policy=3), TypeError, "policy is 3"),
    (dict(policy_kwargs=[64]), TypeError, r"policy_kwargs is \[64\]"),
    (dict(policy_kwargs=dict(netarch=[64])), TypeError, "did you mean net_arch"),
    (dict(policy_kwargs=dict(use_sde=True)), ValueError, "log_std_init"),
    (dict(policy_kwargs=dict(squash_output=True)), ValueError, "RescaleAction"),
    (dict(policy_kwargs=dict(n_critics=2)), ValueError, "SAC"),
    (dict(policy_kwargs=dict(activation_fn="relu")), ValueError, "activation_fn='relu'"),
    (dict(policy_kwargs=dict(activation_fn=torch.relu)), ValueError, "activation_fn"),
    (dict(policy_kwargs=dict(optimizer_class="Adam")), ValueError, "optimizer_class"),
    (dict(policy_kwargs=dict(optimizer_kwargs=dict(lr=1))), ValueError, "learning_rate"),
    (dict(policy_kwargs=dict(optimizer_kwargs=dict(speed=1))), ValueError, "speed"),
    (dict(policy_kwargs=dict(optimizer_class=torch.optim.LBFGS)), ValueError, "LBFGS"),
    (dict(policy_kwargs=dict(features_extractor_class=Small, features_extractor_kwargs=dict(dim=3))), TypeError, "dim"),
    (dict(policy_kwargs=dict(features_extractor_class=Small, features_extractor_kwargs=dict(features_dim=0))),
     ValueError, "features_dim is 0"),
    (dict(policy_kwargs=dict(features_extractor_class=torch.nn.Flatten, features_extractor_kwargs={})), TypeError,
     "Flatten"),
    (dict(policy_kwargs=dict(normalize_images="no")), TypeError, "normalize_images"),
    (dict(policy_kwargs=dict(features_extractor_kwargs=3)), TypeError, "features_extractor_kwargs"),
    (dict(device="gpu"), ValueError, '"cuda"'), (dict(device="fast"), ValueError, "device is 'fast'"),
    (dict(policy=torch.nn.Linear(5, 2)), ValueError, "failed on 2 observations of 2 numbers"),
    (dict(policy=torch.nn.Linear(2, 2), policy_kwargs=dict(net_arch=[3])), TypeError, "module of your own"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "match"), BAD)
@pytest.mark.parametrize("cls", [PPO, DQN])
def test_policies_that_cannot_be(cls, options, error, match):
    options = {"policy": "MlpPolicy", **options}
    with pytest.raises(error, match=match):
        cls(options.pop("policy"), lambda: Signal("floats"), **options)


def test_options_that_change_nothing_pass():
    neutral = dict(use_sde=False, full_std=True, use_expln=False, squash_output=False)
    assert make(PPO, "floats", policy_kwargs=neutral).policy_kwargs == {}


def test_small_images_are_refused():
    class Tiny(Signal):
        def __init__(self):
            super().__init__()
            self.observation_space = Box(0, 255, (8, 8, 3), np.uint8)

    with pytest.raises(ValueError, match="at least 36 x 36"):
        PPO("CnnPolicy", Tiny)
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        PPO("CnnPolicy", lambda: Signal("dict"))
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        DQN("MlpPolicy", lambda: Signal("dict"))


def test_names_are_constants():
    assert (fastrl.MlpPolicy, fastrl.CnnPolicy, fastrl.MultiInputPolicy) == (
        "MlpPolicy", "CnnPolicy", "MultiInputPolicy"
    )  # fmt: skip


def test_policies_of_another_dtype():
    for engine in ("torch", "auto"):
        model = make(PPO, "floats", engine=engine)
        model.policy.double()
        with pytest.raises(ValueError, match=r"model\.policy\.float\(\)"):
            model.learn(20)


def test_what_environments_return_beside_observations():
    class Odd(Signal):
        def step(self, action):
            obs, reward, *_ = super().step(action)
            return obs, reward, "no", False, {}

    with pytest.raises(ValueError, match="terminated = 'no' at step 1"):
        make(PPO, "floats", lambda: Odd("floats")).learn(10)
    with pytest.raises(ValueError, match="dtype <U4 at step 5"):
        make(PPO, "floats", lambda: Signal("floats", wrong=lambda obs: ["much", "none"])).learn(10)
    with pytest.raises(TypeError, match="must have predict"):
        evaluate_policy(lambda obs: 0, "CartPole-v1")


def test_environments_without_spaces():
    class Bare(gym.Env):
        pass

    class BareVector(gym.vector.VectorEnv):
        num_envs = 2

    for env in (Bare(), Bare, BareVector()):
        with pytest.raises(TypeError, match=r"observation_space of the environment Bare.* is missing"):
            PPO("MlpPolicy", env)


def test_box2d_is_asked_for_by_its_extra(monkeypatch):
    def missing(*_, **__):
        raise gym.error.DependencyNotInstalled("Box2D is not installed")

    monkeypatch.setattr(gym, "make", missing)
    with pytest.raises(gym.error.DependencyNotInstalled, match=r'pip install "fastrl\[box2d\]"'):
        PPO("MlpPolicy", "LunarLander-v3")


def test_compiled_environments_may_be_called_and_streams_be_lists():
    from fastrl.envs import make_vec
    from tests.compiled_envs import Walk

    assert PPO("MlpPolicy", Walk(), n_steps=8, batch_size=8).learn(8).num_timesteps == 8
    env = make_vec("CartPole-v1", 2)
    rngs = env.rngs.copy()
    env.rngs = [[2**63 + 1] * 4, [1, 2, 3, 4]]
    assert env.rngs.tolist() == [[2**63 + 1] * 4, [1, 2, 3, 4]]
    env.rngs = rngs.tolist()
    np.testing.assert_array_equal(env.rngs, rngs)
    for bad in ([[-1] * 4] * 2, [[2**64] * 4] * 2, [[1], [2, 3]], "xyz", [[0.5] * 4] * 2):
        with pytest.raises(ValueError, match="rngs is"):
            env.rngs = bad
    np.testing.assert_array_equal(env.rngs, rngs)
