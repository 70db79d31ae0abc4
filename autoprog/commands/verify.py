"""``autoprog verify``: a search or a schedule against the baseline, paired by seed, with a verdict."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shlex
from contextlib import closing, redirect_stderr
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from autoprog.bounds import Epochs, Few, FewValues, Points, Processes, Px, Seconds, Times, range_of
from autoprog.cli import build_parser, flags_of
from autoprog.commands.configure import (
    Configured,
    configure_search,
    configure_train,
    is_file,
    space_name,
)
from autoprog.commands.flags import (
    NOT_FOR_RESUME,
    add_data_flags,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
)
from autoprog.commands.preflight import check_run
from autoprog.costs.model import CostModel, predict_seconds
from autoprog.errors import ConfigError, suggest
from autoprog.files import parse, read_text
from autoprog.presets import PRESETS
from autoprog.printable import say
from autoprog.runs import load_run, read_result
from autoprog.schedule import load_schedule
from autoprog.search.measured_costs import Costs
from autoprog.space import SearchSpace, find_space
from autoprog.steptable import StepTable
from autoprog.train.run import step_table, steps_per_epoch_of
from autoprog.verify.arms import (
    FLAGS_OF_BOTH,
    FLAGS_OF_SEARCH,
    PAIRS,
    ArmSettings,
    FlagValue,
    flags_of_words,
)
from autoprog.verify.controls import (
    Control,
    Cost,
    always,
    epochs_of_cost,
    macs_cost,
    ramps,
    random_schedules,
)
from autoprog.verify.verdict import OtherArm, Plan
from autoprog.verify.verification import load

if TYPE_CHECKING:
    from autoprog.verify.verdict import Plan, Verification

__all__ = [
    "NOT_COMPARED",
    "Others",
    "add_flags",
    "add_shared_flags",
    "check_arms",
    "configured_arm",
    "execute",
    "given_plan",
    "other_arms",
    "run",
    "same_verification",
    "shared_flags",
]


# --------------------------------------------------------------------------------------------------
# What a verification runs: the settings of all arms, checked before anything is written.


NOT_COMPARED = NOT_FOR_RESUME | {"seed", "schedule_from"}
"""Settings in which two runs may differ and be the same arm."""
_MIN_PROCESSORS = 8
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
        problem, hint = "must be given, or --schedule FILE, and not both", "what is to be verified?"
        raise ConfigError("--search", "", problem, hint=hint)
    file = name if name is not None and name not in PRESETS else None
    if file is not None:
        if not is_file(file):
            problem, near = (
                "must be an existing YAML file or a preset",
                suggest(file, PRESETS, False),
            )
            raise ConfigError("--schedule", "", problem, file, near or "see autoprog list presets")
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
        hint = "give --nproc N, and each run is started through it"
        raise ConfigError("verify", "", "must be started without torchrun", hint=hint)
    most = max(_MIN_PROCESSORS, os.cpu_count() or 1)  # else a folder might fill the machine
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
            raise ConfigError(flag, "", "must not follow --", hint="only a search has own flags")
        if flag in _REFUSED:
            raise ConfigError(flag, "", "must be left out", hint=_REFUSED[flag])
        if flag in both:
            raise ConfigError(flag, "", "must stand before --", hint="it belongs to both arms")
        if flag not in known:
            raise ConfigError(
                flag, "", "unknown flag of a search", hint=suggest(flag, known, False)
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
        problem = said.getvalue().strip().removeprefix(f"autoprog {settings.command}: ")
        raise ConfigError("flags", "", problem) from None
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

    Of a search on a fraction of the images nothing else is of use to the training either.

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
    result = read_result(beside)
    if (beside.parent / "run.yaml").exists():
        search = load_run(beside.parent).manifest.settings.search
        if search is not None and search.trials is None and search.proxy < 1:
            return result.wall_seconds
    return result.search_seconds + result.supernet_seconds


# --------------------------------------------------------------------------------------------------
# The arms of a verification beside its two: more lengths, a longer baseline, and controls.


_CONTROLS = ("reannealed", "ramp", "random")
_RANDOM_SCHEDULES = 3


@dataclass(frozen=True)
class Others:
    """Other arms, and what makes the controls among them cost as much as the candidate."""

    arms: tuple[OtherArm, ...]
    equal_by: str = ""


def other_arms(
    args: argparse.Namespace,
    arms: tuple[Configured, Configured],
    settings: tuple[ArmSettings, ArmSettings],
    file: str | None,
) -> Others:
    """Return the arms asked for beside `arms`, baseline and candidate, which `settings` say.

    Raises:
        ConfigError: If one cannot be made.
    """
    for flag in ("controls_space", "costs"):
        if hasattr(args, flag) and not hasattr(args, "controls"):
            name = "--" + flag.replace("_", "-")
            raise ConfigError(name, "", "must be given together with --controls")
    longer = _longer(args, arms[0], settings[0])
    found = [*_lengths(args, arms, settings[1]), *longer]
    if not hasattr(args, "controls"):
        return Others(tuple(found))
    controls, equal_by = _controls(args, arms, file)
    return Others((*found, *(_control_arm(one, settings[0]) for one in controls)), equal_by)


def _lengths(
    args: argparse.Namespace, arms: tuple[Configured, Configured], settings: ArmSettings
) -> list[OtherArm]:
    """Return the candidate at other lengths, the shortest first; of a search by time these are its fractions."""
    baseline, candidate = arms
    fractions = sorted(getattr(args, "lengths", ()))
    search = candidate.settings.search
    by_time = None if search is None else search.cost_fraction
    times = candidate.settings.recipe.epochs / baseline.settings.recipe.epochs
    own = times * (1.0 if by_time is None else by_time)
    for index, fraction in enumerate(fractions):
        if not 0 < fraction <= 100:
            raise ConfigError("--lengths", "", "must lie in (0, 100]", fraction)
        if fraction in fractions[:index]:
            raise ConfigError("--lengths", "", "must differ", fraction)
        if abs(fraction - own) < 1e-9:
            problem = f"must leave out {own:g}: the candidate has that length"
            raise ConfigError("--lengths", "", problem, fraction)
    if by_time is not None:
        return [_at_cost_fraction(fraction, times, candidate, settings) for fraction in fractions]
    return [
        OtherArm(
            name=f"candidate-{fraction:g}",
            role="length",
            settings=settings.having(epochs=f"{_at(candidate, fraction / own):g}"),
            epochs=_at(candidate, fraction / own),
            about=f"at {fraction:g} x the baseline's epochs",
        )
        for fraction in fractions
    ]


def _at_cost_fraction(
    fraction: float, times: float, candidate: Configured, settings: ArmSettings
) -> OtherArm:
    """Return a search at another fraction of the baseline's time.

    Its own fraction is of the time of the full model over the candidate's epochs, `times` the baseline's.

    Raises:
        ConfigError: If that is longer than the full model takes.
    """
    if fraction > times:
        problem = f"must be at most {times:g} for a search whose length is a fraction of the time"
        raise ConfigError("--lengths", "", problem, fraction, "or give --same-epochs after --")
    return OtherArm(
        name=f"candidate-{fraction:g}",
        role="length",
        settings=settings.having(cost_fraction=f"{fraction / times:g}"),
        epochs=fraction * candidate.settings.recipe.epochs / times,  # full ones, which take as long
        about=f"at {fraction:g} of the baseline's time",
    )


def _longer(
    args: argparse.Namespace, baseline: Configured, settings: ArmSettings
) -> list[OtherArm]:
    if not hasattr(args, "baseline_longer"):
        if hasattr(args, "longer_seeds"):
            problem = "must be given together with --baseline-longer"
            raise ConfigError("--longer-seeds", "", problem)
        return []
    times = args.baseline_longer
    if not 1 < times <= 100:
        raise ConfigError("--baseline-longer", "", "must lie in (1, 100]", times)
    epochs, seeds = _at(baseline, times), getattr(args, "longer_seeds", None)
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


def _at(arm: Configured, times: float) -> float:
    """Return so many times the epochs of an arm.

    Raises:
        ConfigError: If a stage of its schedule is shorter than a step then.
    """
    recipe = arm.settings.recipe
    epochs = float(f"{times * recipe.epochs:g}")  # as the word says
    if arm.schedule is not None:
        longer = recipe.model_copy(update={"epochs": epochs})
        step_table(longer, arm.schedule, len(arm.opened.train))
    return epochs


def _controls(
    args: argparse.Namespace, arms: tuple[Configured, Configured], file: str | None
) -> tuple[list[Control], str]:
    """Return the controls asked for, and what makes them cost as much as the candidate."""
    baseline, candidate = arms
    wanted = _wanted(args.controls)
    if candidate.schedule is None or baseline.schedule is None:
        hint = "verify the best.yaml of a search, whose cost is known before it runs"
        raise ConfigError("--controls", "", "must be given together with --schedule", hint=hint)
    settings, num_images = candidate.settings, len(candidate.opened.train)
    steps_per_epoch = steps_per_epoch_of(num_images, settings.recipe.batch_size)
    cost, equal_by = _cost(args, candidate, file)
    target = cost(step_table(settings.recipe, candidate.schedule, num_images))
    found, lr = [], candidate.schedule.lr
    if "reannealed" in wanted:
        epochs = epochs_of_cost(always(baseline.schedule), steps_per_epoch, cost, target)
        found.append(
            Control("reannealed", "the baseline, annealed sooner", baseline.schedule, epochs)
        )
    if "ramp" in wanted:
        found += ramps(_space(args, candidate), lr, steps_per_epoch, cost, target)
    if "random" in wanted:
        count, seed = wanted["random"], getattr(args, "seed", 0)
        space = _space(args, candidate)
        found += random_schedules(space, lr, steps_per_epoch, cost, target, count, seed)
    return found, equal_by


def _wanted(words: list[str]) -> dict[str, int]:
    """Return the names of controls with how many of each kind."""
    wanted: dict[str, int] = {}
    for word in words:
        name, colon, number = word.partition(":")
        try:
            count = range_of(Few)(number) if colon else _RANDOM_SCHEDULES
        except argparse.ArgumentTypeError:
            count = 0
        if name not in _CONTROLS or not count or (colon and name != "random"):
            problem = f"must be {', '.join(_CONTROLS)} or random:N"
            raise ConfigError("--controls", "", problem, word)
        if name in wanted:
            raise ConfigError("--controls", "", "must differ", word)
        wanted[name] = int(count)
    return wanted


def _cost(args: argparse.Namespace, candidate: Configured, file: str | None) -> tuple[Cost, str]:
    """Return what steps cost: by measured seconds where there are some, else by compute."""
    spec, batch_size = candidate.settings.model.spec(), candidate.settings.recipe.batch_size
    beside = None if file is None else Path(file).with_name("costs.json")
    is_found = beside is not None and Path(file or "").name == "best.yaml" and beside.exists()
    path = getattr(args, "costs", beside if is_found else None)
    if path is None:
        return macs_cost(spec), "training MACs"
    table = Costs.read(Path(path), batch_size).table
    if not table.step_costs:
        raise ConfigError(str(path), "", "must hold at least one cell")
    model = CostModel(spec, table)

    def seconds(steps: StepTable) -> float:
        return predict_seconds(steps, model, batch_size).total

    return seconds, f"seconds predicted from {path}"


def _space(args: argparse.Namespace, candidate: Configured) -> SearchSpace:
    settings = candidate.settings
    spec = settings.model.spec()
    given = getattr(args, "controls_space", None)
    file, where = find_space(given or space_name(args, settings.data, spec), spec.name)
    space = file.space(spec, where)
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


_DEFAULT_MARGIN, _DEFAULT_SEEDS = 1.0, 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is verified, how surely, and the flags of both arms."""
    parser.usage = "%(prog)s --search|--schedule FILE [FLAGS] [-- FLAGS OF THE SEARCH ALONE]"
    parser.epilog = (
        "For each seed a baseline (train --schedule constant) and a candidate are run, one after the\n"
        "other, the first of them in turn. The same command line goes on with what was stopped.\n"
        "Exit code 0: complete, whatever the verdict; 1: a run failed.\n\n"
        "examples:\n"
        "  autoprog verify --search --model deit-s --data DIR --epochs 100 --seeds 5\n"
        "  autoprog verify --schedule runs/…/best.yaml --data DIR --margin 0.3 --seeds 10\n"
        "  autoprog verify --search --model vit-xs --data DIR --side-by-side -- --rule pareto\n"
        "  autoprog verify --schedule runs/…/best.yaml --lengths 0.33 0.5 0.75 --baseline-longer 1.5\n"
        "  autoprog verify --schedule runs/…/best.yaml --controls reannealed ramp random:3\n"
        "  autoprog verify --resume runs/…-verify-deit-s --seeds 8\n"
    )
    _add_proof_flags(parser.add_argument_group("verification"))
    _add_other_flags(parser.add_argument_group("more arms", "each trained once for every seed"))
    add_shared_flags(parser)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def _add_proof_flags(group: argparse._ArgumentGroup) -> None:
    nothing = argparse.SUPPRESS
    group.add_argument(
        "--search", action="store_true", default=nothing, help="each candidate is a whole search"
    )
    file = "each candidate trains along a YAML file or a preset"
    group.add_argument("--schedule", default=nothing, metavar="FILE|PRESET", help=file)
    seeds = f"pairs of runs; seeds count up from --seed ({_DEFAULT_SEEDS})"
    group.add_argument("--seeds", type=range_of(Few), default=nothing, metavar="N", help=seeds)
    margin = f"points of top-1 (EMA) it may lose; fixed before the first run ({_DEFAULT_MARGIN})"
    group.add_argument(
        "--margin", type=range_of(Points), default=nothing, metavar="PT", help=margin
    )
    epochs = "length of the candidate, if not that of the baseline"
    group.add_argument(
        "--candidate-epochs", type=range_of(Epochs), default=nothing, metavar="N", help=epochs
    )
    seconds = "what finding --schedule took (read beside a best.yaml; else 0)"
    group.add_argument(
        "--search-seconds", type=range_of(Seconds), default=nothing, metavar="S", help=seconds
    )
    both = "two runs at once, one thread each"
    group.add_argument("--side-by-side", action="store_true", default=nothing, help=both)
    nproc = "start each run through torchrun, in N processes of this machine (1)"
    group.add_argument(
        "--nproc", type=range_of(Processes), default=nothing, metavar="N", help=nproc
    )
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    group.add_argument("--markdown", action="store_true", help="the result as a Markdown table")


