"""What tables, environments, processes and whole runs are checked by: what is wrong is told."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from benches import conditions, environments, gae, returns, starting, tabular, training
from benches.jobs import Job
from benches.learning import Run
from benches.limits import library
from benches.operation import Group, Missing, NoPart, checked_first
from benches.rows import ROWS
from benches.walks import Seen, World, obeys, physics, world
from tests.reference.tabular import optimal_values, policy_values


def dense(m: tabular.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """P [S + 1, A, S + 1], R of the same shape, and which states are terminal: the last."""
    n, n_actions, _ = m.next_state.shape
    P, R = np.zeros((2, n + 1, n_actions, n + 1))
    for (s, a, k), to in np.ndenumerate(m.next_state):
        P[s, a, to] += m.probability[s, a, k]
        R[s, a, :] = m.reward[s, a]
    P[n, :, n] = 1
    return P, R, np.arange(n + 1) == n


@pytest.mark.parametrize("which", [30, "FrozenLake-v1", "CliffWalking-v1"])
def test_the_reference_solves_what_policy_iteration_solves_and_ours_is_as_near_as_promised(which):
    m = tabular.model(which)
    best = tabular.optimal_values(m)
    np.testing.assert_allclose(best, optimal_values(*dense(m), tabular.GAMMA)[:-1], rtol=0, atol=1e-8)
    for method in ("value_iteration", "modified_policy_iteration"):
        tabular.within_epsilon(tabular.solve_ours(method, m).call(), best)
    tabular.within_epsilon(tabular.solve_numpy(m).call(), best)
    with pytest.raises(AssertionError):
        tabular.within_epsilon(best + 1e-6, best)


@pytest.mark.parametrize("which", [30, "FrozenLake-v1", "CliffWalking-v1"])
@pytest.mark.parametrize("dense", [False, True])
def test_quantecon_solves_the_same_in_both_of_its_forms(which, dense):
    pytest.importorskip("quantecon")
    m = tabular.model(which)
    for method in ("value_iteration", "modified_policy_iteration"):
        tabular.within_epsilon(tabular.solve_quantecon(method, m, dense=dense).call(), tabular.optimal_values(m))


def test_of_many_states_there_are_no_dense_matrices():
    pytest.importorskip("quantecon")
    with pytest.raises(NoPart, match="more than 1000 states"):
        tabular.discrete_dp(tabular.model(1001), dense=True)


@pytest.mark.parametrize("operation", [returns.DISCOUNTED, returns.N_STEP, returns.VTRACE], ids=lambda x: x.title)
def test_returns_are_compared_with_and_without_time_limits(operation):
    cut = [any(r.truncated.any() for r in operation.data(case)) for case in operation.cases.values()]
    assert cut == [False, False, True]
    ours = operation._replace(implementations={"fastrl": operation.implementations["fastrl"]})
    for case in operation.cases.values():
        Group(ours, case)  # raises where ours is wrong


@pytest.mark.parametrize("operation", [returns.DISCOUNTED, returns.VTRACE], ids=lambda x: x.title)
def test_rlox_is_timed_where_no_time_limit_cuts_an_episode(operation):
    pytest.importorskip("rlox")
    alone = operation._replace(implementations={"rlox": operation.implementations["rlox"]})
    one, _, cut = alone.cases.values()
    assert "rlox" in Group(alone, one).works
    assert Group(alone, cut).left_out["rlox"] == ("computes something else", returns.NO_TIME_LIMIT)


def test_of_each_library_there_is_a_row_or_a_reason():
    for operation in (gae.GAE, gae.GAE_TIME_LIMITS, returns.DISCOUNTED, returns.N_STEP, returns.VTRACE):
        libraries = {"Stable-Baselines3", "CleanRL", "rlox", "Tianshou", "TorchRL"}
        assert libraries <= operation.implementations.keys(), operation.title


def test_the_c_loop_has_to_give_the_advantages_too(monkeypatch):
    loops, made = library(), gae.rollouts((16, 4))
    if loops is None:
        pytest.skip("no C compiler")
    gae.right_c_loop(made)

    def without_the_first_row(*given) -> None:
        loops.gae(*given)
        ctypes.memset(given[6], 0, 16)

    monkeypatch.setattr(gae, "library", lambda: SimpleNamespace(gae=without_the_first_row))
    with pytest.raises(AssertionError):
        gae.right_c_loop(made)


def test_a_policy_on_the_lake_is_worth_what_its_equations_say_and_one_that_is_not_learnt_too_little():
    P, R, terminal = dense(tabular.model("FrozenLake-v1"))
    Q = np.random.default_rng(0).random((16, 4))
    policy = np.vstack([np.eye(4)[Q.argmax(axis=1)], [1, 0, 0, 0]])
    lake = tabular.lake(slippery=True)
    found = tabular.worth(lake, Q)
    assert found == pytest.approx(policy_values(P, R, terminal, tabular.GAMMA, policy)[0], abs=1e-9)
    best = tabular.worth(lake)
    assert best == pytest.approx(optimal_values(P, R, terminal, tabular.GAMMA)[0], abs=1e-9)
    tabular.has_learnt(best, best)
    with pytest.raises(AssertionError, match="the best one"):
        tabular.has_learnt(found, best)


@pytest.mark.parametrize("id", environments.IDS[:5])
def test_steps_obey_gymnasium_and_a_wrong_one_is_told(id):
    w = world((id, 3))
    walk = environments.vector_environment(w)
    seen, law = walk.result(walk.call()), physics(w)
    obeys(seen, law)
    before, actions, after = next(step for step in seen if not (step[0].done | step[2].done).any())
    wrong = [
        after._replace(obs=before.obs + (1 if before.obs.dtype.kind == "i" else np.float32(0.3))),
        after._replace(reward=after.reward + 0.1),
        after._replace(terminated=~after.terminated),
        after._replace(reward=after.reward * np.nan),
    ]
    for other in wrong:
        with pytest.raises(AssertionError):
            obeys([(before, actions, other)], law)
    begun = before._replace(done=np.ones(3, bool))  # after which a step only begins an episode
    obeys([(begun, actions, wrong[1])], law)


@pytest.mark.parametrize("library", ["tianshou", "torchrl", "stable_baselines3", "rlox"])
@pytest.mark.filterwarnings("ignore")
def test_environments_of_peers_begin_episodes_and_obey(library):
    pytest.importorskip(library)
    w = world(("CartPole-v1", 5), 80)
    work = getattr(environments, library)(w)
    walk = work.result(work.call())
    obeys(walk, physics(w))
    begun = [after.obs[i] for before, _, after in walk for i in range(5) if before.done[i]]
    assert len(begun) > 5 and np.abs(begun).max() < 0.5  # of a new episode: its first states, or one step later


@pytest.mark.filterwarnings("ignore")
def test_a_pool_begins_episodes_within_the_step_and_tells_how_they_ended():
    pytest.importorskip("envpool")
    pytest.importorskip("stable_baselines3")
    from benches.pooled import pooled

    env = pooled("CartPole-v1", 3, 1, seed=0)
    law, obs, episodes = physics(world(("CartPole-v1", 3))), env.reset(), 0
    for _ in range(100):
        action = np.ones(3, int)
        after, reward, done, infos = env.step(action)
        for i in range(3):
            seen = infos[i]["terminal_observation"] if done[i] else after[i]
            expected, one, ended = law(obs[i], 1)[0]
            np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4)
            assert (reward[i], done[i]) == (one, ended) and ("episode" in infos[i]) == ended
            assert not ended or np.abs(after[i]).max() < 0.05  # CartPole's first states
        obs, episodes = after.copy(), episodes + int(done.sum())
    env.close()
    assert episodes > 20


def test_a_kernel_steps_as_gymnasium_does_and_begins_episodes_anew():
    w = world(("CartPole-v1", 9), 200)
    work = environments.in_a_kernel(w)
    walk = work.result(work.call())
    obeys(walk, physics(w))
    ended = [after for _, _, after in walk if after.done[0]]
    assert len(ended) > 3 and all(abs(after.obs[0]).max() < 0.05 for after in ended)  # CartPole's first states


def test_what_cannot_be_put_into_a_state_is_looked_at_only():
    nothing = Seen(np.zeros((1, 8)), np.zeros(1), np.zeros(1, bool), np.zeros(1, bool))
    law = physics(World("MountainCarContinuous-v0", 1, [np.zeros((1, 1))]))
    assert law is None
    obeys([(nothing, np.zeros(1, int), nothing)], law)
    with pytest.raises(AssertionError):
        obeys([(nothing, np.zeros(1, int), nothing._replace(obs=np.full((1, 8), np.nan)))], law)


def test_the_run_that_is_checked_is_the_first_round():
    numbers = count()
    call = checked_first(lambda: next(numbers))
    assert [call() for _ in range(4)] == [0, 0, 1, 2]


def test_a_process_is_timed_whole_and_has_to_end_well():
    work = starting.starts("import time; time.sleep(0.2); print('here')")
    ran = work.call()
    assert work.result(ran) == "here" and work.seconds(ran) > 0.2
    assert work.call() is not ran
    with pytest.raises(subprocess.CalledProcessError):
        starting.starts("raise SystemExit(3)").call()


def test_a_run_has_to_take_its_steps_and_to_learn_where_it_took_all_of_them():
    row = ROWS["ppo-sb3"]
    whole = row.job.steps
    right = training.Asked(Run(whole + 1000, 1.0, 1.0, 300.0), whole)
    training.has_trained(right, row)
    training.has_trained(training.Asked(Run(4096, 1.0, 1.0, 20.0), 4096), row)  # too short to have learnt
    training.has_trained(training.Asked(Run(whole, 1.0, 1.0, None), whole), row)  # does not tell
    for wrong in (Run(whole - 2048, 1.0, 1.0, 300.0), Run(whole, 1.0, 1.0, 25.0)):
        with pytest.raises(AssertionError):
            training.has_trained(right._replace(run=wrong), row)
    dqn = ROWS["dqn-zoo"]  # a rollout of 256 steps
    training.has_trained(training.Asked(Run(8192, 1.0, 1.0), 8000), dqn)
    with pytest.raises(AssertionError):
        training.has_trained(training.Asked(Run(8256, 1.0, 1.0), 8000), dqn)


def test_what_is_missing_and_what_fails_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTRL_BENCH_CLEANRL", raising=False)
    row = ROWS["ppo-cleanrl"]._replace(suite=(512, 512), learnt=None)
    with pytest.raises(Missing, match="FASTRL_BENCH_CLEANRL is not set"):
        training.train("cleanrl", row)
    monkeypatch.setenv("FASTRL_BENCH_CLEANRL", str(tmp_path))  # where no script is
    with pytest.raises(RuntimeError, match="cleanrl: CalledProcessError"):
        training.train("cleanrl", row)
    with pytest.raises(RuntimeError, match="fastrl: "):
        training.train("fastrl", row._replace(job=row.job._replace(options={"n_steps": -1})))
    assert list(training.start(["cleanrl"], row.job, 512, "auto", sys.executable)) == []


def test_steps_are_those_that_the_program_took(monkeypatch, tmp_path):
    (tmp_path / "cleanrl").mkdir()
    (tmp_path / "cleanrl" / "ppo.py").write_text("print('episodic_return=7.0')\nprint('SPS: 100\\nSPS: 200')")
    monkeypatch.setenv("FASTRL_BENCH_CLEANRL", str(tmp_path))
    row = ROWS["ppo-cleanrl"]
    asked = training.train("cleanrl", row).call()
    assert asked.run[:2] == (1024, 1024 / 200)
    with pytest.raises(AssertionError, match="1024 steps, not 20480"):
        training.has_trained(asked, row)


def test_the_page_says_the_steps_of_every_library():
    assert "SB3's defaults: 100,000 (fastrl), 4,096 (Stable-Baselines3, SBX)" in training.NOTE
    for row in ROWS.values():
        assert row.title in training.NOTE


def test_environment_threads_are_those_of_the_suite(monkeypatch):
    jobs = []
    monkeypatch.setattr(training, "Library", lambda name, job, *_: jobs.append(job) or SimpleNamespace(missing=None))
    training.train("fastrl", ROWS["lunar-envpool"])
    assert ROWS["lunar-envpool"].job.env_threads == 2 and jobs[0].env_threads == conditions.threads()


def test_processes_end_when_the_group_is_forgotten(monkeypatch):
    started = []
    run = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(run(*a, **options)) or started[-1])
    job = Job("PPO", "CartPole-v1", 1, {"n_steps": 32}, 64)
    row = ROWS["ppo-sb3"]._replace(job=job, suite=(64, 64), peers=(), learnt=None)
    ours = {"fastrl": training.TRAINING.implementations["fastrl"]}
    group = Group(training.TRAINING._replace(implementations=ours), row)
    assert len(started) == 1 and started[0].poll() is None
    assert all(seconds > 0 for seconds in group.seconds()["fastrl"])
    del group
    assert started[0].poll() is not None


def test_a_process_at_work_is_ended_too():
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; print('at work', flush=True); time.sleep(600)"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    training.end(process)
    assert process.poll() is not None


def test_loading_the_c_loops_changes_no_arithmetic():
    code = "import numpy as np, benches.limits as of; of.library(); print(np.float32(1e-38) / np.float32(8) > 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"
