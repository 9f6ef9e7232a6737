"""Every kind of environment gives the same transitions, whatever its autoreset convention."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrl import PPO, EnvironmentFailure, evaluate_policy
from fastrl.envs import env_list
from fastrl.envs.stepper import make_stepper
from tests.envs import Counter


def makers(truncate=False):
    # Lengths and first episodes differ, so that no two rows of the vector are alike.
    return [lambda i=i: Counter(length=2 + i, truncate=truncate, first=100 * i) for i in range(3)]


def transitions(stepper, n_steps):
    """Each environment's transitions (obs, reward, next_obs, terminated, truncated), as tuples."""
    obs, rows = stepper.reset(seed=0), [[] for _ in range(stepper.num_envs)]
    for _ in range(n_steps):
        step = stepper.step(np.zeros(stepper.num_envs, np.int64))
        for i in np.flatnonzero(step.valid):
            rows[i].append((*obs[i], step.reward[i], *step.final_obs[i], step.terminated[i], step.truncated[i]))
        obs = step.obs
    return rows, stepper.take_finished()


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_vector_environments_in_each_mode_give_what_single_ones_give(kind, mode, truncate):
    expected = [transitions(make_stepper(make), 30)[0][0] for make in makers(truncate)]
    vector = make_stepper(kind(makers(truncate), autoreset_mode=mode))
    rows, finished = transitions(vector, 30)
    for found, wanted in zip(rows, expected, strict=True):
        assert found == wanted[: len(found)] and len(found) >= 20
    assert {length for _, length in finished} == {2, 3, 4}
    assert all(total == sum(range(1, length + 1)) for total, length in finished)
    vector.close()


def test_the_last_transition_of_an_episode_leads_to_its_final_observation():
    stepper = make_stepper(lambda: Counter(length=2))
    stepper.reset()
    stepper.step(np.array([0]))
    step = stepper.step(np.array([0]))
    assert step.final_obs.tolist() == [[1, 2]] and step.obs.tolist() == [[2, 0]] and step.terminated.all()


def test_ids_callables_environments_and_their_copies():
    assert make_stepper("CartPole-v1", 3).num_envs == 3
    assert make_stepper("CartPole-v1").env_id == "CartPole-v1"
    assert make_stepper(lambda: gym.make("CartPole-v1"), 2).num_envs == 2
    assert make_stepper(gym.make("CartPole-v1")).num_envs == 1
    assert make_stepper(gym.make_vec("CartPole-v1", 4)).num_envs == 4


def test_equal_seeds_give_equal_observations_and_environments_differ():
    first, second = (make_stepper("CartPole-v1", 3).reset(seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first, axis=0)) == 3


def test_what_is_no_environment():
    env = Counter()
    with pytest.raises(TypeError, match="it must be an id"):
        make_stepper(3)
    with pytest.raises(TypeError, match=r"must make a gymnasium\.Env"):
        make_stepper(lambda: 3)
    with pytest.raises(ValueError, match="same environment twice"):
        make_stepper(lambda: env, 2)
    with pytest.raises(ValueError, match="exists already"):
        make_stepper(env, 2)
    with pytest.raises(ValueError, match="n_envs is 0"):
        make_stepper("CartPole-v1", 0)


def test_spaces_that_differ():
    ids = iter(["CartPole-v1", "Acrobot-v1"])
    with pytest.raises(ValueError, match="environment 1 has spaces"):
        make_stepper(lambda: gym.make(next(ids)), 2)


def faulty(**fault):
    """Two environments, the second of which has the fault."""
    made = iter([Counter(length=99), Counter(length=99, **fault)])
    return make_stepper(lambda: next(made), 2)


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (dict(fail_at=4), EnvironmentFailure, "environment 1 raised KeyError in step at step 4: 'the wheel"),
        (dict(nan_at=4), ValueError, r"environment 1 returned an observation of .*nan.* at step 4"),
        (dict(nan_at=4, nan_reward=True), ValueError, "environment 1 returned a reward of nan at step 4"),
    ],
)
def test_a_fault_in_step_names_the_environment_and_the_step(fault, error, message):
    stepper = faulty(**fault)
    stepper.reset()
    with pytest.raises(error, match=message):
        for _ in range(9):
            stepper.step(np.zeros(2, np.int64))


def test_the_original_exception_is_kept():
    stepper = faulty(fail_at=1)
    stepper.reset()
    with pytest.raises(EnvironmentFailure) as caught:
        stepper.step(np.zeros(2, np.int64))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_an_observation_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"environment 1 returned an observation of shape .* says \(2,\)"):
        faulty(shape=shape).reset()


def test_an_observation_of_another_shape_later():
    class Growing(Counter):
        def step(self, action):
            obs, *rest = super().step(action)
            return (obs if obs[1] < 3 else np.zeros(5), *rest)

    stepper = make_stepper(lambda: Growing(length=10))
    stepper.reset()
    with pytest.raises(ValueError, match=r"environment 0 returned an observation of shape \(5,\) at step 3"):
        for _ in range(4):
            stepper.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("reward", [[1.0, 2.0], "1", None])
