"""The plan of a verification, made from a command line: the settings of all arms, checked as runs are."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from autoprog.bounds import Few, range_of
from autoprog.cli import build_parser, flags_of
from autoprog.commands.configure import (
    Configured,
    configure_search,
    configure_train,
    is_file,
    space_name,
)
from autoprog.commands.flags import NOT_FOR_RESUME
from autoprog.commands.preflight import check_run
from autoprog.costs.model import CostModel
from autoprog.errors import ConfigError, suggest
from autoprog.files import parse, read_text
from autoprog.presets import PRESETS
from autoprog.runs import load_run, read_result
from autoprog.schedule import load_schedule
from autoprog.search.measured_costs import Costs
from autoprog.space import SearchSpace, find_space
from autoprog.train.run_length import step_table, steps_per_epoch_of
from autoprog.verify.arms import FLAGS_OF_SEARCH, ArmSettings, FlagValue, flags_of_words
from autoprog.verify.equal_cost import (
    Control,
    Cost,
    epochs_of_cost,
    fixed_schedule,
    macs_cost,
    ramps,
    random_schedules,
    seconds_cost,
)
from autoprog.verify.plan import OtherArm, Plan

__all__ = ["NOT_COMPARED", "check_arms", "configured_arm", "given_plan"]

NOT_COMPARED = NOT_FOR_RESUME | {"seed", "schedule_from"}
"""Settings in which two runs may differ and be the same arm."""
_MIN_PROCESSORS = 8
_CONTROLS = ("reannealed", "ramp", "random")
_RANDOM_SCHEDULES = 3
_REFUSED = {
    "--costs": "measuring is part of what a search costs",
    "--storage": "each seed must be searched anew",
    "--join": "each seed must be searched anew",
    "--json": "it goes before the --",
    "--dry-run": "each run is a real one",
    "--allow-changed-data": "each run is a new one",
}


def given_plan(
    args: argparse.Namespace, shared: Mapping[str, FlagValue], margin: float, seeds: int
) -> tuple[Plan, dict[str, tuple[Any, Any]]]:
    """Return the plan of a command line, and the recipe values in which the two arms differ.

    Args:
        args: The command line of ``verify``.
        shared: Its flags for both arms.
        margin: In points of top-1 (EMA) that the candidate may be worse by.
        seeds: Number of pairs.

    Raises:
        ConfigError: If an arm would be refused, or the two do not train the same network.
    """
    searches, name = hasattr(args, "search"), getattr(args, "schedule", None)
    if searches == (name is not None):
        problem, hint = "must be given, or --schedule FILE, and not both", "what is to be verified?"
        raise ConfigError("--search", "", problem, hint=hint)
    file: Path | None = None
    if name is not None and name not in PRESETS:
        if not is_file(name):
            problem, near = (
                "must be an existing YAML file or a preset",
                suggest(name, PRESETS, False),
            )
            raise ConfigError("--schedule", "", problem, name, near or "see autoprog list presets")
        file, full = Path(name), load_schedule(name).full  # whose model both arms train
        shared = {"model": full.model, "img-size": str(full.img_size), **shared}
    nproc = getattr(args, "nproc", 1)
    _check_processes(nproc, "--nproc")
    if nproc > 1 and hasattr(args, "side_by_side"):
        raise ConfigError("--side-by-side", "", "must be left out with --nproc")
    own = {**shared, **_candidate_flags(args, searches)}
    constant = {"command": "train", "preset": "constant", "flags": dict(shared)}
    baseline = parse(ArmSettings, constant, "flags")
    along: dict[str, Any] = {"preset": name} if file is None else {"follows_file": True}
    values = {"command": "search"} if searches else {"command": "train", **along}
    candidate = parse(ArmSettings, {**values, "flags": own}, "flags")
    schedule = "" if file is None else str(file)
    arms = configured_arm(baseline, ""), configured_arm(candidate, schedule)
    others = [
        *_lengths(args, arms, candidate),
        *_longer_baselines(args, arms[0], baseline),
    ]
    controls, equal_by = _controls(args, arms, file)
    others += [_control_arm(control, baseline) for control in controls]
    differing = _differing(args, *arms)
    lengths = [configured_arm(one.settings, schedule) for one in others if not one.schedule]
    for arm in (*arms, *lengths):
        check_run(arm, is_new=True)
    plan = {
        "model": arms[0].settings.model.model,
        "baseline": baseline,
        "candidate": candidate,
        "schedule": None if file is None else read_text(file),
        "settings": _digest(arms),
        "margin": margin,
        "first_seed": getattr(args, "seed", 0),
        "seeds": seeds,
        "side_by_side": hasattr(args, "side_by_side"),
        "search_seconds": _search_seconds(args, searches, file),
        "nproc": nproc,
        "others": tuple(others),
        "equal_by": equal_by,
    }
    return parse(Plan, plan, "flags"), differing


def check_arms(folder: Path, plan: Plan) -> None:
    """Check the arms that a folder names as those of a command line are, before anything is started.

    Raises:
        ConfigError: If one could not run.
    """
    _check_processes(plan.nproc, str(folder / "verify.json"), "plan.nproc")
    # Nothing is written into the folder until all arms are checked.
    with TemporaryDirectory() as place:
        for name, text in plan.files().items():
            Path(place, name).write_text(text, encoding="utf-8")
        for arm in plan.arms:
            try:
                file = Path(place, plan.file_of(arm))
                check_run(configured_arm(plan.settings_of(arm), str(file)), is_new=True)
            except ConfigError as error:
                problem = str(error).replace(f"{place}/", "")
                raise ConfigError(str(folder / "verify.json"), arm, problem) from None


def configured_arm(settings: ArmSettings, schedule: str) -> Configured:
    """Return what an arm would run; `schedule` is the file that it follows, if it does.

    Raises:
        ConfigError: If one of its flags is unknown or has a value that it cannot have.
    """
    parser, printed = build_parser(settings.command), io.StringIO()
    try:
        with redirect_stderr(printed):  # argparse prints what is wrong and leaves the program
            args = parser.parse_args(settings.words(Path(schedule)))
    except SystemExit:
        problem = printed.getvalue().strip().removeprefix(f"autoprog {settings.command}: ")
        raise ConfigError("flags", "", problem) from None
    return configure_search(args) if settings.command == "search" else configure_train(args)


def _check_processes(nproc: int, where: str, key: str = "") -> None:
    if "WORLD_SIZE" in os.environ:
        hint = "give --nproc N, and each run is started through it"
        raise ConfigError("verify", "", "cannot run under torchrun", hint=hint)
    # Else a folder might fill the machine.
    max_processes = max(_MIN_PROCESSORS, os.cpu_count() or 1)
    if nproc > max_processes:
        raise ConfigError(where, key, f"must be at most {max_processes} on this machine", nproc)


def _candidate_flags(args: argparse.Namespace, searches: bool) -> dict[str, FlagValue]:
    """Return the flags of the candidate alone: those that stand after ``--``, and its epochs.

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
        if not flag.startswith("-") or flag[1:2].isdigit():  # a value, such as -0.5
            continue
        if not searches:
            raise ConfigError(flag, "", "must not follow --", hint="only a search has own flags")
        if flag in _REFUSED:
            raise ConfigError(flag, "", "must be left out", hint=_REFUSED[flag])
        if flag in both:
            raise ConfigError(flag, "", "must stand before --", hint="it belongs to both arms")
        if flag not in known:
            near = suggest(flag, known, False)
            raise ConfigError(flag, "", "unknown flag of a search", hint=near)
    longer = getattr(args, "candidate_epochs", None)
    own = flags_of_words(given[1:], FLAGS_OF_SEARCH)
    return own if longer is None else {"epochs": str(longer), **own}


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
            hint = "give --img-size" if key == "model" else "leave out --proxy"
            raise ConfigError("verify", key, "must be the same in both arms", hint=hint)
    recipes = other.recipe.model_dump(), own.recipe.model_dump()
    differing = {key: (recipes[0][key], recipes[1][key]) for key in recipes[0]}
    differing = {key: pair for key, pair in differing.items() if pair[0] != pair[1]}
    if "epochs" in differing and not hasattr(args, "candidate_epochs"):
        problem = f"must be given: the candidate has {own.recipe.epochs:g}"
        problem += f" of its own, the baseline {other.recipe.epochs:g}"
        raise ConfigError("--epochs", "", problem, hint="or give --candidate-epochs")
    return differing


