"""What PPO, REINFORCE and DQN share: construction, learning, prediction, seeds, interruption."""

from __future__ import annotations

import os
import signal
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from fastrl import DQN, PPO, REINFORCE, EnvironmentFailure, evaluate_policy
from tests.envs import Counter, Identity

SMALL = {
    PPO: dict(n_steps=32, batch_size=16, n_epochs=2),
    REINFORCE: dict(),
    DQN: dict(learning_starts=20, buffer_size=500, train_freq=1, batch_size=8, target_update_interval=50),
}
ALGORITHMS = list(SMALL)


def make(cls, env="CartPole-v1", **options):
    return cls("MlpPolicy", env, **{**SMALL[cls], "seed": 0, **options})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_learn_counts_steps_and_changes_the_policy(cls):
    model = make(cls, n_envs=2)
    before = weights(model)
    assert model.learn(200) is model
    assert 200 <= model.num_timesteps < 200 + 64 + 500 and model.num_timesteps % 2 == 0
    assert not torch.equal(weights(model), before)
    assert model.metrics["time/total_timesteps"] == model.num_timesteps
    assert all(np.isfinite(value) for value in model.metrics.values())


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_one_seed_gives_one_result_and_another_another(cls):
    first, second, third = (weights(make(cls, seed=s, n_envs=2).learn(300)) for s in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_training_leaves_global_state_alone(cls):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    handler = signal.getsignal(signal.SIGINT)
    make(cls).learn(100)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == torch.get_num_threads() and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_vector_environments_in_each_mode(cls, mode):
    env = SyncVectorEnv([lambda: Counter(length=4), lambda: Counter(length=3, truncate=True)], autoreset_mode=mode)
    options = dict(baseline=True) if cls is REINFORCE else {}
    model = make(cls, env, **options).learn(120)
    assert model.num_timesteps >= 120 and {length for _, length in model.episodes} == {3, 4}


SPACES = [
    Box(-1, 1, (3,)), Box(0, 255, (4, 4, 1), np.uint8), Box(-np.inf, np.inf, (), np.float64), Discrete(3),
    Discrete(4, start=-1), MultiDiscrete([2, 3]), MultiDiscrete([3, 2], start=[1, 5]), MultiBinary(3),
    MultiBinary([2, 2]),
]  # fmt: skip


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_every_observation_space(cls, space):
    model = make(cls, lambda: Identity(Discrete(2), space), n_envs=2).learn(40)
    action, state = model.predict(space.sample(), state="kept")
    assert model.action_space.contains(action) and state == "kept"
    batch = np.stack([space.sample() for _ in range(5)])
    assert model.predict(batch)[0].shape == (5,)


@pytest.mark.parametrize("space", [*SPACES[3:], Box(-1, 1, (2,)), Box(np.float32([0, 5]), np.float32([1, 9]))], ids=str)
@pytest.mark.parametrize("cls", [PPO, REINFORCE])
def test_every_action_space(cls, space):
    model = make(cls, lambda: Identity(space), n_envs=2).learn(40)
    for deterministic in (False, True):
        action, _ = model.predict(space.sample(), deterministic=deterministic)
        assert space.contains(action)
    assert model.predict(np.stack([space.sample()] * 4))[0].shape == (4, *space.shape)


@pytest.mark.parametrize("space", [Discrete(2), Discrete(3, start=5)], ids=str)
def test_dqn_takes_discrete_actions_from_any_start(space):
    assert space.contains(make(DQN, lambda: Identity(space)).learn(60).predict(space.sample())[0])


@pytest.mark.parametrize("space", [Box(-1, 1, (0,)), Box(-1, 1, (3, 0), np.float64), MultiDiscrete([])], ids=str)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_spaces_without_a_number(cls, space):
    some = Box(-1, 1, (2,))
    with pytest.raises(ValueError, match=r"the observation space .* has no number; .* at least one.*constant"):
        make(cls, lambda: Bare(some if cls is not DQN else Discrete(2), space))
    if cls is not DQN:
        with pytest.raises(ValueError, match=rf"{cls.__name__} .* at least one .* the action space .* has none"):
            make(cls, lambda: Bare(space, some))


class Bare(Counter):
    def __init__(self, action_space, observation_space):
        super().__init__()
        self.action_space, self.observation_space = action_space, observation_space


@pytest.mark.parametrize(("cls", "steps"), [(PPO, 3000), (REINFORCE, 4000), (DQN, 3000)])
def test_the_identity_is_learnt(cls, steps):
    for seed in range(3):
        model = make(cls, lambda: Identity(Discrete(3, start=2)), learning_rate=1e-2, gamma=0.0, seed=seed).learn(steps)
        assert evaluate_policy(model, lambda: Identity(Discrete(3, start=2)), 10, seed=seed)[0] > 18


@pytest.mark.parametrize("space", [MultiDiscrete([2, 3]), Box(-1, 1, (1,))], ids=str)
def test_ppo_learns_the_identity_of_other_actions(space):
    for seed in range(3):
        options = dict(n_envs=4, batch_size=64, n_epochs=10, learning_rate="lin_0.003", gamma=0.0)
        model = make(PPO, lambda: Identity(space), seed=seed, **options)
        assert evaluate_policy(model.learn(12_000), lambda: Identity(space), 10, seed=seed)[0] > 17


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_predict_single_batch_tensor_list_and_numpy_scalar(cls):
    model = make(cls)
    obs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    batch, _ = model.predict(obs, deterministic=True)
    single = [model.predict(row, deterministic=True)[0] for row in obs]
    assert batch.tolist() == single and np.ndim(single[0]) == 0
    np.testing.assert_array_equal(model.predict(torch.from_numpy(obs), deterministic=True)[0], batch)
    np.testing.assert_array_equal(model.predict(obs.tolist(), deterministic=True)[0], batch)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_predict_during_training_does_not_change_it(cls):
    model = make(cls)

    def watch(model):
        model.predict(model.observation_space.sample())

    assert torch.equal(weights(model.learn(200, callback=watch)), weights(make(cls).learn(200)))


@pytest.mark.parametrize(
    ("obs", "error", "message"),
    [
        (np.zeros(5), ValueError, r"shape \(5,\); it must be \(4,\)"),
        (np.zeros((2, 2, 4)), ValueError, r"shape \(2, 2, 4\)"),
        (np.zeros(1), ValueError, r"shape \(1,\)"),
        (np.array([0, 0, np.nan, 0]), ValueError, "NaN or infinity"),
        (np.array([None] * 4), TypeError, "dtype object"),
        ("four", TypeError, "dtype"),
    ],
)
@pytest.mark.parametrize("cls", ALGORITHMS)
def test_predict_refuses(cls, obs, error, message):
    with pytest.raises(error, match=message):
        make(cls).predict(obs)


def test_predict_refuses_a_discrete_observation_out_of_range():
    model = make(PPO, lambda: Identity(Discrete(3)))
    for obs in (3, -1):
        with pytest.raises(ValueError, match="outside its space"):
            model.predict(obs)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_callback_runs_after_each_iteration_and_may_stop(cls):
    seen = []

    def callback(model):
        seen.append(model.num_timesteps)
        return len(seen) < 3

    model = make(cls).learn(10_000, callback=callback)
    assert len(seen) == 3 and seen == sorted(set(seen)) and model.num_timesteps == seen[-1]


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_ctrl_c_ends_after_the_iteration_and_training_goes_on_later(cls):
    calls = []

    def callback(model):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    model = make(cls).learn(5_000, callback=callback)
    assert model.interrupted and len(calls) in (2, 3) and model.num_timesteps < 5_000
    model.predict(model.observation_space.sample())
    assert not model.learn(50, reset_num_timesteps=False).interrupted


def test_a_second_ctrl_c_raises_at_once():
    class Stubborn(Counter):
        def step(self, action):
            if self.total in (5, 6):
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(action)

    model = make(PPO, lambda: Stubborn())
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000)
    model.learn(40)


