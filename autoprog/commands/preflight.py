"""What can be known to fail is refused before a run folder is made."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from autoprog.data.batches import validation_refusal
from autoprog.data.loader import check_images
from autoprog.data.progress import progress_on_stderr
from autoprog.data.stream import StreamSource
from autoprog.data.transforms import TransformSettings, train_transform
from autoprog.data.workers import resolve_workers
from autoprog.errors import ConfigError
from autoprog.events import Evaluated
from autoprog.loggers.logger_threads import check_loggers
from autoprog.printable import say
from autoprog.recipe import Recipe
from autoprog.runs import load_run
from autoprog.schedule import GrowthSchedule
from autoprog.search.measured_costs import Costs
from autoprog.search.plan import check_fidelity, length_and_plan
from autoprog.search.schedule_space import schedule_space
from autoprog.settings import RunSettings
from autoprog.stage import Curriculum, Training, curve_ends, shown_depth
from autoprog.train.device import resolve_compute
from autoprog.train.initial_weights import find_initial
from autoprog.train.optim import check_growth, check_optimizer
from autoprog.train.ranks import ONE_PROCESS, Ranks
from autoprog.train.run_length import run_length, step_table
from autoprog.train.step import make_input_config, scaled_batch_size
from supernet.build import machine_bytes
from supernet.config import GrowthRule, as_depth

if TYPE_CHECKING:
    from autoprog.commands.configure import Configured

__all__ = ["check_run", "check_validation_images"]

_MAX_CHECK_SECONDS = 60.0


def check_run(configured: Configured, is_new: bool, ranks: Ranks = ONE_PROCESS) -> None:
    """Check what needs more than one value, the images, torch or timm to be judged.

    Raises:
        ConfigError: If the run could not start, or would stop at a later stage.
    """
    settings, schedule = configured.settings, configured.schedule
    recipe = settings.recipe
    check_loggers(settings)
    compute = resolve_compute(settings, ranks)
    num_images = len(configured.opened.train)
    length = run_length(num_images, recipe.batch_size, recipe.epochs)
    shape = recipe.sched if schedule is None else schedule.lr.shape
    check_optimizer(recipe, compute.device, shape, length.total_steps)
    check_growth(recipe, compute.device, _growth_rules(settings, schedule))
    # timm checks an augmentation only when it builds it, which for a late stage may be hours away.
    curricula = [Curriculum()]
    if schedule is not None:
        if schedule.length_unit == "budget_fraction" and settings.time_budget_seconds is None:
            problem, hint = (
                "must come with --time-budget",
                "a fraction of a time budget needs the budget",
            )
            raise ConfigError("--schedule", "length_unit", problem, "budget_fraction", hint)
        # A ramp may make a thousand segments of few curricula; each is tried once.
        table = step_table(recipe, schedule, num_images)
        texts = {one.curriculum.model_dump_json(): one.curriculum for one in table.segments}
        curricula += texts.values()
    _check_batches(settings, schedule, num_images, ranks)
    for curriculum in curricula:
        config = make_input_config(curriculum, recipe, settings.model.img_size)
        train_transform(config, TransformSettings())
    search = settings.search
    if search is not None and search.trials is None:
        _, plan = length_and_plan(search, recipe, num_images)
        check_fidelity(search.fidelity, plan)
    if search is not None and search.costs_from is not None and is_new:
        Costs.read(Path(search.costs_from), recipe.batch_size)
    # One that goes on has its weights in the checkpoint.
    if settings.has_initial_weights and is_new:
        # Growth would overwrite blocks of the given weights.
        full = as_depth(settings.model.depth)
        for index, stage in enumerate(() if schedule is None else schedule.stages):
            if as_depth(stage.depth) != full:
                problem = f"must be {shown_depth(full)}, as given weights have"
                hint = "take --schedule constant"
                where = f"stages[{index}].depth"
                raise ConfigError("--schedule", where, problem, stage.depth, hint)
        find_initial(settings, configured.opened.class_names)


def check_validation_images(
    configured: Configured, resumed: Path | None, ranks: Ranks = ONE_PROCESS
) -> None:
    """Read the validation images once, for at most a minute; a run has done so by its first evaluation.

    Raises:
        ConfigError: If one cannot be read.
    """
    val = configured.opened.val
    if isinstance(val, StreamSource) or val.in_memory:  # read by each evaluation anyway, or decoded
        return
    if resumed is not None and any(
        isinstance(event, Evaluated) for event in load_run(resumed).events()
    ):
        return
    problem = ""
    if ranks.is_main:  # the other ranks would read the same images once more
        workers = resolve_workers(configured.settings.workers, val)
        checked = check_images(val, workers, _MAX_CHECK_SECONDS, progress_on_stderr)
        if checked.unreadable:
            problem = validation_refusal(checked.unreadable)
        elif checked.num_read < len(val):
            text = f"{checked.num_read:,} of {len(val):,} read in {_MAX_CHECK_SECONDS:.0f} seconds"
            rest = "the others are read when the run is evaluated, after a checkpoint"
            say(f"validation images: {text}, all fine; {rest}", file=sys.stderr)
    if problem := ranks.broadcast(problem):
        where = "--data" if configured.settings.data.dataset is None else "--dataset"
        raise ConfigError(where, "", problem, hint=f"then --resume {resumed}" if resumed else "")


def _growth_rules(
    settings: RunSettings, schedule: GrowthSchedule | None
) -> list[tuple[tuple[str, str], GrowthRule]]:
    """Return all ways in which a run may add blocks, each with the place that says so."""
    stages = () if schedule is None else schedule.stages
    rules = [
        (("--schedule", f"stages[{index}].grow"), stage.grow.rule())
        for index, (before, stage) in enumerate(pairwise(stages), start=1)
        if as_depth(stage.depth) != as_depth(before.depth)
    ]
    search = settings.search
    if search is None or len(search.space.depths) == 1:
        return rules
    if search.trials is None:
        return [((search.space_from, "decisions.grow"), search.space.decisions.grow.rule())]
    space = schedule_space(settings)
    return [
        ((search.space_from, "axes.init"), space.grow(init).rule())
        for init in search.space.axes.init
    ]


def _check_batches(
    settings: RunSettings, schedule: GrowthSchedule | None, num_images: int, ranks: Ranks
) -> None:
    """Check all sizes that a batch has in a run."""
    recipe, search = settings.recipe, settings.search
    own = _Batch(("--batch-size", "", recipe.batch_size), recipe.batch_size)
    batches = [own]
    for segment in () if schedule is None else step_table(recipe, schedule, num_images).segments:
        scale = segment.training.batch_scale
        where = ("--schedule", f"stages[{segment.stage}].batch_scale", scale)
        size = _size_at(recipe, scale, where)
        batches.append(_Batch(own.where if scale == 1 else where, size, segment.curriculum))
    tried = () if search is None or search.trials is None else search.space.axes.batch_scale.values
    for scale in tried:
        assert search is not None, "only trials change the batch"
        where = (search.space_from, "axes.batch_scale.values", scale)
        size = _size_at(recipe, scale, where)
        batches.append(_Batch(own.where if scale == 1 else where, size))
    for batch in batches:
        batch.check(settings, ranks)


def _size_at(recipe: Recipe, scale: float, where: tuple[str, str, object]) -> int:
    """Return the images of a batch at a scale, of which there must be one."""
    if scale * recipe.batch_size < 0.5:
        place, key, value = where
        problem = f"must leave at least one of the {recipe.batch_size} images of a batch"
        raise ConfigError(place, key, problem, value)
    return scaled_batch_size(recipe, Training(batch_scale=scale))


@dataclass(frozen=True)
class _Batch:
    """Images of a step over all processes, which flag or key says so, and how they are augmented."""

    where: tuple[str, str, object]
    size: int
    curriculum: Curriculum = field(default_factory=Curriculum)

    def refuse(self, what: str, hint: str = "") -> ConfigError:
        """Return the error of a batch that must be something else."""
        place, key, value = self.where
        problem = f"must be {what}"
        if value != self.size:
            problem = f"must make batches that are {what}, not of {self.size} images"
        return ConfigError(place, key, problem, value, hint)

    def check(self, settings: RunSettings, ranks: Ranks) -> None:
        """Refuse a batch that cannot be divided, held or mixed.

        Raises:
            ConfigError: If it cannot.
        """
        spec, recipe = settings.model.spec(), settings.recipe
        parts = ranks.world_size * recipe.grad_accum_steps
        if self.size % parts and not ranks.alone:
            what = f"a multiple of {parts} ({ranks.world_size} processes x --grad-accum-steps)"
            raise self.refuse(what)
        # Without this the kernel would kill the run, and maybe another program. What a step keeps for
        # its backward pass is at least 8 numbers of 2 bytes a token, channel and block: of queries, keys
        # and values, and of the hidden layer, which is four times as wide. On other devices a batch that
        # is too large is taken in parts.
        size = self.size // ranks.world_size
        held = 4 * size * spec.in_chans * spec.img_size**2
        if settings.device == "cpu" or not torch.cuda.is_available():
            patches = (spec.img_size // spec.patch_size) ** 2
            held += (
                16
                * size
                // recipe.grad_accum_steps
                * patches
                * spec.embed_dim
                * spec.full.total_depth
            )
        if held > machine_bytes():
            gib, most = held / 2**30, machine_bytes() / 2**30
            what = (
                f"smaller: a step takes {gib:,.3g} GiB or more, and this machine has {most:.3g} GiB"
            )
            raise self.refuse(what, "lower it, or raise --grad-accum-steps")
        # timm mixes each image with its mirror in the batch, so a batch that is mixed must be even.
        rates = [
            rate for one in (recipe.strength, self.curriculum) for rate in (one.mixup, one.cutmix)
        ]
        if size % 2 and any(value > 0 for rate in rates for value in curve_ends(rate)):
            where = "" if ranks.alone else " in each process"
            raise self.refuse(f"even{where} for mixup and cutmix", "or set --mixup 0 --cutmix 0")