def _digest(arms: tuple[Configured, Configured]) -> str:
    """Return a digest of everything that decides what the two arms compute."""
    bodies = [
        {
            "settings": arm.settings.model_dump(mode="json", exclude=NOT_COMPARED),
            "schedule": None if arm.schedule is None else arm.schedule.model_dump(mode="json"),
        }
        for arm in arms
    ]
    return hashlib.sha256(json.dumps(bodies, sort_keys=True).encode()).hexdigest()


def _search_seconds(args: argparse.Namespace, searches: bool, file: Path | None) -> float:
    """Return what finding the schedule took beside training along it: estimates and supernets.

    Raises:
        ConfigError: If they are given for a search, whose runs hold their own.
    """
    if hasattr(args, "search_seconds"):
        if searches:
            raise ConfigError("--search-seconds", "", "must be given together with --schedule")
        return float(args.search_seconds)
    if file is None or file.name != "best.yaml" or not file.with_name("result.json").exists():
        return 0.0
    result = read_result(file.with_name("result.json"))
    if file.with_name("run.yaml").exists():
        search = load_run(file.parent).manifest.settings.search
        if search is not None and search.trials is None and search.proxy < 1:
            # Of a search on a fraction of the images nothing is of use to the training but its schedule.
            return result.wall_seconds
    return result.search_seconds + result.supernet_seconds