def test_a_keyboard_interrupt_from_elsewhere_stops_cleanly():
    def callback(model):
        raise KeyboardInterrupt

    assert make(PPO).learn(1000, callback=callback).interrupted


def test_learning_in_another_thread():
    model = make(PPO)
    thread = threading.Thread(target=model.learn, args=(100,))
    thread.start()
    thread.join()
    assert model.num_timesteps >= 100


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_an_environment_that_fails_leaves_a_model_that_works(cls):
    model = make(cls, lambda: Counter(length=5, fail_at=100))
    with pytest.raises(EnvironmentFailure, match="environment 0 raised KeyError in step at step 100"):
        model.learn(10_000)
    assert torch.isfinite(weights(model)).all()
    model.predict(np.zeros(2))
    model.learn(64)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_nan_never_reaches_the_weights(cls):
    for fault in (dict(nan_at=70), dict(nan_at=70, nan_reward=True)):
        model = make(cls, lambda fault=fault: Counter(length=5, **fault))
        with pytest.raises(ValueError, match=r"environment 0 returned .*nan.* at step 70"):
            model.learn(10_000)
        assert torch.isfinite(weights(model)).all()


BAD = [
    (PPO, dict(n_steps=0)), (PPO, dict(batch_size=-1)), (PPO, dict(n_epochs=0)), (PPO, dict(gae_lambda=1.5)),
    (PPO, dict(clip_range=-0.1)), (PPO, dict(clip_range="log_1")), (PPO, dict(max_grad_norm=-1)),
    (PPO, dict(target_kl=-1)), (PPO, dict(ent_coef=float("nan"))),
    (REINFORCE, dict(n_episodes=0)), (REINFORCE, dict(vf_coef=-1)),
    (DQN, dict(buffer_size=0)), (DQN, dict(batch_size=0)), (DQN, dict(tau=1.1)), (DQN, dict(train_freq=0)),
    (DQN, dict(train_freq=(1, "day"))), (DQN, dict(exploration_initial_eps=2)), (DQN, dict(gradient_steps=-2)),
    (DQN, dict(learning_starts=-1)), (DQN, dict(loss="l1")), (DQN, dict(exploration_decay=1.01)),
    *[(cls, bad) for cls in ALGORITHMS for bad in (
        dict(gamma=1.01), dict(gamma=-0.1), dict(learning_rate=-1.0), dict(learning_rate="fast"), dict(n_envs=0),
        dict(seed=-1), dict(policy_kwargs=dict(net_arch=[0])))],
]  # fmt: skip


