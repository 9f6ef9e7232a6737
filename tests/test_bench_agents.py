"""The checks of acting and updates before they are timed: what is right passes, what is wrong does not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benches import acting, networks, parts, predicting, updates, updates_torch, updating
from benches.operation import Group, NoPart, Operation
from benches.updates_reference import compare, descend

SIZE = (16, 12)  # width, batch
pytestmark = pytest.mark.usefixtures("few_threads")


def without_peers(operation: Operation) -> Operation:
    kept = {name: x for name, x in operation.implementations.items() if x.role != "peer"}
    return operation._replace(implementations=kept)


@given(seed=st.integers(0, 2**32), width=st.integers(1, 20), n=st.integers(1, 9), relu=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_obvious_forward_pass_is_torchs(seed, width, n, relu):
    rng = np.random.default_rng(seed)
    weights, obs = networks.random_weights(width, 3, rng), rng.standard_normal((n, networks.OBS), np.float32)
    module = networks.perceptron(width, 3, relu)
    networks.load(module.parameters(), weights)
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(obs).double()).numpy()
    np.testing.assert_allclose(networks.outputs(weights, obs, relu), expected, rtol=1e-12, atol=1e-12)
    log_p = networks.log_softmax(expected)
    np.testing.assert_allclose(log_p, torch.from_numpy(expected).log_softmax(1).numpy(), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 2**32), steps=st.integers(1, 5), limit=st.sampled_from([0.3, 3.0, 1e9]))
@settings(max_examples=25, deadline=None)
def test_the_reference_descends_as_torch_does(seed, steps, limit):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2), (3,))]
    matrix = torch.from_numpy(rng.standard_normal((9, 9)))

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return ((matrix @ theta) ** 2).sum() + theta.sin().sum()

    task = updates.Task(weights, [], [], dict(learning_rate=0.01, max_grad_norm=limit), steps)
    start = torch.from_numpy(np.concatenate([w.ravel() for w in weights])).double()
    theta = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([theta], lr=0.01, eps=1e-5)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(theta).backward()
        torch.nn.utils.clip_grad_norm_([theta], limit)
        optimizer.step()
    expected = np.stack([(theta.detach() - start).numpy() / 0.01, optimizer.state[theta]["exp_avg"].numpy()])
    np.testing.assert_allclose(descend(task, loss, 1e-5), expected, rtol=1e-4, atol=1e-9)


def tables() -> dict[str, Operation]:
    made = {}
    for name in ("PPO", "PPO_CLIPPED", "DQN", "DQN_CLIPPED", "DQN_SQUARES"):
        made[name] = getattr(updating, name)._replace(cases={"small": SIZE})
    for baseline in (True, False):
        made[f"REINFORCE, baseline {baseline}"] = updating.REINFORCE._replace(cases={"small": (SIZE, baseline)})
    return made


@pytest.mark.parametrize("operation", tables().values(), ids=tables())
def test_our_updates_and_plain_ones_are_right_on_the_first_call_and_go_on(operation):
    group = Group(without_peers(operation), operation.cases["small"])
    assert not group.left_out and len(group.works) == (4 if operation.title.startswith(("DQN", "REIN")) else 3)
    for work in group.works.values():
        assert work.fresh is not None
        for round in range(3):
            work.fresh(round)
            work.call()


WRONG = {
    "PPO": dict(learning_rate=4e-4, clip_range=0.1, normalize_advantage=False, ent_coef=0.0, vf_coef=1.0,
                max_grad_norm=0.5, target_kl=1e-4),
    "DQN": dict(learning_rate=2e-4, double_q=True, huber=False, max_grad_norm=0.05),
    "REINFORCE": dict(learning_rate=2e-3, baseline=False, ent_coef=0.1, vf_coef=0.5, max_grad_norm=0.5),
}  # fmt: skip
OURS = {
    "PPO": (updating.PPO, SIZE, updates.columns, updates.our_ppo),
    "DQN": (updating.DQN, SIZE, updating.rows, updates.our_dqn),
    "REINFORCE": (updating.REINFORCE, (SIZE, True), updates.columns, updates.our_reinforce),
}  # fmt: skip


@pytest.mark.parametrize(("name", "setting"), [(name, key) for name, wrong in WRONG.items() for key in wrong])
def test_another_hyperparameter_is_noticed(name, setting):
    operation, case, layout, bind = OURS[name]
    task = operation.data(case)
    expected = operation.reference(task)
    for changed in ({}, {setting: WRONG[name][setting]}):

        def bound(task, *own, changed=changed):
            return bind(task._replace(settings={**task.settings, **changed}), *own, engine="torch")

        work = updates.learning(layout, bound).make(task)
        result = work.result(work.call())
        if changed:
            with pytest.raises(AssertionError, match="% off"):
                compare(result, expected)
        else:
            compare(result, expected)


def test_an_update_that_does_nothing_is_noticed():
    task = updates.rollouts(SIZE, updates.PPO)
    expected = updating.PPO.reference(task)
    with pytest.raises(AssertionError, match=r"the step is 100\.0% off"):
        compare(np.zeros_like(expected), expected)


@pytest.mark.parametrize("case", predicting.PREDICT.cases)
def test_our_predictions_are_right(case):
    group = Group(without_peers(predicting.PREDICT), predicting.PREDICT.cases[case])
    assert {"fastrl", "fastrl, engine torch", "matrix products alone"} <= set(group.works)


@pytest.mark.parametrize("case", [(1, 8, True), (5, 16, True), (8, 64, True), (5, 16, False)])
def test_our_acting_is_right(case):
    assert len(Group(without_peers(acting.ACT), case).works) == 3


@given(seed=st.integers(0, 2**32), n=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_frequencies_tell_drawn_actions_from_others(seed, n):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.6, 0.9, n)
    log_p = np.log(np.stack([1 - p, p], 1))
    drawn = (rng.random((2000, n)) < p).astype(int)
    acting.frequencies(drawn, log_p)
    for wrong in (1 - drawn, np.ones_like(drawn), rng.integers(2, size=drawn.shape)):
        with pytest.raises(AssertionError, match="standard deviations"):
            acting.frequencies(wrong, log_p)
    with pytest.raises(AssertionError, match="none"):
        acting.frequencies(drawn + 1, log_p)


def test_a_value_or_a_log_probability_that_is_wrong_is_noticed():
    asked = acting.batches((8, 16, True))
    expected = acting.reference(asked)
    work = acting.ACT.implementations["fastrl, engine torch"].make(asked)
    action, log_prob, value = work.result(work.call())
    acting.compare((action, log_prob, value), expected)
    untold = (action, None, value), (action, log_prob, None)
    wrong = (action, log_prob + 0.01, value), (action, log_prob, value[:, ::-1]), (1 - action, log_prob, value)
    for result in wrong + untold:
        with pytest.raises(AssertionError):
            acting.compare(result, expected)
    without = acting.reference(asked._replace(values=False))
    for result in ((action, None, None), (action, log_prob, None)):
        acting.compare(result, without)
    for result in ((1 - action, None, None), (action, log_prob + 0.01, None)):
        with pytest.raises(AssertionError):
            acting.compare(result, without)


@pytest.mark.parametrize(
    ("operation", "case", "name"), [
        (updating.REINFORCE, (SIZE, True), "rlox"), (updating.REINFORCE, (SIZE, True), "TorchRL"),
        (updating.REINFORCE, (SIZE, False), "Tianshou"),
        (predicting.PREDICT, ("PPO", False, False), "TorchRL"), (predicting.PREDICT, ("PPO", True, False), "TorchRL"),
        (predicting.PREDICT, ("DQN", False, False), "TorchRL"),
    ],
)  # fmt: skip
def test_peers_agree_where_they_have_the_same(operation, case, name):
    peer = operation.implementations[name]
    pytest.importorskip(peer.needs[0])
    group = Group(operation._replace(implementations={name: peer}), case)
    assert set(group.works) == {name} and not group.left_out


@pytest.mark.parametrize("name", ["TorchRL", "Tianshou"])
def test_who_works_values_out_later_is_asked_for_none(name):
    peer = acting.ACT.implementations[name]
    with pytest.raises(NoPart, match="timed without values"):
        peer.make(acting.batches((8, 16, True)))
    pytest.importorskip(peer.needs[0])
    group = Group(acting.ACT._replace(implementations={name: peer}), (8, 16, False))
    assert set(group.works) == {name} and not group.left_out


@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_our_update_draws_the_order_of_its_rows_in_each_call(engine, monkeypatch):
    task = updates.rollouts(SIZE, updates.PPO)
    orders, plain = [], type(networks.ours(task.weights, task.width, engine)).update_ppo

    def update_ppo(self, batch, order, **settings):
        orders.append(order.copy())
        return plain(self, batch, order, **settings)

    monkeypatch.setattr(type(networks.ours(task.weights, task.width, engine)), "update_ppo", update_ppo)
    learner = updates.our_ppo(task, *updates.columns(task.batches[0]), engine=engine)
    for _ in range(2):
        learner.call()
    for order in orders:
        assert order.shape == (task.epochs, SIZE[1])
        np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(SIZE[1]), (task.epochs, 1)))
    assert len(orders) == 2 and (orders[0] != orders[1]).any()


def test_what_is_compiled_by_torch_is_among_the_cases_but_not_quick():
    for operation in (updating.PPO, updating.DQN):
        quick, *others = operation.cases.values()
        sizes = updates_torch.COMPILED
        assert quick not in sizes and set(sizes) <= set(others) and {width for width, _ in sizes} == {64, 256}
        with pytest.raises(NoPart, match="up to 20 s"):
            operation.implementations["torch.compile"].make(operation.data(quick))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("operation", [updating.PPO, updating.DQN], ids=["PPO", "DQN"])
def test_what_torch_compiles_is_right(operation, monkeypatch):
    monkeypatch.setattr(updates_torch, "COMPILED", (SIZE,))
    compiled = {"torch.compile": operation.implementations["torch.compile"]}
    assert set(Group(operation._replace(implementations=compiled), SIZE).works) == set(compiled)


@pytest.mark.parametrize("operation", [updating.PPO, updating.DQN], ids=["PPO", "DQN"])
def test_operations_are_those_of_the_products(operation, monkeypatch):
    counted, plain = [], torch.mm

    def mm(a, b, out):
        counted.append(2 * a.shape[0] * a.shape[1] * b.shape[1])
        return plain(a, b, out=out)

    monkeypatch.setattr(torch, "mm", mm)
    operation.implementations["matrix products alone"].make(operation.data(SIZE)).call()
    assert sum(counted) == operation.operations(SIZE)


def test_parts_of_an_update():
    ours, theirs = parts.parts(8, 16, 1), parts.torch_parts(8, 16, 1)
    assert set(ours) == {*parts.PARTS, "an update"} and set(theirs) < set(ours)
    assert min(*ours.values(), *theirs.values(), *parts.product_rates(16, 16, 1).values()) > 0
