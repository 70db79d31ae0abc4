"""How an evaluation over image sizes and keep-rates is told: a table, aligned text, or plain values."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.accuracy import (
    is_unbalanced,
    largest_class_fraction,
    no_better_than_a_class,
    sampling_error,
)
from autoprog.evaluation_grid import EvaluationGrid, front
from autoprog.ui.format import DIM, WINNER, amount, ascii_text, count, loss_text, number, speed_text
from autoprog.ui.tables import Column, Fitted, fit_columns, plain_table, rich_table
from supernet.config import ALL_TOKENS

__all__ = ["grid_columns", "grid_document", "grid_text", "grid_view"]


def grid_view(grid: EvaluationGrid) -> RenderableType:
    """Return the table of all cells, those on the front made bold."""
    foot = (Text(line, DIM) for line in _foot(grid))
    return Group(Text(_head(grid)), Text(), Fitted(lambda width: _table(grid, width)), *foot)


def grid_text(grid: EvaluationGrid) -> str:
    """Return the same as aligned lines of ASCII."""
    lines = [ascii_text(_head(grid)), "", *plain_table(grid_columns(grid)), *_foot(grid)]
    return "\n".join(lines) + "\n"


def grid_document(grid: EvaluationGrid) -> dict[str, Any]:
    """Return all that is known as values that JSON can hold; no number is rounded."""
    on_front = front(grid.cells)
    return {
        "schema": 1,
        "model": grid.model,
        "weights": grid.weights,
        "device": grid.device,
        "amp": grid.amp,
        "batch_size": grid.batch_size,
        "num_images": grid.num_images,
        "held_out": grid.held_out,
        "largest_class_fraction": _classes(grid)[0],
        "class_images": list(grid.class_images),
        "cells": [
            {
                "depth": list(cell.subnet.depth),
                "img_size": cell.subnet.img_size,
                "keep_rate": cell.subnet.tokens.keep_rate,
                "by": cell.subnet.tokens.by,
                "at_blocks": list(cell.subnet.tokens.at_blocks),
                "macs": cell.macs,
                "top1": cell.top1,
                "balanced_top1": cell.balanced_top1,
                "loss": cell.loss if math.isfinite(cell.loss) else None,
                "images_per_second": cell.images_per_second,
                "on_front": is_on_it,
            }
            for cell, is_on_it in zip(grid.cells, on_front, strict=True)
        ],
    }


def grid_columns(grid: EvaluationGrid) -> list[Column]:
    """Return the columns of all cells; without a measured speed there is none of that."""
    cells = grid.cells
    speeds = tuple(speed_text(cell.images_per_second) for cell in cells)
    balanced = tuple(number(cell.balanced_top1) for cell in cells)
    marks = tuple("*" if is_on_it else "" for is_on_it in front(cells))
    return [
        Column("px", tuple(str(cell.subnet.img_size) for cell in cells)),
        Column("keep-rate", tuple(number(cell.subnet.tokens.keep_rate) for cell in cells)),
        Column("MACs", tuple(amount(cell.macs) for cell in cells), rank=1),
        Column("top-1 %", tuple(f"{cell.top1:.2f}" for cell in cells)),
        *([Column("balanced %", balanced)] if is_unbalanced(*_classes(grid)) else []),
        Column("loss", tuple(loss_text(cell.loss) for cell in cells), rank=3),
        *([Column("images/s", speeds, rank=2)] if cells[0].images_per_second is not None else []),
        *([Column("front", marks, "left")] if len(cells) > 1 else []),
    ]


def _table(grid: EvaluationGrid, width: int) -> Table:
    table = rich_table(fit_columns(grid_columns(grid), width), width)
    for row, is_on_it in zip(table.rows, front(grid.cells), strict=True):
        row.style = WINNER if is_on_it and len(grid.cells) > 1 else ""
    return table


def _head(grid: EvaluationGrid) -> str:
    images = "held-out training" if grid.held_out else "validation"
    best = max(cell.top1 for cell in grid.cells)
    error = f" (top-1 ± {sampling_error(best, grid.num_images):.1f})"
    return (
        f"{grid.model}, {grid.weights}: {count(grid.num_images)} {images} images{error},"
        f" batches of {grid.batch_size} on {grid.device}, precision {grid.amp}"
    )


def _foot(grid: EvaluationGrid) -> list[str]:
    """Say how tokens were chosen and what the marks mean."""
    rules = {cell.subnet.tokens for cell in grid.cells} - {ALL_TOKENS}
    places = sorted({(rule.by, rule.at_blocks) for rule in rules})
    lines = [
        f"tokens kept by {by.replace('_', ' ')} at block {', '.join(map(str, blocks))}"
        for by, blocks in places
    ]
    if len(grid.cells) > 1:
        lines.append("front (*): no other cell is as accurate for fewer MACs")
    fraction, num_classes = _classes(grid)
    if is_unbalanced(fraction, num_classes):
        lines.append(
            f"the largest of {num_classes} classes has {100 * fraction:.1f} % of the images"
        )
    best = max(cell.top1 for cell in grid.cells)
    warning = (
        no_better_than_a_class(best, fraction, sum(grid.class_images))
        if grid.class_images
        else None
    )
    if warning is not None:
        lines.append(f"! {warning}")
    return ["", *lines] if lines else []


def _classes(grid: EvaluationGrid) -> tuple[float, int]:
    """Return the fraction of the largest class, and how many classes have images."""
    return largest_class_fraction(grid.class_images), sum(map(bool, grid.class_images))