@pytest.mark.parametrize(("cls", "bad"), BAD)
def test_hyperparameters_out_of_range(cls, bad):
    with pytest.raises(ValueError, match=next(iter(next(iter(bad.values())) if "policy_kwargs" in bad else bad))):
        make(cls, **bad)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_hyperparameters_of_another_type(cls):
    for bad in (dict(gamma="high"), dict(learning_rate=None), dict(n_envs=1.5), dict(seed="x"), dict(normalize="no")):
        with pytest.raises(TypeError, match=next(iter(bad))):
            make(cls, **bad)


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_policies_and_spaces_that_are_not_supported(cls):
    with pytest.raises(ValueError, match="MlpPolicy"):
        cls("CnnPolicy", "CartPole-v1")
    dictionary = Dict(a=Box(-1, 1, (2,)))
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        make(cls, lambda: Identity(Discrete(2), dictionary))
    with pytest.raises(TypeError, match="FlattenObservation"):
        make(cls, lambda: Identity(Discrete(2), Tuple([Box(-1, 1, (2,))])))
    with pytest.raises(TypeError, match="takes Discrete"):
        make(cls, lambda: Identity(dictionary, Box(-1, 1, (2,))))
    with pytest.raises(gym.error.Error):
        make(cls, "CartPoll-v1")
    if cls is DQN:
        with pytest.raises(TypeError, match="DQN takes Discrete actions"):
            make(cls, "Pendulum-v1")


class Linear(torch.nn.Module):
    """A policy of one's own, for two logits."""

    def __init__(self, outputs=2, q=False):
        super().__init__()
        self.body, self.head, self.q = torch.nn.Linear(4, outputs), torch.nn.Linear(4, 1), q

    def forward(self, obs):
        return self.body(obs) if self.q else (self.body(obs), self.head(obs).squeeze(-1))


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_a_module_of_ones_own(cls):
    module = Linear(q=cls is DQN)
    model = cls(module, "CartPole-v1", **SMALL[cls], seed=0)
    before = weights(model).clone()
    assert model.learn(100).policy is module and not torch.equal(weights(model), before)
    with pytest.raises(ValueError, match="for 2 observations the policy returned"):
        cls(Linear(outputs=3, q=cls is DQN), "CartPole-v1", seed=0)


