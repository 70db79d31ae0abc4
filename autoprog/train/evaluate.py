"""Accuracy and loss of one subnet on prepared batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from autoprog.accuracy import balanced_accuracy
from autoprog.data.batches import Batch
from autoprog.data.dataset import OpenedData
from autoprog.data.run_data import open_run_data
from autoprog.errors import RunError
from autoprog.evaluation_grid import EvaluatedCell, EvaluationGrid
from autoprog.paired_timing import TimedBlock, paired_blocks
from autoprog.settings import RunSettings
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.model import transform_settings
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.weights import WeightsFile, loaded_network
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.elastic import ElasticViT

__all__ = ["Scores", "batch_losses", "evaluate", "evaluate_choices", "evaluate_grid"]


@dataclass(frozen=True)
class Scores:
    """What one network came to: mean cross-entropy, and by class the images and those it got right."""

    loss: float
    correct: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def top1(self) -> float:
        """Return the accuracy in per cent; NaN without images."""
        return 100.0 * sum(self.correct) / sum(self.images) if any(self.images) else float("nan")

    @property
    def balanced(self) -> float:
        """Return the mean of the accuracies in the classes, in per cent; NaN without images."""
        return balanced_accuracy(self.correct, self.images)


def evaluate(
    models: tuple[ElasticViT, ...],
    batches: Iterable[tuple[Tensor, Tensor]],
    choice: Choice,
    compute: Compute,
    ranks: Ranks = ONE_PROCESS,
) -> list[Scores]:
    """Return the scores of each model over images and targets, in eval mode.

    Each batch is read once for all models; the modes of the models are restored. Each rank brings its fraction
    of the batches and gets the result over all of them.
    """
    return _scores([(model, choice) for model in models], batches, compute, ranks)


def evaluate_choices(
    model: ElasticViT,
    batches: Iterable[tuple[Tensor, Tensor]],
    choices: Sequence[Choice],
    compute: Compute,
) -> list[Scores]:
    """Return the scores of each subnet of one model; each batch is read once for all of them."""
    return _scores([(model, choice) for choice in choices], batches, compute, ONE_PROCESS)


@torch.no_grad()
def _scores(
    networks: Sequence[tuple[ElasticViT, Choice]],
    batches: Iterable[tuple[Tensor, Tensor]],
    compute: Compute,
    ranks: Ranks,
) -> list[Scores]:
    modes = [model.training for model, _ in networks]
    num_classes = networks[0][0].vit.num_classes
    # Eager, as averages are: a compiled network would need one more graph for this.
    with torch.compiler.set_stance("force_eager"):
        losses, correct, images = _totals(networks, batches, compute, num_classes)
    for (model, _), training in zip(networks, modes, strict=True):
        model.train(training)
    losses, correct, images = map(ranks.total, (losses, correct, images))
    count = int(images.sum())
    return [
        Scores(loss / count if count else float("nan"), tuple(right), tuple(images.tolist()))
        for loss, right in zip(losses.tolist(), correct.tolist(), strict=True)
    ]


def _totals(
    networks: Sequence[tuple[ElasticViT, Choice]],
    batches: Iterable[tuple[Tensor, Tensor]],
    compute: Compute,
    num_classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return sums over images: losses (networks,) in float64, correct (networks, C) and images (C,)."""
    losses = torch.zeros(len(networks), dtype=torch.float64)
    correct = torch.zeros(len(networks), num_classes, dtype=torch.int64)
    count = torch.zeros(num_classes, dtype=torch.int64)
    for images, labels in batches:
        images, targets = images.to(compute.device), labels.to(compute.device)
        count += torch.bincount(labels, minlength=num_classes)
        for index, (model, choice) in enumerate(networks):
            with compute.autocast():
                logits = model.eval()(images, choice.subnet, choice.slots).float()
            loss = functional.cross_entropy(logits, targets, reduction="sum")
            losses[index] += loss.cpu().double()  # MPS has no doubles
            is_right = (logits.argmax(1) == targets).cpu()
            correct[index] += torch.bincount(labels[is_right], minlength=num_classes)
    return losses, correct, count


@torch.no_grad()
def batch_losses(
    model: ElasticViT, batches: Iterable[tuple[Tensor, Tensor]], choice: Choice, compute: Compute
) -> list[float]:
    """Return the mean cross-entropy of each batch, in eval mode: the paired samples of an estimate."""
    training = model.training
    model.eval()
    losses = []
    for images, targets in batches:
        with compute.autocast():
            logits = model(images, choice.subnet, choice.slots).float()
        losses.append(functional.cross_entropy(logits, targets))
    model.train(training)
    return torch.stack(losses).tolist()


# --------------------------------------------------------------------------------------------------
# One set of weights over a grid of image sizes and keep-rates: accuracy and speed of each cell.


_BLOCK_SECONDS = 0.1
"""What a timed block of the slowest cell takes at least."""

