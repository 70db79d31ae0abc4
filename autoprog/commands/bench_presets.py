"""``autoprog bench presets``: the schedules that have a name, set side by side at something equal."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from autoprog.bench.costs import measure_costs
from autoprog.commands.compare import print_comparison
from autoprog.commands.configure import Configured, configure_train
from autoprog.commands.preflight import check_run
from autoprog.commands.verify import NOT_COMPARED, configured_arm, shared_flags
from autoprog.costs.model import CostModel, predict_seconds
from autoprog.costs.table import CostKey, full_key, key_of_step
from autoprog.errors import ConfigError, suggest
from autoprog.files import parse
from autoprog.paired_timing import TimingLimits
from autoprog.presets import PRESETS, preset
from autoprog.printable import say
from autoprog.schedule import GrowthSchedule
from autoprog.steptable import StepTable
from autoprog.supervise import ending_on_sigterm
from autoprog.train.run import step_table, steps_per_epoch_of
from autoprog.ui.format import duration
from autoprog.verify.arms import ArmSettings, flag_words, with_numbers
from autoprog.verify.attempts import ArmEnded, ArmStarted
from autoprog.verify.compare import compare
from autoprog.verify.controls import (
    Cost,
    Entrant,
    FieldFile,
    Make,
    Progress,
    epochs_of_cost,
    finished_runs,
    images_cost,
    macs_cost,
    read_field,
    run_field,
)

__all__ = ["bench_presets"]

_REFERENCE = "constant"
_DEFAULT_SEEDS = 3


def bench_presets(args: argparse.Namespace, profile_seconds: float) -> int:
    """Carry out the command."""
    folder, field = _opened(args, profile_seconds)
    show = _Progress(args.quiet, folder, field)
    with ending_on_sigterm(), closing(run_field(folder, field)) as reports:
        for report in reports:
            show.take(report)
    print_comparison(args, compare(finished_runs(folder, field)), list(field.left_out.items()))
    return 0


def _opened(args: argparse.Namespace, profile_seconds: float) -> tuple[Path, FieldFile]:
    """Return what to run and its folder: a new one, or the newest of the same request.

    Raises:
        ConfigError: If anything given is unknown or breaks a law.
    """
    names = _names(args)
    args.schedule = _REFERENCE
    configured = configure_train(args)
    check_run(configured, is_new=True)
    request, runs_dir = _request(args, configured, names), Path(args.runs_dir)
    seeds, first = getattr(args, "seeds", _DEFAULT_SEEDS), getattr(args, "seed", 0)
    for path in sorted(runs_dir.glob("*-bench-presets-*/bench.json"), reverse=True):
        try:
            known = read_field(path.parent)
            is_same = (known.request, known.first_seed) == (request, first)
            if is_same:
                _check_entrants(known, args)
        except ConfigError:
            continue  # of another version, or damaged: none of this command line's business
        if is_same:
            fewest = max(known.seeds, seeds)
            return path.parent, known.model_copy(update={"seeds": fewest})
    model = configured.settings.model.model
    made, left_out = _made(configured, names)
    field = {
        "model": model,
        "equal": args.equal,
        "request": request,
        "first_seed": first,
        "seeds": seeds,
        "schedules": tuple(_entrants(args, configured, made, left_out, profile_seconds)),
        "left_out": left_out,
    }
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-bench-presets-{model.replace('/', '-')}"
    return runs_dir / name, parse(FieldFile, field, "flags")


def _check_entrants(known: FieldFile, args: argparse.Namespace) -> None:
    """Check that a field runs what the command line says, each preset for epochs of its own.

    Raises:
        ConfigError: If an entrant is another run, or cannot be trained so.
    """
    shared = shared_flags(args)
    for entrant in known.schedules:
        flags = {**shared, "epochs": entrant.settings.flags.get("epochs", "")}
        if with_numbers(entrant.settings.flags) != with_numbers(flags):
            raise ConfigError("bench.json", entrant.name, "must be what the command line says")
        check_run(configured_arm(entrant.settings, ""), is_new=True)


def _names(args: argparse.Namespace) -> list[str]:
    """Return the presets asked for, the reference first."""
    given = getattr(args, "presets", list(PRESETS))
    for name in given:
        if name not in PRESETS:
            hint = suggest(name, PRESETS)
            raise ConfigError("--presets", "", "unknown preset", name, hint)
    return list(dict.fromkeys([_REFERENCE, *given]))


def _request(args: argparse.Namespace, configured: Configured, names: list[str]) -> str:
    settings = configured.settings.model_dump(mode="json", exclude=NOT_COMPARED)
    words = flag_words(
        shared_flags(args)
    )  # also how and where: seconds and runs of another device are others
    body = {"settings": settings, "equal": args.equal, "presets": names, "words": words}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _made(configured: Configured, names: list[str]) -> tuple[dict[str, Make], dict[str, str]]:
    """Return what makes each preset, and of those that cannot be trained so, why."""
    made: dict[str, Make] = {}
    left_out: dict[str, str] = {}
    for name in names:
        make = _maker(configured, name)
        try:
            schedule = make(configured.settings.recipe.epochs)
            check_run(_of_length(configured, name, make), is_new=True)
        except ConfigError as error:
            left_out[name] = str(error)
            continue
        if schedule.length_unit == "budget_fraction":
            left_out[name] = "follows the clock of --time-budget"
        else:
            made[name] = make
    return made, left_out


def _maker(configured: Configured, name: str) -> Make:
    settings = configured.settings
    spec, recipe = settings.model.spec(), settings.recipe

    def make(epochs: float) -> GrowthSchedule:
        return preset(name, spec, epochs, recipe.strength, recipe.learning_rate)

    return make


def _of_length(
    configured: Configured, name: str, make: Make, epochs: float | None = None
) -> Configured:
    """Return the run of a preset over so many epochs; None for those of the reference."""
    recipe = configured.settings.recipe
    epochs = recipe.epochs if epochs is None else epochs
    schedule = make(epochs)
    recipe = recipe.model_copy(update={"epochs": epochs, "sched": schedule.lr.shape})
    settings = configured.settings.model_copy(update={"recipe": recipe, "schedule_from": name})
    return replace(configured, settings=settings, schedule=schedule)


def _entrants(
    args: argparse.Namespace,
    configured: Configured,
    made: dict[str, Make],
    left_out: dict[str, str],
    profile_seconds: float,
) -> list[Entrant]:
    """Return the runs of all presets, each as long as makes it equal to the reference."""
    settings, num_images = configured.settings, len(configured.opened.train)
    steps = steps_per_epoch_of(num_images, settings.recipe.batch_size)
    cost = _cost(args.equal, configured, made, profile_seconds)
    assert configured.schedule is not None, "a training run has a schedule"
    target = cost(step_table(settings.recipe, configured.schedule, num_images))
    work, shared, found = macs_cost(settings.model.spec()), shared_flags(args), []
    for name, make in made.items():
        try:
            epochs = epochs_of_cost(make, steps, cost, target)
            run = _of_length(configured, name, make, epochs)
            check_run(run, is_new=True)
        except ConfigError as error:
            left_out[name] = str(error)
            continue
        flags = {**shared, "epochs": repr(epochs)}
        values = {"command": "train", "preset": name, "flags": flags}
        effort = work(make(epochs).resolve(steps, epochs))
        found.append(Entrant(name=name, settings=parse(ArmSettings, values, "flags"), cost=effort))
    return found


def _cost(
    equal: str, configured: Configured, made: dict[str, Make], profile_seconds: float
) -> Cost:
    """Return the law of what is to be equal: images, multiply-accumulates or measured seconds."""
    settings = configured.settings
    spec, batch_size = settings.model.spec(), settings.recipe.batch_size
    if equal != "wall-clock":
        return images_cost if equal == "epochs" else macs_cost(spec)
    tables = [
        step_table(settings.recipe, make(settings.recipe.epochs), len(configured.opened.train))
        for make in made.values()
    ]
    limits = TimingLimits(profile_seconds)
    grid = measure_costs(settings, configured.opened, _cells(configured, tables), limits)
    model = CostModel(spec, grid.table)

    def seconds(table: StepTable) -> float:
        return predict_seconds(table, model, batch_size).total

    return seconds


def _cells(configured: Configured, tables: list[StepTable]) -> list[CostKey]:
    """Return the cells of all steps but sandwiches, each once."""
    settings = configured.settings
    spec, batch_size = settings.model.spec(), settings.recipe.batch_size
    cells = [
        key_of_step(spec, segment.subnet, segment.training, batch_size)
        for table in tables
        for segment in table.segments
        if segment.training.sandwich is None
    ]
    return list(dict.fromkeys([full_key(spec, batch_size), *cells]))


class _Progress:
    """A line on standard error for each run, with the time that is left."""

    def __init__(self, quiet: bool, folder: Path, field: FieldFile) -> None:
        self._quiet, self._begin, self._reused = quiet, time.monotonic(), 0.0
        runs = field.seeds * len(field.schedules)
        self._say(f"{runs} runs at equal {field.equal} in {folder}")
        for name, reason in field.left_out.items():
            self._say(f"left out: {name}: {reason}")

    def take(self, progress: Progress) -> None:
        """Take in what has happened."""
        report = progress.report
        if isinstance(report, ArmStarted):
            how = "goes on" if report.resumed else "started"
            self._say(f"seed {report.seed} {report.arm}: {how}{self._left(progress)}")
        elif isinstance(report, ArmEnded):
            result, how = report.result, " (reused)" if report.reused else ""
            self._reused = progress.fraction if report.reused else self._reused
            text = f"{result.top1_ema:.2f}% in {duration(result.wall_seconds)}{how}"
            done = f"{progress.done} of {progress.runs}"
            self._say(f"seed {report.seed} {report.arm}: {text}; {done}")

    def _left(self, progress: Progress) -> str:
        """Return what is left to wait for, once a run has told how long work takes here."""
        made = progress.fraction - self._reused
        if made <= 0:
            return ""
        left = (time.monotonic() - self._begin) * (1 - progress.fraction) / made
        return f"; about {duration(left)} left"

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(f"autoprog: {text}", file=sys.stderr, flush=True)
