"""Runs side by side: grouped by what they were configured to do, averaged over seeds, paired by seed.

Everything that a run spent is charged: its seconds are all of its wall time, so training, supernets, waiting
for data, search, growth, evaluation and checkpoints. Seeds are the unit: repeats of a seed count once.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from autoprog.accuracy import sampling_error
from autoprog.errors import ConfigError, consistent
from autoprog.events import Evaluated, Event, RunStarted, StepLogged
from autoprog.paired_timing import Estimate, estimate
from autoprog.runs import Result, Run, load_run
from autoprog.settings import RunSettings
from autoprog.stage import Training, image_macs
from supernet.config import ModelSpec

__all__ = [
    "PARTS",
    "Comparison",
    "Difference",
    "Finished",
    "Group",
    "Point",
    "Spread",
    "charged_parts",
    "compare",
    "curve_of",
    "flat",
    "read_finished",
    "spread",
]


# --------------------------------------------------------------------------------------------------
# A finished run as a comparison sees it: what it was configured to do, and what it cost to get
# where.


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
        configuration: All that decides what it computes, but its seed; runs that fraction it repeat each other.
        conditions: What it was carried out with, which changes its seconds and not what it computes.
        curve: Its evaluations, in order.
        planned_fraction: The fraction of the time of the full model's steps that a search was to take; else None.
        found_by: The search run that found the schedule of a training; None where a person wrote it.
    """

    path: str
    name: str
    result: Result
    configuration: Mapping[str, Any]
    conditions: Mapping[str, str]
    curve: tuple[Point, ...]
    found_by: str | None = None
    planned_fraction: float | None = None


def read_finished(path: str | Path) -> Finished:
    """Read a complete run.

    Raises:
        ConfigError: If it is no run folder, or its run is not complete.
    """
    folder = Path(path)
    if (folder / "result.json").is_file() and not (folder / "run.yaml").is_file():
        problem = "must hold a run.yaml, which says what the run was configured to do"
        raise ConfigError(str(path), "", problem, hint="it was published without it")
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
        planned_fraction=None if settings.search is None else settings.search.cost_fraction,
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
        elif isinstance(event, StepLogged):
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
        fraction = settings.search.cost_fraction
        of = "" if fraction is None else f" planned for {fraction:g} of the time"
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


PARTS = ("train", "data_wait", "search", "lost", "eval")
"""What wall time is made of by ``result.json``; the rest of it is checkpoints."""

_FOLLOWS = (
    ("model.model", "model."),
    ("model.model", "search.space"),
    ("kind", "search."),
    ("kind", "schedule"),
)
"""Where the first differs, keys that begin with the second are bound to."""


@dataclass(frozen=True)
class Spread:
    """The mean over seeds and the sample standard deviation, None of one seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """Top-1 of the averaged or of the online network minus that of the reference, in points.

    Attributes:
        mean: The mean of the paired differences; without pairs, the difference of the means.
        seeds: The seeds that both have, which make the pairs.
        paired: The median of the paired differences with its sign-test interval; None below two pairs.
    """

    mean: float
    seeds: tuple[int, ...]
    paired: Estimate | None


@dataclass(frozen=True)
class Group:
    """Runs that share a configuration; ratios are to the reference, which is the first group.

    ``difference`` is that of the averaged networks, None for the reference and for runs on other images than
    its own, which have no ratios either. ``differs_in`` names where
    the configuration leaves that of the reference, with both values: (key, value, value of the reference).
    ``parts_seconds`` are means over runs, and the peak of memory is that of the largest run.
    """

    label: str
    name: str
    runs: tuple[Finished, ...]
    seeds: tuple[int, ...]
    top1_ema: Spread
    top1: Spread
    seconds: Spread
    image_epochs: Spread
    macs: Spread
    parts_seconds: Mapping[str, float]
    peak_memory_bytes: int
    seconds_ratio: float | None
    macs_ratio: float | None
    difference: Difference | None
    difference_online: Difference | None
    differs_in: tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True)
class Comparison:
    """Groups in the order in which their first runs were given.

    ``facts`` is what their numbers do not say by themselves, ``notes`` what makes them hard to compare.
    """

    groups: tuple[Group, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[Finished]) -> Comparison:
    """Return the comparison of at least one run; the group of the first one is the reference."""
    by_configuration: dict[str, list[Finished]] = {}
    for run in runs:
        key = json.dumps(run.configuration, sort_keys=True)
        by_configuration.setdefault(key, []).append(run)
    members = list(by_configuration.values())
    groups = tuple(_group(label(i), own, members[0]) for i, own in enumerate(members))
    facts = (*_sampling_errors(groups), *_single_seeds(groups), *_planned_and_reached(groups))
    return Comparison(groups, facts, tuple(_notes(runs, groups)))


def label(index: int) -> str:
    """Return A, B … Z, A1, B1 …, one for each group."""
    round_, letter = divmod(index, 26)
    return string.ascii_uppercase[letter] + (str(round_) if round_ else "")


def spread(values: Sequence[float]) -> Spread:
    """Return the mean and the sample standard deviation (n - 1) of at least one value."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None)


