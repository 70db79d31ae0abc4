"""One set of weights over a grid of image sizes and keep-rates: accuracy and speed of each cell."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autoprog.data.run_data import open_run_data
from autoprog.errors import RunError
from autoprog.evaluation_grid import EvaluatedCell, EvaluationGrid
from autoprog.paired_timing import TimedBlock, paired_blocks
from autoprog.train.device import resolve_compute
from autoprog.train.evaluate import evaluate_choices
from autoprog.train.model import transform_settings
from autoprog.train.phase import Choice, plain_choice
from autoprog.train.weights import WeightsFile, loaded_network
from supernet.cost import macs

if TYPE_CHECKING:
    from autoprog.data.batches import Batch
    from autoprog.data.dataset import OpenedData
    from autoprog.settings import RunSettings
    from supernet.config import SubnetConfig

__all__ = ["evaluate_grid", "forward_speeds"]

_BLOCK_SECONDS = 0.1
"""What a timed block of the slowest cell takes at least."""

Report = Callable[[str, int, int], None]
"""Is given what is under way, how much of it is done and how much there is to do."""


def evaluate_grid(
    settings: RunSettings,
    opened: OpenedData,
    file: WeightsFile,
    subnets: Sequence[SubnetConfig],
    rounds: int,
    report: Report = lambda what, done, total: None,
    clock: Callable[[], float] = time.perf_counter,
) -> EvaluationGrid:
    """Evaluate weights in each subnet, on the validation images of a run with these settings.

    Images are prepared at the full size, as a run's own evaluation does, and the network resizes them.
    Accuracy comes first, each batch read once for all subnets; then speed, on one batch that stays on the
    device: each of `rounds` times all subnets, one after another, after a first one that is not counted.

    Args:
        settings: Model, data, recipe, device and precision; ``recipe.batch_size`` is that of the evaluation.
        opened: The data.
        file: The weights.
        subnets: What to evaluate.
        rounds: Timed rounds; 0 measures no speed.
        report: Is called with the progress.
        clock: Seconds, for the speed.

    Raises:
        ConfigError: If the weights are of another network, or the device is not there.
        RunError: If there are no validation images, or one cannot be read.
    """
    compute, num_classes = resolve_compute(settings), len(opened.class_names)
    spec, tables = settings.model.spec(), settings.table_sizes
    model = loaded_network(file, spec, num_classes, settings.seed, tables)
    model.to(compute.device).eval()
    choices = [plain_choice(subnet) for subnet in subnets]

    transform = transform_settings(model, settings.recipe)
    run_data = open_run_data(opened, transform, settings, pin_memory=False)
    num_batches = math.ceil(len(opened.val) / settings.recipe.batch_size)
    first_images: list[Tensor] = []

    def watched(batches: Iterator[Batch]) -> Iterator[Batch]:
        for number, batch in enumerate(batches):
            report("accuracy", number, num_batches)
            if not first_images:
                first_images.append(batch[0])
            yield batch
        report("accuracy", num_batches, num_batches)

    compute.seed(settings.seed)  # for tokens kept at random
    try:
        scores = evaluate_choices(model, watched(run_data.validation()), choices, compute)
    finally:
        run_data.close()
    if not first_images:
        raise RunError("there are no validation images to evaluate on")
    for choice, found in zip(choices, scores, strict=True):
        if not math.isfinite(found.loss):
            raise RunError(f"{choice.subnet}: the loss on the validation images is {found.loss}")

    images = first_images[0].to(compute.device)

    @torch.no_grad()
    def take_forwards(choice: Choice, count: int) -> float:
        compute.synchronize()
        start = clock()
        for _ in range(count):
            with compute.autocast():
                model(images, choice.subnet, choice.slots)
        compute.synchronize()
        return clock() - start

    blocks = {str(n): partial(take_forwards, choice) for n, choice in enumerate(choices)}
    no_speeds: list[float | None] = [None] * len(choices)
    speeds = forward_speeds(blocks, rounds, len(images), report) if rounds else no_speeds
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
                macs=macs(model.spec, subnet, num_classes),
                images_per_second=speed,
                balanced_top1=score.balanced,
            )
            for subnet, score, speed in zip(subnets, scores, speeds, strict=True)
        ),
        held_out=settings.data.on_held_out,
        class_images=scores[0].images,
    )


def forward_speeds(
    blocks: Mapping[str, TimedBlock], rounds: int, batch_size: int, report: Report
) -> list[float | None]:
    """Return the median images a second of each kind of timed block, each timed once a round."""
    for block in blocks.values():
        block(1)  # fills caches, compiles
    # As many forwards a block as take the slowest long enough to be timed; equally many for all.
    slowest = max(block(1) for block in blocks.values())
    forwards = max(1, math.ceil(_BLOCK_SECONDS / slowest))
    seconds = paired_blocks(
        blocks, rounds, forwards, lambda number: report("speed", number, rounds + 1)
    )
    report("speed", rounds + 1, rounds + 1)
    return [forwards * batch_size / median(own) for own in seconds.values()]
