"""What a verification runs: the settings of all arms, checked before anything is written."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoprog.cli import build_parser, flags_of
from autoprog.commands.configure import Configured, configure_search, configure_train
from autoprog.commands.flags import NOT_FOR_RESUME
from autoprog.commands.preflight import check_run
from autoprog.commands.recipe_layers import is_file
from autoprog.commands.verify import add_shared_flags
from autoprog.commands.verify_others import other_arms
from autoprog.errors import ConfigError, suggest
from autoprog.files import parse, read_text
from autoprog.jsonlines import read_object
from autoprog.presets import PRESETS
from autoprog.proof.arms import (
    FLAGS_OF_BOTH,
    FLAGS_OF_SEARCH,
    PAIRS,
    ArmSettings,
    FlagValue,
    flags_of_words,
)
from autoprog.proof.pairs import Plan
from autoprog.proof.verify import load
from autoprog.runs import Result, load_run
from autoprog.schedule import load_schedule

__all__ = [
    "NOT_COMPARED",
    "check_arms",
    "configured_arm",
    "given_plan",
    "same_verification",
    "shared_flags",
]

NOT_COMPARED = NOT_FOR_RESUME | {"seed", "schedule_from"}
"""Settings in which two runs may differ and be the same arm."""
_LEAST_PROCESSORS = 8
_REFUSED = {
    "--costs": "measuring is part of what a search costs",
    "--storage": "each seed must be searched anew",
    "--join": "each seed must be searched anew",
    "--replay": "a replay trains nothing",
    "--json": "it goes before the --",
    "--dry-run": "each run is a real one",
    "--allow-changed-data": "each run is a new one",
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
    file = name if name is not None and name not in PRESETS else None
    if file is not None:
        if not is_file(file):
            law, near = "must be an existing YAML file or a preset", suggest(file, PRESETS, False)
            raise ConfigError("--schedule", "", law, file, near or "see autoprog schedules")
        full = load_schedule(file).full
        args.model = getattr(args, "model", full.model)
        args.img_size = getattr(args, "img_size", full.img_size)
    nproc = getattr(args, "nproc", 1)
    _check_processes(nproc, "--nproc")
    if nproc > 1 and hasattr(args, "side_by_side"):
        raise ConfigError("--side-by-side", "", "must be left out with --nproc")
    shared = shared_flags(args)
    own = {**shared, **_candidate_flags(args, searches)}
    values: dict[str, Any] = {"command": "train", "preset": "constant", "flags": shared}
    baseline = parse(ArmSettings, values, "flags")
    if searches:
        candidate = parse(ArmSettings, {"command": "search", "flags": own}, "flags")
    else:
        along = {"preset": name} if file is None else {"follows_file": True}
        candidate = parse(ArmSettings, {"command": "train", **along, "flags": own}, "flags")
    arms = configured_arm(baseline, ""), configured_arm(candidate, file or "")
    others = other_arms(args, arms, (baseline, candidate), file)
    differing = _differing(args, *arms)
    lengths = [configured_arm(one.settings, file or "") for one in others.arms if not one.schedule]
    for arm in (*arms, *lengths):
        check_run(arm, is_new=True)
    values = {
        "model": arms[0].settings.model.model,
        "baseline": baseline,
        "candidate": candidate,
        "schedule": None if file is None else read_text(Path(file)),
        "settings": _digest(arms),
        "margin": margin,
        "first_seed": getattr(args, "seed", 0),
        "seeds": seeds,
        "side_by_side": hasattr(args, "side_by_side"),
        "search_seconds": _search_seconds(args, searches, file),
        "nproc": nproc,
        "others": others.arms,
        "equal_by": others.equal_by,
    }
    return parse(Plan, values, "flags"), differing


def check_arms(folder: Path, plan: Plan) -> None:
    """Check the arms that a folder says as those of a command line are, before anything is started.

    Raises:
        ConfigError: If one could not run.
    """
    _check_processes(plan.nproc, str(folder / "verify.json"), "plan.nproc")
    with TemporaryDirectory() as place:
        for name, text in plan.files().items():
            Path(place, name).write_text(text, encoding="utf-8")
        for arm in plan.arms:
            try:
                file = Path(place, plan.file_of(arm))
                check_run(configured_arm(plan.settings_of(arm), str(file)), is_new=True)
            except ConfigError as error:
                said = str(error).replace(f"{place}/", "")
                raise ConfigError(str(folder / "verify.json"), arm, said) from None


def _check_processes(nproc: int, where: str, key: str = "") -> None:
    if "WORLD_SIZE" in os.environ:
        cure = "give --nproc N, and each run is started through it"
        raise ConfigError("verify", "", "must be started without torchrun", cure=cure)
    most = max(_LEAST_PROCESSORS, os.cpu_count() or 1)  # else a folder might fill the machine
    if nproc > most:
        raise ConfigError(where, key, f"must be at most {most} on this machine", nproc)


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


def shared_flags(args: argparse.Namespace) -> dict[str, FlagValue]:
    """Return the flags given for both arms, as texts."""
    if hasattr(args, "side_by_side"):
        if getattr(args, "threads", 1) != 1:
            raise ConfigError("--threads", "", "must be 1 with --side-by-side", args.threads)
        args.threads = 1
    parser = argparse.ArgumentParser()
    add_shared_flags(parser)
    flags: dict[str, FlagValue] = {}
    for action in parser._actions:
        flag = action.option_strings[-1].removeprefix("--")
        if flag not in FLAGS_OF_BOTH or not hasattr(args, action.dest):
            continue
        value = getattr(args, action.dest)
        if action.nargs == 0:
            flags[flag] = True
        else:
            flags[flag] = (str(value[0]), str(value[1])) if flag in PAIRS else str(value)
    return flags


def _candidate_flags(args: argparse.Namespace, searches: bool) -> dict[str, FlagValue]:
    """Return the flags of the candidate alone.

    Raises:
        ConfigError: If one belongs to both arms, or to no search.
    """
    given = tuple(args.words)
    if given and given[0] != "--":
        raise ConfigError("verify", "", "must be given flags", given[0], "see --help")
    known = {"-j", *(f"--{flag}" for flag in FLAGS_OF_SEARCH)}
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
    own = flags_of_words(given[1:], FLAGS_OF_SEARCH)
    return own if longer is None else {"epochs": str(longer), **own}


def configured_arm(settings: ArmSettings, schedule: str) -> Configured:
    """Return what an arm would run; `schedule` is the file that it follows, if it does.

    Raises:
        ConfigError: If anything that it says is unknown or breaks a law.
    """
    parser, said = build_parser(settings.command), io.StringIO()
    try:
        with redirect_stderr(said):
            args = parser.parse_args(settings.words(Path(schedule)))
    except SystemExit:
        law = said.getvalue().strip().removeprefix(f"autoprog {settings.command}: ")
        raise ConfigError("flags", "", law) from None
    return configure_search(args) if settings.command == "search" else configure_train(args)


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
