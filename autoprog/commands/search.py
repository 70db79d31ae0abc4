"""``autoprog search``: find a growth schedule and train along it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.bounds import Epochs, Few, OpenFraction, Proposals, Px, Seconds, Several, range_of
from autoprog.commands.flags import (
    add_changed_data_flag,
    add_data_flags,
    add_dry_run_flag,
    add_fidelity_flags,
    add_initial_flags,
    add_length_flags,
    add_recipe_flags,
    add_run_flags,
    add_trial_flags,
    duration_seconds,
    worker_words,
)
from autoprog.errors import ConfigError

if TYPE_CHECKING:
    from autoprog.commands.configure import Configured
    from autoprog.commands.launch import Begin, Launch
    from autoprog.events import Event
    from autoprog.runs import RunFolder
    from autoprog.train.run import Job

__all__ = ["add_flags", "execute", "run"]

_KEPT_ON_JOIN = {
    "command",
    "debug",
    "join",
    "jobs",
    "resume",
    "runs_dir",
    "quiet",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a search."""
    parser.epilog = (
        "examples:\n"
        "  autoprog search --model deit-s\n"
        "  autoprog search --model deit-s --data DIR --epochs 100 --rule autoprog\n"
        "  autoprog search --model vit_small_patch32_224 --data DIR --space my-space.yaml\n"
        "  autoprog search --model deit-s --data DIR --trials 60 --proxy 0.1 -j 4\n"
    )
    group = parser.add_argument_group("search")
    _add_scope_flags(group)
    add_length_flags(group)
    _add_decision_flags(group)
    add_fidelity_flags(group)
    _add_growth_flags(group)
    add_trial_flags(parser.add_argument_group("trials"))
    add_data_flags(parser)
    add_initial_flags(parser)
    add_recipe_flags(parser, {"sched": "wsd in a search by time, as it is by default"})
    before = add_dry_run_flag(parser)
    as_json = "print what --dry-run says as one JSON object"
    _add(before, "--json", dest="as_json", action="store_true", help=as_json)
    add_run_flags(parser)
    add_changed_data_flag(parser)


def _add_scope_flags(group: argparse._ArgumentGroup) -> None:
    models = "deit-ti, deit-s, deit-b, vit-xs or a timm ViT"
    _add(group, "--model", metavar="NAME", help=models)
    _add(
        group,
        "--img-size",
        type=range_of(Px),
        metavar="PX",
        help="full image size, if not the model's",
    )
    _add(group, "--space", metavar="NAME|FILE", help="search space (the model's own)")


def _add_decision_flags(group: argparse._ArgumentGroup) -> None:
    rules = (
        "how to choose: rollout again and again, autoprog by the score of AutoProg (CVPR 2022), pareto and"
        " budget once for good (rollout)"
    )
    _add(group, "--rule", choices=["rollout", "autoprog", "pareto", "budget"], help=rules)
    budget = "time that --rule budget may train for, such as 90m"
    _add(
        group,
        "--budget",
        dest="budget_seconds",
        type=duration_seconds,
        metavar="TIME",
        help=budget,
    )
    samplers = "Optuna sampler of schedules (nsga2)"
    _add(group, "--sampler", choices=["nsga2", "tpe", "random", "gp"], help=samplers)
    _add(
        group,
        "--continuation-trials",
        type=range_of(Proposals),
        metavar="N",
        help="schedules Optuna proposes at a decision (200)",
    )
    _add(
        group,
        "--num-points",
        type=range_of(Few),
        metavar="N",
        help="decision points at the most (8)",
    )
    fraction = "fraction of the run that supernets may take (0.1)"
    _add(group, "--supernet-fraction", type=range_of(OpenFraction), metavar="S", help=fraction)
    fraction = "most that estimates may cost, as a fraction of a full run (0.03)"
    _add(group, "--search-fraction", type=range_of(OpenFraction), metavar="S", help=fraction)
    costs = "costs.json of an earlier run, instead of measuring"
    _add(group, "--costs", dest="costs_from", metavar="FILE", help=costs)
    profile = "most time to measure step seconds, besides 1 %% of the run (20)"
    _add(group, "--profile-seconds", type=range_of(Seconds), metavar="S", help=profile)
    pieces = "pieces of the run: of regularisation, and of --rule autoprog (4)"
    _add(group, "--num-stages", type=range_of(Several), metavar="K", help=pieces)
    phase = "supernet phase of --rule autoprog (space)"
    _add(group, "--supernet-epochs", type=range_of(Epochs), metavar="E", help=phase)
    _add(
        group,
        "--max-candidates",
        type=range_of(Several),
        metavar="N",
        help="a decision looks at (space)",
    )
    _add(
        group,
        "--min-full-fraction",
        type=range_of(OpenFraction),
        metavar="S",
        help="fraction of the steps at full size (space)",
    )


