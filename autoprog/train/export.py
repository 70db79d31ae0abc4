"""Final weights in other formats, with the line that loads them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from autoprog.errors import RunError

__all__ = ["export_weights"]


def export_weights(source: Path, output: Path) -> str:
    """Write the weights of a run's safetensors file as a plain timm state dict; return how to load them.

    Raises:
        RunError: If a file cannot be read or written.
    """
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata()
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        temporary = output.with_name(f".{output.name}")
        if output.suffix == ".safetensors":
            save_file(weights, temporary, metadata=metadata)
        else:
            torch.save(weights, temporary)
        temporary.replace(output)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{output}: the weights cannot be exported: {error}") from None
    kwargs = json.loads(metadata["kwargs"]) | {"num_classes": int(metadata["num_classes"])}
    arguments = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
    build = f"timm.create_model({metadata['timm']!r}, {arguments}, checkpoint_path={str(output)!r})"
    before = "import supernet.locality; " if metadata["timm"].startswith("local_") else ""
    return f"{output}\nload with: {before}{build}"
