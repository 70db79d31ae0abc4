"""``autoprog bench``: what this machine does with the runner, costs, presets, tiers, and kills."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from autoprog.bounds import Few, FewValues, Many, Seconds, range_of
from autoprog.cli import add_subcommands, build_parser
from autoprog.commands import stress
from autoprog.commands.flags import LOGGER_SETTINGS, add_training_flags, flag_of
from autoprog.commands.verify import add_shared_flags, execute, shared_flags
from autoprog.errors import ConfigError
from autoprog.printable import say
from supernet.config import SubnetConfig

__all__ = ["add_flags", "run"]

_PROFILE_SECONDS = 60.0
# A bench has no run folder of its own that these could speak of, and no clock to train by.
_OF_RUNS = ("resume", "allow_changed_data", "time_budget", *LOGGER_SETTINGS)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what is measured."""
    parser.epilog = (
        "examples:\n"
        "  autoprog bench runner --schedule linear --model deit-s --data DIR\n"
        "  autoprog bench costs --model deit-s --data DIR\n"
        "  autoprog bench presets --model vit-xs --data DIR --equal wall-clock --seeds 3\n"
        "  autoprog bench tier smoke\n"
        "  autoprog bench stress -- train --schedule linear --model vit-mu --epochs 4\n"
    )
    add_subcommands(
        parser,
        "subject",
        {
            "runner": (
                "measure the runner against a hand-written loop, and what loading the data costs",
                _add_runner_flags,
            ),
            "costs": ("measure what each subnet of a search space costs here", _add_costs_flags),
            "presets": (
                "train the presets side by side at equal epochs, MACs or time",
                _add_presets_flags,
            ),
            "tier": (
                "run a standing benchmark: a verification that is always the same",
                _add_tier_flags,
            ),
            "stress": (
                "kill a run at random points and compare how it ends",
                stress.add_flags,
            ),
        },
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    match args.subject:
        case "runner":
            _bench_runner(args)
        case "costs":
            _bench_costs(args)
        case "presets":
            _bench_presets(args)
        case "tier":
            _bench_tier(args)
        case "stress":
            return stress.run(args)
    return 0


def _add_json_flag(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")


def _refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(args, name, None) is not None:
            raise ConfigError(flag_of(name), "", f"must be left out: {why}")


# The runner.


def _add_runner_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  autoprog bench runner --schedule constant --model vit-xs --data DIR\n"
        "  autoprog bench runner --schedule linear --model deit-s --data DIR --json\n"
    )
    add_training_flags(parser)
    group = parser.add_argument_group("measurement")
    blocks = "timed blocks of each program, interleaved (default: 12)"
    group.add_argument("--blocks", type=range_of(Few), default=12, metavar="N", help=blocks)
    steps = "timed steps of a block (default: 20)"
    group.add_argument("--block-steps", type=range_of(Many), default=20, metavar="N", help=steps)
    script = "time timm's own train.py as well, as a program on the same --data"
    group.add_argument("--timm-script", type=Path, metavar="FILE", help=script)
    _add_json_flag(group)


def _bench_runner(args: argparse.Namespace) -> None:
    _refuse(args, _OF_RUNS, "a bench is no run")
    if not hasattr(args, "schedule"):
        hint = "give a YAML file, or a preset with --model"
        raise ConfigError("--schedule", "", "must be given", hint=hint)
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

    def show_round(subnet: SubnetConfig, number: int) -> None:
        if sys.stderr.isatty() and not args.quiet:
            depth = "+".join(map(str, subnet.depth))
            line = f"depth {depth}, {subnet.img_size} px: round {number} of {args.blocks}"
            sys.stderr.write("\r\x1b[2K")  # in place of the line before
            say(line, end="\r", file=sys.stderr, flush=True)

    configured = configure_train(args)
    # As for a run: what it would refuse is not worth a measurement.
    check_run(configured, is_new=True)
    settings, opened, schedule = configured.settings, configured.opened, configured.schedule
    assert schedule is not None, "a training run has a schedule"
    script = args.timm_script
    if script is not None:
        check_script(script, settings, opened, args.block_steps)
    speed = measure_runner(settings, opened, schedule, args.blocks, args.block_steps, show_round)
    of_script = script and measure_script(script, settings, opened, args.blocks, args.block_steps)
    console = Console(highlight=False)
    if args.as_json:
        console.out(as_json(speed, of_script), highlight=False)
    else:
        print_report(console, speed, of_script)


# Costs.


def _add_costs_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  autoprog bench costs --model deit-s --data DIR\n"
    add_training_flags(parser)
    group, nothing = parser.add_argument_group("measurement"), argparse.SUPPRESS
    space = "search space (default: the model's own)"
    group.add_argument("--space", default=nothing, metavar="NAME|FILE", help=space)
    _add_profile_flag(group, "most time to measure in")
    _add_json_flag(group)


def _add_profile_flag(group: argparse._ArgumentGroup, what: str) -> None:
    group.add_argument(
        "--profile-seconds",
        type=range_of(Seconds),
        default=argparse.SUPPRESS,
        metavar="S",
        help=f"{what} (default: {_PROFILE_SECONDS:g})",
    )


def _bench_costs(args: argparse.Namespace) -> None:
    _refuse(args, _OF_RUNS, "a bench is no run")
    _refuse(args, ("schedule",), "costs are those of a search space")
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
    keys = space_keys(search.space, settings.recipe.batch_size)
    limits = TimingLimits(getattr(args, "profile_seconds", _PROFILE_SECONDS))
    grid = measure_costs(settings, configured.opened, keys, limits)
    console = Console(highlight=False)
    if args.as_json:
        console.out(costs_as_json(grid), highlight=False)
    else:
        print_costs(console, grid)


# Presets.


def _add_presets_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command line goes on with what was stopped.\n\n"
        "examples:\n"
        "  autoprog bench presets --model vit-xs --data DIR --presets linear late-jump\n"
        "  autoprog bench presets --model vit-xs --data DIR --equal wall-clock --seeds 3\n"
    )
    add_training_flags(parser)
    group, nothing = parser.add_argument_group("measurement"), argparse.SUPPRESS
    equal = "what they have in common with constant over --epochs: image-epochs, training MACs, or"
    equal += " seconds as measured here (default: epochs)"
    costs = ("epochs", "macs", "wall-clock")
    group.add_argument("--equal", choices=costs, default="epochs", help=equal)
    names = "only these, and constant (default: all)"
    group.add_argument(
        "--presets", nargs="+", action=FewValues, metavar="NAME", default=nothing, help=names
    )
    seeds = "runs of each, counted up from --seed (default: 3)"
    group.add_argument("--seeds", type=range_of(Few), metavar="N", default=3, help=seeds)
    _add_profile_flag(group, "most time to measure in for --equal wall-clock")
    _add_json_flag(group)
    group.add_argument("--markdown", action="store_true", help="the result as a Markdown table")


