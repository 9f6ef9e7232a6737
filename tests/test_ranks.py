"""Training over several ranks is training in one process: the same gradients, statistics and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastrl
from benches.scaling.hosts import Unavailable, two_hosts
from fastrl.kernels import losses, optim, updates
from fastrl.learners.compiled import CompiledActorCritic
from fastrl.learners.torch import Batch
from tests import ranks
from tests.rank_scripts import make, weights

SETTINGS = dict(n_envs=4, n_steps=24, batch_size=32, n_epochs=3, ent_coef=0.01, max_grad_norm=0.5, learning_rate=1e-3)
SETTINGS_REINFORCE = dict(n_envs=4, n_episodes=8, ent_coef=0.01, learning_rate=3e-3)
FRESH = int(np.random.SeedSequence().generate_state(1)[0])  # other data in each session; shown where a test fails
PPO = dict(SETTINGS, algorithm="PPO", total=3 * 96, seed=FRESH)
OTHERS = dict(clip_range_vf=0.1, normalize_advantage=False, target_kl=1e-4, n_epochs=8)
PARTS = {
    "PPO": dict(algorithm="PPO", env="CartPole-v1", n_envs=4, seed=FRESH, normalize=True, n_steps=32, batch_size=32,
                n_epochs=2),
    "REINFORCE": dict(algorithm="REINFORCE", env="CartPole-v1", n_envs=4, seed=FRESH, normalize=True, n_episodes=4),
}  # fmt: skip
DIFFERENT = {
    "seed is 1 on rank 0, but 2 on rank 1": {"by_rank": [{}, {"seed": 2}]},
    "learning_rate is 0.0003 on rank 0, but 0.001 on rank 1": {"by_rank": [{}, {"learning_rate": 1e-3}]},
    "total_timesteps is 256 on rank 0, but 512 on rank 1": {"totals": [256, 512]},
    "fastrl's code is 'of rank 0' on rank 0, but 'of rank 1' on rank 1": {"code": True},
    "n_envs is 3, over all ranks, and 2 ranks cannot share that evenly": {"n_envs": 3},
    "batch_size is 33, over all ranks, and 2 ranks cannot share that evenly": {"batch_size": 33},
    "leave out target_kl": {"average": "parameters", "target_kl": 0.1},
}
JOBS = {
    **{f"ppo-{engine}-{env}": ("train", dict(PPO, engine=engine, env=env, normalize=env == "Pendulum-v1"))
       for engine in ("compiled", "torch") for env in ("CartPole-v1", "Pendulum-v1")},
    **{f"mutant-{engine}": ("train", dict(PPO, engine=engine, env="CartPole-v1", mutant=True))
       for engine in ("compiled", "torch")},
    **{f"reinforce-{engine}-{baseline}": ("train", dict(SETTINGS_REINFORCE, algorithm="REINFORCE", env="CartPole-v1",
                                                        total=400, engine=engine, baseline=baseline, seed=FRESH))
       for engine, baseline in (("compiled", False), ("compiled", True), ("torch", True))},
    "options": ("train", dict(PPO, env="CartPole-v1", engine="compiled", **OTHERS)),
    "options-torch": ("train", dict(PPO, env="CartPole-v1", engine="torch", **OTHERS)),
    "average": ("train", dict(PPO, env="CartPole-v1", total=96, engine="compiled", average="parameters")),
    "statistics": ("statistics", dict(iterations=6, n_steps=100)),
    **{f"halves-{name}": ("resume", dict(options, stop_after=384, total=1024)) for name, options in PARTS.items()},
    **{f"once-{name}": ("train", dict(options, total=1024)) for name, options in PARTS.items()},
    "six": ("resume", dict(PARTS["PPO"], n_envs=6, batch_size=36, stop_after=192, total=192)),
    "four": ("resume", dict(PARTS["PPO"], batch_size=36, stop_after=128, total=128)),
    "callbacks": ("callbacks", dict(stop_after=512)),
    "scheduled": ("scheduled", {}),
    "again": ("again", {}),
    "interrupted": ("interrupted", dict(waiting=False)),
    "interrupted-waiting": ("interrupted", dict(waiting=True)),
    "drift": ("drift", {}),
    **{f"differing{i}": ("differing", options) for i, options in enumerate(DIFFERENT.values())},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """What two ranks have saved of all jobs: starting them takes longer than most."""
    return ranks.run(folder, JOBS)


def given(found, i):
    """What the update i of a rank was given: the batch, and of PPO the order of the epochs."""
    return [found[f"update{i}.{j}"] for j in range(7) if f"update{i}.{j}" in found]


def one_process(algorithm, env, **options):
    """The model that each rank begins with."""
    model = make(algorithm, env, **{**options, "normalize": False, "n_envs": 2})
    model.learner.begin()
    return model


def accumulate(model, parts, batch_size, normalise_apart=False):
    """One process that takes PPO's steps, each down the sum of the gradients of the micro-batches of all ranks."""
    n = len(parts)
    for k in range(len(parts[0][6])):
        for first in range(0, len(parts[0][0]), batch_size):
            rows = min(batch_size, len(parts[0][0]) - first)
            sums = np.zeros((n, 3))
            for r, (*batch, epochs) in enumerate(parts):
                losses.advantage_sums(batch[4], epochs[k], first, rows, sums[r])
            moments = sums if normalise_apart else np.broadcast_to(sums.sum(0), sums.shape)
            step(model, [(batch, epochs[k], first, rows, moments[r]) for r, (*batch, epochs) in enumerate(parts)])


