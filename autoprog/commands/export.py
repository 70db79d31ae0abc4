"""``autoprog export``: a run's final weights for plain timm."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprog.errors import ConfigError

__all__ = ["add_flags", "run"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what to export and where to."""
    parser.epilog = (
        "examples:\n"
        "  autoprog export runs/… --output deit-s.pth\n"
        "  autoprog export runs/… --weights online --output deit-s.safetensors\n"
    )
    parser.add_argument("run", metavar="RUN", help="a finished run folder")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=".pth, .pt or .safetensors"
    )
    parser.add_argument(
        "--weights", choices=["ema", "online"], default="ema", help="averaged or last weights (ema)"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command."""
    if args.output.suffix not in (".pth", ".pt", ".safetensors"):
        law = "must end in .pth, .pt or .safetensors"
        raise ConfigError("--output", "", law, str(args.output))
    from autoprog.runs import load_run

    finished = load_run(args.run)
    if finished.result is None:
        law, cure = "must be a finished run", "go on with --resume first"
        raise ConfigError("RUN", "", law, str(args.run), cure)
    from autoprog.train.export import export_weights

    name = "final_ema" if args.weights == "ema" else "final"
    source = finished.path / "checkpoints" / f"{name}.safetensors"
    print(export_weights(source, args.output))
    return 0