def _add_growth_flags(group: argparse._ArgumentGroup) -> None:
    _add(group, "--grow-init", choices=["ema", "copy", "zero"], help="new blocks (ema)")
    _add(group, "--grow-placement", choices=["interpolate", "stack"], help="where (interpolate)")
    _add(group, "--grow-old-blocks", choices=["keep", "ema"], help="old blocks (keep)")
    _add(group, "--grow-optimizer-state", choices=["copy", "fresh", "reset"], help="moments (copy)")


def _add(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if hasattr(args, "dry_run"):
        from autoprog.commands.configure import configure_search
        from autoprog.commands.dry_run import dry_run

        dry_run(args, configure_search)
        return 0
    if args.join is not None:
        _join(args)
    else:
        execute(args)
    return 0


def execute(args: argparse.Namespace) -> Path:
    """Search and train; return the run folder."""
    from autoprog.commands.configure import configure_search
    from autoprog.commands.launch import Launch, carry_out, open_run
    from autoprog.commands.report import announce_search, farewell
    from autoprog.commands.show import put_paths
    from autoprog.train.ranks import joined_ranks

    put_paths(args)
    if hasattr(args, "dry_run"):
        raise ConfigError("--dry-run", "", "must be given to the command autoprog search")
    if hasattr(args, "as_json"):
        raise ConfigError("--json", "", "must be given together with --dry-run")
    if args.jobs < 1:
        raise ConfigError("-j", "", "must be at least 1", args.jobs)
    with joined_ranks() as ranks:
        if hasattr(args, "trials") and not ranks.alone:
            raise ConfigError("--trials", "", "must be started without torchrun; see -j and --join")
        configured, folder = open_run(args, configure_search, ranks)
        settings = configured.settings
        assert settings.search is not None, "a search has search settings"
        launch = Launch.on_terminal(ranks, args.quiet, configured)
        by_trials = settings.search.trials is not None
        if by_trials and not args.quiet:
            announce_search(launch.console, configured, folder, None)
        begin = (
            _trials(args, configured, folder) if by_trials else _decisions(args, configured, launch)
        )
        carry_out(begin, launch, folder)
        if not args.quiet:
            farewell(launch.console, folder, settings)
    return folder.path


def _decisions(args: argparse.Namespace, configured: Configured, launch: Launch) -> Begin:
    """Return a search that decides while it trains."""
    from autoprog.commands.report import announce_search
    from autoprog.search.searcher import build_searcher

    def begin(folder: RunFolder, job: Job) -> Iterator[Event]:
        searcher = build_searcher(configured.settings, folder, configured.opened, job)
        if not args.quiet and not job.rollbacks.count:
            announce_search(launch.console, configured, folder, searcher.plan)
        return searcher.run()

    return begin


def _trials(args: argparse.Namespace, configured: Configured, folder: RunFolder) -> Begin:
    """Return a search that trains many schedules briefly, and the best of them at full length."""
    from autoprog.outside import words_of_asks
    from autoprog.search.trials import Workforce, search_by_trials

    again = words_of_asks(configured.settings, folder.path, logs=False)
    workforce = Workforce(args.jobs, (*worker_words(args), *again))

    def begin(folder: RunFolder, job: Job) -> Iterator[Event]:
        return search_by_trials(configured.settings, folder, configured.opened, workforce, job)

    return begin


def _join(args: argparse.Namespace) -> None:
    """Work on the trials of a run.

    Raises:
        ConfigError: If it is not a search by trials, or is complete; if more is given than how to carry out;
            if the run folder asks for something outside itself that was not given.
        InterruptedRunError: If a stop was requested.
    """
    from autoprog.commands.launch import carried_out_by, check_asks
    from autoprog.commands.show import named_run
    from autoprog.processes import given_number
    from autoprog.runs import load_run
    from autoprog.search.trials import join
    from autoprog.train.device import resolve_compute
    from autoprog.train.stop import InterruptedRunError, stop_on_signals

    path = named_run(args.join, args.runs_dir)
    if args.jobs != 1:
        hint = "join once for each worker"
        raise ConfigError("-j", "", "must not be given with --join RUN", args.jobs, hint)
    found = load_run(path)
    settings = carried_out_by(args, found.manifest.settings, _KEPT_ON_JOIN, "--join")
    if settings.search is None or settings.search.trials is None:
        raise ConfigError("--join", "", "must be a search with --trials", str(path))
    if found.result is not None:
        raise ConfigError("--join", "", "must be an unfinished run", str(path))
    check_asks(args, settings, path, "--join", logs=False)
    resolve_compute(settings)  # refuses what would fail each trial
    with stop_on_signals() as stop:
        join(settings, path, stop, given_number())
        if stop.signal_name is not None:
            raise InterruptedRunError(stop.signal_name, str(path))