def step(model, micro_batches):
    by = _gradient_by_kernels if isinstance(model.learner, CompiledActorCritic) else _gradient_by_autograd
    gradient = sum(by(model, *micro) / np.float32(len(micro_batches)) for micro in micro_batches)
    if isinstance(model.learner, CompiledActorCritic):
        flat = model.learner.net.flat
        assert optim.descend(flat.params, gradient, flat.exp_avg, flat.exp_avg_sq, int(flat.steps[0]) + 1,
                             model.learning_rate, 1e-5, model.max_grad_norm)  # fmt: skip
        flat.steps += 1
        return
    for p, g in zip(model.learner.parameters, torch.from_numpy(gradient).split(_sizes(model)), strict=True):
        p.grad = g.view_as(p)
    torch.nn.utils.clip_grad_norm_(model.learner.parameters, model.max_grad_norm)
    for group in model.learner.optimizer.param_groups:
        group["lr"] = model.learning_rate
    model.learner.optimizer.step()


def accumulate_reinforce(model, parts, baseline):
    """One process that takes REINFORCE's step down the sum of the gradients of the rows of all ranks."""
    net = model.learner._for_update(64)
    flat, total, gradients = net.flat, sum(len(part[0]) for part in parts), []
    trained = len(flat.params) if baseline else net.value_only
    for obs, action, _, _, advantage, returns in parts:
        grads = np.zeros_like(flat.params)
        updates.gradient_reinforce(
            np.arange(len(obs)), total, obs, action, advantage, returns, flat.params, grads, net.plan, net.work,
            net.head, 0.01, 0.5 if baseline else 0.0, np.empty(3),
        )  # fmt: skip
        gradients.append(grads)
    kept = [(x, x[trained:].copy()) for x in (flat.params, flat.exp_avg, flat.exp_avg_sq)]
    assert optim.descend(flat.params, sum(gradients), flat.exp_avg, flat.exp_avg_sq, int(flat.steps[0]) + 1, 3e-3, 1e-8,
                         np.inf)  # fmt: skip
    for x, values in kept:
        x[trained:] = values
    flat.steps[: len(flat.steps) if baseline else net.to_policy] += 1


def _sizes(model):
    return [p.numel() for p in model.learner.parameters]


def _gradient_by_kernels(model, batch, order, first, rows, moments):
    net, means = model.learner._for_update(rows), np.zeros(6)
    settings = losses.PPOSettings(model.learning_rate, 1e-5, model.max_grad_norm, 0.2, np.inf, model.ent_coef,
                                  model.vf_coef, np.inf, True)  # fmt: skip
    grads = np.zeros_like(net.flat.params)
    updates.gradient_ppo(order, first, rows, *map(np.ascontiguousarray, batch), moments, net.flat.params, net.plan,
                         net.work, net.head, settings, grads, means)  # fmt: skip
    return grads


