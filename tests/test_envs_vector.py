"""Compiled environments as Gymnasium's: spaces, autoreset, seeds, masks, bad input, and what trains on them."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import fastrl.envs
from fastrl.envs import make, make_vec
from fastrl.envs.classic import HOME, TABLES
from fastrl.envs.fused import CompiledStepper
from fastrl.envs.registration import TWINS
from fastrl.envs.stepper import make_stepper
from tests.compiled_envs import ALL, Count, Dials, Lamps, Push, Walk


def same(ours, theirs):
    """Equal through and through: types, dtypes, shapes, values."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            same(ours[key], theirs[key])
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        assert ours.dtype == object and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    else:
        assert type(ours) is type(theirs)
        if theirs is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("environment", [Count, Dials, Lamps])
def test_does_what_sync_vector_env_does(environment, n):
    """Episodes that have no chance in them, in both: each array and each info, through many ends of both kinds."""
    theirs = SyncVectorEnv([lambda: make(environment)] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = make_vec(environment, n)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    for name in ("single_observation_space", "single_action_space", "observation_space", "action_space", "num_envs"):
        assert getattr(ours, name) == getattr(theirs, name)
    for one, other in zip(ours.reset(seed=0), theirs.reset(seed=0), strict=True):
        same(one, other)
    ours.action_space.seed(n)
    kinds = set()
    for _ in range(200):
        action = ours.action_space.sample()
        results = ours.step(action), theirs.step(action)
        for one, other in zip(*results, strict=True):
            same(one, other)
        kinds |= {*results[0][2].tolist()} | {"cut" for cut in results[0][3] if cut}
    assert "cut" in kinds and (True in kinds or environment is Dials)


@pytest.mark.parametrize("environment", ALL)
@pytest.mark.filterwarnings("ignore:.*A Box observation space.*")
def test_gymnasiums_checker(environment):
    env = make(environment)
    check_env(env.unwrapped)
    env.close()


@pytest.mark.parametrize("id", TWINS)
@pytest.mark.filterwarnings("ignore:.*A Box observation space.*", "ignore:.*For Box action spaces.*")
def test_registered_ids(id):
    assert set(TWINS) == {*HOME, *TABLES}
    env, envs = gym.make(f"fastrl/{id}"), gym.make_vec(f"fastrl/{id}", num_envs=3)
    check_env(env.unwrapped)
    assert envs.spec.id == env.spec.id == f"fastrl/{id}" and envs.num_envs == 3
    assert envs.max_episode_steps == (gym.spec(id).max_episode_steps or 0)
    obs, _ = envs.reset(seed=4)
    assert envs.observation_space.contains(obs)
    for i in range(3):  # the first episode of environment i is that of a single one with the seed 4 + i
        np.testing.assert_array_equal(env.reset(seed=4 + i)[0], obs[i])
    assert envs.observation_space.contains(envs.step(envs.action_space.sample())[0])
    envs.close()
    assert make_vec(id, 2).spec.id == make(id).spec.id == f"fastrl/{id}"


@pytest.mark.parametrize("first", ["fastrl, gymnasium", "gymnasium, fastrl"])
def test_ids_are_known_in_either_order_of_imports(first):
    code = f"""
import {first}, sys
assert not {{"numba", "torch"}} & set(sys.modules)
id = "fastrl/CartPole-v1"
print(gymnasium.make_vec(id, num_envs=8), gymnasium.make(id), "torch" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("CompiledVectorEnv(fastrl/CartPole-v1, num_envs=8) <TimeLimit<") and out.endswith("False\n")


def play(envs, seed, steps=150, columns=slice(None)):
    """What environments give for actions that depend on the column alone."""
    given = [envs.reset(seed=seed)[0]]
    n = 8
    for t in range(steps):
        rng = np.random.default_rng(t)
        space = envs.single_action_space
        space.seed(t)
        if isinstance(space, gym.spaces.Box):
            action = rng.uniform(-1, 1, (n, *space.shape)).astype(np.float32)
        else:
            action = np.array([space.sample() for _ in range(n)])
        obs, reward, terminated, truncated, infos = envs.step(action[columns])
        given.append((obs, reward, terminated, truncated, infos.get("final_obs", np.full(len(obs), None))))
    return given


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", Walk, Push])
def test_results_depend_on_the_seed_alone(environment):
    """Environment i of eight does what it does among four, or with its seed in a list; another seed differs."""
    whole, other = play(make_vec(environment, 8), 5), play(make_vec(environment, 8), 6)
    half = play(make_vec(environment, 4), 9, columns=slice(4, 8))
    listed = play(make_vec(environment, 4), [9, 10, 11, 12], columns=slice(4, 8))
    for t, (one, two, three) in enumerate(zip(whole, half, listed, strict=True)):
        if t == 0:
            np.testing.assert_array_equal(one[4:], two)
            continue
        for a, b, c in zip(one, two, three, strict=True):
            same(a[4:].copy(), b)
            same(a[4:].copy(), c)
    assert any((a[1] != b[1]).any() or (a[0] != b[0]).any() for a, b in zip(whole[1:], other[1:], strict=True))


def test_streams_go_on_without_a_seed_and_differ():
    envs = make_vec("CartPole-v1", 4)
    first, again = envs.reset(seed=1)[0], envs.reset()[0]
    assert len(np.unique(np.concatenate([first, again]), axis=0)) == 8
    np.testing.assert_array_equal(envs.reset(seed=1)[0], first)
    np.testing.assert_array_equal(envs.reset()[0], again)
    kept = envs.rngs[1].copy()
    envs.reset(seed=[1, None, 1, 1])
    assert (envs.rngs[0] == envs.rngs[2]).all() and (envs.rngs[1] != kept).any()
    assert (make_vec("CartPole-v1", 2).rngs != make_vec("CartPole-v1", 2).rngs).any()


def test_reset_mask():
    envs = make_vec(Count, 4)
    envs.reset(seed=0)
    for _ in range(3):
        envs.step(np.ones(4, int))
    states, mask = envs.states.copy(), np.array([True, False, False, True])
    obs, _ = envs.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(envs.states[~mask], states[~mask])
    np.testing.assert_array_equal(obs[:, :, 0], [[0, 0, 0.5], [3, 1, 6.5], [3, 1, 6.5], [0, 0, 0.5]])
    np.testing.assert_array_equal(envs.lengths, [0, 3, 3, 0])
    np.testing.assert_array_equal(envs.returns, [0, 0.5 + 2.5 + 5.5, 8.5, 0])
    rngs = envs.rngs.copy()
    envs.reset(seed=7, options={"reset_mask": mask})
    np.testing.assert_array_equal((envs.rngs != rngs).any(axis=1), mask)
    for bad, error in [
        ([True] * 4, TypeError),
        (np.ones(4), TypeError),
        (np.ones(3, bool), ValueError),
        (np.zeros(4, bool), ValueError),
    ]:
        with pytest.raises(error, match="reset_mask"):
            envs.reset(options={"reset_mask": bad})


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
def test_the_arrays_are_all_there_is(id):
    """Written into another one, they make it go on as the first."""
    first, other = make_vec(id, 3), make_vec(id, 3)
    first.reset(seed=0)
    first.action_space.seed(0)
    for _ in range(20):
        obs = first.step(first.action_space.sample())[0]
    for name in ("states", "rngs", "lengths", "returns"):
        getattr(other, name)[:] = getattr(first, name)
    same(other.observations(), obs)
    for _ in range(300):
        action = first.action_space.sample()
        for one, two in zip(first.step(action), other.step(action), strict=True):
            same(one, two)


def test_the_time_limit_is_the_environments_or_ones_own():
    for limit, expected in [(None, 7), (3, 3), (0, None)]:
        envs = make_vec(Count, 1, max_episode_steps=limit)
        envs.reset()
        cuts = [t + 1 for t in range(20) if envs.step(np.zeros(1, int))[3][0]]
        assert cuts == ([] if expected is None else list(range(expected, 21, expected)))


def test_episode_statistics_of_gymnasium():
    envs = RecordEpisodeStatistics(make_vec("CartPole-v1", 5))
    envs.reset(seed=0)
    lengths, finished = np.zeros(5, int), []
    for _ in range(300):
        _, reward, terminated, truncated, infos = envs.step(envs.action_space.sample())
        assert (reward == 1).all()
        lengths += 1
        done = terminated | truncated
        if done.any():
            np.testing.assert_array_equal(infos["_episode"], done)
            np.testing.assert_array_equal(infos["episode"]["l"][done], lengths[done])
            np.testing.assert_array_equal(infos["episode"]["r"][done], lengths[done])
            finished += lengths[done].tolist()
            lengths[done] = 0
        np.testing.assert_array_equal(envs.unwrapped.lengths, lengths)
    assert len(finished) > 20


def test_episode_statistics_know_the_mask():
    envs, mask = RecordEpisodeStatistics(make_vec(Count, 3)), np.array([True, False, True])
    envs.reset()
    envs.step(np.zeros(3, int))
    envs.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(envs.episode_lengths, [0, 1, 0])
    np.testing.assert_array_equal(envs.unwrapped.lengths, [0, 1, 0])


def test_what_is_handed_out_is_the_callers():
    envs = make_vec(Count, 2, goal=1.0)
    envs.reset()
    first = envs.step(np.ones(2, int))
    kept = [np.array(part, copy=True) for part in first[:4]], [o.copy() for o in first[4]["final_obs"]]
    envs.step(np.zeros(2, int))
    envs.step(np.ones(2, int))
    for part, copy in zip(first[:4], kept[0], strict=True):
        np.testing.assert_array_equal(part, copy)
    assert not np.shares_memory(first[4]["_final_obs"], first[4]["_final_info"])
    for part, copy in zip(first[4]["final_obs"], kept[1], strict=True):
        np.testing.assert_array_equal(part, copy)


@pytest.mark.parametrize(
    "environment, bad, message",
    [
        (Count, np.zeros(3, int), r"shape \(3,\); it must be \(2,\)"),
        (Count, np.zeros((2, 1), int), r"shape \(2, 1\)"),
        (Count, np.zeros(2), "float64"),
        (Count, np.array([1, 3]), r"the action 3 of environment 1 is not in Discrete\(3\)"),
        (Count, np.array([-1, 0]), "the action -1 of environment 0"),
        (Count, np.array(["1", "2"]), "actions are <U1"),
        (Dials, np.array([[1, 2, 3], [1, 3, 3]]), r"the action \[1 3 3\] of environment 1 is not in MultiDiscrete"),
        (Lamps, np.full((2, 4), 2), r"the action \[2 2 2 2\] of environment 0"),
        (Push, np.zeros((2, 3), np.float32), r"shape \(2, 3\)"),
        (Push, np.array([[0, 0], [0, np.nan]], np.float32), "of environment 1 is not in Box"),
        (Push, np.array([[0, 0], [0, 1]], object), "object"),
    ],
)
def test_bad_actions_are_refused_before_anything_is_changed(environment, bad, message):
    envs = make_vec(environment, 2)
    envs.reset(seed=0)
    before = [array.copy() for array in (envs.states, envs.rngs, envs.lengths, envs.returns)]
    with pytest.raises(ValueError, match=message):
        envs.step(bad)
    for array, copy in zip((envs.states, envs.rngs, envs.lengths, envs.returns), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, bool, list])
def test_integers_of_any_kind_are_actions(kind):
    envs, other = make_vec(Count, 2), make_vec(Count, 2)
    envs.reset(), other.reset()
    same(envs.step([1, 0] if kind is list else np.array([1, 0], kind))[0], other.step(np.array([1, 0]))[0])


def test_strided_and_wide_floats_are_actions():
    envs, other = make_vec(Push, 2), make_vec(Push, 2)
    envs.reset(seed=0), other.reset(seed=0)
    action = np.random.default_rng(0).uniform(-1, 1, (2, 4))
    same(envs.step(action[:, ::2])[0], other.step(action[:, ::2].astype(np.float32).copy())[0])


def test_misuse():
    envs, env = make_vec(Count, 2), make(Count)
    for one in (envs, env.unwrapped):
        with pytest.raises(gym.error.ResetNeeded):
            one.step(np.zeros(2, int))
        with pytest.raises(NotImplementedError, match="do not render"):
            one.render()
    with pytest.raises(ValueError, match="3 seeds for 2"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(TypeError, match=r"seed is 1\.5"):
        envs.reset(seed=1.5)
    for one in (envs, env.unwrapped):
        with pytest.raises(ValueError, match="reset takes no option low"):
            one.reset(options={"low": 0.1})
    with pytest.raises(ValueError, match="negative"):
        envs.reset(seed=-1)
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_vec(Count, 0)
    with pytest.raises(ValueError, match="max_episode_steps is -1"):
        make_vec(Count, 1, max_episode_steps=-1)
    with pytest.raises(ValueError, match="LunarLander-v3 has no compiled twin; those that have one are"):
        make_vec("LunarLander-v3", 2)
    with pytest.raises(TypeError, match=r"CartPole has no constant 'gravitas'; it has gravity, "):
        make_vec("CartPole-v1", 2, gravitas=1)
    with pytest.raises(ValueError, match="render_mode is 'human'"):
        gym.make_vec("fastrl/CartPole-v1", num_envs=2, render_mode="human")
    with pytest.raises(TypeError, match="it must be an id"):
        make_vec(object(), 2)
    with pytest.raises(ValueError, match="the action 5 is not in"):
        env.reset(), env.step(5)


def test_ones_own_id():
    fastrl.envs.register("tests/Count-v0", Count)
    try:
        envs, env = gym.make_vec("tests/Count-v0", num_envs=2, goal=3.0), gym.make("tests/Count-v0", goal=3.0)
        assert envs.environment.constants["goal"] == env.unwrapped.environment.constants["goal"] == 3
        assert envs.max_episode_steps == env.spec.max_episode_steps == 7
        assert isinstance(make_stepper("tests/Count-v0", 2), CompiledStepper)
    finally:
        del gym.registry["tests/Count-v0"]


@pytest.mark.parametrize("n", [1, 4])
def test_steppers_of_the_algorithms_take_them(n):
    stepper = make_stepper(make_vec("CartPole-v1", n))
    stepper.reset(seed=0)
    for _ in range(200):
        step = stepper.step(stepper.env.action_space.sample())
        done = step.terminated | step.truncated
        assert step.valid.all() and (abs(step.final_obs[done]) > [2.4, 9, 0.2, 9]).any(axis=1).all()
        assert (abs(step.obs[done]) < 0.05).all()
    assert len(stepper.take_finished()) > 2
    single = make_stepper("fastrl/CartPole-v1", n)
    single.reset(seed=0)
    state = None
    for _ in range(30):
        last = single.step(np.ones(n, int)).obs
    state = single.state()
    np.testing.assert_array_equal(make_stepper("fastrl/CartPole-v1", n).restore(state), last)
