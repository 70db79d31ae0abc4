"""One cell of elastic weights as a program that needs neither timm nor autoprog."""

from __future__ import annotations

from pathlib import Path

import torch

from autoprog.errors import RunError
from autoprog.settings import RunSettings
from autoprog.train.model import build_model, transform_settings
from autoprog.train.weights import WeightsFile, load_weights
from supernet.config import SubnetConfig
from supernet.export import static_model

__all__ = ["export_program"]


def export_program(
    settings: RunSettings, file: WeightsFile, subnet: SubnetConfig, output: Path
) -> str:
    """Write what ``torch.export`` makes of a subnet, for batches of any size; return how to load it.

    Raises:
        ConfigError: If the weights are of another network.
        RunError: If the file cannot be written.
    """
    num_classes = len(file.state["head.weight"]) if "head.weight" in file.state else 0
    spec, tables = settings.model.spec(), settings.table_sizes
    model = build_model(spec, num_classes, settings.seed, tables)
    load_weights(model, file)
    transform, side = transform_settings(model, settings.recipe), subnet.img_size
    images = torch.zeros(2, model.spec.in_chans, side, side)
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        static = static_model(model, subnet)
        program = torch.export.export(static, (images,), dynamic_shapes=(batch,))
    temporary = output.with_name(f".{output.name}")
    try:
        torch.export.save(program, temporary)
        temporary.replace(output)
    except (OSError, RuntimeError) as error:
        raise RunError(f"{output}: the program cannot be written: {error}") from None
    mean, std = (
        " ".join(f"{value:.4g}" for value in values) for values in (transform.mean, transform.std)
    )
    return (
        f"{output}: {subnet}\n"
        f"load with: torch.export.load({str(output)!r}).module()(images)\n"
        f"images: B x {model.spec.in_chans} x {side} x {side} in [0, 1], less {mean}, divided by {std}"
    )