def charged_parts(result: Result) -> dict[str, float]:
    """Return the seconds of a run by purpose; they add up to its wall time."""
    parts = {name: float(getattr(result, f"{name}_seconds")) for name in PARTS}
    return {**parts, "checkpoints": max(0.0, result.wall_seconds - sum(parts.values()))}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys; a schedule stays one value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key != "schedule":
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def _group(name: str, runs: list[Finished], reference: list[Finished]) -> Group:
    def over_seeds(value: Callable[[Result], float], of: list[Finished] = runs) -> list[float]:
        return list(_by_seed(of, value).values())

    seconds = spread(over_seeds(_seconds))
    macs = spread(over_seeds(_macs))
    is_comparable = _same_images(runs[0], reference[0])
    has_difference = is_comparable and runs is not reference
    parts = [charged_parts(run.result) for run in runs]
    return Group(
        label=name,
        name=runs[0].name,
        runs=tuple(runs),
        seeds=tuple(sorted(_by_seed(runs, _seconds))),
        top1_ema=spread(over_seeds(_top1_ema)),
        top1=spread(over_seeds(_top1)),
        seconds=seconds,
        image_epochs=spread(over_seeds(lambda result: result.image_epochs)),
        macs=macs,
        parts_seconds={part: fmean(one[part] for one in parts) for part in parts[0]},
        peak_memory_bytes=max(run.result.peak_memory_bytes for run in runs),
        seconds_ratio=_ratio(seconds.mean, fmean(over_seeds(_seconds, reference)))
        if is_comparable
        else None,
        macs_ratio=_ratio(macs.mean, fmean(over_seeds(_macs, reference)))
        if is_comparable
        else None,
        difference=_difference(runs, reference, _top1_ema) if has_difference else None,
        difference_online=_difference(runs, reference, _top1) if has_difference else None,
        differs_in=tuple(_differences(runs[0], reference[0])),
    )


def _same_images(run: Finished, reference: Finished) -> bool:
    """Tell whether two runs were trained and evaluated on the same data set; a fraction of it may differ."""
    own, other = (
        {
            key: value
            for key, value in one.configuration.get("data", {}).items()
            if key != "fraction"
        }
        for one in (run, reference)
    )
    return own == other


def _seconds(result: Result) -> float:
    return result.wall_seconds


def _macs(result: Result) -> float:
    return result.macs


def _top1_ema(result: Result) -> float:
    return result.top1_ema


def _top1(result: Result) -> float:
    return result.top1


