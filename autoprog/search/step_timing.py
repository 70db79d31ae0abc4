"""What is timed: steps of a cell, batches of a kind, and both together."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from autoprog.costs.table import CostCell
from autoprog.curves import Curriculum
from autoprog.data.loader import Batch
from autoprog.paired_timing import Estimate, estimate
from autoprog.stage import Training
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.step import Stepper, make_input_config, regularise
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer
from supernet.network import DropPath

__all__ = [
    "Arm",
    "BatchArm",
    "Limits",
    "StepArm",
    "TimeIsUpError",
    "Turns",
    "Watch",
    "both_seconds",
    "outcome",
    "take_turns",
    "turn_seconds",
    "untouched",
]


# --------------------------------------------------------------------------------------------------
# Timing things in turns: what slows the machine for a while slows all of them alike.


Outcome = TypeVar("Outcome")

Arm = Callable[[int], float]
"""Does its work once untimed, then so many times; returns the seconds of one time.

May raise :class:`TimeIsUpError` between two times, where it is the only process that measures.
"""

Broadcast = Callable[[str], str]
"""Returns rank 0's text on all ranks that measure together."""

BLOCK_SECONDS = 0.1
"""What a block lasts at least: a machine is not preempted for much less."""

MAX_IN_A_BLOCK = 20
SLOW_FRACTION = 0.2
"""An arm whose block takes this fraction of the limit is not taken again."""

MIN_FOR_A_MEDIAN = 3
"""Below that the least of what was seen counts, since whatever disturbs a machine only adds."""

MIN_ROUNDS = 6
"""Below that an interval of 95 % does not exist; see :mod:`autoprog.paired_timing`."""


class TimeIsUpError(Exception):
    """The time for measuring is up in the middle of a block, which then does not count."""


def outcome(work: Generator[Any, None, Outcome]) -> Outcome:
    """Return what work comes to whose progress nobody watches."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Outcome = end.value
            return found


@dataclass(frozen=True)
class Limits:
    """When measuring ends.

    Attributes:
        seconds: The time cap; nothing is begun that is not expected to fit in.
        tolerance: Half the width of the interval of a ratio, relative to it, that is good enough.
        max_rounds: So many rounds are enough of whatever is so noisy.
    """

    seconds: float
    tolerance: float = 0.02
    max_rounds: int = 60


@dataclass
class Turns:
    """What has been seen so far: the seconds of each arm that took part, round by round.

    ``first`` are those of the turn in which caches fill; an arm that is not there was left out.
    """

    reference: str
    first: dict[str, float] = field(default_factory=dict)
    rounds: list[dict[str, float]] = field(default_factory=list)

    def ratios(self, name: str) -> list[float]:
        """Return the seconds of an arm in units of the reference's in the same round."""
        return [one[name] / one[self.reference] for one in self.rounds if name in one]

    def estimate(self, name: str) -> Estimate:
        """Return the seconds of an arm: the median ratio times the reference's median.

        The interval is that of the ratio; the reference's own is that of its seconds. Of an arm that was
        taken but once or twice it is the least of its seconds, up to the most of them, its first turn
        included.
        """
        seen = [one[name] for one in self.rounds if name in one]
        if len(seen) < MIN_FOR_A_MEDIAN:
            seen += [self.first[name]] if name in self.first else []
            return Estimate(min(seen), min(seen), max(seen), confidence=0.0)
        own = [one[self.reference] for one in self.rounds]
        if name == self.reference:
            return estimate(own)
        unit, ratio = median(own), estimate(self.ratios(name))
        return Estimate(ratio.median * unit, ratio.low * unit, ratio.high * unit, ratio.confidence)

    def is_settled(self, name: str, limits: Limits) -> bool:
        """Tell whether the ratio of an arm to the reference is known well enough."""
        ratios = self.ratios(name)
        if len(ratios) < MIN_ROUNDS:
            return False
        found = estimate(ratios)
        return found.high - found.low <= 2 * limits.tolerance * found.median


