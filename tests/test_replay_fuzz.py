"""Long runs of random calls, of which the shorter ones of the other files leave out most by far."""

from __future__ import annotations

import numpy as np
import pytest

from tests.test_prioritized import AgainstDictionary
from tests.test_replay import SPACES
from tests.test_replay_options import STACKS, OptionsAgainstList

RING, TREES = 130_000, 130_000
LIFE = 400  # calls to one buffer
CHECKED = 40  # calls between two looks at everything


def ring(rng):
    """A buffer with options and its list, and what may be called on both, the frequent ones several times."""
    machine = OptionsAgainstList()
    machine.begin(
        spaces=SPACES[rng.integers(len(SPACES))],
        num_envs=int(rng.integers(1, 4)),
        spare=int(rng.integers(0, 30)),
        extra=rng.random() < 0.5,
        seed=int(rng.integers(2**32)),
        n_step=int(rng.choice([1, 1, 2, 3, 7, 2**31 - 1])),
        share=rng.random() < 0.5,
        stack=int(rng.choice([1, 1, *STACKS])),
    )
    stored = [
        lambda: machine.sample(int(rng.integers(1, 20)), rng.random() < 0.5),
        lambda: machine.sample(1, True),
        machine.end_episodes,
    ]
    always = [
        *[machine.add] * 4,
        lambda: machine.add_batch(int(rng.integers(0, 9))),
        lambda: rng.random() < 0.1 and machine.go_on_in_another_buffer(),
        lambda: rng.random() < 0.05 and machine.clear(),
    ]
    return machine.same_contents, always, stored, lambda: len(machine.buffer)


def trees(rng):
    """A prioritised buffer and its dictionary likewise."""
    machine = AgainstDictionary()
    machine.begin(
        capacity=int(rng.choice([rng.integers(1, 41), 255, 256, 257])),
        alpha=float(rng.choice([0.0, 0.3, 0.6, 1.0])),
        seed=int(rng.integers(2**32)),
    )
    stored = [
        lambda: machine.sample(int(rng.integers(1, 41)), float(rng.choice([0, 0.4, 1.0]))),
        *[lambda: machine.update(int(rng.integers(0, 51)), float(rng.choice([0.1, 1.0, 8.0])), rng.choice(["f", "d"]))]
        * 2,
    ]
    always = [
        *[machine.add] * 3,
        lambda: machine.add_batch(int(rng.integers(0, 61))),
        lambda: rng.random() < 0.1 and machine.go_on_in_another_buffer(),
        lambda: rng.random() < 0.05 and machine.clear(),
    ]
    return machine.same_priorities_and_trees, always, stored, lambda: machine.added


def run(make, calls, rng):
    """At least so many calls, to one buffer after another; tells how many."""
    made = 0
    while made < calls:
        same, always, stored, size = make(rng)
        for k in range(LIFE):
            choice = always + stored if size() else always
            made += choice[rng.integers(len(choice))]() is not False
            if k % CHECKED == 0:
                same()
        same()
    return made


@pytest.mark.slow
def test_two_hundred_thousand_random_calls():
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")  # pytest shows it where the test fails
    rng = np.random.default_rng(seed)
    made = [run(ring, RING, rng), run(trees, TREES, rng)]
    print(f"{made} calls")
    assert sum(made) >= 200_000
