"""The run folder: the one contract between what trains and what looks on.

Everything is readable text but the weights. Logs are appended a line at a time; a reader drops a half-written
last line and whatever a later attempt replays. A run is complete if and only if ``result.json`` exists.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import re
import shutil
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field

from autoprog import migration
from autoprog.bounds import (
    Amount,
    Blocks,
    Bytes,
    Count,
    Measured,
    PassedEpochs,
    Percent,
    Px,
    Seconds,
    Seed,
    Steps,
    UnitInterval,
    WorldSize,
)
from autoprog.costs.table import CostTable, table_of
from autoprog.decisions import Decision, DecisionInputs
from autoprog.errors import ConfigError, RunError, RunExistsError, RunLockedError, suggest
from autoprog.eventlog import effective_rows, event_of, read_log
from autoprog.events import Evaluated, Event, RunStarted, StepLogged, encode
from autoprog.files import (
    FileModel,
    Line,
    append_row,
    cut_torn_tail,
    dump_yaml,
    parse,
    read_object,
    read_rows,
    read_yaml,
)
from autoprog.openfiles import open_for_appending, open_regular, write_atomically
from autoprog.runfiles import check_run_files, remove_leftovers
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.settings import RunManifest
from supernet.config import SubnetConfig

__all__ = [
    "CURVE_FILE",
    "LAST",
    "LOADER_BOUND_FRACTION",
    "BudgetRecord",
    "FollowedFolder",
    "Result",
    "Run",
    "RunFolder",
    "Score",
    "Speed",
    "budget_record",
    "effective_rows",
    "event_of",
    "is_last",
    "is_word",
    "is_written_now",
    "load_run",
    "locate_run",
    "locate_schedule",
    "read_result",
    "runs_in",
    "write_record",
]


# --------------------------------------------------------------------------------------------------
# Which run folder a word on the command line means: a path, a run's name, the newest run.


LAST = ("last", "@last")
"""Words for the newest run; the first one gives way to a file or folder of that name."""

_MAX_NAMES = 5


def is_word(word: str, runs_dir: str | Path = "runs") -> bool:
    """Tell whether a word means a run without being a path: ``last``, or a run's name."""
    by_name = not Path(word).exists() and (Path(runs_dir) / word / "run.yaml").is_file()
    return is_last(word) or by_name


