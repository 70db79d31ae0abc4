"""What a verification runs: the words of both arms, checked before anything is written."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from autoprog.cli import build_parser, flags_of
from autoprog.commands.configure import Configured, configure_search, configure_train
from autoprog.commands.flags import NOT_FOR_RESUME, words_of
from autoprog.commands.preflight import check_run
from autoprog.commands.recipe_layers import is_file
from autoprog.commands.verify import add_shared_flags
from autoprog.commands.verify_others import other_arms
from autoprog.errors import ConfigError, suggest
from autoprog.files import parse
from autoprog.jsonlines import read_object
from autoprog.presets import PRESETS
from autoprog.proof.pairs import SCHEDULE_WORD, Plan
from autoprog.proof.verify import load
from autoprog.runs import Result, load_run
from autoprog.schedule import load_schedule

__all__ = ["NOT_COMPARED", "configured_arm", "given_plan", "same_verification", "shared_words"]

_PER_RUN = {"help", "seed", "runs_dir", "resume", "quiet"}
NOT_COMPARED = NOT_FOR_RESUME | {"seed", "schedule_from"}
"""Settings in which two runs may differ and be the same arm."""
_REFUSED = {
    "--costs": "measuring is part of what a search costs",
    "--storage": "each seed must be searched anew",
    "--join": "each seed must be searched anew",
    "--replay": "a replay trains nothing",
    "--json": "it goes before the --",
}


def given_plan(
    args: argparse.Namespace, margin: float, seeds: int
) -> tuple[Plan, dict[str, tuple[Any, Any]]]:
    """Return the plan of a command line, and the recipe values in which the arms differ.

    Raises:
        ConfigError: If either arm would be refused, or they are not two ways to train the same network.
    """
    searches, name = hasattr(args, "search"), getattr(args, "schedule", None)
    if searches == (name is not None):
        law, cure = "must be given, or --schedule FILE, and not both", "what is to be verified?"
        raise ConfigError("--search", "", law, cure=cure)
    file = name if name is not None and name not in PRESETS and is_file(name) else None
    if file is not None:
        full = load_schedule(file).full
        args.model = getattr(args, "model", full.model)
        args.img_size = getattr(args, "img_size", full.img_size)
    _check_processes(args)
    shared = shared_words(args)
    baseline = ("train", "--schedule=constant", *shared)
    own = _candidate_words(args, searches)
    kind = ("search",) if searches else ("train", "--schedule", SCHEDULE_WORD if file else name)
    candidate = (*kind, *shared, *own)
    arms = configured_arm(baseline, ""), configured_arm(candidate, file or "")
    others = other_arms(args, arms, (baseline, candidate), file)
    differing = _differing(args, *arms)
    lengths = [configured_arm(one.words, file or "") for one in others.arms if not one.schedule]
    for arm in (*arms, *lengths):
        check_run(arm, is_new=True)
    values = {
        "model": arms[0].settings.model.model,
        "baseline": baseline,
        "candidate": candidate,
        "schedule": None if file is None else Path(file).read_text(encoding="utf-8"),
        "settings": _digest(arms),
        "margin": margin,
        "first_seed": getattr(args, "seed", 0),
        "seeds": seeds,
        "side_by_side": hasattr(args, "side_by_side"),
        "search_seconds": _search_seconds(args, searches, file),
        "nproc": getattr(args, "nproc", 1),
        "others": others.arms,
        "equal_by": others.equal_by,
    }
    return parse(Plan, values, "flags"), differing


def _check_processes(args: argparse.Namespace) -> None:
    if "WORLD_SIZE" in os.environ:
        cure = "give --nproc N, and each run is started through it"
        raise ConfigError("verify", "", "must be started without torchrun", cure=cure)
    if getattr(args, "nproc", 1) > 1 and hasattr(args, "side_by_side"):
        raise ConfigError("--side-by-side", "", "must be left out with --nproc")


def same_verification(runs_dir: Path, plan: Plan) -> Path | None:
    """Return the newest folder of the same runs, whatever margin and number of seeds."""
    for path in sorted(runs_dir.glob("*-verify-*/verify.json"), reverse=True):
        try:
            known = load(path.parent).plan
        except ConfigError:
            continue  # of another version, or damaged: none of this command line's business
        if known.verifies_the_same(plan):
            return path.parent
    return None


def shared_words(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags given for both arms, as they stand on a command line."""
    if hasattr(args, "side_by_side"):
        if getattr(args, "threads", 1) != 1:
            raise ConfigError("--threads", "", "must be 1 with --side-by-side", args.threads)
        args.threads = 1
    parser = argparse.ArgumentParser()
    add_shared_flags(parser)
    of_both = (action for action in parser._actions if action.dest not in _PER_RUN)
    return tuple(words_of(args, of_both))