def _by_seed(runs: Sequence[Finished], value: Callable[[Result], float]) -> dict[int, float]:
    """Return one value a seed: the mean of its repeats."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run.result.seed, []).append(value(run.result))
    return {seed: fmean(values) for seed, values in found.items()}


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference else None


def _difference(
    runs: Sequence[Finished], reference: Sequence[Finished], top1: Callable[[Result], float]
) -> Difference:
    own, other = _by_seed(runs, top1), _by_seed(reference, top1)
    seeds = tuple(sorted(own.keys() & other.keys()))
    if not seeds:
        return Difference(fmean(own.values()) - fmean(other.values()), (), None)
    pairs = [own[seed] - other[seed] for seed in seeds]
    return Difference(fmean(pairs), seeds, estimate(pairs) if len(pairs) > 1 else None)


def _differences(run: Finished, reference: Finished) -> list[tuple[str, Any, Any]]:
    """Return where two configurations differ, without what follows from another difference."""
    own, other = flat(run.configuration), flat(reference.configuration)
    keys = dict.fromkeys([*own, *other])
    found = {k: (own.get(k), other.get(k)) for k in keys if own.get(k) != other.get(k)}
    follow = tuple(prefix for cause, prefix in _FOLLOWS if cause in found)
    causes = {cause for cause, _ in _FOLLOWS}
    return [(k, *v) for k, v in found.items() if k in causes or not k.startswith(follow)]


def _sampling_errors(groups: Sequence[Group]) -> Iterator[str]:
    """Yield how far the choice of validation images may have moved accuracies."""
    by_images: dict[int, list[Group]] = {}
    for group in groups:
        for images in {run.result.num_validation_images for run in group.runs}:
            if images:
                by_images.setdefault(images, []).append(group)
    for images, own in by_images.items():
        error = max(sampling_error(group.top1_ema.mean, images) for group in own)
        labels = ", ".join(group.label for group in own)
        yield f"{labels}: {images:,} validation images, top-1 within ± {error:.1f} points (95 %)"


def _single_seeds(groups: Sequence[Group]) -> Iterator[str]:
    """Yield which groups have one seed only, where they are to be told apart."""
    single = [group.label for group in groups if len(group.seeds) == 1]
    if single and len(groups) > 1:
        yield f"{', '.join(single)}: n = 1, and one seed does not tell a difference from chance"


def _planned_and_reached(groups: Sequence[Group]) -> Iterator[str]:
    """Yield what fraction of time a search was planned for, and what of the reference's it took, by purpose."""
    reference = groups[0]
    for group in groups:
        fraction = group.runs[0].planned_fraction
        if fraction is None or not reference.seconds.mean:
            continue
        parts = {
            name: seconds / reference.seconds.mean for name, seconds in group.parts_seconds.items()
        }
        steps = parts.pop("train") + parts.pop("data_wait")
        spent = [f"steps {steps:.2f}"]
        spent += [f"{_PURPOSES[name]} {part:.2f}" for name, part in parts.items() if part >= 0.005]
        of = "its own time" if group is reference else f"the time of {reference.label}"
        yield (
            f"{group.label}: planned for {fraction:g} of the time of the full model's steps; reached"
            f" {group.seconds_ratio or 0.0:.2f} of {of}: {', '.join(spent)}"
        )


_PURPOSES = {
    "search": "measuring, estimates and decisions",
    "lost": "growth",
    "eval": "evaluations",
    "checkpoints": "checkpoints",
}


def _notes(runs: Sequence[Finished], groups: Sequence[Group]) -> list[str]:
    """Return what makes seconds or accuracies hard to compare."""
    notes = []
    for name in runs[0].conditions:
        values = sorted({run.conditions[name] for run in runs})
        if len(values) > 1:
            notes.append(
                f"runs differ in {name} ({', '.join(values)}): seconds may not be comparable"
            )
    for group in groups[1:]:
        if not _same_images(group.runs[0], groups[0].runs[0]):
            notes.append(
                f"{group.label}: other images than {groups[0].label}'s: accuracies and seconds do not compare"
            )
    for group in groups:
        for search in sorted({run.found_by for run in group.runs if run.found_by}):
            notes.append(f"{group.label}: its time leaves out the search {search} before it")
        repeats = len(group.runs) - len(group.seeds)
        if repeats:
            notes.append(f"{group.label}: seeds given more than once count once, as their mean")
        if group.difference is not None and not group.difference.seeds:
            notes.append(f"{group.label}: no seed in common with the reference, so not paired")
    return notes
