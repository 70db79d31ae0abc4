"""A field of schedules run side by side over seeds, and which of the runs are still to be made."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog.bounds import Few, Seed, SomeAmount
from autoprog.errors import ConfigError, RunError
from autoprog.files import FileModel, Line, parse
from autoprog.jsonlines import read_object
from autoprog.openfiles import write_atomically
from autoprog.proof.arms import ArmSettings, with_settings
from autoprog.proof.finished import Finished, read_finished
from autoprog.proof.rounds import (
    Arm,
    ArmEnded,
    ArmStarted,
    Round,
    Start,
    Waiting,
    alone,
    check_folder,
    run_folders,
    starter,
)

__all__ = ["Entrant", "FieldFile", "Progress", "finished_runs", "read_field", "run_field"]

_FILE, _LOCK_FILE = "bench.json", "bench.lock"
_MOST_ENTRANTS = 100


class Entrant(FileModel):
    """One schedule of the field.

    Args:
        settings: A training along a preset.
        cost: Of a run, in any unit that is the same for all; says how much of the work is done.
    """

    name: Line
    settings: ArmSettings
    cost: SomeAmount

    @model_validator(mode="after")
    def _is_named_as_its_preset(self) -> Entrant:
        if self.settings.preset != self.name:
            law = f"must be {self.settings.preset!r}, the preset of its settings"
            raise ConfigError("", "name", law, self.name)
        return self

    @property
    def arm(self) -> Arm:
        """Return the name of its folders."""
        return self.name.replace(":", "-")


class FieldFile(FileModel):
    """``bench.json``, fixed before the first run but for the number of seeds.

    Args:
        model: Name of the full model.
        equal: What is the same for all entrants.
        request: Digest of what was asked for; the same asked again goes on with the same folder.
        first_seed: Seeds count up from here.
        seeds: Runs of each entrant.
        entrants: The reference first.
        left_out: Presets that could not enter, and why.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    model: Line
    equal: Literal["epochs", "macs", "wall-clock"]
    request: Line
    first_seed: Seed
    seeds: Few
    entrants: tuple[Entrant, ...] = Field(min_length=1, max_length=_MOST_ENTRANTS)
    left_out: dict[Line, Line] = Field(default_factory=dict, max_length=_MOST_ENTRANTS)

    @model_validator(mode="after")
    def _each_enters_once(self) -> FieldFile:
        arms = [entrant.arm for entrant in self.entrants]
        for arm in arms:
            if arms.count(arm) > 1:
                raise ConfigError("", "entrants", "must have names that differ", arm)
        return self

    @property
    def seeds_in_order(self) -> range:
        """Return the seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True)
class Progress:
    """How far a field is: what has just happened, and the share of all cost that is done."""

    report: ArmStarted | ArmEnded | Waiting
    done: int
    runs: int
    share: float


def read_field(folder: Path) -> FieldFile:
    """Read the file of a field.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged, or one of our files is a link.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(str(folder), "", f"must be a folder with a {_FILE} in it")
    body = read_object(path)
    if body.get("schema", 1) == 1 and isinstance(body.get("entrants"), list):
        entrants = [
            with_settings(entrant, "words", "settings", str(path), f"entrants[{number}]")
            for number, entrant in enumerate(body["entrants"])
        ]
        body = {**body, "schema": 2, "entrants": entrants}
    found = parse(FieldFile, body, str(path))
    check_folder(folder, (_FILE, _LOCK_FILE))
    return found


def run_field(
    folder: Path, field: FieldFile, start: Start | None = None
) -> Generator[Progress, None, None]:
    """Write the plan, then make the runs that are missing, seed by seed; yield what happens.

    Raises:
        ConfigError: If one of our files in the folder is a link, or a result is not one.
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    entrants = {entrant.arm: entrant for entrant in field.entrants}
    arms = {arm: entrant.settings for arm, entrant in entrants.items()}
    all_cost = field.seeds * sum(entrant.cost for entrant in field.entrants)
    cure, done, cost = "the same command goes on with it", 0, 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder, (_FILE, _LOCK_FILE))
        with alone(folder, _LOCK_FILE) as lock:
            body = json.dumps(field.model_dump(mode="json", by_alias=True), indent=1)
            write_atomically(folder / _FILE, body + "\n")
            begin = start or starter(1, lock)
            for seed in field.seeds_in_order:
                one = Round(folder, seed, arms, {}, begin, cure)
                for report in one.carry_out(arms):
                    if isinstance(report, ArmEnded):
                        done, cost = done + 1, cost + entrants[report.arm].cost
                    runs = field.seeds * len(entrants)
                    yield Progress(report, done, runs, cost / all_cost)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


def finished_runs(folder: Path, field: FieldFile) -> list[Finished]:
    """Return all runs of a complete field, those of the reference first."""
    return [
        read_finished(run)
        for entrant in field.entrants
        for seed in field.seeds_in_order
        for run in run_folders(folder / f"seed-{seed}-{entrant.arm}")
        if (run / "result.json").exists()
    ]