def take_turns(
    arms: Mapping[str, Arm],
    reference: str,
    limits: Limits,
    clock: Callable[[], float],
    broadcast: Broadcast = str,
    *,
    first: Mapping[str, float] | None = None,
    price: Callable[[str], float] = lambda name: 0.0,
) -> Generator[Turns, None, Turns]:
    """Time arms in rounds until each ratio to the reference is known, or the time is up.

    In the first turn of each arm, which counts only if there is no time for three, caches fill and graphs
    compile. Each round starts with another arm; those that are settled sit out, but for the reference.
    Yields what is known so far after each block.

    Args:
        arms: By name, the most important first: where the time does not suffice the last are left out.
        reference: The arm that takes part in every round.
        limits: When to end.
        clock: Seconds.
        broadcast: See :data:`Broadcast`.
        first: The first turns of those that have had theirs; the reference's must be among them, or is
            taken whatever the time.
        price: Returns about the seconds of one time of an arm that has had no turn.
    """
    start = clock()
    turns = Turns(reference, dict(first or {}))

    def left() -> float:
        return limits.seconds - (clock() - start)

    try:
        for name in [name for name in arms if name not in turns.first]:
            fits = name == reference or 2 * price(name) <= left()
            if broadcast("fits" if fits else ""):
                turns.first[name] = float(broadcast(repr(arms[name](1))))
                yield turns
        blocks = {name: _block(seconds) for name, seconds in turns.first.items()}
        took = {name: turn_seconds(seconds) for name, seconds in turns.first.items()}
        while names := json.loads(broadcast(json.dumps(_due(turns, took, limits, left())))):
            shift = len(turns.rounds) % len(names)
            turns.rounds.append({})
            for name in names[shift:] + names[:shift]:
                begin = clock()
                turns.rounds[-1][name] = arms[name](blocks[name])
                took[name] = clock() - begin
                yield turns
    except TimeIsUpError:
        pass
    if turns.rounds and reference not in turns.rounds[-1]:
        turns.rounds.pop()  # cut short, and nothing to compare with
    return turns


def turn_seconds(seconds: float) -> float:
    """Return what a turn of an arm takes, from the seconds of one time."""
    return seconds * (1 + _block(seconds))


def _block(seconds: float) -> int:
    return max(1, min(MAX_IN_A_BLOCK, ceil(BLOCK_SECONDS / max(seconds, 1e-9))))


def _due(
    turns: Turns, took: Mapping[str, float], limits: Limits, left_seconds: float
) -> Sequence[str]:
    """Return the arms of the next round; none if all are settled, or it does not fit into the time left.

    The first round takes those in that there is time for, so that no slow one keeps others from theirs.
    """
    if len(turns.rounds) >= limits.max_rounds:
        return []
    others = [
        name
        for name in took
        if name != turns.reference
        and not turns.is_settled(name, limits)
        and not (turns.ratios(name) and took[name] > SLOW_FRACTION * limits.seconds)
    ]
    alone = len(took) == 1 and len(turns.rounds) < MIN_ROUNDS
    if not others and not alone:
        return []
    names = [turns.reference, *others]
    if turns.rounds:
        return names if sum(took[name] for name in names) <= left_seconds else []
    taken: list[str] = []
    for name in names:
        if took[name] <= left_seconds:
            left_seconds -= took[name]
            taken.append(name)
    return taken if turns.reference in taken else []


# --------------------------------------------------------------------------------------------------
# Steps that leave no trace: whatever they change is put back, to the bit.


@contextmanager
def untouched(stepper: Stepper) -> Iterator[None]:
    """Put back weights, averages, optimizer, scaler, generators and settings at the end of the block.

    Copies lie in the memory of the CPU, so that a batch that fits into that of the device still does. Only
    gradients are dropped: no step looks at those of another.
    """
    tensors = _tensors(stepper)
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    optimizer, kept = stepper.optimizer, _optimizer_state(stepper.optimizer)
    scaler = deepcopy(stepper.scaler.state_dict())
    trainable = [parameter.requires_grad for parameter in stepper.model.parameters()]
    rates = [(module, module.drop_prob) for module in _drop_paths(stepper)]
    training = stepper.model.training
    settings = dict(vars(stepper))
    generators = _generators(stepper.compute.device)
    try:
        yield
    finally:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        _put_back_optimizer(optimizer, kept)
        if scaler:
            stepper.scaler.load_state_dict(scaler)
        for parameter, flag in zip(stepper.model.parameters(), trainable, strict=True):
            parameter.requires_grad_(flag)
        for module, rate in rates:
            module.drop_prob = rate
        vars(stepper).update(settings)
        stepper.model.train(training)
        _put_back_generators(stepper.compute.device, generators)


