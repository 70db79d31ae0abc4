"""``autoprog bench tier``: the standing benchmark, verifications that are always the same."""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoprog.bench.costs import measure_costs
from autoprog.cli import build_parser
from autoprog.commands.configure import Configured
from autoprog.commands.flags import NOT_FOR_RESUME, add_data_flags, flag_of
from autoprog.commands.verify_plan import configured_arm, given_plan
from autoprog.costs.model import CostModel
from autoprog.costs.table import full_key
from autoprog.errors import ConfigError
from autoprog.openfiles import read_bytes, write_atomically
from autoprog.paired_timing import TimingLimits
from autoprog.printable import say
from autoprog.train.length import step_table
from autoprog.ui.format import duration, number
from autoprog.ui.tables import Column, plain_table
from autoprog.ui.verify import markdown_lines
from autoprog.verify.arms import FlagValue, flag_words
from autoprog.verify.equal_cost import Cost, seconds_cost
from autoprog.verify.plan import Plan
from autoprog.verify.verification import (
    Verification,
    check_publish_folder,
    publish_verification,
)

__all__ = [
    "TIERS",
    "Tier",
    "arm_seconds",
    "between_markers",
    "check_outputs",
    "print_forecast",
    "tier_words",
    "total_seconds",
    "write_outputs",
]

_OWN = {"command", "debug", "subject", "tier", "dry_run", "publish", "write", "as_json", "markdown"}
_CARRIED_OUT = NOT_FOR_RESUME | {"cache", "runs_dir", "quiet", "seeds"}
_MEASURE_SECONDS = 5.0  # of steps of the full model, before anything is run
_PRIVATE = ("--data=", "--data-dir=", "--cache=")
"""Flags that say where things lie on this machine, which a published command leaves out."""


@dataclass(frozen=True)
class Tier:
    """A verification that is always the same.

    Attributes:
        about: What it is, in a line.
        seeds: Number of pairs, if not more are asked for.
        words: What stands after ``autoprog verify``, without seeds, data and how it is carried out.
        search_words: What stands after ``--``, for the search alone.
        images: What ``--data`` must hold; empty for the embedded digits.
    """

    about: str
    seeds: int
    words: tuple[str, ...]
    search_words: tuple[str, ...] = ()
    images: str = ""


TIERS: Mapping[str, Tier] = {
    "smoke": Tier(
        "the embedded digits, in a minute: does everything work",
        2,
        (
            *("--schedule=linear", "--model=vit-mu", "--epochs=2", "--margin=1.0"),
            *("--controls", "reannealed", "--side-by-side"),
        ),
    ),
    "cpu": Tier(
        "CIFAR-10 on a CPU, a baseline of at most 15 minutes",
        5,
        (
            *("--search", "--model=vit-xs", "--data-fraction=0.025", "--epochs=120"),
            *("--batch-size=64", "--lr=2.5e-4", "--sched=wsd", "--margin=1.0"),
            *("--lengths", "0.45", "--baseline-longer=1.5", "--longer-seeds=1"),
            *("--side-by-side", "--cache"),
        ),
        search_words=("--cost-fraction=0.29",),
        images="CIFAR-10",
    ),
    "gpu": Tier(
        "ImageNet on a GPU, at the margin of a paper",
        10,
        (
            *("--search", "--model=deit-s", "--epochs=100", "--margin=0.3"),
            *("--lengths", "0.33", "--baseline-longer=1.5", "--longer-seeds=1"),
        ),
        images="ImageNet",
    ),
}


