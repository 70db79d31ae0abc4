"""What is timed, steps of the run's own loop and batches of its own loader, and how no trace of it stays."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from autoprog.costs.table import CostKey
from autoprog.data.batches import Batch
from autoprog.paired_timing import TimeIsUpError
from autoprog.stage import Curriculum, Training
from autoprog.train.phase import Phase, plain_choice
from autoprog.train.step import Stepper, make_input_config
from autoprog.train.stop import GaveUpError
from supernet.network import DropPath

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["Deadline", "TimedBatches", "TimedSteps", "restored_after", "seconds_with_batches"]


@contextmanager
def restored_after(stepper: Stepper) -> Iterator[None]:
    """Put back weights, averages, optimizer, scaler, generators and settings at the end, to the bit.

    Only gradients are dropped: no step looks at those of another.
    """
    model, optimizer, device = stepper.model, stepper.optimizer, stepper.compute.device
    networks = [model, *(ema.module for ema in stepper.emas)]
    tensors = [t for net in networks for part in (net.parameters(), net.buffers()) for t in part]
    states = optimizer.state.values()
    tensors += [v for state in states for v in state.values() if torch.is_tensor(v)]
    # In the memory of the CPU, so that a batch that fits into that of the device still does.
    copies = [tensor.detach().to("cpu", copy=True) for tensor in tensors]
    # Tensors of the optimizer's state stay its own; numbers beside them are copied.
    optimizer_state = {
        parameter: {k: v if torch.is_tensor(v) else deepcopy(v) for k, v in state.items()}
        for parameter, state in optimizer.state.items()
    }
    groups = [
        {key: deepcopy(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    scaler = deepcopy(stepper.scaler.state_dict())
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    # The rate of drop-path is a plain number beside the buffers.
    drop_paths = [module for module in model.modules() if isinstance(module, DropPath)]
    rates = [(module, module.drop_prob) for module in drop_paths]
    training, settings = model.training, dict(vars(stepper))
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.empty(0)
    if device.type == "cuda":
        on_device = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        on_device = torch.mps.get_rng_state()
    try:
        yield
    finally:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, copy in zip(tensors, copies, strict=True):
                tensor.copy_(copy)
        optimizer.state.clear()
        optimizer.state.update(optimizer_state)
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            for key in group.keys() - values.keys() - {"params"}:
                del group[key]  # such as the number of steps, which LAMB and Adan keep here
            group.update(values)
        if scaler:
            stepper.scaler.load_state_dict(scaler)
        for parameter, flag in zip(model.parameters(), trainable, strict=True):
            parameter.requires_grad_(flag)
        for module, rate in rates:
            module.drop_prob = rate
        vars(stepper).update(settings)
        model.train(training)
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if device.type == "cuda":
            torch.cuda.set_rng_state(on_device, device)
        elif device.type == "mps":
            torch.mps.set_rng_state(on_device)


@dataclass
class Deadline:
    """Ends measuring between two steps: for a signal, or because the time is up."""

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

    def check_step(self) -> None:
        """End measuring where it has to; called between any two steps or batches.

        Raises:
            GaveUpError: If a signal has come.
            TimeIsUpError: If the time is up.
        """
        # Processes that measure together must all take the same steps, so they end only between blocks.
        if self.trainer.stepper.ranks.alone:
            self.trainer.stop.check()
            if self.left_seconds < 0:
                raise TimeIsUpError

    def check_block(self) -> None:
        """Let all processes that measure together give up if one of them has got a signal.

        Raises:
            GaveUpError: On all of them.
        """
        ranks = self.trainer.stepper.ranks
        if ranks.most(int(self.trainer.stop.signal_name is not None)):
            raise GaveUpError


@dataclass
class TimedSteps:
    """Steps of one cost key by the runner's own loop, on a batch that the loader has delivered.

    The batch lies where the loader puts it, so that its way to the device is part of the step, as in a run.
    """

    deadline: Deadline
    key: CostKey
    batch: Callable[[], Batch]
    curriculum: Curriculum
    micro_batches: int

    def __post_init__(self) -> None:
        subnet, step = self.key.subnet, self.deadline.trainer.step
        self._phase = Phase(
            index=0,
            kind="plain",
            stage=0,
            start_step=step,
            stop_step=step + 1,
            choices=(plain_choice(subnet),),
            depth=subnet.depth,
            curriculum=self.curriculum,
            training=Training(shrink_by=self.key.shrink_by, unfrozen=self.key.unfrozen),
        )

    def __call__(self, steps: int) -> float:
        """Take one step untimed, then some; return the seconds of one of them."""
        batch = self.batch()
        self.enter()
        self.deadline.check_step()
        self.take(batch)
        return self._timed(batch, steps)

    def once(self) -> float:
        """Take one step and return its seconds, whatever caches have to be filled for it."""
        batch = self.batch()
        self.enter()
        return self._timed(batch, 1)

    def _timed(self, batch: Batch, steps: int) -> float:
        trainer = self.deadline.trainer
        trainer.compute.synchronize()
        start = trainer.clock()
        for _ in range(steps):
            self.deadline.check_step()
            self.take(batch)
        trainer.compute.synchronize()
        self.micro_batches = trainer.stepper.micro_batches
        return (trainer.clock() - start) / steps

    def enter(self) -> None:
        """Set the network up for these steps."""
        trainer, phase = self.deadline.trainer, self._phase
        trainer.stepper.model.train()
        # Where a batch did not fit and was halved, the next key begins with its own parts again.
        trainer.stepper.micro_batches = self.micro_batches
        trainer.stepper.regularise(phase, trainer.recipe, trainer.data.num_classes)
        trainer.stepper.enter(phase)

    def take(self, batch: Batch) -> None:
        """Take one step on `batch`."""
        trainer, phase = self.deadline.trainer, self._phase
        trainer.stepper.step(*batch, phase.choices[0], phase.slots, trainer.step)


@dataclass
class TimedBatches:
    """Batches of one number and size of images, from the run's own data, with nothing else to do.

    Whatever is asked for is used up, so that no worker takes time from what is timed next.
    """

    deadline: Deadline
    num_images: int
    img_size: int
    curriculum: Curriculum
    sample: int = 0
    first_seconds: float | None = field(default=None, init=False)
    _some: Batch | None = field(default=None, init=False)

    def __call__(self, batches: int) -> float:
        """Fetch some batches untimed, one of each worker, then others; return the seconds of one of them."""
        trainer = self.deadline.trainer
        lead_in, timed = max(1, trainer.data.workers), max(batches, 2 * trainer.data.workers)
        found = self.batches(lead_in + timed)
        for batch in islice(found, lead_in):
            self._some = batch
            self.deadline.check_step()
        start = trainer.clock()
        for _ in found:
            self.deadline.check_step()
        return (trainer.clock() - start) / timed

    @property
    def has_batch(self) -> bool:
        """Tell whether a batch has been fetched."""
        return self._some is not None

    def some(self) -> Batch:
        """Return a batch; the seconds of the first are kept, a guess where there is no time for others."""
        if self._some is None:
            trainer = self.deadline.trainer
            start = trainer.clock()
            self._some = next(self.batches(1))
            self.first_seconds = (trainer.clock() - start) / max(1, trainer.data.workers)
        return self._some

    def expected_seconds(self, workers: int) -> float:
        """Return about the seconds of each half, untimed and timed, of a first time; a batch is there."""
        assert self.first_seconds is not None
        # Of 3 batches a worker, one untimed and two timed; workers make them side by side.
        return self.first_seconds * (1.5 * workers if workers else 1.0)

    def batches(self, count: int) -> Iterator[Batch]:
        """Return the next batches of the run's data; each call goes on where the last one ended."""
        trainer = self.deadline.trainer
        config = make_input_config(self.curriculum, trainer.recipe, self.img_size)
        first, self.sample = self.sample, self.sample + count * self.num_images
        return trainer.data.batches(first, self.num_images, count, lambda _: config, held_out=False)


def seconds_with_batches(timed: TimedSteps, data: TimedBatches, steps: int) -> float:
    """Return the seconds of `steps` steps, each on a batch of its own, from the first batch's arrival on."""
    trainer = timed.deadline.trainer
    timed.enter()
    found = data.batches(steps)
    batch = next(found)
    start = trainer.clock()
    timed.take(batch)
    for batch in found:
        timed.deadline.check_step()
        timed.take(batch)
    trainer.compute.synchronize()
    return trainer.clock() - start
