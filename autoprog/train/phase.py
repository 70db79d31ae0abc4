"""Phases: a run as a list of spans of steps, each with one network and one way to enter it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from autoprog.curves import Curriculum
from autoprog.schedule import Grow
from autoprog.steptable import StepTable
from supernet.config import Slots, SubnetConfig, first_slots

__all__ = ["Choice", "Compact", "GrowTo", "Phase", "choice_of", "phases_of", "step_seed"]


@dataclass(frozen=True)
class Choice:
    """A subnet that a step may train, and the slots it runs."""

    subnet: SubnetConfig
    slots: Slots


@dataclass(frozen=True)
class GrowTo:
    """Enter by growing from one subnet to another."""

    before: SubnetConfig
    after: SubnetConfig
    grow: Grow


@dataclass(frozen=True)
class Compact:
    """Enter by moving a supernet's winner to the front."""

    slots: Slots


@dataclass(frozen=True)
class Phase:
    """Steps ``start_step`` to ``stop_step`` (exclusive) on one set of choices.

    Attributes:
        index: Number of the phase in its run; a resume goes by it.
        kind: ``plain`` trains one subnet, ``supernet`` one of several a step.
        depth: Slots in use, which averages and drop-path cover.
        enter: What is done to the network first.
        ends_stage: Whether to evaluate and to keep a checkpoint at the end.
        held_out: Whether the held-out slice is kept out of training.
    """

    index: int
    kind: Literal["plain", "supernet"]
    stage: int
    start_step: int
    stop_step: int
    choices: tuple[Choice, ...]
    depth: tuple[int, ...]
    curriculum: Curriculum
    enter: GrowTo | Compact | None = None
    starts_stage: bool = True
    ends_stage: bool = True
    held_out: bool = False

    @property
    def slots(self) -> Slots:
        """Return the slots in use."""
        return first_slots(self.depth)


def plain_choice(subnet: SubnetConfig) -> Choice:
    """Return the choice of a subnet outside supernets, where it runs the first slots."""
    return Choice(subnet, first_slots(subnet.depth))


def choice_of(phase: Phase, seed: int, step: int) -> Choice:
    """Return what `step` trains: each run of n steps is a permutation of the n choices.

    So sampling is uniform and no candidate is trained less than another (AutoProg draws independently). It is
    a hash of (seed, step), on which all ranks and resumes agree.
    """
    count = len(phase.choices)
    if count == 1:
        return phase.choices[0]
    cycle, position = divmod(step, count)
    order = sorted(range(count), key=lambda i: step_seed(seed, f"subnet-{i}", cycle))
    return phase.choices[order[position]]


def step_seed(seed: int, purpose: str, step: int, rank: int = 0) -> int:
    """Return 63 random bits that depend on all arguments and on nothing else."""
    key = purpose.encode() + struct.pack("<qqq", seed, step, rank)
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def phases_of(table: StepTable) -> Iterator[Phase]:
    """Yield the phases of a schedule: one a segment, growing where a stage is larger than the last."""
    before: SubnetConfig | None = None
    segments = table.segments
    for index, segment in enumerate(segments):
        grows = before is not None and before.depth != segment.subnet.depth
        following = segments[index + 1] if index + 1 < len(segments) else None
        yield Phase(
            index=index,
            kind="plain",
            stage=segment.stage,
            start_step=segment.start_step,
            stop_step=segment.stop_step,
            choices=(plain_choice(segment.subnet),),
            depth=segment.subnet.depth,
            curriculum=segment.curriculum,
            enter=GrowTo(before, segment.subnet, segment.grow) if grows and before else None,
            starts_stage=index == 0 or segments[index - 1].stage != segment.stage,
            ends_stage=following is None or following.stage != segment.stage,
        )
        before = segment.subnet
