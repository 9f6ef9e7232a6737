"""The contract of compiled environments: what is refused and how, caching, constants, debugging, plain Python."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import numba
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from fastrl import EnvironmentFailure
from fastrl.envs import environment, make, make_vec
from fastrl.envs.stepper import make_stepper
from fastrl.kernels.environment import observe_flat, step_all
from fastrl.kernels.sampling import new_stream, normal
from tests.compiled_envs import ALL, Count, Push, Walk


class Good:
    """What the tests below spoil, one thing at a time."""

    observation_space = Box(-1, 1, (2,), np.float32)
    action_space = Discrete(2)
    state_size = 2
    size = 1.0

    def reset(self, state, rng):
        pass

    def step(self, state, action, rng):
        return 1.0, False

    def observe(self, state, obs):
        obs[:] = state


def spoilt(**members):
    return environment(type("Spoilt", (Good,), members))


@pytest.mark.parametrize(
    "members, error, message",
    [
        ({"observation_space": Box(-1, 1, (2,), np.float64)}, ValueError, "must be a Box of float32"),
        ({"observation_space": Discrete(3, start=1)}, ValueError, "Discrete from 0"),
        ({"observation_space": Discrete(2**24 + 1)}, ValueError, "of 16777216 at most"),
        ({"observation_space": Dict()}, ValueError, "observation space of Spoilt"),
        ({"action_space": Discrete(3, start=1)}, ValueError, "counted from 0"),
        ({"action_space": MultiDiscrete([2, 2], start=[0, 1])}, ValueError, "counted from 0"),
        ({"action_space": MultiBinary((2, 2))}, ValueError, "one dimension"),
        ({"action_space": Box(-1, 1, (2, 2), np.float32)}, ValueError, "one dimension"),
        ({"state_size": 0}, ValueError, "state_size is 0"),
        ({"state_size": 2.0}, TypeError, "state_size is 2.0"),
        ({"max_episode_steps": -1}, ValueError, "max_episode_steps is -1"),
        ({"step": None}, TypeError, r"no function step\(self, state, action, rng\)"),
        ({"step": lambda self, state, action: (1.0, False)}, TypeError, "3 arguments; they must be self, "),
        ({"name_of_it": "spring"}, TypeError, "Spoilt.name_of_it is a str; constants"),
        ({"size": np.array(["a"])}, TypeError, "Spoilt.size is a ndarray"),
    ],
)  # fmt: skip
def test_the_decorator_refuses(members, error, message):
    with pytest.raises(error, match=message):
        spoilt(**members)


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match="class Empty has no observation_space"):
        environment(type("Empty", (), {}))
    with pytest.raises(TypeError, match="decorates a class"):
        environment(lambda: 0)


def helper(x):
    return x + 1


# Functions that do not compile: the line of the mistake, counted from `def`, and the reason.
def unknown_constant(self, state, action, rng):
    x = 1.0
    return x * self.sise, False


def assigned_constant(self, state, action, rng):
    self.size = 3.0
    return 1.0, False


def no_tuple(self, state, action, rng):
    return 1.0


def too_much(self, state, action, rng):
    return 1.0, False, {}


def plain_helper(self, state, action, rng):
    y = 2.0
    y = helper(y)
    return y, False


def unknown_name(self, state, action, rng):
    return misspelt, False  # noqa: F821


def wrong_types(self, state, action, rng):
    x = state + "a"
    return x[0], False


def context_manager(self, state, action, rng):
    with open("x") as file:
        file.read()
    return 1.0, False


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
@pytest.mark.parametrize(
    "function, line, reason",
    [
        (unknown_constant, 2, r"self\.sise is no constant of the class"),
        (assigned_constant, 1, r"self\.size is a constant; what changes must be kept in state"),
        (no_tuple, 1, r"it must return \(reward, terminated\)"),
        (too_much, 1, r"it must return \(reward, terminated\)"),
        (plain_helper, 2, "helper is a Python function: decorate it with numba.njit"),
        (unknown_name, 1, "'misspelt' is not defined"),
        (wrong_types, 1, r"there is no add\(array\(float64, 1d, C\), "),
        (context_manager, None, "with"),
    ],
)
def test_what_cannot_be_compiled_is_told_with_file_and_line(function, line, reason):
    with pytest.raises(TypeError, match=f"{function.__name__} cannot be compiled: .*{reason}") as caught:
        make_vec(spoilt(step=function))
    message = str(caught.value)
    assert "\n" not in message and __file__ in message
    if line is not None:
        assert message.endswith(f"line {function.__code__.co_firstlineno + line})")


SCRIPT = """
    import sys
    import numpy as np
    from gymnasium.spaces import Box, Discrete
    from elsewhere import STEP, double
    from fastrl.envs import environment, make_vec
    from fastrl.kernels import environment as kernels

    @environment
    class Ramp:
        observation_space = Box(-np.inf, np.inf, (1,), np.float32)
        action_space = Discrete(2)
        state_size = 1
        slope = 1.0

        def reset(self, state, rng):
            state[0] = 0

        def step(self, state, action, rng):
            state[0] += STEP * self.slope
            return double(state[0]), False

        def observe(self, state, obs):
            obs[0] = state[0]

    if __name__ == "__main__":
        slope, debug = float(sys.argv[1]), len(sys.argv) > 2
        envs = make_vec(Ramp, 2, slope=slope, debug=debug)
        envs.reset()
        reward = envs.step(np.zeros(2, int))[1][0]
        made = [*envs.environment._kept, kernels.step_all]
        counts = [[sum(c.values()) for c in (f.stats.cache_hits, f.stats.cache_misses)] for f in made]
        print(reward, *np.sum(counts, axis=0))
