"""How a grid of costs is told: a table on a terminal, aligned text elsewhere, or one JSON object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from autoprog.bench.costgrid import CostGrid, CostRow
from autoprog.console import Console
from autoprog.ui.tables import Column, plain_table, rich_table
from autoprog.ui.units import ascii_text, depth_text, number, per_cent

__all__ = ["costs_as_json", "print_costs"]


def costs_as_json(grid: CostGrid) -> str:
    """Return one JSON object, with the numbers of the report in full; ``costs`` is a ``costs.json``."""
    body = {
        "schema": 1,
        "model": grid.model,
        "costs": grid.table.body(),
        "cells": [_row_body(row) for row in grid.rows],
        "left_out_errors": grid.left_out_errors,
        "seconds": grid.seconds,
    }
    return json.dumps(body, indent=1, allow_nan=False)


def _row_body(row: CostRow) -> dict[str, object]:
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name != "cell"}
    subnet = row.cell.subnet
    return {
        "name": row.cell.name,
        "depth": list(subnet.depth),
        "img_size": subnet.img_size,
        "keep_rate": subnet.tokens.keep_rate,
        "batch_size": row.cell.batch_size,
        **values,
    }


def print_costs(console: Console, grid: CostGrid) -> None:
    """Print how it was measured, a row for each cell, and what estimates are worth."""
    columns = _columns(grid.rows)
    for line in _head(grid):
        _print(console, line)
    _print(console, "")
    if console.is_terminal:
        console.print(rich_table(columns, console.width))
    else:
        for line in plain_table(columns):
            console.out(line, highlight=False)
    _print(console, "")
    for line in _foot(grid):
        _print(console, line)


def _print(console: Console, line: str) -> None:
    console.out(line if console.is_terminal else ascii_text(line), highlight=False)


def _head(grid: CostGrid) -> list[str]:
    here = grid.table.conditions
    return [
        f"{grid.model}, {here['device']}, precision {here['amp']}, {here['threads']} threads,"
        f" {here['workers']} loader workers; measured for {grid.seconds:.0f} s",
        "step: on a batch that is there; data: to make a batch; together: what a step adds to a run",
    ]


def _columns(rows: Sequence[CostRow]) -> list[Column]:
    subnets = [row.cell.subnet for row in rows]
    columns = [
        Column("depth", tuple(depth_text(subnet) for subnet in subnets)),
        Column("px", tuple(str(subnet.img_size) for subnet in subnets)),
    ]
    if any(subnet.tokens.keep_rate < 1 for subnet in subnets):
        keeps = tuple(f"{subnet.tokens.keep_rate:g}" for subnet in subnets)
        columns.append(Column("keep", keeps))
    if len({row.cell.batch_size for row in rows}) > 1:
        columns.append(Column("batch", tuple(str(row.cell.batch_size) for row in rows)))
    return [
        *columns,
        Column("step ms", tuple(_ms(row.step_seconds) for row in rows)),
        Column("interval", tuple(_interval(row) for row in rows), rank=3),
        Column("data ms", tuple(_ms(row.data_seconds) for row in rows)),
        Column("together", tuple(_ms(row.wall_seconds) for row in rows)),
        Column("step/full", tuple(number(row.step_ratio, 3) for row in rows)),
        Column("MACs/full", tuple(number(row.macs_ratio, 3) for row in rows), rank=1),
        Column("rounds", tuple(str(row.rounds) for row in rows), rank=2),
        Column("", tuple(map(_note, rows)), justify="left"),
    ]


def _ms(seconds: float) -> str:
    return number(1000 * seconds, 4)


def _interval(row: CostRow) -> str:
    if row.interval is None:
        return "–"
    return f"[{_ms(row.interval[0])}, {_ms(row.interval[1])}]"


def _note(row: CostRow) -> str:
    notes = ("estimated", row.is_estimated), ("data-bound", row.is_data_bound)
    return ", ".join(text for text, holds in notes if holds)


def _foot(grid: CostGrid) -> list[str]:
    lines = []
    if grid.typical_error is not None:
        worst = max(grid.left_out_errors, key=lambda name: abs(grid.left_out_errors[name]))
        lines.append(
            f"each cell estimated from the others: off by {per_cent(grid.typical_error)} in the median,"
            f" {per_cent(abs(grid.left_out_errors[worst]))} at worst ({worst})"
        )
    how = "measured" if grid.table.overlap_is_measured else "not measured, the usual"
    lines.append(
        f"of step and data the shorter is hidden to {per_cent(grid.table.overlap)} ({how})"
    )
    return lines