def is_last(word: str) -> bool:
    """Tell whether a word means the newest run, whichever that is."""
    return word == LAST[1] or (word == LAST[0] and not Path(word).exists())


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in a folder, the newest first; a link to one counts, hidden ones do not."""
    found = [file.parent for file in folder.glob("*/run.yaml") if file.parent.name[0] != "."]
    return sorted(found, key=_begun, reverse=True)


def locate_run(word: str, runs_dir: str | Path = "runs") -> Path:
    """Return the run folder that a word means.

    Args:
        word: Path of a run folder; ``last``; a folder of runs, for the newest one in it; or the name of a run
            in `runs_dir`.
        runs_dir: Where runs lie.

    Raises:
        ConfigError: If there is no such run.
    """
    path, place = Path(word), Path(runs_dir)
    if (path / "run.yaml").is_file():
        return path
    if is_last(word):
        return _newest(word, place)
    if path.is_dir():
        return _newest(word, path)
    if (place / word / "run.yaml").is_file():
        return place / word
    names = [run.name for run in runs_in(place)]
    near = suggest(path.name, names, list_all=False)
    hint = near or ("last means the newest run" if names else "")
    raise ConfigError(word, "", "must be a run folder with a run.yaml in it", hint=hint)


def locate_schedule(word: str, runs_dir: str | Path = "runs") -> Path:
    """Return the schedule file of the run that a word means: what a search found, else what was trained.

    Raises:
        ConfigError: If there is no such run, or it has no schedule yet.
    """
    run = locate_run(word, runs_dir)
    found = [run / name for name in ("best.yaml", "schedule.yaml") if (run / name).is_file()]
    if not found:
        problem = "must have a best.yaml or a schedule.yaml"
        raise ConfigError(str(run), "", problem, hint="its search has found none yet")
    return found[0]


def _newest(word: str, folder: Path) -> Path:
    """Return the newest run of a folder.

    Raises:
        ConfigError: If there is none; it says what the folder holds instead.
    """
    found = runs_in(folder)
    if found:
        return found[0]
    if not folder.is_dir():
        problem = f"must be a run, and there is no folder {folder} in {Path.cwd()}"
        raise ConfigError(word, "", problem, hint="name a run folder, or a folder of runs")
    deeper = {file.parent.parent for file in folder.glob("*/*/run.yaml")}
    inside = _listed(one.name for one in folder.iterdir()) or "nothing"
    hint = f"runs lie in {_listed(map(str, deeper))}" if deeper else f"it holds {inside}"
    problem = "must be a run folder with a run.yaml in it, or a folder of such folders"
    raise ConfigError(str(folder) if is_last(word) else word, "", problem, hint=hint)


def _listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    ordered = sorted(names)
    shown = ", ".join(ordered[:_MAX_NAMES])
    more = len(ordered) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _begun(run: Path) -> tuple[float, int, str]:
    """Return by what runs are ordered: when it was begun, as it says itself."""
    file = run / "run.yaml"
    with suppress(OSError, StopIteration, ValueError):
        with file.open(encoding="utf-8") as lines:
            text = next(line for line in lines if line.startswith("created:"))
        begun = datetime.fromisoformat(text.removeprefix("created:").strip(" \n'\""))
        return begun.timestamp(), file.stat().st_mtime_ns, run.name
    return 0.0, 0, run.name  # damaged, so after all others


CURVE_FILE = "curve.jsonl"
"""What is published of ``events.jsonl``."""
_MAX_DECISIONS = 1000


class Result(FileModel):
    """``result.json``: what a complete run came to.

    Accuracies are in per cent, at full size. ``wall_seconds`` is everything from the first step on;
    ``supernet_seconds`` is the part of ``train_seconds`` spent in supernet phases, and
    ``search_seconds`` what estimates and decisions cost beside training. ``macs`` counts three
    forward passes an image.

    Of lists by class the order is that of the class numbers; None stands for a class without validation
    images, and for what older results lack. ``best_top1`` is that of the averaged network at ``best_step``,
    whose weights are ``checkpoints/best.safetensors``. ``full_model_seconds`` is what the full model was
    predicted to take for ``full_model_epochs`` from its own steps in this run.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    run_id: Line
    kind: Line
    model: Line
    top1: Percent
    top1_ema: Percent
    loss: Measured
    loss_ema: Measured
    epochs: PassedEpochs
    wall_seconds: Seconds
    train_seconds: Seconds
    supernet_seconds: Seconds
    search_seconds: Seconds
    lost_seconds: Seconds
    data_wait_seconds: Seconds
    eval_seconds: Seconds
    image_epochs: Amount
    macs: Amount
    peak_memory_bytes: Bytes
    seed: Seed
    device: Line
    amp: Line
    versions: dict[Line, Line]
    schedule: dict[str, Any]
    num_validation_images: Count | None = None
    largest_class_fraction: UnitInterval | None = None
    balanced_top1: Percent | None = None
    balanced_top1_ema: Percent | None = None
    class_images: tuple[Count, ...] | None = None
    class_top1: tuple[Percent | None, ...] | None = None
    class_top1_ema: tuple[Percent | None, ...] | None = None
    best_top1: Percent | None = None
    best_step: Steps | None = None
    best_epoch: PassedEpochs | None = None
    stopped_early: bool = False
    full_model_epochs: PassedEpochs | None = None
    full_model_seconds: Amount | None = None


_LOGS = ("events.jsonl", "decisions.jsonl", "inputs.jsonl", "fidelity.jsonl")