def _add_other_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that ask for more arms."""
    nothing = argparse.SUPPRESS

    def add(flag: str, metavar: str, text: str, **options: Any) -> None:
        group.add_argument(flag, default=nothing, metavar=metavar, help=text, **options)

    lengths = (
        "the candidate at these lengths too, as fractions of the baseline's epochs: what is the"
    )
    lengths += " shortest that reaches its accuracy"
    add("--lengths", "FRACTION", lengths, nargs="+", action=FewValues, type=range_of(Times))
    longer = "the baseline at so many times its epochs too, such as 1.5: is it near convergence"
    add("--baseline-longer", "TIMES", longer, type=range_of(Times))
    seeds = "train it for so many of the first seeds (all of them)"
    add("--longer-seeds", "N", seeds, type=range_of(Few))
    names = "what costs as much as --schedule: reannealed, ramp, random or random:N (N = 3)"
    add("--controls", "NAME", names, nargs="+", action=FewValues)
    space = "search space of the controls (the model's own)"
    add("--controls-space", "NAME|FILE", space)
    costs = "costs.json by whose seconds controls cost as much (beside a best.yaml; else by MACs)"
    add("--costs", "FILE", costs)


def add_shared_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that go to both arms."""
    group = parser.add_argument_group("model")
    nothing = argparse.SUPPRESS
    models = "deit-s, vit-xs, a timm ViT …; a schedule file names its own"
    group.add_argument("--model", default=nothing, metavar="NAME", help=models)
    size = "full size, if not the model's"
    group.add_argument("--img-size", type=range_of(Px), default=nothing, metavar="PX", help=size)
    add_data_flags(parser)
    add_initial_flags(parser)
    add_recipe_flags(parser, {"sched": "of --search: wsd in a search by time"})
    add_run_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    execute(args)
    return 0


