"""``autoprog export``: final weights for other programs, or the log of a run for a logger."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.bounds import PositiveFraction, Px, range_of
from autoprog.commands.flags import add_token_flags, add_wandb_flags, add_weights_flags, flag_of
from autoprog.errors import ConfigError
from autoprog.printable import say

if TYPE_CHECKING:
    from autoprog.runs import Run
    from autoprog.train.weights import WeightsFile
    from supernet.config import SubnetConfig

__all__ = ["add_flags", "run"]

_ENDINGS = {
    "weights": (".pth", ".pt", ".safetensors"),
    "hf": (),
    "torch-export": (".pt2",),
    "onnx": (".onnx",),
}
"""How an output must end; ``hf`` is a folder of any name."""
_PROGRAMS = ("torch-export", "onnx")
_LOGGERS = ("tensorboard", "wandb")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to export and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog export runs/… --output deit-s.pth\n"
        "  autoprog export runs/… --weights online --output deit-s.safetensors\n"
        "  autoprog export runs/… --checkpoint last --output so-far.pth\n"
        "  autoprog export runs/… --format hf --output deit-s\n"
        "  autoprog export runs/… --format torch-export --keep-rate .7 --output deit-s.pt2\n"
        "  autoprog export runs/… --format onnx --img-size 192 --output deit-s.onnx\n"
        "  autoprog export runs/* --format tensorboard    # then tensorboard --logdir runs\n"
        "  autoprog export runs/* --format wandb --wandb-project vits\n"
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder (last: the newest); several for tensorboard and wandb",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help=".pth, .pt, .safetensors, .pt2, .onnx, or a new folder for hf",
    )
    add_weights_flags(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    parser.add_argument(
        "--format",
        choices=[*_ENDINGS, *_LOGGERS],
        default="weights",
        help="a state dict for plain timm, its folder for the Hugging Face hub, a program of one"
        " image size and keep-rate, or the log of the run for a logger, also while it trains"
        " (default: weights)",
    )
    group = parser.add_argument_group("input of a program")
    group.add_argument(
        "--img-size", type=range_of(Px), metavar="PX", help="image size (default: full)"
    )
    group.add_argument(
        "--keep-rate",
        type=range_of(PositiveFraction),
        metavar="K",
        help="fraction of tokens to keep (default: 1)",
    )
    add_token_flags(group)
    add_wandb_flags(parser.add_argument_group("wandb"))


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.format in _LOGGERS:
        _pass_on(args)
        return 0
    _check_flags(args)
    from autoprog.commands.run_words import named_run
    from autoprog.runs import load_run
    from autoprog.train.export import ExportedModel, export_folder, export_weights

    found = load_run(named_run(args.runs[0]))
    settings = found.manifest.settings
    # timm could not build such a model from its folder: its blocks are ours.
    if args.format == "hf" and settings.model.spec().is_local:
        problem = f"must be weights: {settings.model.model} is built by supernet.locality"
        raise ConfigError("--format", "", problem, "hf")
    file = _weights(args, found)
    _check_output(args)  # before the minutes that a program takes to export
    model = ExportedModel.of(file, found.manifest)
    if file.taken:
        say(file.taken)
    if args.format == "weights":
        say(export_weights(model, args.output))
    elif args.format == "hf":
        say(export_folder(model, args.output))
    else:
        from autoprog.train.export import export_onnx, export_program

        export = export_onnx if args.format == "onnx" else export_program
        say(export(settings, file, _subnet(args, found, file), args.output, model))
    return 0


def _weights(args: argparse.Namespace, found: Run) -> WeightsFile:
    """Return the weights that the flags name: those of the end of the run, or of its last checkpoint.

    Raises:
        ConfigError: If they are not there.
    """
    from autoprog.train.weights import read_weights, with_tables

    checkpoints, averaged = found.path / "checkpoints", args.weights == "ema"
    if args.checkpoint == "best":
        from autoprog.commands.evaluate import target_of

        return with_tables(read_weights(target_of(str(found.path), "best", args.weights), averaged))
    if args.checkpoint == "last":
        if not (checkpoints / "last.pt").is_file():
            problem = "must be final: the run has no checkpoint"
            raise ConfigError("--checkpoint", "", problem, "last", "go on with --resume first")
        return read_weights(checkpoints / "last.pt", averaged)
    if found.result is None:
        problem, hint = "must be a finished run", "go on with --resume first"
        if (checkpoints / "last.pt").is_file():
            hint += ", or add --checkpoint last"
        raise ConfigError("RUN", "", problem, str(found.path), hint)
    name = "final_ema" if averaged else "final"
    return with_tables(read_weights(checkpoints / f"{name}.safetensors", averaged))


def _check_output(args: argparse.Namespace) -> None:
    """Refuse to replace what is there, unless that is asked for; a folder only if it is an export.

    A link in place of a file is replaced itself, not what it leads to.

    Raises:
        ConfigError: If there is something.
    """
    from autoprog.openfiles import NotRegularFileError, check_replaceable, kind_of
    from autoprog.train.export import classes_of, is_exported_folder
    from autoprog.train.weights import description_of

    output: Path = args.output
    if not output.absolute().parent.is_dir():
        problem, hint = "must lie in an existing folder", f"make {output.parent} first"
        raise ConfigError("--output", "", problem, str(output), hint)
    if args.format == "hf":  # never a folder that holds anything else, even with --overwrite
        if kind_of(output) is None:
            return
        problem, hint = "must be a new folder", "take another name, or remove it"
        if is_exported_folder(output):
            if args.overwrite:
                return
            hint = "take another name, or add --overwrite"
        raise ConfigError("--output", "", problem, str(output), hint)
    # An export of weights is three files: the names of classes and how images are prepared lie beside them.
    for path in (output, description_of(output), classes_of(output)):
        try:
            check_replaceable(path)
        except NotRegularFileError as error:
            problem = f"must be a file, not {error.strerror}"
            raise ConfigError("--output", "", problem, str(path)) from None
        if kind_of(path) is not None and not args.overwrite:
            problem, hint = "must be a new file", "take another name, or add --overwrite"
            raise ConfigError("--output", "", problem, str(path), hint)


def _check_flags(args: argparse.Namespace) -> None:
    if args.output is None:
        hint = "such as --output deit-s.pth (see autoprog export --help)"
        raise ConfigError("--output", "", "must be given", hint=hint)
    if len(args.runs) > 1:
        hint = "only --format tensorboard and wandb take several"
        raise ConfigError("RUN", "", "must be one run", args.runs[1], hint)
    for flag in ("wandb_project", "wandb_mode"):
        if hasattr(args, flag):
            raise ConfigError(flag_of(flag), "", "must go with --format wandb")
    # The ending decides what other programs take the file for.
    endings = _ENDINGS[args.format]
    if endings and args.output.suffix not in endings:
        known = " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
        raise ConfigError("--output", "", f"must end in {known}", str(args.output))
    for flag in ("img_size", "keep_rate", "by", "at_blocks"):
        if args.format not in _PROGRAMS and getattr(args, flag) is not None:
            problem = (
                "must go with --format torch-export or onnx: weights are those of the whole network"
            )
            raise ConfigError(flag_of(flag), "", problem)


def _subnet(args: argparse.Namespace, found: Run, file: WeightsFile) -> SubnetConfig:
    """Return the network at the image size and keep-rate of the flags; it drops tokens as the run did."""
    from autoprog.commands.evaluate import check_rate, check_size, elastic_of, tokens_of
    from supernet.config import SubnetConfig

    spec = found.manifest.settings.model.spec() if file.spec is None else file.spec
    img_size = spec.img_size if args.img_size is None else args.img_size
    keep_rate = 1.0 if args.keep_rate is None else args.keep_rate
    check_size(img_size, spec, "--img-size")
    tokens = tokens_of(args.by, args.at_blocks, spec, elastic_of(found.best or found.schedule))
    check_rate(keep_rate, tokens, spec, "--keep-rate")
    return SubnetConfig(spec.depth, img_size, tokens.rule(keep_rate))


# --------------------------------------------------------------------------------------------------
# The log of a run for TensorBoard or W&B, finished or not; needs no torch.


def _pass_on(args: argparse.Namespace) -> None:
    """Write the logs of the runs to a logger.

    Raises:
        ConfigError: If a run has no log or writes to this logger itself, or a flag is for other formats.
    """
    from autoprog.commands.run_words import named_run
    from autoprog.files import parse
    from autoprog.loggers.relay import check_logger, replay
    from autoprog.runs import is_written_now, load_run
    from autoprog.settings import RunSettings

    for flag in ("output", "img_size", "keep_rate", "by", "at_blocks"):
        if getattr(args, flag) is not None:
            raise ConfigError(flag_of(flag), "", f"must be left out with --format {args.format}")
    runs = [load_run(named_run(word)) for word in args.runs]
    manifests = []
    for run in runs:
        settings = run.manifest.settings
        if not (run.path / "events.jsonl").is_file():
            raise ConfigError(str(run.path), "", "must have an events.jsonl")
        # Two writers would mix their points in one place of the logger.
        if getattr(settings, f"log_{args.format}") and is_written_now(run.path):
            problem = f"must not be going on with --log-{args.format}"
            raise ConfigError(str(run.path), "", problem, hint="it writes to it already")
        values = {
            **settings.model_dump(),
            "wandb_project": getattr(args, "wandb_project", None),
            "wandb_mode": getattr(args, "wandb_mode", None),
            "log_wandb": args.format == "wandb",
        }
        changed = parse(RunSettings, values, "flags")
        manifests.append(run.manifest.model_copy(update={"settings": changed}))
    check_logger(args.format, manifests[0].settings, f"--format {args.format}")
    for run, manifest in zip(runs, manifests, strict=True):
        say(replay(args.format, run.path, manifest))