# The arms beside the two: the candidate at other lengths, a longer baseline, and controls.


def _lengths(
    args: argparse.Namespace, arms: tuple[Configured, Configured], settings: ArmSettings
) -> list[OtherArm]:
    """Return the candidate at other lengths, the shortest first.

    A length is a fraction of the baseline's epochs, and for a search by its cost a fraction of that.
    """
    baseline, candidate = arms
    fractions = sorted(getattr(args, "lengths", ()))
    search, epochs = candidate.settings.search, candidate.settings.recipe.epochs
    cost_fraction = None if search is None else search.cost_fraction
    times = epochs / baseline.settings.recipe.epochs
    own = times * (1.0 if cost_fraction is None else cost_fraction)
    for index, fraction in enumerate(fractions):
        if not 0 < fraction <= 100:
            raise ConfigError("--lengths", "", "must lie in (0, 100]", fraction)
        if fraction in fractions[:index]:
            raise ConfigError("--lengths", "", "must differ", fraction)
        if abs(fraction - own) < 1e-9:
            problem = f"must leave out {own:g}: the candidate has that length"
            raise ConfigError("--lengths", "", problem, fraction)
    others = []
    for fraction in fractions:
        if cost_fraction is None:
            length = _times_epochs(candidate, fraction / own)
            changed = settings.having(epochs=f"{length:g}")
            about = f"at {fraction:g} x the baseline's epochs"
        else:
            if fraction > times:
                problem = (
                    f"must be at most {times:g} for a search whose length is a fraction of the time"
                )
                hint = "or give --same-epochs after --"
                raise ConfigError("--lengths", "", problem, fraction, hint)
            length = fraction * epochs / times  # epochs of the full model, which take as long
            # The search's own fraction is of the full model over the candidate's epochs.
            changed = settings.having(cost_fraction=f"{fraction / times:g}")
            about = f"at {fraction:g} of the baseline's time"
        name = f"candidate-{fraction:g}"
        others.append(
            OtherArm(name=name, role="length", settings=changed, epochs=length, about=about)
        )
    return others


def _longer_baselines(
    args: argparse.Namespace, baseline: Configured, settings: ArmSettings
) -> list[OtherArm]:
    """Return the longer baseline that was asked for, or none."""
    if not hasattr(args, "baseline_longer"):
        if hasattr(args, "longer_seeds"):
            problem = "must be given together with --baseline-longer"
            raise ConfigError("--longer-seeds", "", problem)
        return []
    times = args.baseline_longer
    if not 1 < times <= 100:
        raise ConfigError("--baseline-longer", "", "must lie in (1, 100]", times)
    epochs, seeds = _times_epochs(baseline, times), getattr(args, "longer_seeds", None)
    if seeds is not None and seeds < 1:
        raise ConfigError("--longer-seeds", "", "must be at least 1", seeds)
    return [
        OtherArm(
            name=f"baseline-{times:g}",
            role="longer",
            settings=settings.having(epochs=f"{epochs:g}"),
            epochs=epochs,
            about=f"at {times:g} x its epochs",
            seeds=seeds,
        )
    ]


