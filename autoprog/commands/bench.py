"""``autoprog bench``: how fast autoprog is on this machine, and what its schedules come to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from autoprog.bounds import Few, FewValues, Many, Seconds, range_of
from autoprog.commands import train
from autoprog.commands.flags import LOGGER_SETTINGS, flag_of
from autoprog.errors import ConfigError
from autoprog.printable import say
from supernet.config import SubnetConfig

__all__ = ["add_flags", "run"]

DEFAULT_PROFILE_SECONDS = 60.0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, how often, and all flags of a training run."""
    parser.add_argument(
        "subject",
        nargs="?",
        choices=["runner", "costs", "presets"],
        metavar="SUBJECT",
        help="runner: its speed against a hand-written loop, and what loading the data costs;"
        " costs: what each subnet of a search space costs here; presets: the schedules that"
        " have a name, trained side by side",
    )
    train.add_training_flags(parser)
    parser.epilog = (
        "examples:\n"
        "  autoprog bench runner --schedule constant --model vit-xs --data DIR\n"
        "  autoprog bench runner --schedule linear --model deit-s --data DIR --json\n"
        "  autoprog bench costs --model deit-s --data DIR\n"
        "  autoprog bench --tier smoke\n"
        "  autoprog bench --tier cpu --data CIFAR --dry-run\n"
        "  autoprog bench presets --model vit-xs --data DIR --equal wall-clock --seeds 3\n"
    )
    _add_measurement_flags(parser.add_argument_group("measurement"))
    _add_tier_flags(parser.add_argument_group("standing benchmark, in place of SUBJECT"))


def _add_measurement_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--blocks",
        type=range_of(Few),
        default=12,
        metavar="N",
        help="blocks of each arm, in turns (12)",
    )
    group.add_argument(
        "--block-steps",
        type=range_of(Many),
        default=20,
        metavar="N",
        help="timed steps of a block (20)",
    )
    group.add_argument(
        "--timm-script",
        type=Path,
        metavar="FILE",
        help="race timm's own train.py as well, as a program on the same --data",
    )
    group.add_argument(
        "--space",
        default=argparse.SUPPRESS,
        metavar="NAME|FILE",
        help="costs: search space (the model's own)",
    )
    group.add_argument(
        "--profile-seconds",
        type=range_of(Seconds),
        default=argparse.SUPPRESS,
        metavar="S",
        help="costs, and presets at equal wall-clock: most time to measure in (60)",
    )
    _add_preset_flags(group)
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def _add_preset_flags(group: argparse._ArgumentGroup) -> None:
    nothing = argparse.SUPPRESS
    equal = "presets: what they have in common with constant over --epochs: image-epochs, training"
    equal += " MACs, or seconds as measured here (epochs)"
    ways = ("epochs", "macs", "wall-clock")
    group.add_argument("--equal", choices=ways, default=nothing, help=equal)
    names = "presets: only these, and constant (all)"
    group.add_argument(
        "--presets", nargs="+", action=FewValues, metavar="NAME", default=nothing, help=names
    )
    seeds = "presets: runs of each, counted up from --seed (3); --tier: pairs, if more than its own"
    group.add_argument("--seeds", type=range_of(Few), metavar="N", default=nothing, help=seeds)
    table = "presets: the result as a Markdown table"
    group.add_argument("--markdown", action="store_true", default=nothing, help=table)


def _add_tier_flags(group: argparse._ArgumentGroup) -> None:
    tiers = "a verification that is always the same: smoke (a minute, the embedded digits), cpu"
    tiers += " (CIFAR-10) or gpu (ImageNet); --data and how it is carried out are free"
    group.add_argument("--tier", choices=("smoke", "cpu", "gpu"), help=tiers)
    dry = "say what would run, and for how long, and run nothing"
    group.add_argument("--dry-run", action="store_true", help=dry)
    folder = "copy settings, results and curves to DIR, no weights"
    group.add_argument("--publish", type=Path, metavar="DIR", help=folder)
    file = "write the tables into a Markdown file, between <!-- bench:TIER --> and <!-- /bench:TIER -->"
    group.add_argument("--write", type=Path, metavar="FILE", help=file)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.tier is not None:
        return _bench_tier(args)
    _check_flags(args)
    if args.subject == "presets":
        return _bench_presets(args)
    return _bench_costs(args) if args.subject == "costs" else _bench_runner(args)


