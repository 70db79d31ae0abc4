"""An evaluation over image sizes and keep-rates: a table of its cells and the Pareto front among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from autoprog.accuracy import (
    is_unbalanced,
    largest_class_fraction,
    no_better_than_a_class,
    sampling_error,
)
from autoprog.evaluation_grid import EvaluationGrid, front
from autoprog.ui.format import amount, count, loss_text, number, speed_text
from autoprog.ui.section import Line, Section, Table
from autoprog.ui.tables import Column
from supernet.config import ALL_TOKENS

__all__ = ["grid_section"]


def grid_section(grid: EvaluationGrid) -> Section:
    """Return what was evaluated, the table of all cells, and what its marks mean."""
    cells, on_front = grid.cells, front(grid.cells)
    images = "held-out training" if grid.held_out else "validation"
    error = sampling_error(max(cell.top1 for cell in cells), grid.num_images)
    head = (
        f"{grid.model}, {grid.weights}: {count(grid.num_images)} {images} images"
        f" (top-1 ± {error:.1f}), batches of {grid.batch_size} on {grid.device},"
        f" precision {grid.amp}"
    )
    has_speeds = cells[0].images_per_second is not None
    is_balanced = not is_unbalanced(*_classes(grid))
    columns = [
        Column("px", tuple(str(cell.subnet.img_size) for cell in cells)),
        Column("keep-rate", tuple(number(cell.subnet.tokens.keep_rate) for cell in cells)),
        Column("MACs", tuple(amount(cell.macs) for cell in cells), rank=1),
        Column("top-1 %", tuple(f"{cell.top1:.2f}" for cell in cells)),
        Column("balanced %", tuple(number(cell.balanced_top1) for cell in cells)),
        Column("loss", tuple(loss_text(cell.loss) for cell in cells), rank=3),
        Column("images/s", tuple(speed_text(cell.images_per_second) for cell in cells), rank=2),
        Column("front", tuple("*" if is_on_it else "" for is_on_it in on_front), "left"),
    ]
    without = {
        "balanced %": is_balanced,
        "images/s": not has_speeds,
        "front": len(cells) == 1,
    }
    shown = [column for column in columns if not without.get(column.header)]
    strong = [row for row, is_on_it in enumerate(on_front) if is_on_it and len(cells) > 1]

    def values() -> dict[str, Any]:
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

    return Section(
        "grid",
        (Line(head), Table.of(shown, strong), *(Line(text, "dim") for text in _notes(grid))),
        values=values,
    )


def _notes(grid: EvaluationGrid) -> Iterator[str]:
    """Yield how tokens were chosen, what the marks mean, and whether the accuracy is one of chance."""
    rules = {cell.subnet.tokens for cell in grid.cells} - {ALL_TOKENS}
    for by, blocks in sorted({(rule.by, rule.at_blocks) for rule in rules}):
        yield f"tokens kept by {by.replace('_', ' ')} at block {', '.join(map(str, blocks))}"
    if len(grid.cells) > 1:
        yield "front (*): no other cell is as accurate for fewer MACs"
    fraction, num_classes = _classes(grid)
    if is_unbalanced(fraction, num_classes):
        yield f"the largest of {num_classes} classes has {100 * fraction:.1f} % of the images"
    if grid.class_images:
        best = max(cell.top1 for cell in grid.cells)
        warning = no_better_than_a_class(best, fraction, sum(grid.class_images))
        if warning is not None:
            yield f"! {warning}"


def _classes(grid: EvaluationGrid) -> tuple[float, int]:
    """Return the fraction of the largest class, and how many classes have images."""
    return largest_class_fraction(grid.class_images), sum(map(bool, grid.class_images))
