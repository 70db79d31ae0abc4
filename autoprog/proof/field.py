"""A field of schedules run side by side over seeds, and which of the runs are still to be made."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from autoprog.bounds import Amount, Few, Seed
from autoprog.errors import ConfigError, RunError
from autoprog.files import FileModel, parse
from autoprog.jsonlines import read_object
from autoprog.openfiles import write_atomically
from autoprog.proof.finished import Finished, read_finished
from autoprog.proof.rounds import Arm, ArmEnded, ArmStarted, Round, Start, Waiting, alone, starter

__all__ = ["Entrant", "FieldFile", "Progress", "finished_runs", "read_field", "run_field"]

_FILE = "bench.json"


class Entrant(FileModel):
    """One schedule of the field.

    Args:
        name: Of the preset.
        words: After ``autoprog``, without seed and folder.
        cost: Of a run, in any unit that is the same for all; says how much of the work is done.
    """

    name: str
    words: tuple[str, ...]
    cost: Amount

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

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: str
    equal: Literal["epochs", "macs", "wall-clock"]
    request: str
    first_seed: Seed
    seeds: Few
    entrants: tuple[Entrant, ...] = Field(min_length=1)
    left_out: dict[str, str] = Field(default_factory=dict)

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
        ConfigError: If the folder holds none, or one that is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        raise ConfigError(str(folder), "", f"must be a folder with a {_FILE} in it")
    return parse(FieldFile, read_object(path), str(path))


def run_field(
    folder: Path, field: FieldFile, start: Start | None = None
) -> Generator[Progress, None, None]:
    """Write the plan, then make the runs that are missing, seed by seed; yield what happens.

    Raises:
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    entrants = {entrant.arm: entrant for entrant in field.entrants}
    words = {arm: entrant.words for arm, entrant in entrants.items()}
    all_cost = field.seeds * sum(entrant.cost for entrant in field.entrants)
    cure, done, cost = "the same command goes on with it", 0, 0.0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, "bench.lock") as lock:
            body = json.dumps(field.model_dump(mode="json", by_alias=True), indent=1)
            write_atomically(folder / _FILE, body + "\n")
            begin = start or starter(1, lock)
            for seed in field.seeds_in_order:
                one = Round(folder, seed, words, begin, cure)
                for report in one.carry_out(words):
                    if isinstance(report, ArmEnded):
                        done, cost = done + 1, cost + entrants[report.arm].cost
                    runs = field.seeds * len(entrants)
                    yield Progress(report, done, runs, cost / all_cost)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


def finished_runs(folder: Path, field: FieldFile) -> list[Finished]:
    """Return all runs of a complete field, those of the reference first."""
    return [
        read_finished(path.parent)
        for entrant in field.entrants
        for seed in field.seeds_in_order
        for path in folder.glob(f"seed-{seed}-{entrant.arm}/*/result.json")
    ]