def _tensors(stepper: Stepper) -> list[Tensor]:
    """Return every tensor of the network, its averages and the optimizer's state."""
    networks = [stepper.model, *(ema.module for ema in stepper.emas)]
    found = [t for net in networks for part in (net.parameters(), net.buffers()) for t in part]
    states = stepper.optimizer.state.values()
    return found + [v for state in states for v in state.values() if torch.is_tensor(v)]


def _drop_paths(stepper: Stepper) -> Iterator[DropPath]:
    """Yield the modules whose rate is a number beside its buffer."""
    return (module for module in stepper.model.modules() if isinstance(module, DropPath))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Any, list[dict[str, Any]]]:
    """Return the state of each parameter and the settings of each group; tensors are the optimizer's own."""
    states = {
        parameter: {k: v if torch.is_tensor(v) else deepcopy(v) for k, v in state.items()}
        for parameter, state in optimizer.state.items()
    }
    groups = [
        {key: deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return states, groups


def _put_back_optimizer(
    optimizer: torch.optim.Optimizer, kept: tuple[Any, list[dict[str, Any]]]
) -> None:
    states, groups = kept
    optimizer.state.clear()
    optimizer.state.update(states)
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        for key in group.keys() - values.keys() - {"params"}:
            del group[key]  # such as the number of steps, which some optimizers keep here
        group.update(values)


def _generators(device: torch.device) -> dict[str, Any]:
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def _put_back_generators(device: torch.device, states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])


@dataclass
class Watch:
    """Ends measuring between two steps: for a signal, or because the time is up.

    Processes that measure together must all take the same steps, so they look only between two blocks.
    """

    trainer: Trainer
    limit_seconds: float = math.inf

    def __post_init__(self) -> None:
        self._begin_seconds = self.trainer.clock()

    @property
    def spent_seconds(self) -> float:
        """Return the time since measuring began."""
        return self.trainer.clock() - self._begin_seconds

    @property
    def left_seconds(self) -> float:
        """Return the time that is left, below 0 where it is over."""
        return self.limit_seconds - self.spent_seconds

    def between_steps(self) -> None:
        """Look whether to go on; to be called between any two steps or batches.

        Raises:
            GaveUpError: If a signal has come.
            TimeIsUpError: If the time is up.
        """
        if self.trainer.stepper.ranks.alone:
            self.trainer.stop.check()
            if self.left_seconds < 0:
                raise TimeIsUpError

    def between_blocks(self) -> None:
        """Let all processes that measure together give up if one of them has got a signal.

        Raises:
            GaveUpError: On all of them.
        """
        ranks = self.trainer.stepper.ranks
        if ranks.most(int(self.trainer.stop.signal_name is not None)):
            raise GaveUpError


@dataclass
class StepArm:
    """Steps of one cell by the runner's own loop, on a batch that the loader has delivered.

    The batch lies where the loader puts it, so that its way to the device is part of the step, as in a run.
    """

    watch: Watch
    cell: CostCell
    batch: Callable[[], Batch]
    curriculum: Curriculum
    micro_batches: int

    def __post_init__(self) -> None:
        subnet, step = self.cell.subnet, self.watch.trainer.step
        self._phase = Phase(
            index=0,
            kind="plain",
            stage=0,
            start_step=step,
            stop_step=step + 1,
            choices=(plain_choice(subnet),),
            depth=subnet.depth,
            curriculum=self.curriculum,
            training=Training(shrink_by=self.cell.shrink_by, unfrozen=self.cell.unfrozen),
        )

    def __call__(self, steps: int) -> float:
        """Take one step untimed, then some; return the seconds of one of them."""
        trainer, batch = self.watch.trainer, self.batch()
        self.enter()
        self._take_watched(batch)
        return self._timed(batch, steps, trainer)

    def once(self) -> float:
        """Take one step and return its seconds, whatever caches have to be filled for it."""
        batch = self.batch()
        self.enter()
        return self._timed(batch, 1, self.watch.trainer)

    def enter(self) -> None:
        """Set the network up for this cell; a cell whose batch did not fit keeps its own micro-batches."""
        trainer, phase = self.watch.trainer, self._phase
        trainer.stepper.model.train()
        trainer.stepper.micro_batches = self.micro_batches
        regularise(trainer.stepper, phase, trainer.recipe, trainer.data.num_classes)
        trainer.stepper.enter(phase)

    def take(self, batch: Batch) -> None:
        """Take one step on `batch`."""
        trainer, phase = self.watch.trainer, self._phase
        trainer.stepper.step(*batch, phase.choices[0], phase.slots, trainer.step)

    def _timed(self, batch: Batch, steps: int, trainer: Trainer) -> float:
        trainer.compute.synchronize()
        start = trainer.clock()
        for _ in range(steps):
            self._take_watched(batch)
        trainer.compute.synchronize()
        self.micro_batches = trainer.stepper.micro_batches
        return (trainer.clock() - start) / steps

    def _take_watched(self, batch: Batch) -> None:
        self.watch.between_steps()
        self.take(batch)


@dataclass
class BatchArm:
    """Batches of one number and size of images, from the run's own data, with nothing else to do.

    Whatever is asked for is used up, so that no worker takes time from what is timed next.
    """

    watch: Watch
    num_images: int
    img_size: int
    curriculum: Curriculum
    sample: int = 0
    first_seconds: float | None = field(default=None, init=False)
    _some: Batch | None = field(default=None, init=False)

    def __call__(self, batches: int) -> float:
        """Fetch some batches untimed, one of each worker, then others; return the seconds of one of them."""
        trainer = self.watch.trainer
        lead_in, timed = max(1, trainer.data.workers), max(batches, 2 * trainer.data.workers)
        found = self.batches(lead_in + timed)
        for batch in islice(found, lead_in):
            self._some = batch
            self.watch.between_steps()
        start = trainer.clock()
        for _ in found:
            self.watch.between_steps()
        return (trainer.clock() - start) / timed

    @property
    def has_batch(self) -> bool:
        """Tell whether a batch has been fetched."""
        return self._some is not None

    def some(self) -> Batch:
        """Return a batch; what the first took is kept, a guess where there is no time for others."""
        if self._some is None:
            trainer = self.watch.trainer
            start = trainer.clock()
            self._some = next(self.batches(1))
            self.first_seconds = (trainer.clock() - start) / max(1, trainer.data.workers)
        return self._some

    def price(self, workers: int) -> float:
        """Return about the seconds of each of the two halves of a first turn; a batch has been fetched."""
        assert self.first_seconds is not None
        return self.first_seconds * (1.5 * workers if workers else 1.0)

    def batches(self, count: int) -> Iterator[Batch]:
        """Return the next batches of the run's data; each call goes on where the last one ended."""
        trainer = self.watch.trainer
        cell = make_input_config(self.curriculum, trainer.recipe, self.img_size)
        first, self.sample = self.sample, self.sample + count * self.num_images
        return trainer.data.batches(first, self.num_images, count, lambda _: cell, held_out=False)


def both_seconds(step: StepArm, data: BatchArm, steps: int) -> float:
    """Return the seconds of `steps` steps, each on a batch of its own, from the first batch's arrival on."""
    trainer = step.watch.trainer
    step.enter()
    found = data.batches(steps)
    batch = next(found)
    start = trainer.clock()
    step.take(batch)
    for batch in found:
        step.watch.between_steps()
        step.take(batch)
    trainer.compute.synchronize()
    return trainer.clock() - start
