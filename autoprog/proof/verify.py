"""Carry out a verification: pairs of runs of the program itself, each of them resumable."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from autoprog.errors import ConfigError, RunError
from autoprog.files import parse
from autoprog.hints import command
from autoprog.jsonlines import read_object
from autoprog.openfiles import write_atomically
from autoprog.proof.arms import with_settings
from autoprog.proof.pairs import ARMS, Pair, PairEnded, Plan, Report, Verification, summarise
from autoprog.proof.rounds import Round, Start, alone, check_folder, starter

__all__ = ["LOCK_FILE", "load", "save", "verify"]

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
    found = parse(Verification, body, str(path))
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
    cure = f"go on with {command('verify', '--resume', folder)}"
    runs = Round(folder, seed, arms, files, start, cure)
    results = yield from runs.carry_out(order, plan.at_once)
    baseline, candidate = (results.pop(arm) for arm in ARMS)
    values = {"seed": seed, "order": order, "baseline": baseline, "candidate": candidate}
    return parse(Pair, {**values, "others": results}, f"{folder}: seed {seed}")