Tell = Callable[[str, int, int], None]
"""Hears what is under way, how much of it is done and how much there is to do."""


def evaluate_grid(
    settings: RunSettings,
    opened: OpenedData,
    file: WeightsFile,
    subnets: Sequence[SubnetConfig],
    rounds: int,
    tell: Tell = lambda what, done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> EvaluationGrid:
    """Evaluate weights in each subnet, on the validation images of a run with these settings.

    Images are prepared at the full size, as a run's own evaluation does, and the network resizes them.
    Accuracy comes first, each batch read once for all subnets; then speed, on one batch that stays on the
    device: in each of `rounds` all subnets take turns, after a first one that is not counted.

    Args:
        settings: Model, data, recipe, device and precision; ``recipe.batch_size`` is that of the evaluation.
        opened: The data.
        file: The weights.
        subnets: What to evaluate.
        rounds: Timed rounds; 0 measures no speed.
        tell: Hears of progress.
        clock: Seconds, for the speed.

    Raises:
        ConfigError: If the weights are of another network, or the device is not there.
        RunError: If there are no validation images, or one cannot be read.
    """
    compute = resolve_compute(settings)
    spec, tables = settings.model.spec(), settings.table_sizes
    model = loaded_network(file, spec, len(opened.class_names), settings.seed, tables)
    model.to(compute.device).eval()
    choices = [plain_choice(subnet) for subnet in subnets]
    scores, images = _grid_scores(model, settings, opened, choices, compute, tell)
    timed = {
        str(number): _arm(model, images, choice, compute, clock)
        for number, choice in enumerate(choices)
    }
    speeds = _speeds(timed, rounds, len(images), tell) if rounds else [None] * len(choices)
    return EvaluationGrid(
        model=model.spec.name,
        weights=str(file.path),
        device=str(compute.device),
        amp=compute.amp,
        batch_size=len(images),
        num_images=len(opened.val),
        cells=tuple(
            EvaluatedCell(
                subnet=subnet,
                top1=score.top1,
                loss=score.loss,
                macs=macs(model.spec, subnet, len(opened.class_names)),
                images_per_second=speed,
                balanced_top1=score.balanced,
            )
            for subnet, score, speed in zip(subnets, scores, speeds, strict=True)
        ),
        held_out=settings.data.on_held_out,
        class_images=scores[0].images,
    )


def _grid_scores(
    model: ElasticViT,
    settings: RunSettings,
    opened: OpenedData,
    choices: list[Choice],
    compute: Compute,
    tell: Tell,
) -> tuple[list[Scores], Tensor]:
    """Return the scores of each choice on the validation images, and the first batch of them."""
    run_data = open_run_data(
        opened, transform_settings(model, settings.recipe), settings, pin_memory=False
    )
    num_batches = math.ceil(len(opened.val) / settings.recipe.batch_size)
    seen: list[Batch] = []
    compute.seed(settings.seed)  # for tokens kept at random
    try:
        batches = _watched(run_data.validation(), num_batches, seen, tell)
        scores = evaluate_choices(model, batches, choices, compute)
    finally:
        run_data.close()
    if not seen:
        raise RunError("there are no validation images to evaluate on")
    for choice, found in zip(choices, scores, strict=True):
        if not math.isfinite(found.loss):
            raise RunError(f"{choice.subnet}: the loss on the validation images is {found.loss}")
    return scores, seen[0][0].to(compute.device)


def _watched(
    batches: Iterator[Batch], total: int, first: list[Batch], tell: Tell
) -> Iterator[Batch]:
    """Pass batches on, keep the first one, and tell how many are done."""
    for number, batch in enumerate(batches):
        tell("accuracy", number, total)
        if not first:
            first.append(batch)
        yield batch
    tell("accuracy", total, total)


def _arm(
    model: ElasticViT,
    images: Tensor,
    choice: Choice,
    compute: Compute,
    clock: Callable[[], float],
) -> TimedBlock:
    """Return what takes some forward passes of one subnet, and their seconds."""

    @torch.no_grad()
    def block(forwards: int) -> float:
        compute.synchronize()
        start = clock()
        for _ in range(forwards):
            with compute.autocast():
                model(images, choice.subnet, choice.slots)
        compute.synchronize()
        return clock() - start

    return block


def _speeds(
    arms: dict[str, TimedBlock], rounds: int, batch_size: int, tell: Tell
) -> list[float | None]:
    """Return the median images a second of each arm; blocks last long enough to be timed."""
    for arm in arms.values():
        arm(1)
    slowest = max(arm(1) for arm in arms.values())
    forwards = max(1, math.ceil(_BLOCK_SECONDS / slowest))
    seconds = paired_blocks(
        arms, rounds, forwards, lambda number: tell("speed", number, rounds + 1)
    )
    tell("speed", rounds + 1, rounds + 1)
    return [forwards * batch_size / median(own) for own in seconds.values()]