def test_box_actions_need_a_deviation():
    class Mean(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = torch.nn.Linear(3, 1)

        def forward(self, obs):
            return self.mean(obs), self.mean(obs).squeeze(-1)

    with pytest.raises(ValueError, match="log_std"):
        PPO(Mean(), "Pendulum-v1")


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_set_env(cls):
    model = make(cls).learn(50)
    model.set_env("CartPole-v1", n_envs=3)
    model.learn(60, reset_num_timesteps=False)
    with pytest.raises(ValueError, match=r"observation_space of .* use one whose spaces are the same"):
        model.set_env("Acrobot-v1")
    assert model.num_envs == 3


def test_evaluation_shares_the_episodes_evenly():
    class Still:
        def predict(self, obs, deterministic=True):
            return np.zeros(len(obs), np.int64), None

    env = SyncVectorEnv([lambda: Counter(length=1), lambda: Counter(length=5)])
    returns, lengths = evaluate_policy(Still(), env, 6, return_episode_rewards=True)
    assert sorted(lengths) == [1, 1, 1, 5, 5, 5] and sum(returns) == 3 * 1 + 3 * 15
    assert evaluate_policy(Still(), lambda: Counter(length=3), 7) == (6.0, 0.0)
    with pytest.raises(ValueError, match="n_eval_episodes"):
        evaluate_policy(Still(), "CartPole-v1", 0)


def test_evaluation_is_reproducible_and_leaves_the_model_alone():
    model = make(PPO, normalize=True).learn(200)
    statistics = {k: v.copy() for k, v in model.normalizer.state().items()}
    first, second = (evaluate_policy(model, "CartPole-v1", 20, seed=3) for _ in range(2))
    assert first == second
    for key, value in model.normalizer.state().items():
        np.testing.assert_array_equal(value, statistics[key])


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        assert make(PPO, device="cuda").learn(40).device == "cuda"
    else:
        with pytest.raises(ValueError, match="no CUDA device"):
            make(PPO, device="cuda")


def test_a_callback_may_return_numpys_false_and_steps_may_be_1e2():
    calls = []
    model = make(PPO).learn(1e3, callback=lambda model: (calls.append(1), np.bool_(False))[1])
    assert len(calls) == 1 and model.num_timesteps == 32
    with pytest.raises(TypeError, match="callback"):
        model.learn(100, callback=3)
    with pytest.raises((ValueError, TypeError), match="total_timesteps"):
        model.learn(10.5)


def test_modules_stay_in_evaluation_mode():
    """With dropout at work, the policy that is updated would not be the one that acted."""

    class Dropping(Linear):
        def forward(self, obs):
            return super().forward(torch.nn.functional.dropout(obs, 0.5, self.training))

    model = PPO(Dropping(), "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, learning_rate=0.0, seed=0).learn(32)
    assert model.metrics["train/approx_kl"] == pytest.approx(0, abs=1e-6)


def test_an_interrupt_within_a_step_begins_new_episodes():
    class Stops(Counter):
        def step(self, action):
            if self.total == 40:
                self.total += 1
                raise KeyboardInterrupt
            return super().step(action)

    model = make(DQN, lambda: Stops(length=50)).learn(500)
    assert model.interrupted and model._obs is None
    model.learn(30, reset_num_timesteps=False)
    batch = model.replay_buffer.recent()
    np.testing.assert_array_equal(batch.next_obs, batch.obs + np.array([0, 1]))


def test_a_worker_that_is_interrupted_too_does_not_turn_the_request_into_an_error():
    class Both(Counter):
        def step(self, action):
            if self.total == 40:
                self.total += 1
                os.kill(os.getpid(), signal.SIGINT)
                raise KeyboardInterrupt  # as a vector environment's worker hands it on
            return super().step(action)

    assert make(PPO, Both).learn(500).interrupted


def test_diverged_training_is_an_error():
    model = make(PPO)
    with torch.no_grad():
        model.policy.vf[-1].bias.fill_(float("inf"))
    with pytest.raises(ValueError, match="diverged"):
        model.learn(100)


def test_images_are_scaled_whatever_they_come_as():
    space = Box(0, 255, (2, 2, 1), np.uint8)
    model = make(PPO, lambda: Identity(Discrete(2), space))
    image = space.sample()
    features = [model._features(np.asarray(x)[None]) for x in (image, image.tolist(), image.astype(np.float64))]
    assert all((f == features[0]).all() and f.max() <= 1 for f in features)


def test_an_endless_episode_is_cut_in_evaluation(monkeypatch):
    monkeypatch.setattr("fastrl.evaluation.LONGEST", 50)
    with pytest.warns(UserWarning, match="no time limit"):
        returns, lengths = evaluate_policy(make(PPO, Counter), lambda: Counter(10**9), 2, return_episode_rewards=True)
    assert lengths == [50, 50] and len(returns) == 2


@pytest.mark.parametrize("cls", ALGORITHMS)
def test_weights_do_not_depend_on_the_number_of_threads(cls):
    before, found = torch.get_num_threads(), []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        try:
            found.append(weights(make(cls, policy_kwargs=dict(net_arch=[64, 64]), seed=0)))
            assert torch.get_num_threads() == n_threads
        finally:
            torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_run_that_was_interrupted_says_so_where_a_callback_fails_too():
    def fail(model):
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError

    model = make(PPO)
    with pytest.raises(ZeroDivisionError):
        model.learn(64, fail)
    assert model.interrupted
    model.learn(64)
    assert not model.interrupted