class RunFolder:
    """A run folder that this process writes, under a lock.

    Use :meth:`create` for a new run and :meth:`reopen` to go on with one.
    """

    def __init__(self, path: Path, manifest: RunManifest, attempt: int, lock: IO[str]) -> None:
        self.path = path
        self.manifest = manifest
        self.attempt = attempt
        self._lock = lock
        self._events = open_for_appending(path / "events.jsonl")

    @classmethod
    def create(cls, runs_dir: Path, manifest: RunManifest) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            RunExistsError: If there is one of that name, which another process may be making just now.
            RunError: If the folder cannot be written.
        """
        path = runs_dir / manifest.run_id
        try:
            with ExitStack() as undo:
                for parent in reversed(path.parents):
                    if not parent.exists():
                        parent.mkdir(exist_ok=True)
                        undo.callback(_remove_if_empty, parent)
                path.mkdir()
                undo.callback(shutil.rmtree, path, ignore_errors=True)
                (path / "checkpoints").mkdir()
                lock = undo.enter_context(_take_lock(path))
                body = manifest.model_dump(mode="json", by_alias=True)
                write_atomically(path / "run.yaml", dump_yaml(body))
                folder = cls(path, manifest, attempt=0, lock=lock)
                undo.pop_all()
                return folder
        except OSError as error:
            is_there = isinstance(error, FileExistsError) and path.is_dir()
            kind = RunExistsError if is_there else RunError
            raise kind(f"{path}: the run folder cannot be made: {error.strerror}") from None

    @classmethod
    def reopen(cls, path: Path) -> RunFolder:
        """Go on with a run: take its lock, cut half-written last lines, count the attempt.

        Raises:
            ConfigError: If it is no run folder, or holds links and the like in place of files.
            RunLockedError: If another process is writing it.
            RunError: If it cannot be written.
        """
        try:
            check_run_files(path)
            manifest = _read_manifest(path)
            _check_logs(path)  # before the lock file is made and half-written lines are cut
            with ExitStack() as undo:
                lock = undo.enter_context(_take_lock(path))
                remove_leftovers(path)
                (path / "checkpoints").mkdir(exist_ok=True)
                for name in _LOGS:
                    cut_torn_tail(path / name)
                folder = cls(path, manifest, attempt=_last_attempt(path) + 1, lock=lock)
                undo.pop_all()
                return folder
        except OSError as error:
            raise RunError(f"{path}: the run folder cannot be written: {error.strerror}") from None

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def journal(self) -> Path:
        """Return the path of Optuna's journal."""
        return self.path / "search.journal"

    def write_manifest(self, manifest: RunManifest) -> None:
        """Replace ``run.yaml``, as when the images of a run lie elsewhere now."""
        self.manifest = manifest
        body = manifest.model_dump(mode="json", by_alias=True)
        write_atomically(self.path / "run.yaml", dump_yaml(body))

    def append(self, event: Event) -> None:
        """Write one event as a line that also says when and in which attempt."""
        row = {"attempt": self.attempt, "time": _now(), **encode(event)}
        self._events.write(json.dumps(row) + "\n")
        self._events.flush()

    def record_decision(self, decision: Decision) -> None:
        """Append a decision and wait until it is on disk."""
        append_row(self.path / "decisions.jsonl", decision.model_dump(mode="json"))

    def record_inputs(self, inputs: DecisionInputs) -> None:
        """Append what a decision is taken from and wait until it is on disk."""
        append_row(self.path / "inputs.jsonl", inputs.model_dump(mode="json"))

    def write_costs(self, costs: CostTable | Mapping[str, float]) -> None:
        """Write the measured costs by cell and wait until they are on disk."""
        body = costs.body() if isinstance(costs, CostTable) else dict(costs)
        write_atomically(self.path / "costs.json", json.dumps(body, indent=1) + "\n")

    def write_schedule(
        self, schedule: GrowthSchedule, name: str = "schedule.yaml", comment: str = ""
    ) -> None:
        """Write a schedule into the folder, below a comment."""
        lines = textwrap.wrap(comment, 96, break_long_words=False, break_on_hyphens=False)
        head = "".join(f"# {line}\n" for line in lines)
        write_atomically(self.path / name, head + schedule.to_yaml())

    def write_result(self, result: Result) -> None:
        """Write ``result.json``, which makes the run complete."""
        body = result.model_dump(mode="json", by_alias=True)
        text = re.sub(  # numbers by class on a line: there may be thousands
            r"\[[\s\d.,+\-enul]*\]",
            lambda found: " ".join(found[0].split()),
            json.dumps(body, indent=1),
        )
        write_atomically(self.path / "result.json", text + "\n")

    def close(self) -> None:
        """Release the lock."""
        with suppress(OSError):  # a disk that had no room for the last event, which has been told
            self._events.close()
        self._lock.close()


@dataclass(frozen=True)
class Run:
    """A run folder as a reader sees it; parts that are not there yet are None or empty."""

    path: Path
    manifest: RunManifest
    schedule: GrowthSchedule | None
    best: GrowthSchedule | None
    decisions: tuple[Decision, ...]
    cost_table: CostTable
    result: Result | None

    @property
    def costs(self) -> dict[str, float]:
        """Return the measured step seconds by cell."""
        return self.cost_table.seconds

    @property
    def step_seconds(self) -> dict[str, float]:
        """Return the measured step seconds by subnet, such as ``d6 r128``, at the run's batch size."""
        return self.cost_table.of_batch(self.manifest.settings.recipe.batch_size)

    def inputs(self) -> tuple[DecisionInputs, ...]:
        """Return what the decisions were taken from; the last one may have been taken by nobody yet."""
        rows = read_rows(self.path / "inputs.jsonl", _MAX_DECISIONS)
        return tuple(
            parse(DecisionInputs, migration.decision_inputs(row), "inputs.jsonl") for row in rows
        )

    def events(self) -> Iterator[Event]:
        """Return what happened, without what a later attempt replayed; of a published run, its curve."""
        log = self.path / "events.jsonl"
        return iter(read_log(log if log.exists() else self.path / CURVE_FILE))


