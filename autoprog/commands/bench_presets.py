"""``autoprog bench presets``: the presets side by side at equal epochs, MACs or measured seconds."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bench.costs import measure_costs
from autoprog.bounds import Few, Seed, SomeAmount
from autoprog.commands.compare import print_comparison
from autoprog.commands.configure import Configured, configure_train
from autoprog.commands.preflight import check_run
from autoprog.commands.verify_plan import NOT_COMPARED, configured_arm
from autoprog.costs.model import CostModel
from autoprog.costs.table import full_key, key_of_step
from autoprog.errors import ConfigError, RunError, suggest
from autoprog.files import FileModel, Line, parse, read_object
from autoprog.openfiles import write_atomically
from autoprog.paired_timing import TimingLimits
from autoprog.presets import PRESETS, preset
from autoprog.printable import say
from autoprog.schedule import GrowthSchedule
from autoprog.supervise import ending_on_sigterm
from autoprog.train.length import step_table, steps_per_epoch_of
from autoprog.ui.format import duration
from autoprog.verify.arms import (
    Arm,
    ArmSettings,
    FlagValue,
    flag_words,
    settings_of_words,
    with_numbers,
)
from autoprog.verify.attempts import (
    ArmEnded,
    ArmStarted,
    SeedRuns,
    Start,
    Waiting,
    check_folder,
    locked,
    run_folders,
    starter,
)
from autoprog.verify.compare import compare, read_finished_run
from autoprog.verify.equal_cost import (
    Cost,
    Make,
    epochs_of_cost,
    images_cost,
    macs_cost,
    seconds_cost,
)

__all__ = [
    "BenchProgress",
    "ComparedPreset",
    "PresetBench",
    "bench_presets",
    "load_preset_bench",
    "run_preset_bench",
]

_REFERENCE = "constant"
_FILE, _LOCK_FILE = "bench.json", "bench.lock"
_MAX_PRESETS = 100  # in a file that may come from somebody else


class ComparedPreset(FileModel):
    """One preset of the benchmark.

    Args:
        settings: A training along it.
        cost: Of a run, in any unit that is the same for all; says how much of the work is done.
    """

    name: Line
    settings: ArmSettings
    cost: SomeAmount

    @model_validator(mode="after")
    def _is_named_as_its_preset(self) -> ComparedPreset:
        if self.settings.preset != self.name:
            problem = f"must be {self.settings.preset!r}, the preset of its settings"
            raise ConfigError("", "name", problem, self.name)
        return self

    @property
    def arm(self) -> Arm:
        """Return the name of its folders."""
        return self.name.replace(":", "-")  # which Windows and rsync take for something else


class PresetBench(FileModel):
    """``bench.json``, fixed before the first run but for the number of seeds.

    Args:
        model: Name of the full model.
        equal: What is the same for all schedules.
        request: Digest of what was asked for; the same asked again goes on with the same folder.
        first_seed: Seeds count up from here.
        seeds: Runs of each preset.
        schedules: What is compared, the reference first.
        left_out: Presets that could not be compared, and why.
    """

    schema_version: Literal[3] = Field(default=3, alias="schema")
    model: Line
    equal: Literal["epochs", "macs", "wall-clock"]
    request: Line
    first_seed: Seed
    seeds: Few
    schedules: tuple[ComparedPreset, ...] = Field(min_length=1, max_length=_MAX_PRESETS)
    left_out: dict[Line, Line] = Field(default_factory=dict, max_length=_MAX_PRESETS)

    @model_validator(mode="after")
    def _names_differ(self) -> PresetBench:
        arms = [one.arm for one in self.schedules]
        for arm in arms:
            if arms.count(arm) > 1:
                raise ConfigError("", "schedules", "must have names that differ", arm)
        return self

    @property
    def seeds_in_order(self) -> range:
        """Return the seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)


def bench_presets(
    args: argparse.Namespace, shared: Mapping[str, FlagValue], profile_seconds: float
) -> None:
    """Carry out the command; `shared` are the flags given for all runs."""
    folder, bench = _opened(args, shared, profile_seconds)
    lines = _ProgressLines(args.quiet, folder, bench)
    with ending_on_sigterm(), closing(run_preset_bench(folder, bench)) as reports:
        for report in reports:
            lines.show(report)
    runs = [
        read_finished_run(run)
        for one in bench.schedules
        for seed in bench.seeds_in_order
        for run in run_folders(folder / f"seed-{seed}-{one.arm}")
        if (run / "result.json").exists()
    ]
    print_comparison(args, compare(runs), list(bench.left_out.items()))


