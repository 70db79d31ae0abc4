"""What can be known to fail is refused before a run folder is made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autoprog.commands.configure import Configured
from autoprog.curves import Curriculum, curve_ends
from autoprog.errors import ConfigError
from autoprog.schedule import GrowthSchedule
from autoprog.search.plan import make_plan
from autoprog.search.profile import Costs
from autoprog.settings import RunSettings
from autoprog.train.data import TransformSettings, train_transform
from autoprog.train.device import resolve_compute
from autoprog.train.engine import RunLength, run_length
from autoprog.train.optim import check_optimizer
from autoprog.train.phase import phases_of
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.regularise import cell_of

__all__ = ["check_run"]


def check_run(configured: Configured, is_new: bool, ranks: Ranks = ONE_PROCESS) -> None:
    """Check what needs more than one value, the images, torch or timm to be judged.

    Raises:
        ConfigError: If the run could not start, or would stop at a later stage.
    """
    settings, schedule = configured.settings, configured.schedule
    recipe = settings.recipe
    _check_numbers(settings)
    _check_share(settings, ranks)
    compute = resolve_compute(settings, ranks)
    length = run_length(len(configured.opened.train), recipe.batch_size, recipe.epochs)
    shape = recipe.sched if schedule is None else schedule.lr.shape
    check_optimizer(recipe, compute.device, shape, length.total_steps)
    curricula = [Curriculum(), *_curricula(schedule, length)]
    _check_mixing(settings, curricula, ranks)
    for curriculum in curricula:
        train_transform(cell_of(curriculum, recipe, settings.model.img_size), TransformSettings())
    _check_search(settings, length, is_new)


def _check_numbers(settings: RunSettings) -> None:
    for flag, value in (("--seed", settings.seed), ("--workers", settings.workers)):
        if isinstance(value, int) and value < 0:
            raise ConfigError(flag, "", "must be at least 0", value)


def _check_share(settings: RunSettings, ranks: Ranks) -> None:
    size, parts = settings.recipe.batch_size, ranks.world_size * settings.recipe.grad_accum_steps
    if size % parts and not ranks.alone:
        law = f"must be a multiple of {parts} ({ranks.world_size} processes x --grad-accum-steps)"
        raise ConfigError("--batch-size", "", law, size)


def _curricula(schedule: GrowthSchedule | None, length: RunLength) -> Iterator[Curriculum]:
    if schedule is not None:
        epochs = length.total_steps / length.steps_per_epoch
        for phase in phases_of(schedule.resolve(length.steps_per_epoch, epochs)):
            yield phase.curriculum


def _check_mixing(settings: RunSettings, curricula: list[Curriculum], ranks: Ranks) -> None:
    """Refuse odd batches where images are mixed: timm mixes each image with its mirror in the batch."""
    recipe = settings.recipe
    rates = [rate for one in (recipe.strength, *curricula) for rate in (one.mixup, one.cutmix)]
    share = recipe.batch_size // ranks.world_size
    if share % 2 and any(value > 0 for rate in rates for value in curve_ends(rate)):
        where = "" if ranks.alone else " in each process"
        law, cure = f"must be even{where} for mixup and cutmix", "or set --mixup 0 --cutmix 0"
        raise ConfigError("--batch-size", "", law, recipe.batch_size, cure)


def _check_search(settings: RunSettings, length: RunLength, is_new: bool) -> None:
    search = settings.search
    if search is None:
        return
    decisions = search.space.decisions
    make_plan(search.rule, decisions, length.steps_per_epoch, length.total_steps)
    if search.costs_from is not None and is_new:
        Costs.read(Path(search.costs_from), settings.recipe.batch_size)
