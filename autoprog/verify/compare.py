"""Runs side by side: grouped by what they were configured to do, averaged over seeds, paired by seed.

Everything that a run spent is charged: its seconds are all of its wall time, so training, supernets, waiting
for data, search, growth, evaluation and checkpoints. Seeds are the unit: repeats of a seed count once.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from autoprog.accuracy import sampling_error
from autoprog.errors import ConfigError, consistent
from autoprog.events import Evaluated, Event, RunStarted, StepLogged
from autoprog.paired_timing import Estimate, estimate
from autoprog.runs import Result, load_run
from autoprog.stage import Training, image_macs
from supernet.config import ModelSpec

__all__ = [
    "PARTS",
    "Comparison",
    "Difference",
    "FinishedRun",
    "Group",
    "Point",
    "Spread",
    "charged_parts",
    "compare",
    "curve_of",
    "flat",
    "read_finished_run",
    "spread",
]


PARTS = ("train", "data_wait", "search", "lost", "eval")
"""What wall time is made of by ``result.json``; the rest of it is checkpoints."""

# Which settings decide what a run computes (with the two that decide what it begins with), and which only
# how fast: two runs with the same of the former and different seeds are repeats.
_COMPUTED = frozenset(
    {
        *("kind", "model", "data", "recipe", "table_sizes", "time_budget_seconds"),
        *("compile", "patience", "pretrained", "initial_checkpoint"),
    }
)
_CARRIED_OUT = ("threads", "workers", "cache")
# Of a search: where its space and trials lie, and whether its estimates are checked beside it.
_ORIGINS = {"search": {"storage", "space_from", "fidelity"}}

_FOLLOWS = (
    ("model.model", "model."),
    ("model.model", "search.space"),
    ("kind", "search."),
    ("kind", "schedule"),
)
"""Where the first differs, keys that begin with the second are bound to."""

_PURPOSES = {
    "search": "measuring, estimates and decisions",
    "lost": "growth",
    "eval": "evaluations",
    "checkpoints": "checkpoints",
}


@dataclass(frozen=True)
class Point:
    """An evaluation: top-1 of the averaged network in per cent, and all that was spent until it was known."""

    seconds: float
    images: float
    macs: float
    top1_ema: float


@dataclass(frozen=True)
class FinishedRun:
    """A complete run.

    Attributes:
        path: Its folder, as it was given.
        name: What it trained along, in a few words.
        result: What it came to.
        configuration: All that decides what it computes, but its seed; runs with the same one are repeats.
        conditions: What it was carried out with, which changes its seconds and not what it computes.
        curve: Its evaluations, in order.
        planned_fraction: What a search was to take, of the time of the full model's steps; else None.
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


def read_finished_run(path: str | Path) -> FinishedRun:
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
    settings, result = run.manifest.settings, run.result
    with consistent(str(path)):
        events = list(run.events())
        starts = [event for event in events if isinstance(event, RunStarted)]
        configuration = settings.model_dump(mode="json", include=set(_COMPUTED))
        configuration |= {"device": result.device.partition(":")[0], "amp": result.amp}
        found_by = None
        if settings.search is not None:
            search = settings.search
            trials = "" if search.trials is None else f", {search.trials} trials"
            fraction = search.cost_fraction
            of = "" if fraction is None else f" planned for {fraction:g} of the time"
            name = f"search {search.rule}{trials}{of}"
            configuration |= settings.model_dump(mode="json", include={"search"}, exclude=_ORIGINS)
        else:
            name = "/".join(Path(settings.schedule_from or "schedule").parts[-2:])
            schedule = result.schedule
            if run.schedule is not None:
                schedule = run.schedule.model_dump(
                    mode="json", by_alias=True, exclude_defaults=True
                )
                # The seconds of this run do not hold those of the search that found its schedule.
                found_by = None if run.schedule.found_by is None else run.schedule.found_by.run
            configuration["schedule"] = {k: v for k, v in schedule.items() if k != "found_by"}
        hardware = dict.fromkeys(start.hardware for start in starts if start.hardware)
        carried_out = settings.model_dump(mode="json", include=set(_CARRIED_OUT))
        return FinishedRun(
            path=str(path),
            name=name,
            result=result,
            configuration=configuration,
            conditions={
                "hardware": ", ".join(hardware) or "unknown",
                "processes": str(starts[-1].world_size if starts else 1),
                **{name: str(value) for name, value in carried_out.items()},
                "torch": result.versions.get("torch", "unknown"),
                "autoprog": result.versions.get("autoprog", "unknown"),
            },
            curve=curve_of(events, settings.model.spec(), result),
            found_by=found_by,
            planned_fraction=None if settings.search is None else settings.search.cost_fraction,
        )


