"""A verification: the pairs of its plan made one after the other, written, read and published."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Count, Few, Measured
from autoprog.errors import ConfigError, RunError, command
from autoprog.eventlog import effective_rows
from autoprog.files import FileModel, Line, parse, read_object, read_rows
from autoprog.openfiles import open_regular, replacing, write_atomically
from autoprog.runs import CURVE_FILE
from autoprog.verify.arms import settings_of_words
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
from autoprog.verify.plan import ARMS, Pair, Plan
from autoprog.verify.verdict import summarise

__all__ = [
    "LOCK_FILE",
    "PairEnded",
    "Report",
    "Verification",
    "check_publish_folder",
    "load",
    "publish_verification",
    "save",
    "verify",
]

LOCK_FILE = "verify.lock"
_MAX_LOOKS = 1_000
_PUBLISHED = (
    "run.yaml",
    "schedule.yaml",
    "best.yaml",
    "decisions.jsonl",
    "costs.json",
    "result.json",
)
"""What is published of a run, beside its curve: every number, and no weights."""
_CURVE = ("run_started", "step_logged", "evaluated")

RecipeValue = bool | Count | Measured | Line | tuple[Measured, Measured] | None


class Verification(FileModel):
    """``verify.json``: a plan, its complete pairs, and the verdict on them.

    Args:
        looks: The numbers of seeds that were asked for, one after another.
        differing: The recipe values that differ between the two arms.
        verdict: What :func:`~autoprog.verify.verdict.summarise` returns; None before the first pair.
    """

    schema_version: Literal[3] = Field(default=3, alias="schema")
    verify_id: Line
    created: Line
    plan: Plan
    looks: tuple[Few, ...] = Field(max_length=_MAX_LOOKS)
    differing: dict[Line, tuple[RecipeValue, RecipeValue]]
    pairs: tuple[Pair, ...] = ()
    verdict: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _pairs_are_those_of_the_plan(self) -> Verification:
        plan = self.plan
        if len(self.pairs) > plan.seeds:
            raise ConfigError("", "pairs", f"must be at most {plan.seeds}", len(self.pairs))
        for number, pair in enumerate(self.pairs):
            seed, order = plan.first_seed + number, plan.order(number)
            others = {arm for arm in order if arm not in ARMS}
            is_whole = sorted(pair.order) == sorted(order) and {*pair.others} == others
            if pair.seed != seed or not is_whole:
                problem = f"must hold the runs of seed {seed} that the plan says"
                raise ConfigError("", f"pairs[{number}]", problem)
        return self

    def with_pair(self, pair: Pair) -> Verification:
        """Return it with one more pair and the verdict on all."""
        pairs = (*self.pairs, pair)
        verdict = summarise(pairs, self.plan)
        return self.model_copy(update={"pairs": pairs, "verdict": verdict})


@dataclass(frozen=True)
class PairEnded:
    """A pair is complete and written to ``verify.json``."""

    verification: Verification


Report = ArmStarted | ArmEnded | PairEnded | Waiting


def verify(
    folder: Path, verification: Verification, start: Start | None = None
) -> Generator[Report, None, None]:
    """Write the plan, then make the runs that are missing; yield what happens.

    Raises:
        ConfigError: If one of our files in the folder is a link, or a result is not one.
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    plan = verification.plan
    files = {arm: folder / plan.file_of(arm) for arm in plan.arms}
    hint = f"go on with {command('verify', '--resume', folder)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_links(folder, plan)
        with locked(folder, LOCK_FILE) as lock:
            save(folder, verification)  # before the first run: the margin is fixed from here on
            for name, text in plan.files().items():
                write_atomically(folder / name, text)
            begin = start or starter(plan.nproc, lock)
            for number in range(len(verification.pairs), plan.seeds):
                seed, order = plan.first_seed + number, plan.order(number)
                arms = {arm: plan.settings_of(arm) for arm in order}
                runs = SeedRuns(folder, seed, arms, files, begin, hint)
                # A seed is written when all its arms are there: a verdict is of whole pairs.
                results = yield from runs.carry_out(order, plan.max_at_once)
                own = {arm: results.pop(arm) for arm in ARMS}
                values = {"seed": seed, "order": order, **own, "others": results}
                pair = parse(Pair, values, f"{folder}: seed {seed}")
                verification = verification.with_pair(pair)
                save(folder, verification)
                yield PairEnded(verification)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


def save(folder: Path, verification: Verification) -> None:
    """Write ``verify.json``."""
    body = verification.model_dump(mode="json", by_alias=True)
    write_atomically(folder / "verify.json", json.dumps(body, indent=1) + "\n")


