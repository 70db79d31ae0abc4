"""Carry out a verification: pairs of runs of the program itself, each of them resumable."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from autoprog import migration
from autoprog.errors import ConfigError, RunError, command
from autoprog.eventlog import effective_rows
from autoprog.files import parse, read_object, read_rows
from autoprog.openfiles import open_regular, replacing, write_atomically
from autoprog.runs import CURVE_FILE
from autoprog.verify.arms import with_settings
from autoprog.verify.attempts import Round, Start, alone, check_folder, run_folders, starter
from autoprog.verify.verdict import ARMS, Pair, PairEnded, Plan, Report, Verification, summarise

__all__ = ["LOCK_FILE", "check_target", "load", "publish", "save", "verify"]


# --------------------------------------------------------------------------------------------------
# A verification as it is published: every number and its curve, and no weights.


_COPIED = ("run.yaml", "schedule.yaml", "best.yaml", "decisions.jsonl", "costs.json", "result.json")
_CURVE = ("run_started", "step_logged", "evaluated")


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something else.

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
            is_ours = path.name in (*_COPIED, CURVE_FILE)
            if not (is_ours and _is_missing_or(stat.S_ISREG, path)):
                problem = "must hold nothing but what was published"
                raise ConfigError("--publish", run.name, problem, path.name, "move it away")


def publish(verification: Path, target: Path) -> None:
    """Copy what a complete verification came to, in place of what was published into `target` before.

    Raises:
        ConfigError: If `target` holds anything else.
        RunError: If it cannot be written.
    """
    check_target(target)
    found = load(verification)
    try:
        target.mkdir(parents=True, exist_ok=True)
        if (target / "verify.json").exists():
            _remove_runs(target, load(target))
        for name in _run_names(found):
            for run in run_folders(verification / name):
                if (run / "result.json").exists():
                    _publish_run(run, target / name)
        for name in (*found.plan.files(), "verify.json"):
            _copy(verification / name, target / name)
    except OSError as error:
        where = error.filename or target
        raise RunError(f"{where}: cannot be published: {error.strerror}") from None


def _run_names(verification: Verification) -> Iterator[str]:
    """Yield the names of the folders that hold a run each."""
    for pair in verification.pairs:
        yield from (f"seed-{pair.seed}-{arm}" for arm in pair.order)


def _remove_runs(target: Path, published: Verification) -> None:
    """Remove the runs that were published into a folder, file by file."""
    for run in (target / name for name in _run_names(published)):
        for name in (*_COPIED, CURVE_FILE):
            (run / name).unlink(missing_ok=True)
        if run.exists():
            run.rmdir()


def _publish_run(run: Path, target: Path) -> None:
    target.mkdir()
    for name in _COPIED:
        if (run / name).exists():
            _copy(run / name, target / name)
    rows = effective_rows(map(migration.event, read_rows(run / "events.jsonl")))
    lines = [json.dumps(row) + "\n" for row in rows if row["kind"] in _CURVE]
    write_atomically(target / CURVE_FILE, "".join(lines))


def _copy(source: Path, target: Path) -> None:
    """Copy a file; a link, which may lead to what nobody wants to publish, is an OSError."""
    with open_regular(source, follow_links=False) as file, replacing(target) as copy:
        shutil.copyfileobj(file, copy)


def _is_missing_or(is_kind: Callable[[int], bool], path: Path) -> bool:
    """Tell whether a path is of a kind, such as :func:`stat.S_ISREG`, and no link; or is missing."""
    try:
        return is_kind(path.lstat().st_mode)
    except FileNotFoundError:
        return True


LOCK_FILE = "verify.lock"


def load(folder: Path) -> Verification:
    """Read a verification; what follows from its pairs is worked out anew.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged, or one of our files is a link.
    """
    path = folder / "verify.json"
    if not path.is_file():
        raise ConfigError(str(folder), "", "must be a folder with a verify.json in it")
    body = read_object(path)
    if body.get("schema", 1) == 1:
        body = _of_schema_1(body, str(path))
    found = parse(Verification, migration.verification(body), str(path))
    _check_links(folder, found.plan)
    return found.model_copy(update={"verdict": summarise(found.pairs, found.plan)})


def _of_schema_1(body: dict[str, Any], where: str) -> dict[str, Any]:
    """Return what a file holds whose arms are words of a command line, with settings in their place.

    Raises:
        ConfigError: If the words are not those of an arm.
    """
    plan = body.get("plan")
    for arm in ARMS:
        plan = with_settings(plan, arm, arm, where, "plan")
    if isinstance(plan, dict) and isinstance(plan.get("others"), list):
        others = [
            with_settings(arm, "words", "settings", where, f"plan.others[{number}]")
            for number, arm in enumerate(plan["others"])
        ]
        plan = {**plan, "others": others}
    return {**body, "schema": 2, "plan": plan}


def _check_links(folder: Path, plan: Plan) -> None:
    check_folder(folder, ("verify.json", LOCK_FILE, *plan.files()))


def save(folder: Path, verification: Verification) -> None:
    """Write ``verify.json``."""
    body = verification.model_dump(mode="json", by_alias=True)
    write_atomically(folder / "verify.json", json.dumps(body, indent=1) + "\n")


def verify(
    folder: Path, verification: Verification, start: Start | None = None
) -> Generator[Report, None, None]:
    """Write the plan, then make the runs that are missing; yield what happens.

    Raises:
        ConfigError: If one of our files in the folder is a link, or a result is not one.
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    plan = verification.plan
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_links(folder, plan)
        with alone(folder, LOCK_FILE) as lock:
            save(folder, verification)
            for name, text in plan.files().items():
                write_atomically(folder / name, text)
            begin = start or starter(plan.nproc, lock)
            for number in range(len(verification.pairs), plan.seeds):
                pair = yield from _pair(folder, plan, number, begin)
                verification = verification.with_pair(pair)
                save(folder, verification)
                yield PairEnded(verification)
    except OSError as error:
        raise RunError(f"{folder}: {error}") from error


def _pair(folder: Path, plan: Plan, number: int, start: Start) -> Generator[Report, None, Pair]:
    """Make the runs of one seed that are missing; return them all."""
    seed, order = plan.first_seed + number, plan.order(number)
    arms = {arm: plan.settings_of(arm) for arm in order}
    files = {arm: folder / plan.file_of(arm) for arm in order}
    hint = f"go on with {command('verify', '--resume', folder)}"
    runs = Round(folder, seed, arms, files, start, hint)
    results = yield from runs.carry_out(order, plan.at_once)
    baseline, candidate = (results.pop(arm) for arm in ARMS)
    values = {"seed": seed, "order": order, "baseline": baseline, "candidate": candidate}
    return parse(Pair, {**values, "others": results}, f"{folder}: seed {seed}")