def _gradient_by_autograd(model, batch, order, first, rows, moments):
    obs, action, log_prob, _, advantage, returns = (torch.from_numpy(x[order[first : first + rows]]) for x in batch)
    model.learner.optimizer.zero_grad(set_to_none=True)
    params, v = model.policy(obs)
    new, entropy = model.head.evaluate(model.policy, params, action)
    mean, scale = losses.standardisation(moments)
    ratio, a = (new - log_prob).exp(), (advantage - mean) * scale
    surrogate = torch.min(ratio * a, ratio.clamp(1 - 0.2, 1 + 0.2) * a)
    loss = -surrogate.mean() + model.vf_coef * (v - returns).square().mean() + model.ent_coef * -entropy.mean()
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in model.learner.parameters]).numpy()


def whole(model, parts, batch_size, **changed):
    """One process whose minibatches hold the rows of all ranks, by the ordinary update."""
    rows = [np.concatenate(x) for x in zip(*(part[:6] for part in parts), strict=True)]
    M = len(parts[0][0])
    epochs = np.stack([
        np.concatenate([part[6][k][first : first + batch_size] + r * M for first in range(0, M, batch_size)
                        for r, part in enumerate(parts)])
        for k in range(len(parts[0][6]))
    ])  # fmt: skip
    options = dict(learning_rate=model.learning_rate, clip_range=0.2, clip_range_vf=None, normalize_advantage=True,
                   ent_coef=model.ent_coef, vf_coef=model.vf_coef, max_grad_norm=model.max_grad_norm, target_kl=None)
    model.learner.update_ppo(model.learner.batch(*rows), epochs, batch_size=batch_size * len(parts),
                             **{**options, **changed})  # fmt: skip


def furthest(one, other):
    return max(float(np.abs(one[name] - other[name]).max()) for name in one if name.startswith("policy."))


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one if name.startswith(("policy.", "optimizer.")))


@pytest.mark.parametrize("engine", ["compiled", "torch"])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_ppo_equals_one_process(engine, env, found):
    """Bit for bit one that accumulates the micro-batches, and to 1e-6 one that takes the whole batch."""
    both = found[f"ppo-{engine}-{env}"]
    assert not np.array_equal(both[0]["update0.0"], both[1]["update0.0"]), "both ranks saw the same"
    assert both[0]["steps"] == 3 * 96 and both[0]["n"] == 3
    check_equal(both, engine, env)


def check_equal(both, engine, env):
    assert same(*both), f"seed {FRESH}: ranks differ"
    accumulated, batched, apart = (one_process("PPO", env, **SETTINGS, seed=FRESH, engine=engine) for _ in range(3))
    for i in range(3):
        parts = [given(rank, i) for rank in both]
        accumulate(accumulated, parts, 16)
        whole(batched, parts, 16)
        accumulate(apart, parts, 16, normalise_apart=True)
    assert same(weights(accumulated), both[0]), f"seed {FRESH}: not bit for bit"
    assert furthest(weights(batched), both[0]) <= 1e-6, f"seed {FRESH}"
    assert furthest(weights(apart), both[0]) > 1e-4, f"seed {FRESH}: normalising apart makes no difference"


@pytest.mark.slow
@pytest.mark.parametrize("delay_ms", [0.0, 5.0])
def test_two_hosts_equal_one_process(delay_ms, tmp_path):
    """Two network namespaces, each way between them taking `delay_ms`."""
    cases = {name: job for name, job in JOBS.items() if name.startswith("ppo-")}
    try:
        with two_hosts(delay_ms) as hosts:
            both = ranks.run(tmp_path, cases, hosts=hosts)
    except Unavailable as reason:
        pytest.skip(f"there are no two hosts: {reason}")
    for name in cases:
        check_equal(both[name], *name.split("-", 2)[1:])


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_ranks_that_normalise_apart_would_be_found_out(engine, found):
    both = found[f"mutant-{engine}"]
    accumulated, batched = (one_process("PPO", "CartPole-v1", **SETTINGS, seed=FRESH, engine=engine) for _ in range(2))
    for i in range(3):
        parts = [given(rank, i) for rank in both]
        accumulate(accumulated, parts, 16)
        whole(batched, parts, 16)
    assert not same(weights(accumulated), both[0])
    assert furthest(weights(batched), both[0]) > 1e-4, f"seed {FRESH}"