"""
ELSEWHERE = """
    import numba
    STEP = {step}

    @numba.njit
    def double(x):
        return {factor} * x
"""


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_machine_code_is_found_on_disk_and_is_that_of_the_present_source(tmp_path):
    """(reward, found on disk, compiled) of one process after the other; four functions: three and a kernel."""
    environ = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    script, elsewhere = tmp_path / "ramp.py", tmp_path / "elsewhere.py"
    script.write_text(textwrap.dedent(SCRIPT))

    def run(*argv, step=1.0, factor=2):
        elsewhere.write_text(textwrap.dedent(ELSEWHERE.format(step=step, factor=factor)))
        os.utime(elsewhere, ns=(0, len(list(tmp_path.glob("*"))) * 10**9 + int(1e6 * step) + factor))
        out = subprocess.run(
            [sys.executable, "-B", str(script), *argv], capture_output=True, text=True, env=environ, check=True
        ).stdout.split()
        return float(out[0]), int(out[1]), int(out[2])

    assert run("1") == (2.0, 0, 4)
    assert run("1") == (2.0, 4, 0)
    assert run("3") == (6.0, 4, 0)  # a constant of the class is no part of the code
    assert run("1", step=5.0) == (10.0, 3, 1)  # a global constant is, also one from another module
    assert run("1", factor=7) == (7.0, 3, 1)  # and so is a helper
    assert run("1") == (2.0, 4, 0)
    assert run("1", "debug") == (2.0, 1, 3)
    assert run("1", "debug") == (2.0, 4, 0)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_kernels_compile_once_for_all_environments_of_a_kind():
    def compiled():
        return len(step_all.nopython_signatures)

    for env in (Count, Push):
        envs = make_vec(env, 2)
        envs.reset()
        envs.step(envs.action_space.sample())
    before = compiled()
    for env in ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", Walk):
        envs = make_vec(env, 3)
        envs.reset()
        envs.step(envs.action_space.sample())
    assert compiled() == before


def test_constants():
    moved = Push.replace(hole=3, trap=np.float32(2.5))
    assert moved.constants[0].tolist()[:2] == (3.0, 2.5) and Push.constants["hole"] == 1e9
    assert moved.name == "Push" and moved.replace() is moved
    with pytest.raises(TypeError, match="Push has no constant 'depth'; it has hole, trap, gap, off"):
        Push.replace(depth=1)
    with pytest.raises(ValueError, match=r"Push.hole is int64 \(2,\); it must be float64 \(\)"):
        Push.replace(hole=[1, 2])
    with pytest.raises(TypeError, match=r"Push\.hole is a str"):
        Push.replace(hole="deep")
    assert copy.deepcopy(moved) is moved
    again = pickle.loads(pickle.dumps(moved))
    assert again.constants == moved.constants and again.observation_space == moved.observation_space


def up(n, heights):
    """n environments at the heights, and actions that leave them there."""
    action = np.zeros((n, 2), np.float32)
    return action, np.column_stack([np.zeros(n), heights])


@pytest.mark.parametrize(
    "constants, error, message",
    [
        ({"trap": 1.0}, ValueError, "environment 2 returned a reward that is not finite at step 4"),
        ({"hole": 1.0}, ValueError, "environment 2 returned an observation that is not finite at step 4"),
        ({"gap": 1.0}, EnvironmentFailure, "environment 2 raised ValueError in step at step 4: mind the gap"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_what_goes_wrong_is_told_with_environment_and_step(constants, error, message, debug):
    envs = make_vec(Push, 4, debug=debug, **constants)
    envs.reset()
    actions, low = up(4, [0, 0, 0, 0])
    for _ in range(3):
        envs.step(actions)
    envs.states[:] = low + np.array([[0, 0], [0, 0.5], [0, 2.0], [0, 2.0]])
    with pytest.raises(error, match=message):
        envs.step(actions)
    envs.reset()
    envs.step(actions)


def test_an_index_out_of_bounds_is_told_in_debug_mode():
    envs = make_vec(Push, 4, debug=True, off=1.0)
    envs.reset()
    actions, low = up(4, [0, 2, 0, 2])
    envs.states[:] = low
    with pytest.raises(EnvironmentFailure, match="environment 1 raised IndexError in step at step 1") as caught:
        envs.step(actions)
    assert isinstance(caught.value.__cause__, IndexError)


AT_STEP_3 = [
    ({"trap": 1.0}, ValueError, "returned a reward that is not finite at step 3"),
    ({"hole": 1.0}, ValueError, "returned an observation that is not finite at step 3"),
    ({"gap": 1.0}, EnvironmentFailure, "raised ValueError in step at step 3: mind the gap"),
]


@pytest.mark.parametrize("constants, error, message", AT_STEP_3)
def test_what_goes_wrong_in_a_single_environment_is_told_with_the_step(constants, error, message):
    env, action = make(Push, **constants), np.zeros(2, np.float32)
    env.reset()
    env.step(action)
    env.step(action)
    env.unwrapped.state = [0, 2]
    with pytest.raises(error, match=f"^the environment {message}"):
        env.step(action)


@pytest.mark.parametrize("constants, error, message", AT_STEP_3)
def test_an_agent_is_told_of_it_as_of_any_environment(constants, error, message):
    stepper = make_stepper(lambda: make(Push, **constants), 2)
    stepper.reset()
    for _ in range(2):
        stepper.step(np.zeros((2, 2), np.float32))
    stepper.envs[1].unwrapped.state = [0, 2]
    with pytest.raises(error, match=f"^environment 1 {message}") as caught:
        stepper.step(np.zeros((2, 2), np.float32))
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_index_out_of_bounds_in_a_single_environment_is_told_in_debug_mode():
    env = make(Push, debug=True, off=1.0)
    env.reset()
    env.unwrapped.state = [0, 2]
    with pytest.raises(EnvironmentFailure, match="the environment raised IndexError in step at step 1") as caught:
        env.step(np.zeros(2, np.float32))
    assert isinstance(caught.value.__cause__, IndexError)


def test_discrete_observations_are_one_hot_for_networks():
    env, obs, state = Walk, np.ones(10, np.float32), np.array([7.0])
    observe_flat(env.handle(), state, obs)
    np.testing.assert_array_equal(obs, np.eye(10)[7])
    flat = np.ones(3, np.float32)
    observe_flat(Count.handle(), np.array([1.0, 2.0, 3.0]), flat)
    np.testing.assert_array_equal(flat, [1, 2, 3])


def test_normal_numbers():
    stream = new_stream(0)
    x = np.array([normal(stream) for _ in range(20_000)])
    np.testing.assert_allclose([x.mean(), x.std(), (x**3).mean(), (x**4).mean()], [0, 1, 0, 3], atol=0.15)


TRACE = """
import numpy as np, sys
from fastrl.envs import make_vec
from tests.compiled_envs import ALL
for environment in (*ALL, "CartPole-v1", "Pendulum-v1", "FrozenLake-v1"):
    envs = make_vec(environment, 2)
    given = [envs.reset(seed=3)[0]]
    envs.action_space.seed(3)
    for _ in range(40):
        given += envs.step(envs.action_space.sample())[:4]
    print(*(np.asarray(part, np.float64).round(5).tolist() for part in given))
"""


def test_plain_python_does_the_same():
    """With the jit disabled the functions run as they are written."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    outs = [
        subprocess.run(
            [sys.executable, "-c", TRACE], capture_output=True, text=True, cwd=root, check=True,
            env={**os.environ, "NUMBA_DISABLE_JIT": flag},
        ).stdout
        for flag in "01"
    ]  # fmt: skip
    assert outs[0] == outs[1] and len(outs[0].splitlines()) == len(ALL) + 3