def curve_of(events: Iterable[Event], spec: ModelSpec, result: Result) -> tuple[Point, ...]:
    """Return the evaluations of a run with what was spent until each.

    Between two reports, the steps are counted as those of the subnet of the later one.
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
    # The totals of the result are exact, so what was summed on the way is scaled to end there.
    images_scale = result.image_epochs * num_images / images if images else 0.0
    macs_scale = result.macs / macs if macs else 0.0
    return tuple(
        replace(point, images=point.images * images_scale, macs=point.macs * macs_scale)
        for point in points
    )


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
    runs: tuple[FinishedRun, ...]
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


def compare(runs: Sequence[FinishedRun]) -> Comparison:
    """Return the comparison of at least one run; the group of the first one is the reference."""
    by_configuration: dict[str, list[FinishedRun]] = {}
    for run in runs:
        key = json.dumps(run.configuration, sort_keys=True)  # the order of keys is its version's
        by_configuration.setdefault(key, []).append(run)
    members = list(by_configuration.values())
    groups = tuple(_group(label(i), own, members[0]) for i, own in enumerate(members))
    return Comparison(groups, tuple(_facts(groups)), tuple(_notes(runs, groups)))


def _group(name: str, runs: list[FinishedRun], reference: list[FinishedRun]) -> Group:
    def over_seeds(value: str) -> Spread:
        return spread(list(_by_seed(runs, value).values()))

    def ratio(mean: float, value: str) -> float | None:
        """Return a mean over that of the reference; None where there is nothing to compare it with."""
        of_reference = fmean(_by_seed(reference, value).values())
        return mean / of_reference if is_comparable and of_reference else None

    is_comparable = _same_images(runs[0], reference[0])
    has_difference = is_comparable and runs is not reference
    seconds, macs = over_seeds("wall_seconds"), over_seeds("macs")
    parts = [charged_parts(run.result) for run in runs]
    own, other = flat(runs[0].configuration), flat(reference[0].configuration)
    keys = dict.fromkeys([*own, *other])
    differing = {k: (own.get(k), other.get(k)) for k in keys if own.get(k) != other.get(k)}
    # What is bound to differ, since something else does, says nothing of its own.
    follow = tuple(prefix for cause, prefix in _FOLLOWS if cause in differing)
    causes = {cause for cause, _ in _FOLLOWS}
    return Group(
        label=name,
        name=runs[0].name,
        runs=tuple(runs),
        seeds=tuple(sorted({run.result.seed for run in runs})),
        top1_ema=over_seeds("top1_ema"),
        top1=over_seeds("top1"),
        seconds=seconds,
        image_epochs=over_seeds("image_epochs"),
        macs=macs,
        parts_seconds={part: fmean(one[part] for one in parts) for part in parts[0]},
        peak_memory_bytes=max(run.result.peak_memory_bytes for run in runs),
        seconds_ratio=ratio(seconds.mean, "wall_seconds"),
        macs_ratio=ratio(macs.mean, "macs"),
        difference=_difference(runs, reference, "top1_ema") if has_difference else None,
        difference_online=_difference(runs, reference, "top1") if has_difference else None,
        differs_in=tuple(
            (key, *values)
            for key, values in differing.items()
            if key in causes or not key.startswith(follow)
        ),
    )


def _difference(
    runs: Sequence[FinishedRun], reference: Sequence[FinishedRun], top1: str
) -> Difference:
    own, other = _by_seed(runs, top1), _by_seed(reference, top1)
    seeds = tuple(sorted(own.keys() & other.keys()))
    if not seeds:
        return Difference(fmean(own.values()) - fmean(other.values()), (), None)
    pairs = [own[seed] - other[seed] for seed in seeds]
    return Difference(fmean(pairs), seeds, estimate(pairs) if len(pairs) > 1 else None)


def _by_seed(runs: Sequence[FinishedRun], value: str) -> dict[int, float]:
    """Return a value of the results for each seed: the mean of its repeats."""
    found: dict[int, list[float]] = {}
    for run in runs:
        found.setdefault(run.result.seed, []).append(getattr(run.result, value))
    return {seed: fmean(values) for seed, values in found.items()}


def _same_images(run: FinishedRun, reference: FinishedRun) -> bool:
    """Return whether two runs had the same data set; the fraction that they were trained on may differ."""
    # A fraction of the training images changes what is learnt, and not what is measured.
    own, other = (
        {
            key: value
            for key, value in one.configuration.get("data", {}).items()
            if key != "fraction"
        }
        for one in (run, reference)
    )
    return own == other


def _facts(groups: Sequence[Group]) -> Iterator[str]:
    """Yield what the numbers of groups do not say by themselves."""
    # How far the choice of validation images may have moved accuracies.
    by_images: dict[int, list[Group]] = {}
    for group in groups:
        for images in {run.result.num_validation_images for run in group.runs}:
            if images:
                by_images.setdefault(images, []).append(group)
    for images, own in by_images.items():
        error = max(sampling_error(group.top1_ema.mean, images) for group in own)
        labels = ", ".join(group.label for group in own)
        yield f"{labels}: {images:,} validation images, top-1 within ± {error:.1f} points (95 %)"
    single = [group.label for group in groups if len(group.seeds) == 1]
    if single and len(groups) > 1:
        yield f"{', '.join(single)}: n = 1, and one seed does not tell a difference from chance"
    # What fraction of time a search was planned for, and what it took of the reference's, by purpose.
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


def _notes(runs: Sequence[FinishedRun], groups: Sequence[Group]) -> list[str]:
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
