"""How a grid of costs is told: a table on a terminal, aligned text elsewhere, or one JSON object."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoprog.bench.runner import scratch_folder
from autoprog.console import Console
from autoprog.costs.model import CostModel
from autoprog.costs.table import CostKey, CostTable, full_key
from autoprog.data.dataset import OpenedData
from autoprog.paired_timing import TimingLimits
from autoprog.search.measured_costs import measure_step_costs, result_of
from autoprog.settings import RunSettings
from autoprog.stage import Training, image_macs
from autoprog.train.device import resolve_compute
from autoprog.train.length import run_length
from autoprog.train.run import Job, build_trainer
from autoprog.ui.format import ascii_text, depth_text, number, per_cent
from autoprog.ui.tables import Column, plain_table, rich_table

__all__ = ["CostGrid", "CostRow", "cost_rows", "costs_as_json", "measure_costs", "print_costs"]


# --------------------------------------------------------------------------------------------------
# What each subnet of a search space costs on this machine: measured in turns, estimated between.


@dataclass(frozen=True)
class CostRow:
    """One cell. Ratios are to the full cell.

    Attributes:
        cell: What is done.
        step_seconds: Of a step on a batch that is there.
        interval: See :class:`autoprog.costs.table.StepCost`; None where the step is estimated.
        data_seconds: In which the loader makes a batch.
        wall_seconds: What a step adds to a run, with its data.
        is_estimated: Whether the step was not measured.
        step_ratio: Of the seconds of a step.
        macs_ratio: Of its multiply-accumulates.
        is_data_bound: Whether making the batch takes longer than the step.
    """

    cell: CostKey
    step_seconds: float
    interval: tuple[float, float] | None
    rounds: int
    data_seconds: float
    wall_seconds: float
    is_estimated: bool
    step_ratio: float
    macs_ratio: float
    is_data_bound: bool


@dataclass(frozen=True)
class CostGrid:
    """All cells, and how far to trust estimates."""

    model: str
    table: CostTable
    rows: tuple[CostRow, ...]
    left_out_errors: dict[str, float]
    seconds: float

    @property
    def typical_error(self) -> float | None:
        """Return the median size of the relative errors of left-out cells; None without any."""
        errors = [abs(error) for error in self.left_out_errors.values()]
        return median(errors) if errors else None


def measure_costs(
    settings: RunSettings, opened: OpenedData, cells: Sequence[CostKey], limits: TimingLimits
) -> CostGrid:
    """Measure the cells of a search that there is time for and estimate the others."""
    recipe = settings.recipe
    length = run_length(len(opened.train), recipe.batch_size, recipe.epochs)
    compute = resolve_compute(settings)
    with scratch_folder(settings) as folder:
        trainer = build_trainer(settings, folder, opened, compute, length, recipe.sched, Job())
        try:
            begin = time.perf_counter()
            table = result_of(measure_step_costs(trainer, cells, limits))
            seconds = time.perf_counter() - begin
        finally:
            trainer.data.close()
    model = CostModel(settings.model.spec(), table)
    return CostGrid(
        model=settings.model.model,
        table=table,
        rows=tuple(cost_rows(model, cells, recipe.batch_size, len(opened.class_names))),
        left_out_errors=model.left_out_errors(),
        seconds=seconds,
    )


def cost_rows(
    model: CostModel, cells: Sequence[CostKey], batch_size: int, num_classes: int
) -> list[CostRow]:
    """Return a row for each cell; data must have been measured."""
    full = full_key(model.spec, batch_size)

    def work(cell: CostKey) -> int:
        training = Training(unfrozen=cell.unfrozen)
        return cell.batch_size * image_macs(model.spec, cell.subnet, training, num_classes)

    return [_row(model, cell, full, work(cell) / work(full)) for cell in cells]


def _row(model: CostModel, cell: CostKey, full: CostKey, macs_ratio: float) -> CostRow:
    step, data, cost = model.step(cell), model.data(cell), model.table.step_costs.get(cell.name)
    assert data is not None, "a grid has data"
    return CostRow(
        cell=cell,
        step_seconds=step.seconds,
        interval=None if cost is None else cost.interval,
        rounds=0 if cost is None else cost.rounds,
        data_seconds=data.seconds,
        wall_seconds=model.wall(cell).seconds,
        is_estimated=step.is_estimated,
        step_ratio=step.seconds / model.step(full).seconds,
        macs_ratio=macs_ratio,
        is_data_bound=data.seconds > step.seconds,
    )


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
