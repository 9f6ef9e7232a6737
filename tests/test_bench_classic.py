"""The course's programs are right: they learn, and a time limit is no end of the world to them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from benches.classic import dqn, ppo, q_learning, reinforce

LENGTH, GAMMA = 4, 0.5

pytestmark = pytest.mark.usefixtures("few_threads")


class Lever(gym.Env):
    """One state; an action's number is its reward; after LENGTH steps the episode ends, or is only cut short.

    By the best policy a state that never ends is worth 1 / (1 - γ) = 2. Where the end is true and comes at every
    fourth step, but cannot be seen, the mean over steps of reward + γ (value, or 0 at the end) has the fixed point
    1 / (1 - γ 3/4) = 1.6.
    """

    action_space = gym.spaces.Discrete(2)

    def __init__(self, terminates: bool, discrete: bool = False) -> None:
        self.terminates = terminates
        self.observation_space = gym.spaces.Discrete(1) if discrete else gym.spaces.Box(0, 1, (1,), np.float32)
        self.obs = 0 if discrete else np.ones(1, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self.obs, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        over = self.t == LENGTH
        return self.obs, float(action), over and self.terminates, over and not self.terminates, {}


for name, kwargs in {
    "Cut": dict(terminates=False), "Ending": dict(terminates=True),
    "CutTable": dict(terminates=False, discrete=True), "EndingTable": dict(terminates=True, discrete=True),
}.items():  # fmt: skip
    gym.register(f"Lever{name}-v0", entry_point=Lever, kwargs=kwargs, disable_env_checker=True)
VALUES = pytest.mark.parametrize(("env", "value"), [("Cut", 2.0), ("Ending", 1.6)])


@VALUES
def test_q_learning_bootstraps_at_time_limits_only(monkeypatch, env, value):
    monkeypatch.setattr(q_learning, "GAMMA", GAMMA)
    monkeypatch.setattr(q_learning, "ALPHA", 0.02)
    agent = q_learning.train(f"Lever{env}Table-v0", 0, 6000)
    assert agent.Q[0, 1] == pytest.approx(value, abs=0.05)
    assert agent.num_timesteps == 6000 and agent.predict(np.zeros(3, int))[0].tolist() == [1, 1, 1]


@VALUES
def test_dqn_bootstraps_at_time_limits_only(monkeypatch, env, value):
    for name, x in {"GAMMA": GAMMA, "LEARNING_STARTS": 100, "TARGET_UPDATE": 50, "HIDDEN": 16}.items():
        monkeypatch.setattr(dqn, name, x)
    agent = dqn.train(f"Lever{env}-v0", 0, 1500)
    q = agent.q(torch.ones(1, 1)).detach().numpy()[0]
    assert q[1] == pytest.approx(value, abs=0.12) and q[1] > q[0] + 0.5


@VALUES
def test_ppo_bootstraps_at_time_limits_only(monkeypatch, env, value):
    for name, x in {"GAMMA": GAMMA, "LAMBDA": 0.0, "N_STEPS": 32, "BATCH_SIZE": 32, "HIDDEN": 16}.items():
        monkeypatch.setattr(ppo, name, x)
    agent = ppo.train(f"Lever{env}-v0", 0, 32 * 4 * 60)
    assert float(agent.value(np.ones(1, np.float32))) == pytest.approx(value, abs=0.1)
    assert agent.predict(np.ones((5, 1), np.float32))[0].tolist() == [1] * 5


def test_the_advantages_of_ppo_are_those_of_the_recursion(monkeypatch):
    """Against the sum of discounted deltas, written out, of a value that is the observation's own."""
    monkeypatch.setattr(ppo, "N_STEPS", 10)
    envs = gym.make_vec(
        "LeverCut-v0", ppo.N_ENVS, vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )  # fmt: skip
    agent = ppo.Agent(1, 2)
    torch.manual_seed(0)
    obs, _ = envs.reset(seed=0)
    (_, action, _, advantage, returns), _ = agent.rollout(envs, obs)
    value = float(agent.value(np.ones(1, np.float32)))
    rewards = action.reshape(10, ppo.N_ENVS).numpy().astype(float)
    expected = np.zeros_like(rewards)
    for t in range(10):
        end = min((t // LENGTH + 1) * LENGTH, 10)
        for k in range(t, end):
            expected[t] += (ppo.GAMMA * ppo.LAMBDA) ** (k - t) * (rewards[k] + ppo.GAMMA * value - value)
    np.testing.assert_allclose(advantage.reshape(10, -1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(returns, advantage + value, rtol=1e-5)


def test_reinforce_pulls_the_lever():
    agent = reinforce.train("LeverEnding-v0", 0, 2000)
    logits = agent.policy(torch.ones(1)).detach()
    assert torch.softmax(logits, 0)[1] > 0.9


def test_q_learning_crosses_the_lake():
    agent = q_learning.train("FrozenLake-v1", 0, 30_000, is_slippery=False)
    env = gym.make("FrozenLake-v1", is_slippery=False)
    state, total, done = env.reset(seed=0)[0], 0.0, False
    while not done:
        state, reward, terminated, truncated, _ = env.step(int(agent.predict(np.array([state]))[0][0]))
        total, done = total + float(reward), terminated or truncated
    assert total == 1


@pytest.mark.parametrize(
    ("program", "env"), [(q_learning, "CliffWalking-v1"), (dqn, "CartPole-v1"), (reinforce, "CartPole-v1"),
                         (ppo, "CartPole-v1")],
)  # fmt: skip
def test_programs_stop_where_they_are_told_and_repeat_themselves(program, env):
    def told(steps: list[int]) -> Any:
        def watch(agent: Any) -> bool:
            steps.append(agent.num_timesteps)
            return agent.num_timesteps < 1100

        return watch

    def parameters(agent: Any) -> np.ndarray:
        if program is q_learning:
            return agent.Q
        module = {dqn: "q", reinforce: "policy", ppo: "actor"}[program]
        return torch.cat([p.flatten() for p in getattr(agent, module).parameters()]).detach().numpy()

    seen: list[list[int]] = [[], [], []]
    agents = [program.train(env, seed, 5000, told(steps)) for seed, steps in zip((3, 3, 4), seen, strict=True)]
    assert seen[0] == seen[1] and all(a < b for a, b in zip(seen[0], seen[0][1:], strict=False))
    assert seen[0][-1] >= 1100 and (len(seen[0]) == 1 or seen[0][-2] < 1100)
    np.testing.assert_array_equal(parameters(agents[0]), parameters(agents[1]))
    assert (parameters(agents[0]) != parameters(agents[2])).any()


@pytest.mark.slow
@pytest.mark.parametrize("program", [dqn, reinforce, ppo])
def test_programs_balance_the_pole(program):
    """Somewhere on the way: what a run has reached is not always what it ends with."""
    from benches.learning import SOLVED, evaluate

    best = 0.0

    def watch(agent: Any) -> bool:
        nonlocal best, after
        if agent.num_timesteps >= after:
            best, after = max(best, evaluate(agent, "CartPole-v1", episodes=20)), after + 5000
        return best < SOLVED

    after = 5000
    program.train("CartPole-v1", 1, watch=watch)
    assert best >= SOLVED
