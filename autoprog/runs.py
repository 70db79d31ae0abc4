"""The run folder: the one contract between what trains and what looks on.

Everything is readable text but the weights. Logs are appended a line at a time; a reader drops a half-written
last line and whatever a later attempt replays. A run is complete if and only if ``result.json`` exists.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import Field

from autoprog import migration
from autoprog.bounds import (
    Amount,
    Bytes,
    Count,
    Measured,
    PassedEpochs,
    Percent,
    Seconds,
    Seed,
    Steps,
    UnitInterval,
)
from autoprog.costs.table import CostTable, table_of
from autoprog.decisions import Decision, DecisionInputs
from autoprog.errors import ConfigError, RunError, RunExistsError, RunLockedError
from autoprog.event_log import read_log
from autoprog.events import Event, encode
from autoprog.files import (
    FileModel,
    Line,
    append_row,
    cut_torn_tail,
    dump_yaml,
    json_text,
    parse,
    read_object,
    read_rows,
    read_yaml,
)
from autoprog.run_files import check_run_files, remove_leftovers
from autoprog.safe_files import open_for_appending, open_regular, write_atomically
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.settings import RunManifest

__all__ = [
    "CURVE_FILE",
    "FollowedFolder",
    "Result",
    "Run",
    "RunFolder",
    "is_written_now",
    "load_run",
    "read_result",
]

CURVE_FILE = "curve.jsonl"
"""What is published of ``events.jsonl``."""
_LOGS = ("events.jsonl", "decisions.jsonl", "inputs.jsonl", "fidelity.jsonl")
_MAX_DECISIONS = 1000
_MAX_ATTEMPTS = 10**6


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
            # A run that cannot begin leaves nothing behind, not even the folders above it.
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
            # All logs must be ours before the lock file is made and half-written lines are cut.
            _last_attempt(path)
            for name in _LOGS[1:]:
                for _ in read_rows(path / name):
                    pass
            with ExitStack() as undo:
                lock = undo.enter_context(_take_lock(path))
                remove_leftovers(path)
                (path / "checkpoints").mkdir(exist_ok=True)
                for name in _LOGS:
                    cut_torn_tail(path / name)
                # Counted again under the lock: another process may have ended an attempt meanwhile.
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
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        row = {"attempt": self.attempt, "time": now, **encode(event)}
        # Flushed, but not synced as decisions are: a checkpoint says where a run goes on, not its log.
        self._events.write(json.dumps(row) + "\n")
        self._events.flush()

    def record_decision(self, decision: Decision) -> None:
        """Append a decision and wait until it is on disk."""
        append_row(self.path / "decisions.jsonl", decision.model_dump(mode="json"))

    def record_inputs(self, inputs: DecisionInputs) -> None:
        """Append what a decision is taken from and wait until it is on disk."""
        append_row(self.path / "inputs.jsonl", inputs.model_dump(mode="json"))

    def write_costs(self, costs: CostTable) -> None:
        """Write the measured costs of steps and wait until they are on disk."""
        write_atomically(self.path / "costs.json", json_text(costs.body()))

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
        # Numbers by class go on one line: there may be thousands.
        lists = r"\[[\s\d.,+\-enul]*\]"
        text = re.sub(lists, lambda found: " ".join(found[0].split()), json_text(body))
        write_atomically(self.path / "result.json", text)

    def close(self) -> None:
        """Release the lock."""
        # A disk without room for the last event, of which the user has been warned.
        with suppress(OSError):
            self._events.close()
        self._lock.close()


class FollowedFolder(RunFolder):
    """A run folder as the ranks see it that do not write: what they would write is dropped."""

    def __init__(self, path: Path, manifest: RunManifest) -> None:
        self.path, self.manifest, self.attempt = path, manifest, 0

    def append(self, event: Event) -> None:
        """Do nothing."""

    def record_decision(self, decision: Decision) -> None:
        """Do nothing."""

    def record_inputs(self, inputs: DecisionInputs) -> None:
        """Do nothing."""

    def write_costs(self, costs: CostTable) -> None:
        """Do nothing."""

    def write_schedule(
        self, schedule: GrowthSchedule, name: str = "schedule.yaml", comment: str = ""
    ) -> None:
        """Do nothing."""

    def write_result(self, result: Result) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


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
        """Return the measured step seconds by the name of what they depend on."""
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
    """Return whether a process of this machine is writing a run."""
    try:
        # Shared, so that two who ask at once do not take each other for the writer.
        with open_regular(path / "run.lock", follow_links=False) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:  # none, unreadable, or no lock of ours
        return isinstance(error, BlockingIOError)
    return False


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