@pytest.mark.parametrize(("engine", "baseline"), [("compiled", False), ("compiled", True), ("torch", True)])
def test_reinforce_equals_one_process(engine, baseline, found):
    """Ranks have other numbers of rows; the mean is over all of them."""
    both = found[f"reinforce-{engine}-{baseline}"]
    assert same(*both) and both[0]["steps"] >= 400 and both[0]["steps"] == both[1]["steps"]
    model = one_process("REINFORCE", "CartPole-v1", **SETTINGS_REINFORCE, engine=engine, baseline=baseline, seed=FRESH)
    accumulated = one_process("REINFORCE", "CartPole-v1", **SETTINGS_REINFORCE, baseline=baseline, seed=FRESH)
    sizes = [[len(rank[f"update{i}.0"]) for i in range(int(rank["n"]))] for rank in both]
    assert sizes[0] != sizes[1], f"seed {FRESH}"
    for i in range(int(both[0]["n"])):
        if engine == "compiled":
            accumulate_reinforce(accumulated, [given(rank, i)[:6] for rank in both], baseline)
        rows = Batch(*(np.concatenate(x) for x in zip(*(given(rank, i)[:6] for rank in both), strict=True)))
        weight = rows.advantage.astype(np.float64)  # as they were normalised over all
        assert abs(weight.mean()) < 1e-5 and abs(weight.std() - 1) < 1e-5
        model.learner.update_reinforce(model.learner.batch(*rows), learning_rate=3e-3, baseline=baseline, vf_coef=0.5,
                                       ent_coef=0.01, max_grad_norm=None)  # fmt: skip
    assert furthest(weights(model), both[0]) <= 1e-6 * both[0]["n"], f"seed {FRESH}"
    assert engine == "torch" or same(weights(accumulated), both[0]), f"seed {FRESH}: not bit for bit"


def test_statistics_and_episodes_are_those_of_all_ranks(found):
    both = found["statistics"]
    seen = np.concatenate([rank["obs"] for rank in both]).astype(np.float64)
    assert not np.array_equal(both[0]["obs"], both[1]["obs"])
    for rank in both:
        assert rank["obs.count"] == pytest.approx(len(seen) + 1e-4)
        np.testing.assert_allclose(rank["obs.mean"], seen.mean(0), atol=1e-6)
        np.testing.assert_allclose(rank["obs.var"], seen.var(0), rtol=1e-6)
        for name in ("obs.mean", "obs.var", "return.mean", "return.var", "return.count", "episodes"):
            np.testing.assert_array_equal(rank[name], both[0][name])
        assert rank["num_episodes"] == 12 and rank["episodes"].shape == (12, 2)
    assert both[0]["return.count"] == pytest.approx(6 * 400 + 1e-4)


def test_the_average_of_parameters(found):
    """Each rank takes its epochs by itself; then all have the mean."""
    both, alone = found["average"], []
    assert same(*both)
    for rank in both:
        model = one_process("PPO", "CartPole-v1", **SETTINGS, seed=FRESH, engine="compiled")
        whole(model, [given(rank, 0)], 16)
        alone.append(weights(model))
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    assert furthest(mean, both[0]) <= 1e-7 and furthest(alone[0], both[0]) > 1e-4


@pytest.mark.parametrize("algorithm", ["PPO", "REINFORCE"])
def test_going_on_from_a_file_changes_nothing(algorithm, found):
    halves, once = found[f"halves-{algorithm}"], found[f"once-{algorithm}"]
    assert same(halves[0], once[0]) and same(halves[1], once[0]) and halves[0]["steps"] == once[0]["steps"]


def test_going_on_with_another_number_of_ranks(found, folder, tmp_path):
    """The settings count over all ranks, so that they mean the same; episodes begin anew."""
    file, other = (str(folder / name / "model.fastrl") for name in ("six", "four"))
    three = ranks.run(tmp_path, {"six": ("go_on", dict(file=file, total=384, env="CartPole-v1")),
                                 "four": ("go_on", dict(file=other, total=384, env="CartPole-v1"))}, 3)  # fmt: skip
    assert all(same(rank, three["six"][0]) and rank["steps"] == 576 for rank in three["six"])
    for rank in three["four"]:
        assert "n_envs is 4, over all ranks, and 3 ranks cannot share that evenly" in str(rank["error"])
    model = fastrl.PPO.load(file, env="CartPole-v1")
    assert model.num_envs == 6 and model.num_timesteps == 192
    assert model.learn(192, reset_num_timesteps=False).num_timesteps == 384