def _bench_runner(args: argparse.Namespace) -> int:
    from autoprog.bench.runner import (
        as_json,
        check_script,
        measure_runner,
        measure_script,
        print_report,
    )
    from autoprog.commands.configure import configure_train
    from autoprog.commands.preflight import check_run
    from autoprog.console import Console

    configured = configure_train(args)
    check_run(configured, is_new=True)
    settings, opened, schedule = configured.settings, configured.opened, configured.schedule
    assert schedule is not None, "a training run has a schedule"
    script = args.timm_script
    if script is not None:
        check_script(script, settings, opened, args.block_steps)
    speed = measure_runner(settings, opened, schedule, args.blocks, args.block_steps, _tell(args))
    of_script = script and measure_script(script, settings, opened, args.blocks, args.block_steps)
    console = Console(highlight=False)
    if args.as_json:
        console.out(as_json(speed, of_script), highlight=False)
    else:
        print_report(console, speed, of_script)
    return 0


def _bench_tier(args: argparse.Namespace) -> int:
    if args.subject is not None:
        raise ConfigError("SUBJECT", "", "must be left out with --tier", args.subject)
    from autoprog.commands.bench_tier import bench_tier

    args.markdown = hasattr(args, "markdown")
    return bench_tier(args)


def _bench_presets(args: argparse.Namespace) -> int:
    from autoprog.commands.bench_presets import bench_presets

    args.equal = getattr(args, "equal", "epochs")
    args.markdown = hasattr(args, "markdown")
    return bench_presets(args, getattr(args, "profile_seconds", DEFAULT_PROFILE_SECONDS))


def _bench_costs(args: argparse.Namespace) -> int:
    from autoprog.bench.costs import costs_as_json, measure_costs, print_costs
    from autoprog.commands.configure import configure_search
    from autoprog.commands.preflight import check_run
    from autoprog.console import Console
    from autoprog.costs.table import space_keys
    from autoprog.paired_timing import TimingLimits

    configured = configure_search(args)
    check_run(configured, is_new=True)
    settings, search = configured.settings, configured.settings.search
    assert search is not None, "a space is that of a search"
    cells = space_keys(search.space, settings.recipe.batch_size)
    limits = TimingLimits(getattr(args, "profile_seconds", DEFAULT_PROFILE_SECONDS))
    grid = measure_costs(settings, configured.opened, cells, limits)
    console = Console(highlight=False)
    if args.as_json:
        console.out(costs_as_json(grid), highlight=False)
    else:
        print_costs(console, grid)
    return 0


def _tell(args: argparse.Namespace) -> Callable[[SubnetConfig, int], None]:
    """Return what shows the round under way, where somebody looks."""

    def tell(subnet: SubnetConfig, number: int) -> None:
        if sys.stderr.isatty() and not args.quiet:
            depth = "+".join(map(str, subnet.depth))
            line = f"depth {depth}, {subnet.img_size} px: round {number} of {args.blocks}"
            sys.stderr.write("\r\x1b[2K")  # in place of the line before
            say(line, end="\r", file=sys.stderr, flush=True)

    return tell


def _check_flags(args: argparse.Namespace) -> None:
    if args.subject is None:
        hint = "runner, costs or presets; or give --tier"
        raise ConfigError("SUBJECT", "", "must be given", hint=hint)
    _refuse(args, ("publish", "write"), "it is for --tier")
    if args.dry_run:
        raise ConfigError("--dry-run", "", "must be left out: it is for --tier")
    if getattr(args, "equal", None) != "wall-clock" and args.subject == "presets":
        _refuse(args, ("profile_seconds",), "it is for --equal wall-clock")
    _refuse(
        args,
        ("resume", "allow_changed_data", "time_budget", *LOGGER_SETTINGS),
        "a bench is no run",
    )
    own = {
        "runner": ("schedule", "timm_script"),
        "costs": ("space", "profile_seconds"),
        "presets": ("equal", "presets", "seeds", "markdown", "profile_seconds"),
    }
    of_others = dict.fromkeys(name for names in own.values() for name in names)
    others = [name for name in of_others if name not in own[args.subject]]
    _refuse(args, others, f"it is not for {args.subject}")
    if args.subject == "runner" and not hasattr(args, "schedule"):
        hint = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", hint=hint)
    if args.as_json and hasattr(args, "markdown"):
        raise ConfigError("--markdown", "", "must not be given together with --json")


def _refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(args, name, None) is not None:
            raise ConfigError(flag_of(name), "", f"must be left out: {why}")
