"""Carry out a verification: pairs of runs of the program itself, each of them resumable."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path

from autoprog.errors import ConfigError, RunError
from autoprog.files import parse
from autoprog.jsonlines import read_object
from autoprog.openfiles import write_atomically
from autoprog.proof.pairs import ARMS, Pair, PairEnded, Plan, Report, Verification, summarise
from autoprog.proof.rounds import Round, Start, alone, starter

__all__ = ["LOCK_FILE", "load", "save", "verify"]

LOCK_FILE = "verify.lock"


def load(folder: Path) -> Verification:
    """Read a verification; what follows from its pairs is worked out anew.

    Raises:
        ConfigError: If the folder holds none, or one that is damaged.
    """
    path = folder / "verify.json"
    if not path.is_file():
        raise ConfigError(str(folder), "", "must be a folder with a verify.json in it")
    found = parse(Verification, read_object(path), str(path))
    return found.model_copy(update={"verdict": summarise(found.pairs, found.plan)})


def save(folder: Path, verification: Verification) -> None:
    """Write ``verify.json``."""
    body = verification.model_dump(mode="json", by_alias=True)
    write_atomically(folder / "verify.json", json.dumps(body, indent=1) + "\n")


def verify(
    folder: Path, verification: Verification, start: Start | None = None
) -> Generator[Report, None, None]:
    """Write the plan, then make the runs that are missing; yield what happens.

    Raises:
        RunError: If a run fails, or a file cannot be written, or another process is at it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, LOCK_FILE) as lock:
            plan = verification.plan
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
    seed, words = plan.first_seed + number, {arm: plan.words(arm, folder) for arm in plan.arms}
    cure = f"go on with autoprog verify --resume {folder}"
    order = plan.order(number)
    results = yield from Round(folder, seed, words, start, cure).carry_out(order, plan.at_once)
    baseline, candidate = (results.pop(arm) for arm in ARMS)
    return Pair(seed=seed, order=order, baseline=baseline, candidate=candidate, others=results)
