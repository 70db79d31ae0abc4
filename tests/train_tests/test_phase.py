"""Phases, the numbers that randomness hangs on, and the length of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from autoprog.stage import Curriculum
from autoprog.train.phase import Choice, GrowTo, Phase, choice_of, phases_of, step_seed
from autoprog.train.run_length import RunLength, run_length, steps_per_epoch_of
from supernet.config import SubnetConfig, first_slots


def test_step_seeds_are_the_same_in_every_version() -> None:
    """Golden numbers: another value would change the continuation of every run that is stopped now."""
    assert step_seed(0, "step", 0) == 160637170147328234
    assert step_seed(0, "step", 1) == 3128189322446850861
    assert step_seed(7, "subnet-3", 12) == 8271260461663172658
    assert step_seed(7, "subnet-3", 12, rank=1) == 3590918312591390415


def test_step_seeds_depend_on_every_argument_and_fit_into_63_bits() -> None:
    arguments = [
        (seed, purpose, step, rank)
        for seed in (0, 1, 2**40)
        for purpose in ("step", "subnet-0")
        for step in range(50)
        for rank in (0, 1)
    ]
    seeds = [step_seed(*one) for one in arguments]
    assert len(set(seeds)) == len(arguments)
    assert all(0 <= seed < 2**63 for seed in seeds)


def supernet(count: int) -> Phase:
    subnets = [SubnetConfig(1 + index, 16) for index in range(count)]
    return Phase(
        index=0,
        kind="supernet",
        stage=0,
        start_step=0,
        stop_step=1000,
        choices=tuple(Choice(subnet, first_slots(subnet.depth)) for subnet in subnets),
        depth=(count,),
        curriculum=Curriculum(),
    )


@pytest.mark.parametrize("count", [2, 3, 9])
def test_every_candidate_is_trained_once_in_each_round(count: int) -> None:
    phase = supernet(count)
    orders = []
    for start in range(0, 40 * count, count):
        order = [choice_of(phase, 3, step) for step in range(start, start + count)]
        assert Counter(order) == Counter(phase.choices)
        orders.append(tuple(choice.subnet.total_depth for choice in order))
    assert len(set(orders)) > 1
    firsts = Counter(order[0] for order in orders)
    assert len(firsts) == count  # no candidate always comes last


def test_a_choice_depends_on_seed_and_step_alone() -> None:
    phase = supernet(5)
    once = [choice_of(phase, 0, step) for step in range(100)]
    assert [choice_of(phase, 0, step) for step in reversed(range(100))] == once[::-1]
    assert [choice_of(phase, 1, step) for step in range(100)] != once
    only = replace(phase, choices=phase.choices[:1])
    assert {choice_of(only, 0, step) for step in range(10)} == {phase.choices[0]}


def test_a_schedule_becomes_phases_that_grow_where_a_stage_is_deeper(bench: Any) -> None:
    schedule = bench.ramped()
    phases = list(phases_of(schedule.resolve(10, 4.0)))
    assert [(phase.start_step, phase.stop_step, phase.stage) for phase in phases] == [
        (0, 12, 0),
        (12, 16, 1),
        (16, 20, 1),
        (20, 24, 1),
        (24, 40, 2),
    ]
    assert [phase.index for phase in phases] == [0, 1, 2, 3, 4]
    assert [phase.starts_stage for phase in phases] == [True, True, False, False, True]
    assert [phase.ends_stage for phase in phases] == [True, False, False, True, True]
    grow = schedule.stages[0].grow
    assert [phase.change for phase in phases] == [
        None,
        GrowTo(SubnetConfig(2, 8), SubnetConfig(3, 8), grow),
        None,
        None,
        GrowTo(SubnetConfig(3, 16), SubnetConfig(4, 16), grow),
    ]
    assert [phase.slots for phase in phases] == [
        (tuple(range(depth)),) for depth in (2, 3, 3, 3, 4)
    ]


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "length"),
    [
        (1437, 64, 16, RunLength(22, 352)),
        (1_281_167, 1024, 300, RunLength(1251, 375_300)),
        (100, 64, 2.5, RunLength(2, 5)),
        (10, 64, 3, RunLength(1, 3)),  # a batch takes images of several passes
        (1000, 10, 0.001, RunLength(100, 2)),
        (1000, 10, 0.29, RunLength(100, 29)),  # 0.29 * 100 is a little less than 29
    ],
)
def test_the_length_of_a_run(
    images: int, batch_size: int, epochs: float, length: RunLength
) -> None:
    assert run_length(images, batch_size, epochs) == length
    assert steps_per_epoch_of(images, batch_size) == length.steps_per_epoch
