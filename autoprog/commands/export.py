"""``autoprog export``: a run's final weights for plain timm, or one of its cells as a program."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoprog.errors import ConfigError

if TYPE_CHECKING:
    from autoprog.runs import Run
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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to export and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog export runs/… --output deit-s.pth\n"
        "  autoprog export runs/… --weights online --output deit-s.safetensors\n"
        "  autoprog export runs/… --format hf --output deit-s\n"
        "  autoprog export runs/… --format torch-export --keep-rate .7 --output deit-s.pt2\n"
        "  autoprog export runs/… --format onnx --img-size 192 --output deit-s.onnx\n"
    )
    parser.add_argument("run", metavar="RUN", help="a finished run (last: the newest)")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PATH",
        help=".pth, .pt, .safetensors, .pt2, .onnx, or a new folder for hf",
    )
    parser.add_argument(
        "--weights", choices=["ema", "online"], default="ema", help="averaged or last weights (ema)"
    )
    parser.add_argument(
        "--format",
        choices=list(_ENDINGS),
        default="weights",
        help="a state dict for plain timm, its folder for the Hugging Face hub, or a program of one"
        " image size and keep-rate (weights)",
    )
    group = parser.add_argument_group("cell of a program")
    group.add_argument("--img-size", type=int, metavar="PX", help="image size (full)")
    group.add_argument("--keep-rate", type=float, metavar="K", help="share of tokens to keep (1)")
    group.add_argument(
        "--by",
        choices=["magnitude", "l2_magnitude", "random", "class_attention"],
        help="which tokens stay (as the run trained, or magnitude)",
    )
    group.add_argument(
        "--at-blocks", type=int, nargs="+", metavar="B", help="running blocks at which others go"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    _check_flags(args)
    from autoprog.commands.evaluation import finished_run
    from autoprog.commands.run_words import named_run

    finished = finished_run(named_run(args.run))
    name = "final_ema" if args.weights == "ema" else "final"
    source = finished.path / "checkpoints" / f"{name}.safetensors"
    if args.format == "weights":
        from autoprog.train.export import export_weights

        print(export_weights(source, args.output))
        return 0
    if args.format == "hf":
        from autoprog.train.export import export_folder

        settings = finished.manifest.settings
        if settings.model.spec().is_local:
            law = f"must be weights: {settings.model.model} is built by supernet.locality"
            raise ConfigError("--format", "", law, "hf")
        print(export_folder(source, settings.recipe, args.output))
        return 0
    from autoprog.train.program import export_onnx, export_program
    from autoprog.train.weights import read_weights, with_tables

    settings, file = finished.manifest.settings, with_tables(read_weights(source, averaged=True))
    export = export_onnx if args.format == "onnx" else export_program
    print(export(settings, file, _cell(args, finished), args.output))
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    endings = _ENDINGS[args.format]
    if args.format == "hf" and args.output.exists():
        law, cure = "must be a new folder", "take another name, or remove it"
        raise ConfigError("--output", "", law, str(args.output), cure)
    if endings and args.output.suffix not in endings:
        known = " or ".join([", ".join(endings[:-1]), endings[-1]] if endings[1:] else endings)
        raise ConfigError("--output", "", f"must end in {known}", str(args.output))
    for flag in ("img_size", "keep_rate", "by", "at_blocks"):
        if args.format not in _PROGRAMS and getattr(args, flag) is not None:
            law = (
                "must go with --format torch-export or onnx: weights are those of the whole network"
            )
            raise ConfigError("--" + flag.replace("_", "-"), "", law)


def _cell(args: argparse.Namespace, finished: Run) -> SubnetConfig:
    """Return the cell that the flags name, which drops tokens as the run did."""
    from autoprog.commands.cells import check_rate, check_size, elastic_of, tokens_of
    from supernet.config import SubnetConfig

    spec = finished.manifest.settings.model.spec()
    img_size = spec.img_size if args.img_size is None else args.img_size
    keep_rate = 1.0 if args.keep_rate is None else args.keep_rate
    check_size(img_size, spec, "--img-size")
    tokens = tokens_of(
        args.by, args.at_blocks, spec, elastic_of(finished.best or finished.schedule)
    )
    check_rate(keep_rate, tokens, spec, "--keep-rate")
    return SubnetConfig(spec.depth, img_size, tokens.rule(keep_rate))
