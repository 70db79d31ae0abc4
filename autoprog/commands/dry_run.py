"""What ``train`` and ``search`` would do and how long that would take; nothing is written."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.text import Text

from autoprog.bench.costs import measure_costs
from autoprog.commands.configure import Configure, Configured
from autoprog.commands.preflight import check_run, check_validation_images
from autoprog.commands.run_manifest import new_run_id
from autoprog.commands.run_messages import plan_text, space_text
from autoprog.commands.run_words import replace_run_words
from autoprog.console import Console
from autoprog.costs.model import CostModel, predict_seconds
from autoprog.costs.table import CostKey, full_key, key_of_step, space_keys
from autoprog.errors import ConfigError
from autoprog.paired_timing import TimingLimits
from autoprog.schedule import GrowthSchedule
from autoprog.search.plan import length_and_plan
from autoprog.settings import RunSettings
from autoprog.stage import Training, evaluation_macs, image_macs
from autoprog.step_table import StepTable
from autoprog.train.device import resolve_compute
from autoprog.train.run_length import step_table
from autoprog.ui.format import amount, ascii_text, count, duration, mebibytes, number
from autoprog.ui.tables import Column, plain_table, rich_table
from autoprog.ui.track import track_of_table
from supernet.cost import macs, parameters

__all__ = ["dry_run"]

_MEASURE_SECONDS = 3.0


@dataclass(frozen=True)
class _Forecast:
    """What a run takes, as far as a few measured steps show; ``at_most`` where it may well take less."""

    steps: int
    steps_are_full: bool
    seconds: float
    at_most: bool
    evaluation_seconds: float
    full_step_seconds: float
    memory_bytes: int


def dry_run(args: argparse.Namespace, configure: Configure) -> None:
    """Check everything that a run would check, time a few steps, and print what would be done.

    Raises:
        ConfigError: If the run could not start.
    """
    # A run that is there already has said all of this when it began.
    for name in ("resume", "join"):
        if getattr(args, name, None) is not None:
            raise ConfigError("--dry-run", "", f"must not be given together with --{name}")
    if "RANK" in os.environ:  # each process would time its own steps, in the way of the others
        raise ConfigError("--dry-run", "", "cannot run under torchrun")
    replace_run_words(args)
    configured = configure(args)
    check_run(configured, is_new=True)
    check_validation_images(configured, None)
    settings, console = configured.settings, Console(highlight=False)
    columns = _stages(configured)
    forecast = _forecast(configured)
    run_id = new_run_id(settings.kind, settings.model.model, settings.schedule_from, datetime.now())
    facts = {
        **_facts(configured),
        **({} if forecast is None else _forecast_facts(forecast, settings)),
        "folder": f"{Path(args.runs_dir) / run_id} (not made)",
    }
    if hasattr(args, "as_json"):
        headers = [column.header for column in columns]
        rows = zip(*(column.cells for column in columns), strict=True)
        stages = [dict(zip(headers, row, strict=True)) for row in rows]
        numbers = None if forecast is None else vars(forecast)
        body = {"facts": facts, "stages": stages, "forecast": numbers}
        console.out(json.dumps(body, indent=1), highlight=False)
        return
    for name, text in facts.items():
        if console.is_terminal:
            console.print(Text.assemble((f"{name:<10}", "bold"), f" {text}"), soft_wrap=True)
        else:
            console.out(f"{name:<10} {ascii_text(text)}", highlight=False)
    if columns and console.is_terminal:
        console.print(rich_table(columns, console.width))
    elif columns:
        console.out("\n".join(plain_table(columns)), highlight=False)


def _facts(configured: Configured) -> dict[str, str]:
    settings, recipe = configured.settings, configured.settings.recipe
    spec, classes = settings.model.spec(), len(configured.opened.class_names)
    budget = settings.time_budget_seconds
    length = f"{number(recipe.epochs)} epochs" if budget is None else duration(budget)
    facts = {
        "dry run": f"autoprog {settings.kind}: nothing is trained and nothing is written",
        "model": f"{settings.model.model} at {spec.img_size} px:"
        f" {amount(parameters(spec, spec.depth, classes))} parameters,"
        f" {amount(macs(spec, spec.full, classes))} MACs an image",
        "data": configured.opened.description,
        "recipe": f"{settings.recipe_name}: {length}, batch {recipe.batch_size}, {recipe.opt},"
        f" lr {number(recipe.peak_lr, 3)} {recipe.sched}, seed {settings.seed}",
    }
    if settings.search is None:
        return {**facts, "schedule": str(settings.schedule_from)}
    plan = None
    if settings.search.trials is None:
        _, plan = length_and_plan(settings.search, recipe, len(configured.opened.train))
    return {**facts, "space": space_text(settings.search), "plan": plan_text(settings, plan)}


def _stages(configured: Configured) -> list[Column]:
    """Return the table of the stages with their epochs and steps; empty for a search."""
    schedule = configured.schedule
    if schedule is None:
        return []
    table = _table(configured, schedule)
    track = track_of_table(
        configured.settings.model.spec(), table, configured.settings.recipe.strength
    )
    columns = track.stage_columns()
    if len(columns[0].cells) != len(table.segments):
        return columns  # rows of several segments, of keep-rates that change with each step
    steps = tuple(count(segment.steps) for segment in table.segments)
    return [*columns[:3], Column("steps", steps), *columns[3:]]


def _table(configured: Configured, schedule: GrowthSchedule) -> StepTable:
    return step_table(configured.settings.recipe, schedule, len(configured.opened.train))


def _forecast(configured: Configured) -> _Forecast | None:
    """Time a step of the full model and of the smallest, and others as far as there is time.

    None for a search by trials, whose length is that of what it tries.
    """
    settings, search, schedule = (
        configured.settings,
        configured.settings.search,
        configured.schedule,
    )
    if search is not None and search.trials is not None:
        return None
    spec, batch_size = settings.model.spec(), settings.recipe.batch_size
    # No file, no minute of graphs.
    plain = settings.model_copy(update={"cache": None, "compile": False})
    # The full model and the smallest subnet are measured first, the others as long as there is time;
    # the model of costs fills in what is left.
    keys = _cost_keys(configured)
    grid = measure_costs(plain, configured.opened, keys, TimingLimits(_MEASURE_SECONDS))
    costs, full = CostModel(spec, grid.table), full_key(spec, batch_size)
    # An evaluation is no step that was timed: its seconds follow from its MACs.
    classes = len(configured.opened.class_names)
    step_macs = batch_size * image_macs(spec, spec.full, Training(), classes)
    evaluated = evaluation_macs(spec, spec.full, len(configured.opened.val), classes) / step_macs
    evaluation = evaluated * costs.step(full).seconds
    if schedule is not None:
        table = _table(configured, schedule)
        steps, at_most = table.total_steps, False
        seconds = predict_seconds(table, costs, batch_size).total
    else:
        assert search is not None, "a run has a schedule or searches one"
        length, _ = length_and_plan(search, settings.recipe, len(configured.opened.train))
        # Growth makes a search of so many epochs cheaper than the full model; one by time takes its time.
        steps, at_most = length.total_steps, search.cost_fraction is None
        seconds = steps * costs.wall(full).seconds
    return _Forecast(
        steps=steps,
        steps_are_full=search is not None and search.cost_fraction is not None,
        seconds=settings.time_budget_seconds or seconds + evaluation,
        at_most=at_most,
        evaluation_seconds=evaluation,
        full_step_seconds=costs.wall(full).seconds,
        memory_bytes=resolve_compute(settings).peak_memory_bytes(),
    )


def _cost_keys(configured: Configured) -> list[CostKey]:
    settings, schedule = configured.settings, configured.schedule
    spec, batch_size = settings.model.spec(), settings.recipe.batch_size
    if settings.search is not None:
        return list(space_keys(settings.search.space, batch_size))
    assert schedule is not None, "a training run has a schedule"
    segments = _table(configured, schedule).segments
    keys = (key_of_step(spec, one.subnet, one.training, batch_size) for one in segments)
    return list(dict.fromkeys(keys))


def _forecast_facts(forecast: _Forecast, settings: RunSettings) -> dict[str, str]:
    whose = "the time of " if forecast.steps_are_full else ""
    full = " of the full model" if forecast.steps_are_full else ""
    about = "at most about" if forecast.at_most else "about"
    step = forecast.full_step_seconds
    step_text = duration(step) if step >= 1 else f"{1000 * step:.0f} ms"
    notes = [
        f"a step of the full model takes {step_text} here",
        f"the evaluation at the end {duration(forecast.evaluation_seconds)}",
    ]
    if settings.cache is not None:
        notes.append("loading without --cache")
    if settings.search is not None:
        most = duration(settings.search.profile_seconds)
        notes.append(f"measuring step times at most {most} more")
    if settings.time_budget_seconds is not None:
        notes = ["the time budget"]
    return {
        "steps": f"{whose}{count(forecast.steps)} steps{full}",
        "time": f"{about} {duration(forecast.seconds)} ({'; '.join(notes)})",
        "memory": f"{mebibytes(forecast.memory_bytes)} at the peak of the steps that were timed",
    }