def _candidate_words(args: argparse.Namespace, searches: bool) -> tuple[str, ...]:
    """Return the flags of the candidate alone.

    Raises:
        ConfigError: If one belongs to both arms, or to no search.
    """
    given = tuple(args.words)
    if given and given[0] != "--":
        raise ConfigError("verify", "", "must be given flags", given[0], "see --help")
    known = flags_of(build_parser("search"), "search") | {"-j"}
    both = flags_of(build_parser("verify"), "verify")
    for word in given[1:]:
        flag = word.partition("=")[0]
        if not flag.startswith("-") or flag[1:2].isdigit():
            continue
        if not searches:
            raise ConfigError(flag, "", "must not follow --", cure="only a search has own flags")
        if flag in _REFUSED:
            raise ConfigError(flag, "", "must be left out", cure=_REFUSED[flag])
        if flag in both:
            raise ConfigError(flag, "", "must stand before --", cure="it belongs to both arms")
        if flag not in known:
            raise ConfigError(
                flag, "", "unknown flag of a search", cure=suggest(flag, known, False)
            )
    longer = getattr(args, "candidate_epochs", None)
    return (*(() if longer is None else (f"--epochs={longer}",)), *given[1:])


def configured_arm(words: tuple[str, ...], schedule: str) -> Configured:
    """Return what an arm would run."""
    command = words[0]
    known = [schedule if word == SCHEDULE_WORD else word for word in words]
    args = build_parser(command).parse_args(known)
    return configure_search(args) if command == "search" else configure_train(args)


def _differing(
    args: argparse.Namespace, baseline: Configured, candidate: Configured
) -> dict[str, tuple[Any, Any]]:
    """Return the recipe values that differ: ``epochs`` if that was asked for, others by the search space.

    Raises:
        ConfigError: If network or data differ, or lengths that nobody asked to differ.
    """
    own, other = candidate.settings, baseline.settings
    for key in ("model", "data"):
        if getattr(own, key) != getattr(other, key):
            cure = "give --img-size" if key == "model" else "leave out --proxy"
            raise ConfigError("verify", key, "must be the same in both arms", cure=cure)
    recipes = other.recipe.model_dump(), own.recipe.model_dump()
    differing = {key: (recipes[0][key], recipes[1][key]) for key in recipes[0]}
    differing = {key: pair for key, pair in differing.items() if pair[0] != pair[1]}
    if "epochs" in differing and not hasattr(args, "candidate_epochs"):
        law = f"must be given: the candidate has {own.recipe.epochs:g}"
        law += f" of its own, the baseline {other.recipe.epochs:g}"
        raise ConfigError("--epochs", "", law, cure="or give --candidate-epochs")
    return differing


def _digest(arms: tuple[Configured, Configured]) -> str:
    bodies = [
        {
            "settings": arm.settings.model_dump(mode="json", exclude=NOT_COMPARED),
            "schedule": None if arm.schedule is None else arm.schedule.model_dump(mode="json"),
        }
        for arm in arms
    ]
    return hashlib.sha256(json.dumps(bodies, sort_keys=True).encode()).hexdigest()


def _search_seconds(args: argparse.Namespace, searches: bool, file: str | None) -> float:
    """Return what finding the schedule took beside training along it: estimates and supernets.

    Of a search on a share of the images nothing else is of use to the training either.

    Raises:
        ConfigError: If they are given for a search, whose runs hold their own.
    """
    if hasattr(args, "search_seconds"):
        if searches:
            raise ConfigError("--search-seconds", "", "must be given together with --schedule")
        return float(args.search_seconds)
    beside = None if file is None else Path(file).with_name("result.json")
    if file is None or beside is None or Path(file).name != "best.yaml" or not beside.exists():
        return 0.0
    result = parse(Result, read_object(beside), str(beside))
    if (beside.parent / "run.yaml").exists():
        search = load_run(beside.parent).manifest.settings.search
        if search is not None and search.trials is None and search.proxy < 1:
            return result.wall_seconds
    return result.search_seconds + result.supernet_seconds
