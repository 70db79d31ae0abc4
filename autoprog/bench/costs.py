"""What the subnets of a search space cost on this machine: measured while there is time, else estimated."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoprog.bench.scratch import scratch_folder
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
from autoprog.ui.format import depth_text, number, per_cent
from autoprog.ui.render_rich import print_sections
from autoprog.ui.section import Part, Section, Table, lines
from autoprog.ui.tables import Column

__all__ = ["CostGrid", "CostRow", "cost_rows", "costs_as_json", "measure_costs", "print_costs"]


@dataclass(frozen=True)
class CostRow:
    """What a kind of step costs. Ratios are to a step of the full model.

    Attributes:
        key: The subnet and the batch size of the step.
        step_seconds: Seconds of a step on a batch that is there.
        interval: See :class:`autoprog.costs.table.StepCost`; None where the step is estimated.
        data_seconds: Seconds in which the loader makes a batch.
        wall_seconds: What a step adds to a run, with its data.
        is_estimated: Whether the step was not measured.
        step_ratio: The ratio of the seconds of a step.
        macs_ratio: The ratio of its multiply-accumulates.
        is_data_bound: Whether making the batch takes longer than the step.
    """

    key: CostKey
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
    """The costs of a search space, and how far to trust those that are estimated."""

    model: str
    table: CostTable
    rows: tuple[CostRow, ...]
    left_out_errors: dict[str, float]
    seconds: float

    @property
    def typical_error(self) -> float | None:
        """Return the median size of the relative errors of left-out measurements; None without any."""
        errors = [abs(error) for error in self.left_out_errors.values()]
        return median(errors) if errors else None


def measure_costs(
    settings: RunSettings, opened: OpenedData, keys: Sequence[CostKey], limits: TimingLimits
) -> CostGrid:
    """Measure the steps that there is time for and estimate the others."""
    recipe = settings.recipe
    length = run_length(len(opened.train), recipe.batch_size, recipe.epochs)
    compute = resolve_compute(settings)
    with scratch_folder(settings) as folder:
        trainer = build_trainer(settings, folder, opened, compute, length, recipe.sched, Job())
        try:
            # Without the start of a trainer, which is no part of measuring.
            begin = time.perf_counter()
            table = result_of(measure_step_costs(trainer, keys, limits))
            seconds = time.perf_counter() - begin
        finally:
            trainer.data.close()
    model = CostModel(settings.model.spec(), table)
    return CostGrid(
        model=settings.model.model,
        table=table,
        rows=tuple(cost_rows(model, keys, recipe.batch_size, len(opened.class_names))),
        left_out_errors=model.left_out_errors(),
        seconds=seconds,
    )


def cost_rows(
    model: CostModel, keys: Sequence[CostKey], batch_size: int, num_classes: int
) -> list[CostRow]:
    """Return a row for each kind of step; data must have been measured."""
    full = full_key(model.spec, batch_size)  # what ratios are to

    def macs(key: CostKey) -> int:
        training = Training(unfrozen=key.unfrozen)
        return key.batch_size * image_macs(model.spec, key.subnet, training, num_classes)

    rows = []
    for key in keys:
        step, data, cost = model.step(key), model.data(key), model.table.step_costs.get(key.name)
        assert data is not None, "a grid has data"
        rows.append(
            CostRow(
                key=key,
                step_seconds=step.seconds,
                interval=None if cost is None else cost.interval,
                rounds=0 if cost is None else cost.rounds,
                data_seconds=data.seconds,
                wall_seconds=model.wall(key).seconds,
                is_estimated=step.is_estimated,
                step_ratio=step.seconds / model.step(full).seconds,
                macs_ratio=macs(key) / macs(full),
                is_data_bound=data.seconds > step.seconds,
            )
        )
    return rows


def costs_as_json(grid: CostGrid) -> str:
    """Return one JSON object, with the numbers of the report in full; ``costs`` is a ``costs.json``."""
    cells = []
    for row in grid.rows:
        subnet = row.key.subnet
        values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name != "key"}
        cells.append(
            {
                "name": row.key.name,
                "depth": list(subnet.depth),
                "img_size": subnet.img_size,
                "keep_rate": subnet.tokens.keep_rate,
                "batch_size": row.key.batch_size,
                **values,
            }
        )
    body = {
        "schema": 1,
        "model": grid.model,
        "costs": grid.table.body(),
        "cells": cells,
        "left_out_errors": grid.left_out_errors,
        "seconds": grid.seconds,
    }
    return json.dumps(body, indent=1, allow_nan=False)


def print_costs(console: Console, grid: CostGrid) -> None:
    """Print how it was measured, a row for each kind of step, and what estimates are worth."""
    here, rows = grid.table.conditions, grid.rows
    subnets = [row.key.subnet for row in rows]
    columns = [
        Column("depth", tuple(depth_text(subnet) for subnet in subnets)),
        Column("px", tuple(str(subnet.img_size) for subnet in subnets)),
    ]
    if any(subnet.tokens.keep_rate < 1 for subnet in subnets):
        keeps = tuple(f"{subnet.tokens.keep_rate:g}" for subnet in subnets)
        columns.append(Column("keep", keeps))
    if len({row.key.batch_size for row in rows}) > 1:
        columns.append(Column("batch", tuple(str(row.key.batch_size) for row in rows)))
    intervals = [
        "–" if row.interval is None else f"[{_ms(row.interval[0])}, {_ms(row.interval[1])}]"
        for row in rows
    ]
    notes = [
        ", ".join(["estimated"] * row.is_estimated + ["data-bound"] * row.is_data_bound)
        for row in rows
    ]
    columns += [
        Column("step ms", tuple(_ms(row.step_seconds) for row in rows)),
        Column("interval", tuple(intervals), rank=3),
        Column("data ms", tuple(_ms(row.data_seconds) for row in rows)),
        Column("together", tuple(_ms(row.wall_seconds) for row in rows)),
        Column("step/full", tuple(number(row.step_ratio, 3) for row in rows)),
        Column("MACs/full", tuple(number(row.macs_ratio, 3) for row in rows), rank=1),
        Column("rounds", tuple(str(row.rounds) for row in rows), rank=2),
        Column("", tuple(notes), justify="left"),
    ]
    # How far estimates are off is known from the measured steps: each estimated without itself.
    errors = ""
    if grid.typical_error is not None:
        worst = max(grid.left_out_errors, key=lambda name: abs(grid.left_out_errors[name]))
        errors = (
            f"each subnet estimated from the others: off by {per_cent(grid.typical_error)} in the median,"
            f" {per_cent(abs(grid.left_out_errors[worst]))} at worst ({worst})"
        )
    how = "measured" if grid.table.overlap_is_measured else "not measured, the usual"
    parts: tuple[Part, ...] = (
        *lines(
            f"{grid.model}, {here['device']}, precision {here['amp']}, {here['threads']} threads,"
            f" {here['workers']} loader workers; measured for {grid.seconds:.0f} s",
            "step: on a batch that is there; data: to make a batch; together: what a step adds to a run",
        ),
        Table.of(columns),
        *lines(
            errors,
            f"of step and data the shorter is hidden to {per_cent(grid.table.overlap)} ({how})",
        ),
    )
    # Where nobody looks at a screen a table is aligned text, which grep and awk understand.
    print_sections(console, [Section("costs", parts)], plain=not console.is_terminal)


def _ms(seconds: float) -> str:
    return number(1000 * seconds, 4)