def tier_words(args: argparse.Namespace, shared: Mapping[str, FlagValue]) -> list[str]:
    """Return the command line of a tier's verification; `shared` are the flags given for both its arms.

    Raises:
        ConfigError: If a flag is given that the tier fixes, or images are missing.
    """
    tier = TIERS[args.tier]
    data = argparse.ArgumentParser(add_help=False)
    add_data_flags(data, trains=False)
    free = _OWN | _CARRIED_OUT
    free |= {action.dest for action in data._actions} if tier.images else set()
    # What stands there by default was not given.
    defaults = vars(build_parser("bench").parse_args(["bench", "tier", args.tier]))
    for name, value in vars(args).items():
        if name not in free and defaults.get(name) != value:
            problem = f"must be left out: tier {args.tier} fixes it"
            raise ConfigError(flag_of(name), "", problem)
    if tier.images and not {"data", "dataset"} & set(vars(args)):
        problem = f"must be given, with {tier.images}"
        raise ConfigError("--data", "", problem, hint="or give --dataset")
    if args.dry_run and (args.publish is not None or args.write is not None):
        raise ConfigError("--dry-run", "", "must be left out with --publish and --write")
    # More seeds than the tier's narrow its bounds and change none of its runs.
    seeds: int = getattr(args, "seeds", tier.seeds)
    if seeds < tier.seeds:
        problem = f"must be at least {tier.seeds} with tier {args.tier}"
        raise ConfigError("--seeds", "", problem, seeds)
    words = ["verify", *tier.words, f"--seeds={seeds}"]
    words += [*flag_words(shared), "--runs-dir", args.runs_dir]
    form = [*(["--json"] if args.as_json else []), *(["--markdown"] if args.markdown else [])]
    words += [*(["-q"] if args.quiet else []), *form]
    return [*words, "--", *tier.search_words] if tier.search_words else words


