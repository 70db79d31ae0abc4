"""``autoprog verify``: a search or a schedule against the baseline, paired by seed, with a verdict."""

from __future__ import annotations

import argparse
import json
import shlex
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.bounds import Epochs, Few, FewValues, Points, Processes, Px, Seconds, Times, range_of
from autoprog.commands.flags import (
    add_data_flags,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
    flag_of,
)
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.printable import say
from autoprog.verify.arms import ELSEWHERE, FLAGS_OF_BOTH, PAIRS, FlagValue, flag_words

if TYPE_CHECKING:
    from autoprog.verify.plan import Plan
    from autoprog.verify.verification import Verification

__all__ = ["add_flags", "add_shared_flags", "execute", "run", "shared_flags"]

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
    group = parser.add_argument_group("verification")

    def add(flag: str, text: str, **options: Any) -> None:
        group.add_argument(flag, default=argparse.SUPPRESS, help=text, **options)

    add("--search", "each candidate is a whole search", action="store_true")
    add(
        "--schedule",
        "each candidate trains along a YAML file or a preset",
        metavar="FILE|PRESET",
    )
    seeds = f"pairs of runs; seeds count up from --seed ({_DEFAULT_SEEDS})"
    add("--seeds", seeds, type=range_of(Few), metavar="N")
    margin = f"points of top-1 (EMA) it may lose; fixed before the first run ({_DEFAULT_MARGIN})"
    add("--margin", margin, type=range_of(Points), metavar="PT")
    epochs = "length of the candidate, if not that of the baseline"
    add("--candidate-epochs", epochs, type=range_of(Epochs), metavar="N")
    seconds = "what finding --schedule took (read beside a best.yaml; else 0)"
    add("--search-seconds", seconds, type=range_of(Seconds), metavar="S")
    add("--side-by-side", "two runs at once, one thread each", action="store_true")
    nproc = "start each run through torchrun, in N processes of this machine (1)"
    add("--nproc", nproc, type=range_of(Processes), metavar="N")
    group.add_argument("--json", action="store_true", dest="as_json", help="one JSON object")
    group.add_argument("--markdown", action="store_true", help="the result as a Markdown table")

    group = parser.add_argument_group("more arms", "each trained once for every seed")
    lengths = (
        "the candidate at these lengths too, as fractions of the baseline's epochs: what is the"
    )
    lengths += " shortest that reaches its accuracy"
    times = range_of(Times)
    add("--lengths", lengths, nargs="+", action=FewValues, type=times, metavar="FRACTION")
    longer = "the baseline at so many times its epochs too, such as 1.5: is it near convergence"
    add("--baseline-longer", longer, type=times, metavar="TIMES")
    few = "train it for so many of the first seeds (all of them)"
    add("--longer-seeds", few, type=range_of(Few), metavar="N")
    names = "what costs as much as --schedule: reannealed, ramp, random or random:N (N = 3)"
    add("--controls", names, nargs="+", action=FewValues, metavar="NAME")
    space = "search space of the controls (the model's own)"
    add("--controls-space", space, metavar="NAME|FILE")
    costs = "costs.json by whose seconds controls cost as much (beside a best.yaml; else by MACs)"
    add("--costs", costs, metavar="FILE")

    add_shared_flags(parser)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


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

    aside = args.as_json or args.markdown  # then stdout is for the document alone
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
        ConfigError: If anything given is unknown or wrong, or does not go with what is there.
    """
    # They bring in torch, which the help of this command does not need.
    from autoprog.commands.verify_plan import check_arms, given_plan
    from autoprog.verify.verification import Verification, load

    if args.resume not in (None, "auto"):
        free = {"command", "debug", "resume", "runs_dir", "quiet", "seeds", "margin", "as_json"}
        again = {flag.replace("-", "_") for flag in ELSEWHERE}
        for name in sorted(set(vars(args)) - free - again - {"markdown", "words"}):
            hint = "leave it out, or start a new verification"
            raise ConfigError(
                flag_of(name), "", "must not be given with --resume FOLDER", hint=hint
            )
        if args.words:
            problem = "must not be followed by flags with --resume FOLDER"
            raise ConfigError("verify", "", problem, " ".join(args.words))
        # The folder may come from somebody else, so its arms are checked as if they were typed in here.
        folder = Path(args.resume)
        found = _with_seeds(args, folder, load(folder), default_seeds)
        is_complete = len(found.pairs) == found.plan.seeds
        _check_asked_again(args, folder, found.plan, is_complete)
        if not is_complete:
            check_arms(folder, found.plan)
        return folder, found
    seeds = getattr(args, "seeds", default_seeds)
    margin = getattr(args, "margin", _DEFAULT_MARGIN)
    plan, differing = given_plan(args, shared_flags(args), margin, seeds)
    runs_dir, now = Path(args.runs_dir), datetime.now()
    # The same command line goes on with the newest folder of the same runs.
    for path in sorted(runs_dir.glob("*-verify-*/verify.json"), reverse=True):
        try:
            known = load(path.parent)
        except ConfigError:
            continue  # of another version, or damaged: none of this command line's business
        if known.plan.verifies_the_same(plan):
            return path.parent, _with_seeds(args, path.parent, known, default_seeds)
    name = f"{now:%Y-%m-%d-%H%M%S}-verify-{plan.model.replace('/', '-')}"
    return runs_dir / name, Verification(
        verify_id=name,
        created=now.astimezone().isoformat(timespec="seconds"),
        plan=plan,
        looks=(plan.seeds,),
        differing=differing,
    )


def _with_seeds(
    args: argparse.Namespace, folder: Path, found: Verification, default_seeds: int
) -> Verification:
    """Return a verification that is there already, with the number of seeds asked for now.

    Raises:
        ConfigError: If the margin is another one, or seeds are to be taken away.
    """
    plan, given = found.plan, getattr(args, "margin", None)
    automatic = args.resume in (None, "auto")
    # The same command line without --margin means the same margin again; a folder knows its own.
    margin = _DEFAULT_MARGIN if given is None and automatic else given
    if margin is not None and margin != plan.margin:
        problem = f"must be {plan.margin:g}, as was fixed before the first run of {folder}"
        hint = "another margin needs new runs: give another --runs-dir or --seed"
        raise ConfigError("--margin", "", problem, margin, hint)
    seeds = getattr(args, "seeds", max(plan.seeds, default_seeds) if automatic else plan.seeds)
    if seeds < plan.seeds:
        problem = f"must be at least {plan.seeds}, as was fixed before the first run of {folder}"
        raise ConfigError("--seeds", "", problem, seeds)
    if seeds == plan.seeds:
        return found
    # Each bound holds for one look alone: how often seeds were added is kept, and shown.
    more = parse(type(plan), {**plan.model_dump(), "seeds": seeds}, "flags")
    return found.model_copy(update={"plan": more, "looks": (*found.looks, seeds)})


def _check_asked_again(
    args: argparse.Namespace, folder: Path, plan: Plan, is_complete: bool
) -> None:
    """Check that what the runs of a folder write elsewhere, or read from the network, is asked for here.

    The folder may come from somebody else, whose runs must not do so unasked.

    Raises:
        ConfigError: If a flag is not repeated as the folder has it, or no run has it.
    """
    arms = [plan.settings_of(arm) for arm in plan.arms]
    given, where = shared_flags(args), str(folder / "verify.json")
    for flag, value in given.items():
        if all(arm.flags.get(flag) != value for arm in arms):
            problem = "must be as the verification has it, or be left out, with --resume FOLDER"
            raise ConfigError(f"--{flag}", "", problem, value)
    # Once for all arms: whoever repeats the flags here wants them of every run.
    wanted = [(flag, value) for arm in arms for flag, value in arm.elsewhere.items()]
    missing = [(flag, value) for flag, value in dict.fromkeys(wanted) if given.get(flag) != value]
    if missing and not is_complete:
        words = shlex.join(word for flag, value in missing for word in flag_words({flag: value}))
        problem = f"its runs reach outside the folder, or into the network, by {words}"
        raise ConfigError(
            where, "", problem, hint="repeat that with --resume FOLDER if you want it"
        )


def shared_flags(args: argparse.Namespace) -> dict[str, FlagValue]:
    """Return the flags given for both arms, as texts."""
    if hasattr(args, "side_by_side"):
        if getattr(args, "threads", 1) != 1:
            raise ConfigError("--threads", "", "must be 1 with --side-by-side", args.threads)
        args.threads = 1  # two runs with a thread for every core would wait for each other
    # In the order of the parser, so that the same flags make the same command line however they were given.
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