def test_a_reward_that_is_no_number(reward):
    class Odd(Counter):
        def step(self, action):
            return (super().step(action)[0], reward, False, False, {})

    stepper = make_stepper(Odd)
    stepper.reset()
    with pytest.raises(ValueError, match=r"environment 0 returned the reward .* at step 1, not one number"):
        stepper.step(np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ((np.zeros(2, np.float32), 0.0, False, {}), EnvironmentFailure, "environment 0 raised ValueError in step at s"),
        (None, EnvironmentFailure, "environment 0 raised TypeError in step at step 1"),
        ((np.zeros(2, np.float32), 0.0, np.ones(2), False, {}), ValueError, "terminated = .* step 1, neither True"),
        ((np.zeros(2, np.float32), 2**70, False, False, {}), ValueError, "environment 0 returned the reward 11805916"),
        ((np.zeros(2, np.float32), 10**400, False, False, {}), ValueError, "returned the reward .* not one number"),
        ((np.zeros((1, 2), np.float32), 0.0, False, False, {}), ValueError, r"of shape \(1, 2\) at step 1; .*\(2,\)"),
    ],
)
def test_a_step_that_is_no_step(result, error, message):
    class Odd(Counter):
        def step(self, action):
            return result

    stepper = make_stepper(Odd)
    stepper.reset()
    with pytest.raises(error, match=message):
        stepper.step(np.zeros(1, np.int64))


def test_a_step_that_is_replaced_later():
    stepper = make_stepper(lambda: Counter(length=99), 2)
    stepper.reset()
    stepper.envs[1].step = lambda action: (np.ones(2), np.float32(7), np.True_, 0, {})
    step = stepper.step(np.zeros(2, np.int64))
    assert step.reward.tolist() == [1, 7] and step.terminated.tolist() == [False, True]
    assert step.final_obs.tolist() == [[1, 1], [1, 1]] and step.final_obs.dtype == np.float32