def load(folder: Path) -> Verification:
    """Read a verification; what follows from its pairs is worked out anew.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged, or one of our files is a link.
    """
    path = folder / "verify.json"
    if not path.is_file():
        raise ConfigError(str(folder), "", "must be a folder with a verify.json in it")
    body = read_object(path)
    if body.get("schema", 1) == 1:  # whose arms are words of a command line
        where, plan = str(path), body.get("plan")
        for arm in ARMS:
            plan = settings_of_words(plan, arm, arm, where, "plan")
        if isinstance(plan, dict) and isinstance(plan.get("others"), list):
            others = [
                settings_of_words(arm, "words", "settings", where, f"plan.others[{number}]")
                for number, arm in enumerate(plan["others"])
            ]
            plan = {**plan, "others": others}
        body = {**body, "schema": 2, "plan": plan}
    found = parse(Verification, migration.verification(body), str(path))
    _check_links(folder, found.plan)
    # The verdict in the file may be of another version, or of somebody's own making.
    return found.model_copy(update={"verdict": summarise(found.pairs, found.plan)})


def _check_links(folder: Path, plan: Plan) -> None:
    check_folder(folder, ("verify.json", LOCK_FILE, *plan.files()))


def check_publish_folder(folder: Path) -> None:
    """Refuse to publish into a folder that holds anything else.

    Raises:
        ConfigError: If it is a file, or holds anything but what was published of a verification.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError("--publish", "", "must be a folder", str(folder))
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "verify.json").exists() or (folder / LOCK_FILE).exists():
        hint = "give a new one, or one published before"
        raise ConfigError("--publish", "", "must be empty", str(folder), hint)
    published = load(folder)
    for name in ("verify.json", *published.plan.files()):
        if not _is_missing_or(stat.S_ISREG, folder / name):
            raise ConfigError("--publish", name, "must be a regular file", str(folder / name))
    for run in (folder / name for name in _run_names(published)):
        if not _is_missing_or(stat.S_ISDIR, run):
            raise ConfigError("--publish", run.name, "must be a folder", str(run))
        for path in sorted(run.iterdir()) if run.exists() else ():
            is_ours = path.name in (*_PUBLISHED, CURVE_FILE)
            if not (is_ours and _is_missing_or(stat.S_ISREG, path)):
                problem = "must hold nothing but what was published"
                raise ConfigError("--publish", run.name, problem, path.name, "move it away")


def publish_verification(folder: Path, target: Path) -> None:
    """Copy the numbers and curves of a complete verification, in place of what `target` held of one before.

    Raises:
        ConfigError: If `target` holds anything else.
        RunError: If it cannot be written.
    """
    check_publish_folder(target)
    found = load(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if (target / "verify.json").exists():
            # File by file, and never a whole tree: whatever else lies there is not ours to remove.
            for run in (target / name for name in _run_names(load(target))):
                for name in (*_PUBLISHED, CURVE_FILE):
                    (run / name).unlink(missing_ok=True)
                if run.exists():
                    run.rmdir()
        for name in _run_names(found):
            for run in run_folders(folder / name):
                if (run / "result.json").exists():
                    (target / name).mkdir()  # and an error where something else has that name
                    for file in _PUBLISHED:
                        if (run / file).exists():
                            _copy(run / file, target / name / file)
                    # Only what a curve is drawn of: the whole log of a long run has megabytes.
                    rows = effective_rows(map(migration.event, read_rows(run / "events.jsonl")))
                    lines = [json.dumps(row) + "\n" for row in rows if row["kind"] in _CURVE]
                    write_atomically(target / name / CURVE_FILE, "".join(lines))
        for name in (*found.plan.files(), "verify.json"):
            _copy(folder / name, target / name)
    except OSError as error:
        where = error.filename or target
        raise RunError(f"{where}: cannot be published: {error.strerror}") from None


def _run_names(verification: Verification) -> Iterator[str]:
    """Yield the names of the folders that hold a run each."""
    for pair in verification.pairs:
        yield from (f"seed-{pair.seed}-{arm}" for arm in pair.order)


def _copy(source: Path, target: Path) -> None:
    """Copy a file; a link, which may lead to what nobody wants to publish, is an OSError."""
    with open_regular(source, follow_links=False) as file, replacing(target) as copy:
        shutil.copyfileobj(file, copy)


def _is_missing_or(is_kind: Callable[[int], bool], path: Path) -> bool:
    """Return whether a path is of a kind, such as :func:`stat.S_ISREG`, and no link; or is missing."""
    try:
        return is_kind(path.lstat().st_mode)
    except FileNotFoundError:
        return True