def test_callbacks(found, folder):
    """One rank's word ends the training of all; rank 0 alone writes."""
    both, own = found["callbacks"], folder / "callbacks" / "of0"  # 512 of its own steps, in the fifth iteration
    assert [rank["steps"] for rank in both] == [640, 640] and same(*both) and both[0]["each"] == both[1]["each"]
    saved = sorted(int(path.stem.split("_")[-2]) for path in (own / "checkpoints").iterdir())
    assert saved == [128, 256, 384, 512, 640] and (own / "best" / "best_model.fastrl").is_file()
    assert len(np.load(own / "log" / "evaluations.npz")["timesteps"]) == 2
    assert (own / "written").exists() and not (folder / "callbacks" / "of1").exists()
    last = fastrl.PPO.load(own / "checkpoints" / "rl_model_640_steps.fastrl")
    assert all(np.array_equal(x, both[0][name]) for name, x in weights(last).items())


@pytest.mark.parametrize(("name", "steps"), [("interrupted", 512), ("interrupted-waiting", 640)])
def test_an_interrupt_of_one_rank_ends_all_of_them(name, steps, found):
    both = found[name]
    assert [(int(rank["steps"]), bool(rank["interrupted"])) for rank in both] == [(steps, True)] * 2 and same(*both)


def test_another_run_counts_from_nothing(found):
    both = found["again"]
    assert same(*both) and np.array_equal(both[0]["lengths"], both[1]["lengths"])
    for rank in both:
        assert rank["steps"] == 256 and len(rank["lengths"]) == rank["num_episodes"] > 0
        assert rank["lengths"].sum() <= 256


def test_schedules_may_be_functions(found):
    assert same(*found["scheduled"]) and "error" not in found["scheduled"][0]


@pytest.mark.parametrize("name", ["options", "options-torch"])
def test_the_other_options(name, found):
    """Bounded values, advantages as they are, and a stop that the divergence over all ranks decides."""
    both, engine = found[name], "torch" if "torch" in name else "compiled"
    assert same(*both)
    model = one_process("PPO", "CartPole-v1", **{**SETTINGS, **OTHERS}, seed=FRESH, engine=engine)
    for i in range(3):
        parts = [given(rank, i) for rank in both]
        whole(model, parts, 16, clip_range_vf=0.1, normalize_advantage=False, target_kl=1e-4)
    assert both[0]["n_updates"] == both[1]["n_updates"] < 3 * 8 * 3, f"seed {FRESH}: nothing stopped"
    assert furthest(weights(model), both[0]) <= 1e-6, f"seed {FRESH}"


def test_parameters_that_drifted_apart_are_brought_together(found):
    first, other = found["drift"]
    assert same(first, other) and any("drifted apart" in text for text in first["told"])
    assert not any("drifted apart" in text for text in other["told"])


@pytest.mark.parametrize("words", DIFFERENT)
def test_ranks_that_do_not_belong_together(words, found):
    """An error on every rank, which says where they differ."""
    for rank in found[f"differing{list(DIFFERENT).index(words)}"]:
        assert words in str(rank["error"])


@pytest.mark.parametrize("how", ["kill", "raise"])
def test_a_rank_that_ends_takes_the_others_with_it(how, tmp_path):
    codes, said = ranks.finish(ranks.start(tmp_path, {"job": ("dies", dict(rank=1, how=how))}))
    assert 0 not in codes and "rank 0 of 2 waits for another one in vain" in said[0], said
    assert codes[1] == -9 if how == "kill" else "this rank has had enough" in said[1]


def test_an_address_that_does_not_answer(tmp_path):
    first, other = ranks.start(tmp_path, {}, timeout=3.0)
    first.kill()
    codes, said = ranks.finish([other])
    first.communicate()
    assert codes == [1] and "cannot join the others at 127.0.0.1:" in said[0] and "within 3 s" in said[0], said


def test_a_model_from_before_the_group(monkeypatch):
    from fastrl.ranks import Ranks

    model = fastrl.PPO("MlpPolicy", "CartPole-v1", n_envs=2)
    monkeypatch.setattr(Ranks, "here", classmethod(lambda cls: cls(1, 2)))
    with pytest.raises(ValueError, match="was made as rank 0 of 1, and this is rank 1 of 2"):
        model.learn(10)
    with pytest.raises(ValueError, match=r"DQN does not train over the 2 ranks.*fastrl\.distributed\.apex"):
        fastrl.DQN("MlpPolicy", "CartPole-v1").learn(10)