def _opened(
    args: argparse.Namespace, shared: Mapping[str, FlagValue], profile_seconds: float
) -> tuple[Path, PresetBench]:
    """Return what to run and its folder: a new one, or the newest of the same request.

    Raises:
        ConfigError: If anything given is unknown or wrong.
    """
    given = getattr(args, "presets", list(PRESETS))
    for name in given:
        if name not in PRESETS:
            raise ConfigError("--presets", "", "unknown preset", name, suggest(name, PRESETS))
    names = list(dict.fromkeys([_REFERENCE, *given]))
    args.schedule = _REFERENCE
    configured = configure_train(args)
    check_run(configured, is_new=True)
    first_seed = getattr(args, "seed", 0)
    asked = {
        "settings": configured.settings.model_dump(mode="json", exclude=NOT_COMPARED),
        "equal": args.equal,
        "presets": names,
        # Also how and where: seconds and runs of another device are others.
        "words": flag_words(shared),
    }
    request = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    runs_dir = Path(args.runs_dir)
    for path in sorted(runs_dir.glob(f"*-bench-presets-*/{_FILE}"), reverse=True):
        try:
            known = load_preset_bench(path.parent)
            is_same = (known.request, known.first_seed) == (request, first_seed)
            if is_same:
                # The digest is the file's own word, and what the file says is started.
                for one in known.schedules:
                    flags = {**shared, "epochs": one.settings.flags.get("epochs", "")}
                    if with_numbers(one.settings.flags) != with_numbers(flags):
                        raise ConfigError(_FILE, one.name, "must be what the command line says")
                    check_run(configured_arm(one.settings, ""), is_new=True)
        except ConfigError:
            continue  # of another version, or damaged: none of this command line's business
        if is_same:
            seeds = max(known.seeds, args.seeds)
            return path.parent, known.model_copy(update={"seeds": seeds})
    schedules, left_out = _compared(args.equal, configured, names, shared, profile_seconds)
    model = configured.settings.model.model
    values = {
        "model": model,
        "equal": args.equal,
        "request": request,
        "first_seed": first_seed,
        "seeds": args.seeds,
        "schedules": tuple(schedules),
        "left_out": left_out,
    }
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-bench-presets-{model.replace('/', '-')}"
    return runs_dir / name, parse(PresetBench, values, "flags")


def _compared(
    equal: str,
    configured: Configured,
    names: list[str],
    shared: Mapping[str, FlagValue],
    profile_seconds: float,
) -> tuple[list[ComparedPreset], dict[str, str]]:
    """Return the presets, each for as many epochs as make it equal to the reference.

    Those that cannot be trained so are returned apart, with the reason.
    """
    settings, num_images = configured.settings, len(configured.opened.train)
    spec, recipe = settings.model.spec(), settings.recipe
    assert configured.schedule is not None, "a training run has a schedule"

    def maker(name: str) -> Make:
        def make(epochs: float) -> GrowthSchedule:
            return preset(name, spec, epochs, recipe.strength, recipe.learning_rate)

        return make

    def check(name: str, epochs: float) -> None:
        schedule = maker(name)(epochs)
        changed = recipe.model_copy(update={"epochs": epochs, "sched": schedule.lr.shape})
        own = settings.model_copy(update={"recipe": changed, "schedule_from": name})
        check_run(replace(configured, settings=own, schedule=schedule), is_new=True)

    makers: dict[str, Make] = {}
    left_out: dict[str, str] = {}
    for name in names:
        try:
            schedule = maker(name)(recipe.epochs)
            check(name, recipe.epochs)
        except ConfigError as error:
            left_out[name] = str(error)
            continue
        # By the clock no two runs are alike, and how many steps one takes is not known before it ends.
        if schedule.length_unit == "budget_fraction":
            left_out[name] = "follows the clock of --time-budget"
        else:
            makers[name] = maker(name)

    cost: Cost
    if equal == "wall-clock":
        tables = [step_table(recipe, make(recipe.epochs), num_images) for make in makers.values()]
        keys = [
            key_of_step(spec, segment.subnet, segment.training, recipe.batch_size)
            for table in tables
            for segment in table.segments
            if segment.training.sandwich is None  # whose passes are those of its subnets
        ]
        keys = list(dict.fromkeys([full_key(spec, recipe.batch_size), *keys]))
        grid = measure_costs(settings, configured.opened, keys, TimingLimits(profile_seconds))
        cost = seconds_cost(CostModel(spec, grid.table), recipe.batch_size)
    else:
        cost = images_cost if equal == "epochs" else macs_cost(spec)

    target = cost(step_table(recipe, configured.schedule, num_images))
    steps_per_epoch = steps_per_epoch_of(num_images, recipe.batch_size)
    # How much of the work is done goes by MACs, whatever is made equal: they are known beforehand.
    macs, found = macs_cost(spec), []
    for name, make in makers.items():
        try:
            epochs = epochs_of_cost(make, steps_per_epoch, cost, target)
            check(name, epochs)
        except ConfigError as error:
            left_out[name] = str(error)
            continue
        flags = {**shared, "epochs": repr(epochs)}
        values = {"command": "train", "preset": name, "flags": flags}
        work = macs(make(epochs).resolve(steps_per_epoch, epochs))
        arm = parse(ArmSettings, values, "flags")
        found.append(ComparedPreset(name=name, settings=arm, cost=work))
    return found, left_out


