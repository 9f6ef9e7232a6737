"""Copies of compiled environments: pickled, deep-copied, in another process."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from fastrl import TabularMDP
from fastrl.envs import environment, make, make_vec, tabular
from fastrl.envs.stepper import make_stepper
from tests.compiled_envs import ALL, Count, Push

COPIES = {"pickle": lambda env: pickle.loads(pickle.dumps(env)), "deepcopy": copy.deepcopy}
TABLES = {
    "FrozenLake-v1": "FrozenLake-v1", "Taxi-v4": "Taxi-v4",
    "an MDP": tabular(TabularMDP.from_env("CliffWalking-v1"), max_episode_steps=9),
    "other constants": Push.replace(hole=40.0), "CartPole-v1": "CartPole-v1", "Acrobot-v1": "Acrobot-v1",
}  # fmt: skip
ENVIRONMENTS = TABLES | {env.name: env for env in ALL}


def assert_same_step(ours, theirs):
    for one, other in zip(ours[:4], theirs[:4], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("face", [make, lambda env: make_vec(env, 3)], ids=["single", "vector"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_copy_goes_on_as_the_original_does(name, face, how):
    """Through many episodes, whichever of the two is stepped first: they share nothing that changes."""
    env = face(ENVIRONMENTS[name])
    env.reset(seed=3)
    env.action_space.seed(0)
    for _ in range(4):
        ended = env.step(env.action_space.sample())
    if np.any(ended[2] | ended[3]):
        env.reset()
    twin, actions = COPIES[how](env), [env.action_space.sample() for _ in range(60)]
    assert twin.observation_space == env.observation_space and twin.action_space == env.action_space
    taken = [[], []]
    for steps, each in zip(taken, (twin, env), strict=True):
        for action in actions:
            steps.append(each.step(action))
            if each.unwrapped is not each and (steps[-1][2] or steps[-1][3]):
                steps.append((*each.reset()[:1], 0.0, False, False))
    for ours, theirs in zip(*taken, strict=True):
        assert_same_step(ours, theirs)


class Plain:
    observation_space = Count.observation_space
    action_space = Count.action_space
    state_size = 3
    pay = 1.0

    def reset(self, state, rng):
        state[2] = 0.5

    def step(self, state, action, rng):
        return self.pay, False

    def observe(self, state, obs):
        obs[:] = state


@environment
class Outer(Plain):
    def step(self, state, action, rng):
        return 1.0, False


def test_what_cannot_be_found_again_is_not_pickled():
    @environment
    class Inner(Outer):
        def step(self, state, action, rng):
            return 2.0, False

    for env in (Inner, make(Inner), make_vec(Inner, 2), make_stepper(make_vec(Inner, 2))):
        with pytest.raises(TypeError, match=r"Inner cannot be pickled: .* has no test_.*<locals>.Inner, .*outside"):
            pickle.dumps(env)
        copy.deepcopy(env)

    class Quiet(Plain):  # only other numbers: all there is to it can be written
        max_episode_steps = 2

    again = pickle.loads(pickle.dumps(environment(Quiet).replace(pay=3.0)))
    assert again.max_episode_steps == 2 and again.name == "Quiet" and again.constants["pay"] == 3
    env = make_vec(again, 2)
    env.reset()
    assert env.step(np.zeros(2, np.int64))[1].tolist() == [3, 3]
    with pytest.raises(TypeError, match="Louder cannot be pickled"):
        pickle.dumps(environment(type("Louder", (Quiet,), {})))


def test_a_name_that_means_another_environment_now(monkeypatch):
    """As when a cell of a notebook was run again."""
    module = sys.modules[__name__]
    data, old = pickle.dumps(Outer), Outer
    monkeypatch.setattr(module, "Outer", Count)
    with pytest.raises(TypeError, match="Outer cannot be pickled"):
        pickle.dumps(old)
    monkeypatch.setattr(module, "Outer", None)
    with pytest.raises(TypeError, match="has no environment Outer, as it had"):
        pickle.loads(data)


def test_environments_move_to_another_process(tmp_path):
    """Their functions have other addresses there."""
    vector, stepper, single = make_vec("CartPole-v1", 2), make_stepper("fastrl/CartPole-v1"), make("CartPole-v1")
    vector.reset(seed=1), stepper.reset(1), single.reset(seed=1)
    (tmp_path / "pickled").write_bytes(pickle.dumps((vector, stepper, single)))
    code = """
import pickle, sys
import gymnasium as gym
import numpy as np
vector, stepper, single = pickle.load(open(sys.argv[1], "rb"))
print(vector.step(np.array([0, 1]))[0].tolist(), stepper.step(np.array([0]))[0].tolist(), single.step(0)[0].tolist())
print((stepper.arrays.env == stepper.env.handle).all(), stepper.arrays.states is stepper.env.states)
"""
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "pickled"], capture_output=True, text=True, check=True)
    here = [step[0].tolist() for step in (vector.step(np.array([0, 1])), stepper.step(np.array([0])), single.step(0))]
    assert out.stdout == "{} {} {}\nTrue True\n".format(*here)


WRONG = {
    "states": [np.zeros((3, 1)), np.zeros(3), np.zeros((2, 4)), np.zeros((3, 4), complex), "abc", None],
    "rngs": [np.zeros((3, 2), np.uint64), np.ones((3, 4))],
    "lengths": [np.zeros(2, np.int64), np.zeros(3)],
    "returns": [np.zeros((3, 1)), 0.0],
}


def test_what_is_assigned_to_an_array_is_copied_into_it():
    """Kernels keep its address, and take its shape and dtype for granted."""
    env, other = make_vec("CartPole-v1", 3), make_vec("CartPole-v1", 3)
    stepper = make_stepper(env)
    for each in (env, other):
        each.reset(seed=1 if each is env else 2)
    kept = {name: getattr(env, name) for name in WRONG}
    for name, values in WRONG.items():
        for value in values:
            before = kept[name].copy()
            with pytest.raises(ValueError, match=rf"{name} .*must be {before.dtype} .* what is assigned is copied"):
                setattr(env, name, value)
            np.testing.assert_array_equal(getattr(env, name), before)
        given = np.asfortranarray(getattr(other, name))
        setattr(env, name, given)
        assert getattr(env, name) is kept[name] is not given and getattr(stepper.arrays, name) is kept[name]
        np.testing.assert_array_equal(kept[name], given)
    env.states += 0.0
    for _ in range(30):
        assert_same_step(env.step(np.array([0, 1, 1])), other.step(np.array([0, 1, 1])))
    with pytest.raises(AttributeError):
        env.handle = np.zeros(5, np.int64)


def test_the_state_of_a_single_one_may_be_assigned_as_gymnasiums():
    env, theirs = make("CartPole-v1"), gym.make("CartPole-v1")
    state = [0.1, 0.2, -0.05, 0.3]
    for each in (env, theirs):
        each.reset(seed=0)
        each.unwrapped.state = state
    np.testing.assert_allclose(env.step(1)[0], theirs.step(1)[0], rtol=1e-6)
    for value in (state[:3], [state], np.zeros(0), ["a"] * 4):
        with pytest.raises(ValueError, match=r"state .*must be float64 \(4,\)"):
            env.unwrapped.state = value
    with pytest.raises(ValueError, match=r"rng .*must be uint64 \(4,\)"):
        env.unwrapped.rng = [1, 2, 3]
    env.unwrapped.rng = np.arange(1, 5, dtype=np.uint64)
    assert env.unwrapped.rng.tolist() == [1, 2, 3, 4]
