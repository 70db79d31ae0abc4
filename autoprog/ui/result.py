"""What a complete run came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM
from autoprog.ui.units import amount, duration, loss_text, mebibytes, number

__all__ = ["result_rows", "result_view"]

TWO_COLUMNS_WIDTH = 72


def _accuracy(value: float) -> str:
    return f"{value:.2f} %"


_FIELDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "top1": ("top-1", _accuracy),
    "top1_ema": ("top-1 EMA", _accuracy),
    "loss": ("loss", loss_text),
    "loss_ema": ("loss EMA", loss_text),
    "wall_seconds": ("wall time", duration),
    "train_seconds": ("training", duration),
    "supernet_seconds": ("in supernets", duration),
    "search_seconds": ("search", duration),
    "lost_seconds": ("lost to growth", duration),
    "data_wait_seconds": ("data wait", duration),
    "eval_seconds": ("evaluation", duration),
    "epochs": ("epochs", number),
    "image_epochs": ("image-epochs", number),
    "macs": ("MACs", amount),
    "peak_memory_bytes": ("peak memory", mebibytes),
    "device": ("device", str),
    "amp": ("precision", str),
}


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, text) of what `result` holds of a result file; what it lacks is left out."""
    return [
        (name, text(result[key]))
        for key, (name, text) in _FIELDS.items()
        if result.get(key) is not None
    ]


def result_view(result: Mapping[str, Any]) -> RenderableType:
    """Return the result as names and values, in two columns where there is room."""
    return panel(Fitted(lambda width: _grid(result_rows(result), width)), "Result")


def _grid(rows: list[tuple[str, str]], width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 3, 0, 0))
    half = (len(rows) + 1) // 2 if width >= TWO_COLUMNS_WIDTH else len(rows)
    for left, right in zip_longest(rows[:half], rows[half:], fillvalue=("", "")):
        grid.add_row(*_cells(left), *_cells(right))
    return grid


def _cells(row: tuple[str, str]) -> tuple[Text, Text]:
    name, text = row
    return Text(name, DIM), Text(text, "bold" if name.startswith("top-1") else "")
