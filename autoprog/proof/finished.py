"""A finished run as a comparison sees it: what it was configured to do, and what it cost to get where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoprog.effort import image_macs
from autoprog.errors import ConfigError, consistent
from autoprog.events import Evaluated, Event, Progressed, RunStarted
from autoprog.runs import Result, Run, load_run
from autoprog.settings import RunSettings
from autoprog.stage import Training
from supernet.config import ModelSpec

__all__ = ["Finished", "Point", "curve_of", "read_finished"]

_COMPUTED = (
    "kind",
    "model",
    "data",
    "recipe",
    "table_sizes",
    "time_budget_seconds",
    "compile",
    "patience",
)
_START = ("pretrained", "initial_checkpoint")
_CARRIED_OUT = ("threads", "workers", "cache")
_ORIGINS = {"search": {"storage", "space_from", "fidelity"}}


@dataclass(frozen=True)
class Point:
    """An evaluation: top-1 of the averaged network in per cent, and all that was spent until it was known."""

    seconds: float
    images: float
    macs: float
    top1_ema: float


@dataclass(frozen=True)
class Finished:
    """A complete run.

    Attributes:
        path: Its folder, as it was given.
        name: What it trained along, in a few words.
        result: What it came to.
        configuration: All that decides what it computes, but its seed; runs that share it repeat each other.
        conditions: What it was carried out with, which changes its seconds and not what it computes.
        curve: Its evaluations, in order.
        planned_share: The share of the time of the full model's steps that a search was to take; else None.
        found_by: The search run that found the schedule of a training; None where a person wrote it.
    """

    path: str
    name: str
    result: Result
    configuration: Mapping[str, Any]
    conditions: Mapping[str, str]
    curve: tuple[Point, ...]
    found_by: str | None = None
    planned_share: float | None = None


def read_finished(path: str | Path) -> Finished:
    """Read a complete run.

    Raises:
        ConfigError: If it is no run folder, or its run is not complete.
    """
    folder = Path(path)
    if (folder / "result.json").is_file() and not (folder / "run.yaml").is_file():
        law = "must hold a run.yaml, which says what the run was configured to do"
        raise ConfigError(str(path), "", law, cure="it was published without it")
    run = load_run(path)
    if run.result is None:
        raise ConfigError(str(path), "", "must be a complete run: there is no result.json yet")
    with consistent(str(path)):
        return _finished(path, run, run.result)


def _finished(path: str | Path, run: Run, result: Result) -> Finished:
    settings, events = run.manifest.settings, list(run.events())
    starts = [event for event in events if isinstance(event, RunStarted)]
    return Finished(
        path=str(path),
        name=_name(settings),
        result=result,
        configuration=_configuration(run, result),
        conditions=_conditions(settings, result, starts),
        curve=curve_of(events, settings.model.spec(), result),
        found_by=_search_before(run),
        planned_share=None if settings.search is None else settings.search.time_share,
    )


def curve_of(events: Iterable[Event], spec: ModelSpec, result: Result) -> tuple[Point, ...]:
    """Return the evaluations of a run with what was spent until each.

    Between two reports, the steps are counted as those of the subnet of the later one. The totals of the
    result are exact, so images and multiply-accumulates on the way are scaled to end there.
    """
    images = macs = 0.0
    before = num_images = 0
    points: list[Point] = []
    for event in events:
        if isinstance(event, RunStarted):
            before, num_images = event.step, event.num_images
        elif isinstance(event, Progressed):
            taken = (event.step - before) * event.step_seconds * event.images_per_second
            images, before = images + taken, event.step
            macs += taken * image_macs(spec, event.subnet, Training())
        elif isinstance(event, Evaluated):
            points.append(Point(event.wall_seconds, images, macs, event.top1_ema))
    images_scale = result.image_epochs * num_images / images if images else 0.0
    macs_scale = result.macs / macs if macs else 0.0
    return tuple(
        replace(point, images=point.images * images_scale, macs=point.macs * macs_scale)
        for point in points
    )


def _name(settings: RunSettings) -> str:
    if settings.search is not None:
        trials = settings.search.trials
        by = "" if trials is None else f", {trials} trials"
        share = settings.search.time_share
        of = "" if share is None else f" planned for {share:g} of the time"
        return f"search {settings.search.rule}{by}{of}"
    origin = Path(settings.schedule_from or "schedule")
    return "/".join(origin.parts[-2:])


def _configuration(run: Run, result: Result) -> dict[str, Any]:
    """Return the settings that count, with the schedule carried out or the search that finds one."""
    settings = run.manifest.settings
    values = settings.model_dump(mode="json", include={*_COMPUTED, *_START})
    values |= {"device": result.device.partition(":")[0], "amp": result.amp}
    if settings.search is not None:
        return values | settings.model_dump(mode="json", include={"search"}, exclude=_ORIGINS)
    schedule = result.schedule
    if run.schedule is not None:
        schedule = run.schedule.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return values | {"schedule": {k: v for k, v in schedule.items() if k != "found_by"}}


def _search_before(run: Run) -> str | None:
    """Return the search whose seconds a training along its schedule does not hold."""
    if run.manifest.settings.search is not None or run.schedule is None:
        return None
    return None if run.schedule.found_by is None else run.schedule.found_by.run


def _conditions(settings: RunSettings, result: Result, starts: list[RunStarted]) -> dict[str, str]:
    carried = settings.model_dump(mode="json", include=set(_CARRIED_OUT))
    hardware = dict.fromkeys(start.hardware for start in starts if start.hardware)
    processes = starts[-1].world_size if starts else 1
    return {
        "hardware": ", ".join(hardware) or "unknown",
        "processes": str(processes),
        **{name: str(value) for name, value in carried.items()},
        "torch": result.versions.get("torch", "unknown"),
        "autoprog": result.versions.get("autoprog", "unknown"),
    }