def execute(
    args: argparse.Namespace, default_seeds: int = _DEFAULT_SEEDS
) -> tuple[Path, Verification]:
    """Make the runs and print what they come to; return the folder and the verification."""
    if args.as_json and args.markdown:
        raise ConfigError("--markdown", "", "must not be given together with --json")
    folder, verification = _opened(args, default_seeds)
    from autoprog.console import Console
    from autoprog.supervise import ending_on_sigterm
    from autoprog.ui.verify import VerifyView, markdown_lines
    from autoprog.verify.verification import verify

    aside = args.as_json or args.markdown
    console = Console(highlight=False, stderr=aside, quiet=args.quiet and aside)
    view = VerifyView(console, str(folder), verification, live=not args.quiet)
    with ending_on_sigterm():
        with view, closing(verify(folder, verification)) as reports:
            for report in reports:
                view.show(report)
        if args.as_json:
            body = view.verification.model_dump(mode="json", by_alias=True)
            say(json.dumps(body, indent=1))
        elif args.markdown:
            say("\n".join(markdown_lines(view.verification)))
        else:
            view.conclude()
    return folder, view.verification


def _opened(args: argparse.Namespace, default_seeds: int) -> tuple[Path, Verification]:
    """Return what to verify and its folder: a new one, or the one that is there already.

    Raises:
        ConfigError: If anything given is unknown, breaks a law, or does not go with what is there.
    """
    from autoprog.verify.verdict import Verification
    from autoprog.verify.verification import load

    if args.resume not in (None, "auto"):
        _only_with_resume(args)
        folder = Path(args.resume)
        found = _gone_on_with(args, folder, load(folder), default_seeds)
        is_complete = len(found.pairs) == found.plan.seeds
        _check_asked_again(args, folder, found.plan, is_complete)
        if not is_complete:
            check_arms(folder, found.plan)
        return folder, found
    seeds = getattr(args, "seeds", default_seeds)
    plan, differing = given_plan(args, getattr(args, "margin", _DEFAULT_MARGIN), seeds)
    runs_dir, now = Path(args.runs_dir), datetime.now()
    same = same_verification(runs_dir, plan)
    if same is not None:
        return same, _gone_on_with(args, same, load(same), default_seeds)
    name = f"{now:%Y-%m-%d-%H%M%S}-verify-{plan.model.replace('/', '-')}"
    return runs_dir / name, Verification(
        verify_id=name,
        created=now.astimezone().isoformat(timespec="seconds"),
        plan=plan,
        looks=(plan.seeds,),
        differing=differing,
    )


