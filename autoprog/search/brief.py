"""Brief real trainings: one subnet by itself, on a throw-away copy of the run's network."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from autoprog.curves import Curriculum
from autoprog.events import Event
from autoprog.search.estimate import held_out_losses
from autoprog.stage import Grow
from autoprog.train.data import Batch
from autoprog.train.ema import ElasticEma
from autoprog.train.initial import load_initial
from autoprog.train.loop import Stepper
from autoprog.train.model import build_model
from autoprog.train.optim import create_optimizer, create_scheduler
from autoprog.train.pace import StepPace
from autoprog.train.phase import Phase, plain_choice, step_seed
from autoprog.train.regularise import batch_size_of, cell_of, regularise
from autoprog.train.stop import GaveUpError, StopNow
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.elastic import ElasticViT
from supernet.grow import grow

__all__ = ["BriefTrainings"]

_STOP_STEPS = 5
_EMA_SHARE = 0.1


@dataclass(frozen=True)
class BriefTrainings:
    """Trainings of any subnet from one start, by the run's own steps, images and recipe.

    From the run's network as it was at ``step`` the learning rate follows that of the run and is annealed
    linearly to 0 over the training besides: unannealed losses are mostly noise of the last steps, which
    hides what subnets differ in. From new weights, or those that the run was given, it takes the recipe's
    whole shape, warm-up included, in ``steps`` steps. Images are drawn in passes that the run never makes,
    and the held-out slice stays out.

    Attributes:
        trainer: The run, which is left as it is.
        start: The run's state at ``step``, as of :func:`autoprog.train.state.snapshot`; None for new weights.
        before: The subnet trained up to there.
        step: Position of the run: its step, or by time as many steps of the full model as take as long.
        steps: Length of each training.
        run_steps: No fewer than the run makes.
        curriculum: Regularisation.
        grow: How a subnet is grown from ``before``.
    """

    trainer: Trainer
    start: Mapping[str, Any] | None
    before: SubnetConfig
    step: int
    steps: int
    run_steps: int
    curriculum: Curriculum
    grow: Grow

    def train(self, subnet: SubnetConfig, seed: int) -> Generator[Event, None, float | None]:
        """Train `subnet` and return its held-out loss by averaged weights; None if that is not finite.

        Args:
            subnet: At least as large as ``before``, unless it begins with new weights.
            seed: Number of the training; another one sees other images, drops and mixes.

        Raises:
            InterruptedRunError: If a stop was requested; a checkpoint of the run has been written.
        """
        trainer = self.trainer
        with trainer.ledger.charge("search"):
            phase = self._phase(subnet)
            stepper = self._stepper(phase, seed)
            batches = self._batches(phase, seed)
        for number in range(self.steps):
            try:
                with trainer.ledger.charge("search"), trainer.stop.at_once(trainer.ranks):
                    batch = next(batches)
            except StopNow as request:
                yield from trainer.halt(request.signal_name)
                raise
            with trainer.ledger.charge("search"):
                self._take_step(stepper, phase, number, batch)
            if trainer.ranks.alone or number % _STOP_STEPS == 0:
                yield from trainer.halt_if_asked()
        average, loss = stepper.emas[0].module, math.nan
        with trainer.ledger.charge("search"), suppress(GaveUpError):
            loss = fmean(held_out_losses(trainer, average, plain_choice(subnet)))
        yield from trainer.halt_if_asked()
        return loss if math.isfinite(loss) else None

    def _phase(self, subnet: SubnetConfig) -> Phase:
        first = self.step if self.start is not None else 0
        return Phase(
            index=0,
            kind="plain",
            stage=0,
            start_step=first,
            stop_step=first + self.steps,
            choices=(plain_choice(subnet),),
            depth=subnet.depth,
            curriculum=self.curriculum,
            held_out=True,
        )

    def _take_step(self, stepper: Stepper, phase: Phase, number: int, batch: Batch) -> None:
        if self.start is not None:
            stepper.lr_scale = self.trainer.stepper.lr_scale * (1.0 - number / self.steps)
        stepper.step(*batch, phase.choices[0], phase.slots, phase.start_step + number)

    def _batches(self, phase: Phase, seed: int) -> Iterator[Batch]:
        trainer, recipe = self.trainer, self.trainer.recipe
        batch_size, full_px = batch_size_of(phase, recipe), trainer.settings.model.img_size
        of_the_run = self.run_steps * recipe.batch_size
        return trainer.feed.batches(
            first_sample=(1 + seed) * of_the_run + self.step * recipe.batch_size,
            batch_size=batch_size,
            steps=self.steps,
            cell_at=lambda k: cell_of(phase, recipe, full_px, seed, phase.start_step + k),
            held_out=True,
        )

    def _stepper(self, phase: Phase, seed: int) -> Stepper:
        """Return what trains a copy of the network, grown to the subnet of `phase`."""
        trainer, recipe = self.trainer, self.trainer.recipe
        own_seed = step_seed(trainer.settings.seed, "real training", seed)
        model = self._network(own_seed)
        if self.start is None:
            load_initial((model,), trainer.settings, trainer.feed.class_names)
        optimizer = create_optimizer(model, recipe, trainer.compute.device)
        length = self.steps if self.start is None else trainer.total_steps
        scheduler = create_scheduler(optimizer, recipe, recipe.sched, length)
        if self.start is not None:
            self._begin_from(self.start, model, optimizer, phase.depth)
        stepper = replace(
            trainer.stepper,
            model=model,
            emas=(ElasticEma(model, _EMA_SHARE * self.steps),),
            optimizer=optimizer,
            scheduler=scheduler,
            scaler=trainer.compute.scaler(),
            seed=own_seed,
            pace=StepPace() if self.start is None else trainer.pace,
        )
        regularise(stepper, phase, recipe, trainer.feed.num_classes)
        stepper.enter(phase)
        model.train()
        return stepper

    def _begin_from(
        self, start: Mapping[str, Any], model: ElasticViT, optimizer: Any, depth: tuple[int, ...]
    ) -> None:
        """Load the run's state into a copy and grow it to `depth`."""
        model.vit.load_state_dict(start["model"])
        # An optimizer takes over the tensors it is given, and steps change them in place.
        optimizer.load_state_dict(copy.deepcopy(start["optimizer"]))
        if depth != self.before.depth:
            average = self._network(0)
            average.vit.load_state_dict(start["emas"][-1])
            grow(model, [average], optimizer, self.before.depth, depth, self.grow.rule())

    def _network(self, seed: int) -> ElasticViT:
        trainer = self.trainer
        spec, classes = trainer.settings.model.spec(), trainer.feed.num_classes
        return build_model(spec, classes, seed).to(trainer.compute.device)