def load_preset_bench(folder: Path) -> PresetBench:
    """Read a ``bench.json``.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged, or one of our files is a link.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(str(folder), "", f"must be a folder with a {_FILE} in it")
    body = read_object(path)
    if body.get("schema", 1) == 1 and isinstance(body.get("entrants"), list):
        entrants = [
            settings_of_words(entrant, "words", "settings", str(path), f"entrants[{number}]")
            for number, entrant in enumerate(body["entrants"])
        ]
        body = {**body, "schema": 2, "entrants": entrants}
    found = parse(PresetBench, migration.bench(body), str(path))
    check_folder(folder, (_FILE, _LOCK_FILE))
    return found


@dataclass(frozen=True)
class BenchProgress:
    """How far a benchmark is: what has just happened, and the fraction of all cost that is done."""

    report: ArmStarted | ArmEnded | Waiting
    done: int
    runs: int
    fraction: float


def run_preset_bench(
    folder: Path, bench: PresetBench, start: Start | None = None
) -> Generator[BenchProgress, None, None]:
    """Write ``bench.json``, then make the runs that are missing, seed by seed; yield what happens.

    Raises:
        ConfigError: If one of our files in the folder is a link, or a result is not one.
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    arms = {one.arm: one.settings for one in bench.schedules}
    costs = {one.arm: one.cost for one in bench.schedules}
    runs, all_cost = bench.seeds * len(arms), bench.seeds * sum(costs.values())
    hint, done, cost = "the same command goes on with it", 0, 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder, (_FILE, _LOCK_FILE))
        with locked(folder, _LOCK_FILE) as lock:
            body = json.dumps(bench.model_dump(mode="json", by_alias=True), indent=1)
            write_atomically(folder / _FILE, body + "\n")
            begin = start or starter(1, lock)
            for seed in bench.seeds_in_order:
                for report in SeedRuns(folder, seed, arms, {}, begin, hint).carry_out(arms):
                    if isinstance(report, ArmEnded):
                        done, cost = done + 1, cost + costs[report.arm]
                    yield BenchProgress(report, done, runs, cost / all_cost)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


class _ProgressLines:
    """A line on standard error for each run, with the time that is left."""

    def __init__(self, quiet: bool, folder: Path, bench: PresetBench) -> None:
        # Runs that were there already took none of the time that has passed.
        self._quiet, self._begin, self._reused = quiet, time.monotonic(), 0.0
        runs = bench.seeds * len(bench.schedules)
        self._say(f"{runs} runs at equal {bench.equal} in {folder}")
        for name, reason in bench.left_out.items():
            self._say(f"left out: {name}: {reason}")

    def show(self, progress: BenchProgress) -> None:
        """Print what has happened."""
        report = progress.report
        if isinstance(report, ArmStarted):
            how = "goes on" if report.resumed else "started"
            made, left = progress.fraction - self._reused, ""
            if made > 0:  # else no run has shown yet how long work takes here
                seconds = (time.monotonic() - self._begin) * (1 - progress.fraction) / made
                left = f"; about {duration(seconds)} left"
            self._say(f"seed {report.seed} {report.arm}: {how}{left}")
        elif isinstance(report, ArmEnded):
            result, how = report.result, " (reused)" if report.reused else ""
            self._reused = progress.fraction if report.reused else self._reused
            text = f"{result.top1_ema:.2f}% in {duration(result.wall_seconds)}{how}"
            done = f"{progress.done} of {progress.runs}"
            self._say(f"seed {report.seed} {report.arm}: {text}; {done}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(f"autoprog: {text}", file=sys.stderr, flush=True)