def _gone_on_with(
    args: argparse.Namespace, folder: Path, found: Verification, default_seeds: int
) -> Verification:
    """Return a verification with the number of seeds asked for now.

    Raises:
        ConfigError: If the margin is another one, or seeds are to be taken away.
    """
    plan, given = found.plan, getattr(args, "margin", None)
    automatic = args.resume in (None, "auto")
    margin = _DEFAULT_MARGIN if given is None and automatic else given
    if margin is not None and margin != plan.margin:
        problem = f"must be {plan.margin:g}, as was fixed before the first run of {folder}"
        hint = "another margin needs new runs: give another --runs-dir or --seed"
        raise ConfigError("--margin", "", problem, margin, hint)
    fewest = max(plan.seeds, default_seeds) if automatic else plan.seeds
    seeds = getattr(args, "seeds", fewest)
    if seeds < plan.seeds:
        problem = f"must be at least {plan.seeds}, as was fixed before the first run of {folder}"
        raise ConfigError("--seeds", "", problem, seeds)
    if seeds == plan.seeds:
        return found
    more = parse(type(plan), {**plan.model_dump(), "seeds": seeds}, "flags")
    return found.model_copy(update={"plan": more, "looks": (*found.looks, seeds)})


def _only_with_resume(args: argparse.Namespace) -> None:
    from autoprog.commands.flags import flag_of
    from autoprog.verify.arms import ELSEWHERE

    free = {"command", "debug", "resume", "runs_dir", "quiet", "seeds", "margin", "as_json"}
    again = {flag.replace("-", "_") for flag in ELSEWHERE}
    for name in sorted(set(vars(args)) - free - again - {"markdown", "words"}):
        hint = "leave it out, or start a new verification"
        raise ConfigError(flag_of(name), "", "must not be given with --resume FOLDER", hint=hint)
    if args.words:
        problem = "must not be followed by flags with --resume FOLDER"
        raise ConfigError("verify", "", problem, " ".join(args.words))


def _check_asked_again(
    args: argparse.Namespace, folder: Path, plan: Plan, is_complete: bool
) -> None:
    """Check that what the runs of a folder write elsewhere, or read from the network, is asked for here.

    The folder may come from somebody else.

    Raises:
        ConfigError: If a flag is not repeated as the folder has it, or no run has it.
    """
    from autoprog.verify.arms import flag_words

    arms = [plan.settings_of(arm) for arm in plan.arms]
    given, where = shared_flags(args), str(folder / "verify.json")
    for flag, value in given.items():
        if all(arm.flags.get(flag) != value for arm in arms):
            problem = "must be as the verification has it, or be left out, with --resume FOLDER"
            raise ConfigError(f"--{flag}", "", problem, value)
    wanted = [(flag, value) for arm in arms for flag, value in arm.elsewhere.items()]
    missing = [(flag, value) for flag, value in dict.fromkeys(wanted) if given.get(flag) != value]
    if missing and not is_complete:
        words = shlex.join(word for flag, value in missing for word in flag_words({flag: value}))
        problem = f"its runs reach outside the folder, or into the network, by {words}"
        raise ConfigError(
            where, "", problem, hint="repeat that with --resume FOLDER if you want it"
        )
