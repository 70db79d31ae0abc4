"""``autoprog bench --tier``: the standing benchmark, as one of the verifications that are always the same."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from autoprog.bench.costs import measure_costs
from autoprog.bench.tiers import TIERS, Tier, arm_seconds, between_markers, total_seconds
from autoprog.cli import build_parser
from autoprog.commands import verify
from autoprog.commands.configure import Configured
from autoprog.commands.flags import NOT_FOR_RESUME, add_data_flags, flag_of
from autoprog.commands.verify import configured_arm, given_plan, shared_flags
from autoprog.costs.model import CostModel, predict_seconds
from autoprog.costs.table import full_key
from autoprog.errors import ConfigError
from autoprog.openfiles import read_bytes, write_atomically
from autoprog.paired_timing import TimingLimits
from autoprog.printable import say
from autoprog.train.run import step_table
from autoprog.ui.format import duration, number
from autoprog.ui.tables import Column, plain_table
from autoprog.ui.verify import markdown_lines
from autoprog.verify.arms import flag_words
from autoprog.verify.verdict import Plan
from autoprog.verify.verification import check_target, publish

__all__ = ["bench_tier"]

_OWN = {"command", "debug", "subject", "tier", "dry_run", "publish", "write", "as_json", "markdown"}
_CARRIED_OUT = NOT_FOR_RESUME | {"cache", "runs_dir", "quiet", "seeds"}
_MEASURE_SECONDS = 5.0
_PRIVATE = ("--data=", "--data-dir=", "--cache=")
"""Flags that say where things lie on this machine."""


def bench_tier(args: argparse.Namespace) -> int:
    """Carry out the command.

    Raises:
        ConfigError: If anything given is fixed by the tier, or cannot be written later.
    """
    tier = TIERS[args.tier]
    words = _words(args, tier)
    parsed = build_parser("verify").parse_args(words)
    if args.dry_run:
        _print_forecast(args, words, _forecast(parsed))
        return 0
    if args.publish is not None:
        check_target(args.publish)
    if args.write is not None:
        between_markers(_text(args.write), args.tier, [], str(args.write))
    if not hasattr(args, "seeds"):
        del parsed.seeds  # one that has more already keeps them
    folder, verification = verify.execute(parsed, tier.seeds)
    if args.publish is not None:
        publish(folder, args.publish)
    if args.write is not None:
        given = [word for word in flag_words(shared_flags(args)) if not word.startswith(_PRIVATE)]
        where = ["--data DIR"] if hasattr(args, "data") else []
        seeds = [f"--seeds={args.seeds}"] if hasattr(args, "seeds") else []
        command = " ".join([f"autoprog bench --tier {args.tier}", *where, *seeds, *given])
        lines = [f"`{command}`", "", *markdown_lines(verification)]
        text = between_markers(_text(args.write), args.tier, lines, str(args.write))
        write_atomically(args.write, text)
    return 0


def _words(args: argparse.Namespace, tier: Tier) -> list[str]:
    """Return the command line of the verification.

    Raises:
        ConfigError: If a flag is given that the tier fixes, or images are missing.
    """
    data = _data_names()
    defaults = vars(build_parser("bench").parse_args(["bench", "--tier", args.tier]))
    for name, value in vars(args).items():
        free = name in _OWN | _CARRIED_OUT | (data if tier.images else set())
        if not free and defaults.get(name, None) != value:
            problem = f"must be left out: tier {args.tier} fixes it"
            raise ConfigError(flag_of(name), "", problem)
    if tier.images and not {"data", "dataset"} & set(vars(args)):
        problem = f"must be given, with {tier.images}"
        raise ConfigError("--data", "", problem, hint="or give --dataset")
    if args.dry_run and (args.publish is not None or args.write is not None):
        raise ConfigError("--dry-run", "", "must be left out with --publish and --write")
    words = ["verify", *tier.words, f"--seeds={_seeds(args, tier)}"]
    words += [*flag_words(shared_flags(args)), "--runs-dir", args.runs_dir]
    form = [*(["--json"] if args.as_json else []), *(["--markdown"] if args.markdown else [])]
    words += [*(["-q"] if args.quiet else []), *form]
    return [*words, "--", *tier.search_words] if tier.search_words else words


def _seeds(args: argparse.Namespace, tier: Tier) -> int:
    """Return the number of pairs: more than the tier's narrow its bounds, and change none of its runs.

    Raises:
        ConfigError: If the tier has more of them than are asked for.
    """
    seeds: int = getattr(args, "seeds", tier.seeds)
    if seeds < tier.seeds:
        problem = f"must be at least {tier.seeds} with tier {args.tier}"
        raise ConfigError("--seeds", "", problem, seeds)
    return seeds


def _data_names() -> set[str]:
    parser = argparse.ArgumentParser(add_help=False)
    add_data_flags(parser, trains=False)
    return {action.dest for action in parser._actions}


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


def _forecast(args: argparse.Namespace) -> _Forecast:
    """Return the plan, priced by a few steps of the full model here; no cache is filled for it."""
    plan, _ = given_plan(args, args.margin, args.seeds)
    baseline = configured_arm(plan.baseline, "")
    settings = baseline.settings.model_copy(update={"cache": None})
    batch_size = settings.recipe.batch_size
    cell = full_key(settings.model.spec(), batch_size)
    grid = measure_costs(settings, baseline.opened, [cell], TimingLimits(_MEASURE_SECONDS))
    model = CostModel(settings.model.spec(), grid.table)
    whole = _seconds(baseline, model)
    candidate = configured_arm(plan.candidate, "")
    search, epochs = candidate.settings.search, settings.recipe.epochs
    fraction = (search.cost_fraction if search else None) or 1.0
    own_seconds = fraction * whole if search else _seconds(candidate, model)
    own = {"baseline": epochs, "candidate": fraction * epochs}
    seconds = arm_seconds(plan, whole, own_seconds, own)
    own |= {arm.name: arm.epochs for arm in plan.others}
    return _Forecast(plan, len(baseline.opened.train), own, seconds)


def _seconds(arm: Configured, model: CostModel) -> float:
    assert arm.schedule is not None, "a training run has a schedule"
    recipe = arm.settings.recipe
    table = step_table(recipe, arm.schedule, len(arm.opened.train))
    return predict_seconds(table, model, recipe.batch_size).total


def _print_forecast(args: argparse.Namespace, words: list[str], found: _Forecast) -> None:
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


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(
            "--write", str(path), f"must be a file that can be read: {reason}"
        ) from None