def _times_epochs(arm: Configured, times: float) -> float:
    """Return so many times the epochs of an arm.

    Raises:
        ConfigError: If a stage of its schedule is shorter than a step then.
    """
    recipe = arm.settings.recipe
    epochs = float(f"{times * recipe.epochs:g}")  # what the word on the run's command line will be
    if arm.schedule is not None:
        longer = recipe.model_copy(update={"epochs": epochs})
        step_table(longer, arm.schedule, len(arm.opened.train))
    return epochs


def _controls(
    args: argparse.Namespace, arms: tuple[Configured, Configured], file: Path | None
) -> tuple[list[Control], str]:
    """Return the controls asked for, and what makes them cost as much as the candidate."""
    if not hasattr(args, "controls"):
        for flag, name in (("controls_space", "--controls-space"), ("costs", "--costs")):
            if hasattr(args, flag):
                raise ConfigError(name, "", "must be given together with --controls")
        return [], ""
    counts: dict[str, int] = {}  # how many of each kind
    for word in args.controls:
        name, colon, number = word.partition(":")
        try:
            count = int(range_of(Few)(number)) if colon else _RANDOM_SCHEDULES
        except argparse.ArgumentTypeError:
            count = 0
        if name not in _CONTROLS or not count or (colon and name != "random"):
            problem = f"must be {', '.join(_CONTROLS)} or random:N"
            raise ConfigError("--controls", "", problem, word)
        if name in counts:
            raise ConfigError("--controls", "", "must differ", word)
        counts[name] = count
    baseline, candidate = arms
    if candidate.schedule is None or baseline.schedule is None:
        hint = "verify the best.yaml of a search, whose cost is known before it runs"
        raise ConfigError("--controls", "", "must be given together with --schedule", hint=hint)
    settings, num_images = candidate.settings, len(candidate.opened.train)
    steps_per_epoch = steps_per_epoch_of(num_images, settings.recipe.batch_size)
    cost, equal_by = _cost(args, candidate, file)
    target = cost(step_table(settings.recipe, candidate.schedule, num_images))
    controls, lr = [], candidate.schedule.lr
    if "reannealed" in counts:
        epochs = epochs_of_cost(fixed_schedule(baseline.schedule), steps_per_epoch, cost, target)
        about = "the baseline, annealed sooner"
        controls.append(Control("reannealed", about, baseline.schedule, epochs))
    if "ramp" in counts:
        controls += ramps(_space(args, candidate), lr, steps_per_epoch, cost, target)
    if "random" in counts:
        space, seed = _space(args, candidate), getattr(args, "seed", 0)
        controls += random_schedules(
            space, lr, steps_per_epoch, cost, target, counts["random"], seed
        )
    return controls, equal_by


def _cost(args: argparse.Namespace, candidate: Configured, file: Path | None) -> tuple[Cost, str]:
    """Return what steps cost: by measured seconds where there are some, else by compute."""
    spec, batch_size = candidate.settings.model.spec(), candidate.settings.recipe.batch_size
    beside = None if file is None or file.name != "best.yaml" else file.with_name("costs.json")
    path = getattr(args, "costs", beside if beside is not None and beside.exists() else None)
    if path is None:
        return macs_cost(spec), "training MACs"
    table = Costs.read(Path(path), batch_size).table
    if not table.step_costs:
        raise ConfigError(str(path), "", "must hold the cost of at least one step")
    cost = seconds_cost(CostModel(spec, table), batch_size)
    return cost, f"seconds predicted from {path}"


def _space(args: argparse.Namespace, candidate: Configured) -> SearchSpace:
    """Return the search space that controls are made in."""
    settings = candidate.settings
    spec = settings.model.spec()
    given = getattr(args, "controls_space", None)
    file, where = find_space(given or space_name(args, settings.data, spec), spec.name)
    space = file.space(spec, where)
    # Weights of a full network cannot begin at a smaller depth.
    return space.at_full_depth() if settings.has_initial_weights else space


def _control_arm(control: Control, baseline: ArmSettings) -> OtherArm:
    """Return the arm of a control: a run as the baseline, along another schedule for other epochs."""
    is_constant = control.name == "reannealed"
    along = baseline if is_constant else baseline.following_file()
    return OtherArm(
        name=control.name,
        role="control",
        settings=along.having(epochs=repr(control.epochs)),
        schedule=None if is_constant else control.schedule.to_yaml(),
        epochs=control.epochs,
        about=control.about,
    )
