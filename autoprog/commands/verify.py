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
from autoprog.commands.data_flags import add_data_flags
from autoprog.commands.flags import (
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
)
from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.proof.pairs import Plan, Verification

__all__ = ["add_flags", "add_shared_flags", "execute", "run"]

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

    lengths = "the candidate at these lengths too, as shares of the baseline's epochs: what is the"
    lengths += " shortest that reaches its accuracy"
    add("--lengths", "SHARE", lengths, nargs="+", action=FewValues, type=range_of(Times))
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
    from autoprog.commands.stress import ending_on_sigterm
    from autoprog.console import Console
    from autoprog.proof.verify import verify
    from autoprog.ui.verify import VerifyView, markdown_lines

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
    from autoprog.commands.verify_plan import check_arms, given_plan, same_verification
    from autoprog.proof.pairs import Verification
    from autoprog.proof.verify import load

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
        law = f"must be {plan.margin:g}, as was fixed before the first run of {folder}"
        cure = "another margin needs new runs: give another --runs-dir or --seed"
        raise ConfigError("--margin", "", law, margin, cure)
    fewest = max(plan.seeds, default_seeds) if automatic else plan.seeds
    seeds = getattr(args, "seeds", fewest)
    if seeds < plan.seeds:
        law = f"must be at least {plan.seeds}, as was fixed before the first run of {folder}"
        raise ConfigError("--seeds", "", law, seeds)
    if seeds == plan.seeds:
        return found
    more = parse(type(plan), {**plan.model_dump(), "seeds": seeds}, "flags")
    return found.model_copy(update={"plan": more, "looks": (*found.looks, seeds)})


def _only_with_resume(args: argparse.Namespace) -> None:
    from autoprog.commands.flags import flag_of
    from autoprog.proof.arms import ELSEWHERE

    free = {"command", "debug", "resume", "runs_dir", "quiet", "seeds", "margin", "as_json"}
    again = {flag.replace("-", "_") for flag in ELSEWHERE}
    for name in sorted(set(vars(args)) - free - again - {"markdown", "words"}):
        cure = "leave it out, or start a new verification"
        raise ConfigError(flag_of(name), "", "must not be given with --resume FOLDER", cure=cure)
    if args.words:
        law = "must not be followed by flags with --resume FOLDER"
        raise ConfigError("verify", "", law, " ".join(args.words))


def _check_asked_again(
    args: argparse.Namespace, folder: Path, plan: Plan, is_complete: bool
) -> None:
    """Check that what the runs of a folder write elsewhere, or read from the network, is asked for here.

    The folder may come from somebody else.

    Raises:
        ConfigError: If a flag is not repeated as the folder has it, or no run has it.
    """
    from autoprog.commands.verify_plan import shared_flags
    from autoprog.proof.arms import flag_words

    arms = [plan.settings_of(arm) for arm in plan.arms]
    given, where = shared_flags(args), str(folder / "verify.json")
    for flag, value in given.items():
        if all(arm.flags.get(flag) != value for arm in arms):
            law = "must be as the verification has it, or be left out, with --resume FOLDER"
            raise ConfigError(f"--{flag}", "", law, value)
    wanted = [(flag, value) for arm in arms for flag, value in arm.elsewhere.items()]
    missing = [(flag, value) for flag, value in dict.fromkeys(wanted) if given.get(flag) != value]
    if missing and not is_complete:
        words = shlex.join(word for flag, value in missing for word in flag_words({flag: value}))
        law = f"its runs reach outside the folder, or into the network, by {words}"
        raise ConfigError(where, "", law, cure="repeat that with --resume FOLDER if you want it")
