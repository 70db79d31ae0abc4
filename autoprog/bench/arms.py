"""What is raced: the loop anyone would write by hand, and the runner on resident or loaded batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from autoprog.recipe import Recipe
from autoprog.train.data import Batch, Cell
from autoprog.train.device import Compute
from autoprog.train.feed import Feed
from autoprog.train.phase import Phase
from autoprog.train.trainer import Trainer
from supernet.export import plain_network

__all__ = ["BareLoop", "ResidentFeed", "RunnerArm", "bare_loop"]

LEAD_IN_STEPS = 2
"""Steps before the clock starts in each block: the block before left the caches to others."""


@dataclass
class BareLoop:
    """A hand-written training loop over resident batches. ``ema`` is timm's, or none."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: nn.Module
    mixup: Mixup | None
    recipe: Recipe
    compute: Compute
    batches: Sequence[Batch]
    ema: ModelEmaV3 | None = None
    clock: Callable[[], float] = time.perf_counter
    step: int = 0

    def __post_init__(self) -> None:
        self._scaler = self.compute.scaler()

    def __call__(self, steps: int) -> float:
        """Train for some steps; return their seconds."""
        self.model.train()
        self._train(LEAD_IN_STEPS)
        self.compute.synchronize()
        start = self.clock()
        self._train(steps)
        self.compute.synchronize()
        return self.clock() - start

    def _train(self, steps: int) -> None:
        for _ in range(steps):
            images, targets = self.batches[self.step % len(self.batches)]
            if self.mixup is not None:
                images, targets = self.mixup(images, targets)
            self._update(images, targets)
            self.step += 1
            if self.ema is not None:
                self.ema.update(self.model, step=self.step)

    def _update(self, images: Tensor, targets: Tensor) -> None:
        parts = self.recipe.grad_accum_steps
        self.optimizer.zero_grad()
        for part, part_targets in zip(images.chunk(parts), targets.chunk(parts), strict=True):
            with self.compute.autocast():
                loss = self.loss(self.model(part), part_targets)
            self._scaler.scale(loss / parts if parts > 1 else loss).backward()
        if self.recipe.clip_grad is not None:
            self._scaler.unscale_(self.optimizer)
            dispatch_clip_grad(self.model.parameters(), self.recipe.clip_grad)
        self._scaler.step(self.optimizer)
        self._scaler.update()


def bare_loop(
    trainer: Trainer, phase: Phase, batches: Sequence[Batch], with_ema: bool = False
) -> BareLoop:
    """Return the hand-written loop that does what the runner does in a phase.

    Network, optimizer and its groups, precision, loss, mixing, drop-path, clipping and compilation are the
    runner's. The runner must be in the phase already.
    """
    recipe, stepper, rate = trainer.recipe, trainer.stepper, phase.curriculum.drop_path
    model = plain_network(
        stepper.model.spec,
        phase.choices[0].subnet,
        trainer.feed.num_classes,
        drop_path_rate=recipe.drop_path if rate is None else cast(float, rate),
    ).to(trainer.compute.device)
    fused = {"fused": True} if stepper.optimizer.defaults.get("fused") else {}
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, **fused
    )
    if trainer.settings.compile:
        for block in cast(Any, model).blocks:
            block.compile(dynamic=True)
    return BareLoop(
        model=model,
        optimizer=optimizer,
        loss=stepper.loss,
        mixup=stepper.mixup,
        recipe=recipe,
        compute=trainer.compute,
        batches=batches,
        ema=ModelEmaV3(model, use_warmup=True) if with_ema else None,
    )


class ResidentFeed:
    """Batches that lie on the device already, again and again."""

    workers = 0

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
        held_out: bool,
    ) -> Iterator[Batch]:
        """Return `steps` batches; see :class:`autoprog.train.feed.Feed`."""
        return (self._batches[k % len(self._batches)] for k in range(steps))

    def close(self) -> None:
        """Do nothing."""


class _WatchedFeed:
    """A feed that notes when the first batch after the lead-in is asked for."""

    def __init__(self, feed: Any, rest: Feed, lead_in: int, note: Callable[[], None]) -> None:
        self._feed, self._rest, self._lead_in, self._note = feed, rest, lead_in, note

    def __getattr__(self, name: str) -> Any:  # whatever else a trainer asks a feed for
        return getattr(self._rest, name)

    def batches(
        self,
        first_sample: int,
        batch_size: int,
        steps: int,
        cell_at: Callable[[int], Cell],
        held_out: bool,
    ) -> Iterator[Batch]:
        batches = self._feed.batches(first_sample, batch_size, steps, cell_at, held_out)
        for number in range(steps):
            if number == self._lead_in:
                self._note()
            yield next(batches)


@dataclass
class RunnerArm:
    """The runner itself: the trainer carries out a phase of some steps, events and all.

    ``open_feed`` opens the batches anew for each block and they are closed after it, so that no worker
    of this arm takes time from the others; the lead-in waits for all of them.
    """

    trainer: Trainer
    phase: Phase
    open_feed: Callable[[], ResidentFeed | Feed]
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, steps: int) -> float:
        """Train for some steps; return their seconds, with the progress events that fall to them."""
        trainer, own, feed, started = self.trainer, self.trainer.feed, self.open_feed(), 0.0
        lead_in = LEAD_IN_STEPS + feed.workers

        def note() -> None:
            nonlocal started
            trainer.compute.synchronize()
            started = self.clock()

        trainer.step = self._first_step(lead_in)
        trainer.feed = cast(Feed, _WatchedFeed(feed, own, lead_in, note))
        stop = trainer.step + lead_in + steps
        try:
            for _ in trainer.run(replace(self.phase, start_step=trainer.step, stop_step=stop)):
                pass
            trainer.compute.synchronize()
            return self.clock() - started
        finally:
            trainer.feed = own
            feed.close()

    def _first_step(self, lead_in: int) -> int:
        """Let the timed steps begin right after a progress event, so that they have their share of them."""
        every = self.trainer.settings.log_every_steps
        return -(-(self.trainer.step + lead_in) // every) * every - lead_in