def test_rewards_of_a_vector_environment_in_another_shape():
    class Odd(SyncVectorEnv):
        def step(self, actions):
            obs, reward, *rest = super().step(actions)
            return obs, reward[:, None], *rest

    stepper = make_stepper(Odd([Counter] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    stepper.reset()
    with pytest.raises(ValueError, match=r"reward is float64 of the shape \(2, 1\); it must be float64 \(2,\)"):
        stepper.step(np.zeros(2, np.int64))


def test_a_reward_of_one_element_and_sums_in_double_precision():
    class Odd(Counter):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, np.array([0.1]), *rest

    stepper = make_stepper(lambda: Odd(length=5))
    stepper.reset()
    for _ in range(5):
        stepper.step(np.zeros(1, np.int64))
    assert stepper.take_finished() == [(pytest.approx(0.5, abs=1e-12), 5)]


@pytest.mark.parametrize("mode", [None, *AutoresetMode])
def test_a_nan_from_a_reset(mode):
    class Odd(Counter):
        def _obs(self):
            return super()._obs() * (np.nan if self.episode == 3 else 1)

    env = (lambda: Odd(length=2)) if mode is None else SyncVectorEnv([lambda: Odd(length=2)], autoreset_mode=mode)
    stepper = make_stepper(env)
    stepper.reset()
    with pytest.raises(ValueError, match=r"environment 0 returned .*observation of .*nan"):
        for _ in range(9):
            stepper.step(np.zeros(1, np.int64))


def test_same_step_without_final_observations():
    class Forgetful(SyncVectorEnv):
        def step(self, actions):
            *rest, info = super().step(actions)
            return *rest, {key: value for key, value in info.items() if "final" not in key}

    stepper = make_stepper(Forgetful([lambda: Counter(length=2)], autoreset_mode=AutoresetMode.SAME_STEP))
    stepper.reset()
    with pytest.raises(ValueError, match="final_obs"):
        for _ in range(3):
            stepper.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("bits", [np.random.MT19937, np.random.Philox])
def test_generators_of_another_kind_only_cost_the_restoring(bits):
    class Odd(Counter):
        @property
        def np_random(self):
            return np.random.Generator(bits(0))

    stepper = make_stepper(Odd)
    stepper.reset()
    stepper.step(np.zeros(1, np.int64))
    assert stepper.state() is None


class Walk(gym.Env):
    """A random walk, whose steps and ends depend on the generator and on all actions so far."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, action_space, end):
        self.action_space, self.end = action_space, end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2)
        return self.place, {}

    def step(self, action):
        assert self.action_space.contains(action), action
        # The same array every time: what a stepper hands out must not change with it.
        self.place += np.sum(action) + self.np_random.normal(size=2)
        return self.place, self.place[0], bool(self.np_random.random() < self.end), False, {}


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32), n_envs=st.integers(1, 4), n_steps=st.integers(0, 60),
    end=st.sampled_from([0, 0.05, 0.3]), memory=st.sampled_from([8, 60, 10_000]),
    space=st.sampled_from([gym.spaces.Discrete(3, start=-1), gym.spaces.Box(-1, 1, (2,)), gym.spaces.MultiBinary(3)]),
)  # fmt: skip
def test_running_episodes_go_on_elsewhere(seed, n_envs, n_steps, end, memory, space):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env_list, "MAX_REPLAYED_NUMBERS", memory)
        first, second = (make_stepper(lambda: Walk(space, end), n_envs) for _ in range(2))
        space.seed(seed)
        obs, lengths = first.reset(seed), np.zeros(n_envs, int)
        for _ in range(n_steps):
            step = first.step(np.stack([space.sample() for _ in range(n_envs)]))
            lengths = np.where(step.terminated, 0, lengths + 1)
            obs = step.obs
        state, numbers = first.state(), max(1, int(np.prod(space.shape)))
        if state is None:
            # Room for twice the numbers: an episode is lost if it fills half of it, or all of them together.
            assert max(lengths) >= max(1, memory // (n_envs * numbers)) or lengths.sum() * numbers >= memory
            return
        np.testing.assert_array_equal(second.restore(json.loads(json.dumps(state))), obs)
        np.testing.assert_array_equal(second.running(), first.running())
        for _ in range(20):
            action = np.stack([space.sample() for _ in range(n_envs)])
            outcomes = [stepper.step(action) for stepper in (first, second)]
            for one, other in zip(*outcomes, strict=True):
                np.testing.assert_array_equal(one, other)
        ended = [stepper.take_finished() for stepper in (first, second)]
        assert ended[0][len(ended[0]) - len(ended[1]) :] == ended[1]
        if memory == 10_000:  # with less, one may have run out of room earlier than the other
            assert second.state() == first.state()


def test_what_a_step_gave_stays_as_it_was():
    stepper, action = make_stepper(lambda: Walk(gym.spaces.Discrete(2), 0.2), 3), np.zeros(3, np.int64)
    steps, copies = [], []
    stepper.reset(0)
    for k in range(30):
        action[:] = k % 2
        steps.append(stepper.step(action))
        copies.append([np.array(array) for array in steps[-1]])
    for step, copy in zip(steps, copies, strict=True):
        for found, expected in zip(step, copy, strict=True):
            np.testing.assert_array_equal(found, expected)
    for episode in stepper.state():  # the last actions of each, which alternated
        assert episode["actions"] == [k % 2 for k in range(30)][30 - len(episode["actions"]) :]


class Typed(gym.Wrapper):
    """Notes the type of its actions."""

    def step(self, action):
        self.unwrapped.seen = type(action)
        return super().step(action)


def test_only_gymnasiums_own_environments_get_python_integers_and_it_makes_no_difference():
    own, foreign = make_stepper("CartPole-v1", 2), make_stepper(lambda: Typed(gym.make("CartPole-v1")), 2)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(own.reset(3), foreign.reset(3))
    for _ in range(100):
        action = rng.integers(2, size=2)
        for one, other in zip(own.step(action), foreign.step(action), strict=True):
            np.testing.assert_array_equal(one, other)
    assert own._as_int and foreign.envs[0].unwrapped.seen is np.int64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_so_large_that_their_squares_overflow_are_finite(dtype):
    class Large(Counter):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), dtype)

        def _obs(self):
            value = np.inf if self.t == 2 else np.finfo(dtype).max
            return np.array([value, -1], dtype)

    stepper = make_stepper(lambda: Large(length=9))
    stepper.reset()
    assert stepper.step(np.zeros(1, np.int64)).obs[0, 0] == np.finfo(dtype).max
    with pytest.raises(ValueError, match=r"environment 0 returned an observation of \[inf -1.\] at step 2"):
        stepper.step(np.zeros(1, np.int64))


@pytest.mark.parametrize("reward", [2, True, np.float32(0.5), np.int64(3), np.array(1.5), np.array([[4]])])
def test_rewards_of_other_types(reward):
    class Odd(Counter):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, reward, *rest

    stepper = make_stepper(Odd)
    stepper.reset()
    assert stepper.step(np.zeros(1, np.int64)).reward == float(np.asarray(reward).item())


def test_evaluation_keeps_torch_to_one_thread():
    torch = pytest.importorskip("torch")
    before, seen = torch.get_num_threads(), []
    model = PPO("MlpPolicy", Counter, n_steps=8, seed=0)
    predict = model.predict
    model.predict = lambda *args, **kwargs: (seen.append(torch.get_num_threads()), predict(*args, **kwargs))[1]
    try:
        torch.set_num_threads(2)
        evaluate_policy(model, Counter, n_eval_episodes=2)
        assert set(seen) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
