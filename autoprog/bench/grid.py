"""One set of weights over a grid of image sizes and keep-rates: accuracy and speed of each cell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from torch import Tensor

from autoprog.bench.statistics import Arm, take_turns
from autoprog.errors import RunError
from autoprog.grid import EvaluatedCell, EvaluationGrid
from autoprog.settings import RunSettings
from autoprog.train.data import Batch, OpenedData
from autoprog.train.device import Compute, resolve_compute
from autoprog.train.evaluate import Scores, evaluate_choices
from autoprog.train.feed import open_feed
from autoprog.train.model import transform_settings
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.weights import WeightsFile, loaded_network
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.elastic import ElasticViT

__all__ = ["evaluate_grid"]

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
    scores, images = _scores(model, settings, opened, choices, compute, tell)
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


def _scores(
    model: ElasticViT,
    settings: RunSettings,
    opened: OpenedData,
    choices: list[Choice],
    compute: Compute,
    tell: Tell,
) -> tuple[list[Scores], Tensor]:
    """Return the scores of each choice on the validation images, and the first batch of them."""
    feed = open_feed(opened, transform_settings(model, settings.recipe), settings, pin_memory=False)
    num_batches = math.ceil(len(opened.val) / settings.recipe.batch_size)
    seen: list[Batch] = []
    compute.seed(settings.seed)  # for tokens kept at random
    try:
        batches = _watched(feed.validation(), num_batches, seen, tell)
        scores = evaluate_choices(model, batches, choices, compute)
    finally:
        feed.close()
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
) -> Arm:
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


def _speeds(arms: dict[str, Arm], rounds: int, batch_size: int, tell: Tell) -> list[float | None]:
    """Return the median images a second of each arm; blocks last long enough to be timed."""
    for arm in arms.values():
        arm(1)
    slowest = max(arm(1) for arm in arms.values())
    forwards = max(1, math.ceil(_BLOCK_SECONDS / slowest))
    seconds = take_turns(arms, rounds, forwards, lambda number: tell("speed", number, rounds + 1))
    tell("speed", rounds + 1, rounds + 1)
    return [forwards * batch_size / median(own) for own in seconds.values()]
