"""Phases: a run as a list of spans of steps, each with one network and one change of it that comes first."""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from autoprog.stage import Curriculum, Grow, Training
from autoprog.step_table import StepTable, without_keep_rate
from supernet.config import Slots, SubnetConfig, first_slots

__all__ = ["Choice", "Compact", "GrowTo", "Phase", "choice_of", "phases_of", "step_seed"]


@dataclass(frozen=True)
class Choice:
    """A subnet that a step may train, and the slots it runs."""

    subnet: SubnetConfig
    slots: Slots


@dataclass(frozen=True)
class GrowTo:
    """The change of a network that grows from one subnet to another."""

    before: SubnetConfig
    after: SubnetConfig
    grow: Grow


@dataclass(frozen=True)
class Compact:
    """The change of a supernet whose winner moves to the front."""

    slots: Slots


@dataclass(frozen=True)
class Phase:
    """Steps ``start_step`` to ``stop_step`` (exclusive) on one set of choices.

    Attributes:
        index: Number of the phase in its run; a resume goes by it.
        kind: ``plain`` trains one subnet a step, ``supernet`` one of several, drawn for each step.
        choices: What is trained. In a plain phase all have one depth and size; ``starts`` says which when.
        depth: Slots in use, which averages and drop-path cover.
        change: How the network changes first: it grows, or a winner is compacted; None leaves it as it is.
        ends_stage: Whether to evaluate and to keep a checkpoint at the end.
        held_out: Whether the held-out slice is kept out of training.
        starts: The position from which each choice of a plain phase is in force.
        training: How steps train, beside the subnet.
    """

    index: int
    kind: Literal["plain", "supernet"]
    stage: int
    start_step: int
    stop_step: int
    choices: tuple[Choice, ...]
    depth: tuple[int, ...]
    curriculum: Curriculum
    change: GrowTo | Compact | None = None
    starts_stage: bool = True
    ends_stage: bool = True
    held_out: bool = False
    starts: tuple[float, ...] = (0,)
    training: Training = field(default_factory=Training)

    @property
    def slots(self) -> Slots:
        """Return the slots in use."""
        return first_slots(self.depth)


def plain_choice(subnet: SubnetConfig) -> Choice:
    """Return the choice of a subnet outside supernets, where it runs the first slots."""
    return Choice(subnet, first_slots(subnet.depth))


def choice_of(phase: Phase, seed: int, step: int, position: float | None = None) -> Choice:
    """Return what `step` trains, at `position` of the run (the step itself unless it goes by a clock).

    In a supernet phase each run of n steps is a permutation of the n choices, so sampling is uniform and no
    candidate is trained less than another (AutoProg draws independently). It is a hash of (seed, step), on
    which all ranks and resumes agree.
    """
    count = len(phase.choices)
    if count == 1:
        return phase.choices[0]
    if phase.kind == "plain":
        place = step if position is None else position
        return phase.choices[max(0, bisect_right(phase.starts, place) - 1)]
    # Sorted by a hash of each choice: a permutation that any rank and any resume finds again by itself.
    cycle, number = divmod(step, count)
    order = sorted(range(count), key=lambda i: step_seed(seed, f"subnet-{i}", cycle))
    return phase.choices[order[number]]


def step_seed(seed: int, purpose: str, step: int, rank: int = 0) -> int:
    """Return 63 random bits that depend on all arguments and on nothing else."""
    key = purpose.encode() + struct.pack("<qqq", seed, step, rank)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def phases_of(table: StepTable) -> Iterator[Phase]:
    """Yield the phases of a schedule, growing where a stage is deeper than the one before.

    A phase is one segment, or several that differ in their tokens alone: keep-rates may change with each
    step, and neither loader nor network need to get ready for that.
    """
    groups = [list(group) for _, group in groupby(table.segments, without_keep_rate)]
    before: SubnetConfig | None = None
    for index, group in enumerate(groups):
        subnet, stage, growth = group[0].subnet, group[0].stage, None
        if before is not None:
            # A schedule that is not monotone may leave blocks idle, and take them up again: nothing grows.
            depth = tuple(map(max, before.depth, subnet.depth))
            if depth != before.depth:
                after = SubnetConfig(depth, subnet.img_size, subnet.tokens)
                growth = GrowTo(before, after, group[0].grow)
        yield Phase(
            index=index,
            kind="plain",
            stage=stage,
            start_step=group[0].start_step,
            stop_step=group[-1].stop_step,
            choices=tuple(plain_choice(segment.subnet) for segment in group),
            starts=tuple(segment.start_step for segment in group),
            depth=subnet.depth,
            curriculum=group[0].curriculum,
            change=growth,
            starts_stage=index == 0 or groups[index - 1][0].stage != stage,
            ends_stage=index + 1 == len(groups) or groups[index + 1][0].stage != stage,
            training=group[0].training,
        )
        before = group[-1].subnet