def _bench_presets(args: argparse.Namespace) -> None:
    _refuse(args, _OF_RUNS, "a bench is no run")
    _refuse(args, ("schedule",), "the schedules are the presets")
    if args.equal != "wall-clock":
        _refuse(args, ("profile_seconds",), "it is for --equal wall-clock")
    if args.as_json and args.markdown:
        raise ConfigError("--markdown", "", "must not be given together with --json")
    from autoprog.commands.bench_presets import bench_presets

    profile_seconds = getattr(args, "profile_seconds", _PROFILE_SECONDS)
    bench_presets(args, shared_flags(args), profile_seconds)


# Tiers.


def _add_tier_flags(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A tier fixes what is trained; where the images lie, how runs are carried out, and more\n"
        "seeds than its own are free.\n\n"
        "examples:\n"
        "  autoprog bench tier smoke\n"
        "  autoprog bench tier cpu --data CIFAR --dry-run\n"
        "  autoprog bench tier cpu --data CIFAR --publish DIR --write README.md\n"
    )
    tiers = "smoke (a minute, the embedded digits), cpu (CIFAR-10) or gpu (ImageNet)"
    parser.add_argument("tier", choices=("smoke", "cpu", "gpu"), metavar="NAME", help=tiers)
    group = parser.add_argument_group("standing benchmark")
    seeds = "pairs of runs, if more than the tier's own"
    group.add_argument(
        "--seeds", type=range_of(Few), metavar="N", default=argparse.SUPPRESS, help=seeds
    )
    dry = "say what would run, and for how long, and run nothing"
    group.add_argument("--dry-run", action="store_true", help=dry)
    folder = "copy settings, results and curves to DIR, no weights"
    group.add_argument("--publish", type=Path, metavar="DIR", help=folder)
    file = "write the tables into a Markdown file, between <!-- bench:TIER --> and <!-- /bench:TIER -->"
    group.add_argument("--write", type=Path, metavar="FILE", help=file)
    _add_json_flag(group)
    group.add_argument("--markdown", action="store_true", help="the result as a Markdown table")
    add_shared_flags(parser)


def _bench_tier(args: argparse.Namespace) -> None:
    from autoprog.commands.bench_tier import (
        TIERS,
        check_outputs,
        print_forecast,
        tier_words,
        write_outputs,
    )

    shared = shared_flags(args)
    words = tier_words(args, shared)
    parsed = build_parser("verify").parse_args(words)
    if args.dry_run:
        print_forecast(args, words, parsed, shared_flags(parsed))
        return
    check_outputs(args)
    if not hasattr(args, "seeds"):
        del parsed.seeds  # a verification that has more seeds already keeps them
    folder, verification = execute(parsed, TIERS[args.tier].seeds)
    write_outputs(args, shared, folder, verification)