@dataclass(frozen=True)
class _Forecast:
    """What a verification will run, and for how long."""

    plan: Plan
    images: int
    epochs: dict[str, float]
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Return the seconds of all of it."""
        return total_seconds(self.plan, self.seconds)

    @property
    def seeds(self) -> dict[str, int]:
        """Return for how many seeds each arm is trained."""
        fewer = {arm.name: arm.seeds for arm in self.plan.others if arm.seeds is not None}
        return {arm: fewer.get(arm, self.plan.seeds) for arm in self.plan.arms}


def _forecast(parsed: argparse.Namespace, shared: Mapping[str, FlagValue]) -> _Forecast:
    """Return the plan, priced by a few steps of the full model here."""
    plan, _ = given_plan(parsed, shared, parsed.margin, parsed.seeds)
    baseline = configured_arm(plan.baseline, "")
    # A forecast of seconds must not fill a cache of gigabytes.
    settings = baseline.settings.model_copy(update={"cache": None})
    batch_size = settings.recipe.batch_size
    full = full_key(settings.model.spec(), batch_size)
    grid = measure_costs(settings, baseline.opened, [full], TimingLimits(_MEASURE_SECONDS))
    cost = seconds_cost(CostModel(settings.model.spec(), grid.table), batch_size)
    whole = _seconds(baseline, cost)
    candidate = configured_arm(plan.candidate, "")
    search, epochs = candidate.settings.search, settings.recipe.epochs
    fraction = (search.cost_fraction if search else None) or 1.0
    # What a search will find is not known; what its steps may cost is.
    own_seconds = fraction * whole if search else _seconds(candidate, cost)
    own = {"baseline": epochs, "candidate": fraction * epochs}
    seconds = arm_seconds(plan, whole, own_seconds, own)
    own |= {arm.name: arm.epochs for arm in plan.others}
    return _Forecast(plan, len(baseline.opened.train), own, seconds)


def _seconds(arm: Configured, cost: Cost) -> float:
    assert arm.schedule is not None, "a training run has a schedule"
    return cost(step_table(arm.settings.recipe, arm.schedule, len(arm.opened.train)))


def arm_seconds(
    plan: Plan, baseline: float, candidate: float, epochs: Mapping[str, float]
) -> dict[str, float]:
    """Return the predicted seconds of a run of each arm.

    Args:
        plan: What is verified.
        baseline: Seconds of a baseline.
        candidate: Of the candidate at its own length.
        epochs: Of baseline and candidate; of a search by time full epochs that take as long.
    """
    seconds = {"baseline": baseline, "candidate": candidate}
    for arm in plan.others:
        of = "baseline" if arm.role == "longer" else "candidate"
        # A control costs as much as the candidate, whatever its epochs.
        times = 1.0 if arm.role == "control" else arm.epochs / epochs[of]
        seconds[arm.name] = seconds[of] * times
    return seconds


def total_seconds(plan: Plan, seconds: Mapping[str, float]) -> float:
    """Return the predicted seconds of all seeds, each until the last of its runs ends."""
    total = 0.0
    for seed_number in range(plan.seeds):
        # The next run starts as soon as fewer than so many go on.
        ends = [0.0] * plan.max_at_once
        for arm in plan.order(seed_number):
            heapq.heapreplace(ends, ends[0] + seconds[arm])
        total += max(ends)
    return total


def print_forecast(
    args: argparse.Namespace,
    words: list[str],
    parsed: argparse.Namespace,
    shared: Mapping[str, FlagValue],
) -> None:
    """Print what a tier would run, and for how long.

    Args:
        args: The command line of the tier.
        words: That of its verification.
        parsed: The same, parsed.
        shared: Its flags for both arms.
    """
    found = _forecast(parsed, shared)
    plan = found.plan
    if args.as_json:
        body = {
            "schema": 1,
            "tier": args.tier,
            "command": ["autoprog", *words],
            "images": found.images,
            "seeds": plan.seeds,
            "margin": plan.margin,
            "arm_seeds": found.seeds,
            "epochs": found.epochs,
            "seconds": found.seconds,
            "total_seconds": found.total,
        }
        say(json.dumps(body, indent=1))
        return
    say(f"tier {args.tier}: {TIERS[args.tier].about}")
    say(f"autoprog {' '.join(words)}")
    columns = [
        Column("arm", plan.arms, "left"),
        Column("seeds", tuple(str(found.seeds[arm]) for arm in plan.arms)),
        Column("epochs", tuple(number(found.epochs[arm]) for arm in plan.arms)),
        Column("predicted", tuple(duration(found.seconds[arm]) for arm in plan.arms)),
    ]
    say("\n".join(plain_table(columns)))
    how = "two arms side by side" if plan.side_by_side else "one run after the other"
    most = ", searches priced at their fraction of the baseline" if plan.searches else ""
    caches = "cache" in plan.baseline.flags
    most += ", loading without the cache" if caches else ""
    say(
        f"{plan.seeds} seeds of {len(plan.arms)} arms on {found.images} images, margin"
        f" {plan.margin:g}, {how}: about {duration(found.total)} of training here{most}"
    )


def check_outputs(args: argparse.Namespace) -> None:
    """Check, before runs that take hours, that what they come to can be written.

    Raises:
        ConfigError: If it cannot.
    """
    if args.publish is not None:
        check_publish_folder(args.publish)
    if args.write is not None:
        between_markers(_text(args.write), args.tier, [], str(args.write))


def write_outputs(
    args: argparse.Namespace,
    shared: Mapping[str, FlagValue],
    folder: Path,
    verification: Verification,
) -> None:
    """Publish a complete verification, and write its tables, where the command line says so."""
    if args.publish is not None:
        publish_verification(folder, args.publish)
    if args.write is not None:
        given = [word for word in flag_words(shared) if not word.startswith(_PRIVATE)]
        where = ["--data DIR"] if hasattr(args, "data") else []
        seeds = [f"--seeds={args.seeds}"] if hasattr(args, "seeds") else []
        command = " ".join([f"autoprog bench tier {args.tier}", *where, *seeds, *given])
        lines = [f"`{command}`", "", *markdown_lines(verification)]
        text = between_markers(_text(args.write), args.tier, lines, str(args.write))
        write_atomically(args.write, text)


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            "--write", str(path), f"must be a file that can be read: {reason}"
        ) from None


def between_markers(text: str, name: str, lines: Sequence[str], where: str) -> str:
    """Return a Markdown text with `lines` between the two markers of a tier.

    Raises:
        ConfigError: If a marker is missing or stands twice.
    """
    marks = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    for mark in marks:
        if text.count(mark) != 1:
            raise ConfigError(where, "", f"must hold one line {mark}, but holds {text.count(mark)}")
    # Markers rather than a place by line: the text around them is edited by hand.
    before, _, rest = text.partition(marks[0])
    if marks[1] not in rest:
        raise ConfigError(where, "", f"must hold {marks[1]} after {marks[0]}")
    after = rest.partition(marks[1])[2]
    return "\n".join([before + marks[0], *lines, marks[1]]) + after