def load_run(path: str | Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        ConfigError: If it is no run folder.
    """
    folder = Path(path)
    manifest = _read_manifest(folder)
    result = folder / "result.json"
    costs = folder / "costs.json"
    return Run(
        path=folder,
        manifest=manifest,
        schedule=_schedule_if_there(folder / "schedule.yaml"),
        best=_schedule_if_there(folder / "best.yaml"),
        decisions=tuple(
            parse(Decision, migration.decision(row), "decisions.jsonl")
            for row in read_rows(folder / "decisions.jsonl", _MAX_DECISIONS)
        ),
        cost_table=table_of(read_object(costs), str(costs)) if costs.exists() else CostTable(),
        result=read_result(result) if result.exists() else None,
    )


def read_result(path: Path) -> Result:
    """Read a ``result.json``.

    Raises:
        ConfigError: If it holds no result.
    """
    return parse(Result, migration.result(read_object(path)), str(path))


def _read_manifest(path: Path) -> RunManifest:
    if not (path / "run.yaml").is_file():
        raise ConfigError(str(path), "", "must be a run folder with a run.yaml in it")
    body = migration.manifest(read_yaml(path / "run.yaml"))
    return parse(RunManifest, body, str(path / "run.yaml"))


def _schedule_if_there(path: Path) -> GrowthSchedule | None:
    return load_schedule(path) if path.exists() else None


def _check_logs(path: Path) -> None:
    """Read all rows of the logs that a run appends to.

    Raises:
        ConfigError: If one is no log of ours.
    """
    _last_attempt(path)
    for name in _LOGS[1:]:
        for _ in read_rows(path / name):
            pass


def _last_attempt(path: Path) -> int:
    """Return the number of the last attempt that wrote an event, -1 for none."""
    last = -1
    for number, row in enumerate(read_rows(path / "events.jsonl"), start=1):
        attempt = row.get("attempt")
        if not isinstance(attempt, int) or not 0 <= attempt < _MAX_ATTEMPTS:
            where, key = str(path / "events.jsonl"), f"line {number}: attempt"
            raise ConfigError(where, key, "must be the number of an attempt", attempt)
        last = max(last, attempt)
    return last


_MAX_ATTEMPTS = 10**6


def _take_lock(path: Path) -> IO[str]:
    lock = open_for_appending(path / "run.lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        why = "another process is writing this run; wait for it or stop it"
        raise RunLockedError(f"{path}: {why}") from None
    return lock


def is_written_now(path: Path) -> bool:
    """Tell whether a process of this machine is writing a run."""
    try:
        with open_regular(path / "run.lock", follow_links=False) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # none, unreadable, or no lock of ours
        return isinstance(error, BlockingIOError)
    return False


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")


# --------------------------------------------------------------------------------------------------
# A run folder as the ranks see it that do not write.


class FollowedFolder(RunFolder):
    """A run folder that another process writes: what would be written is dropped."""

    def __init__(self, path: Path, manifest: RunManifest) -> None:
        self.path, self.manifest, self.attempt = path, manifest, 0

    def append(self, event: Event) -> None:
        """Do nothing."""

    def record_decision(self, decision: Decision) -> None:
        """Do nothing."""

    def record_inputs(self, inputs: DecisionInputs) -> None:
        """Do nothing."""

    def write_costs(self, costs: CostTable | Mapping[str, float]) -> None:
        """Do nothing."""

    def write_schedule(
        self, schedule: GrowthSchedule, name: str = "schedule.yaml", comment: str = ""
    ) -> None:
        """Do nothing."""

    def write_result(self, result: Result) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


# --------------------------------------------------------------------------------------------------
# The record of a run under a time budget: what it ran on, how fast, and how accurate it was when.
#
# The benchmark of "ViT from scratch in less than 24 hours with 1 GPU" (arXiv 2211.05187) compares
# accuracy over
# hours. What ``result.json`` says, such as the seconds used, the epochs done and the versions, is
# not repeated.


LOADER_BOUND_FRACTION = 0.1
"""Where steps wait for images for a larger fraction of the time, the loader sets the pace."""


class Speed(FileModel):
    """The steps at one depth and image size; throughput leaves out waiting for images.

    Where they waited for more than :data:`LOADER_BOUND_FRACTION` of the time, they are ``loader_bound``.
    """

    depth: tuple[Blocks, ...]
    img_size: Px
    steps: Steps
    train_seconds: Seconds
    images_per_second: Amount
    data_wait_fraction: Amount
    loader_bound: bool


class Score(FileModel):
    """Accuracy at full image size, in per cent, after so many hours of everything from the first step on."""

    hours: Amount
    epoch: PassedEpochs
    step: Steps
    depth: tuple[Blocks, ...]
    top1: Percent
    top1_ema: Percent
    loss: Measured
    loss_ema: Measured


class BudgetRecord(FileModel):
    """``budget.json``; its scores are the rows of ``budget.csv`` too.

    ``hardware`` names what each attempt ran on, without repeats; ``processes`` count those of the last.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    run_id: str
    hardware: tuple[str, ...]
    processes: WorldSize
    time_budget_seconds: Seconds
    speeds: tuple[Speed, ...]
    scores: tuple[Score, ...]

    def to_json(self) -> str:
        """Return the text of ``budget.json``."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the text of ``budget.csv``: a line for each score, blocks per stage as ``4+14``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(Score.model_fields), lineterminator="\n")
        writer.writeheader()
        for score in self.scores:
            writer.writerow({**score.model_dump(), "depth": "+".join(map(str, score.depth))})
        return text.getvalue()


def budget_record(events: Iterable[Event]) -> BudgetRecord | None:
    """Return the record of a run, finished or not; None where it has no time budget."""
    told = list(events)
    starts = [event for event in told if isinstance(event, RunStarted)]
    if not starts or starts[-1].time_budget_seconds is None:
        return None
    return BudgetRecord(
        run_id=starts[-1].run_id,
        hardware=tuple(dict.fromkeys(start.hardware for start in starts)),
        processes=starts[-1].world_size,
        time_budget_seconds=starts[-1].time_budget_seconds,
        speeds=tuple(_speeds(told)),
        scores=tuple(_score(event) for event in told if isinstance(event, Evaluated)),
    )


def write_record(folder: Path, record: BudgetRecord) -> None:
    """Write ``budget.json`` and ``budget.csv``."""
    write_atomically(folder / "budget.json", record.to_json())
    write_atomically(folder / "budget.csv", record.to_csv())


def _speeds(events: Sequence[Event]) -> Iterator[Speed]:
    """Yield speeds in the order in which subnets were trained first; keep-rates are taken together."""
    spans: dict[SubnetConfig, list[tuple[int, StepLogged]]] = defaultdict(list)
    before = 0
    for event in events:
        if isinstance(event, RunStarted):
            before = event.step
        elif isinstance(event, StepLogged):
            subnet = SubnetConfig(event.subnet.depth, event.subnet.img_size)
            spans[subnet].append((event.step - before, event))
            before = event.step
    for subnet, reports in spans.items():
        yield _speed(subnet, reports)


def _speed(subnet: SubnetConfig, reports: Sequence[tuple[int, StepLogged]]) -> Speed:
    seconds = [steps * report.step_seconds for steps, report in reports]
    fractions = [min(report.data_wait_fraction, 1 - 1e-9) for _, report in reports]
    images = sum(
        s * report.images_per_second for s, (_, report) in zip(seconds, reports, strict=True)
    )
    waited = sum(
        s * fraction / (1 - fraction) for s, fraction in zip(seconds, fractions, strict=True)
    )
    trained = sum(seconds)
    wait_fraction = waited / (waited + trained)
    return Speed(
        depth=subnet.depth,
        img_size=subnet.img_size,
        steps=sum(steps for steps, _ in reports),
        train_seconds=trained,
        images_per_second=images / trained,
        data_wait_fraction=wait_fraction,
        loader_bound=wait_fraction > LOADER_BOUND_FRACTION,
    )


def _score(event: Evaluated) -> Score:
    return Score(
        hours=event.wall_seconds / 3600,
        epoch=event.epoch,
        step=event.step,
        depth=event.subnet.depth,
        top1=event.top1,
        top1_ema=event.top1_ema,
        loss=event.loss,
        loss_ema=event.loss_ema,
    )
