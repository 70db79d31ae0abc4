"""What each subnet of a search space costs on this machine: measured in turns, estimated between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from autoprog.bench.speed import scratch_folder
from autoprog.costs.cells import CostCell, full_cell
from autoprog.costs.model import CostModel
from autoprog.costs.table import CostTable
from autoprog.effort import image_macs
from autoprog.search.profile import Limits, measure_grid
from autoprog.settings import RunSettings
from autoprog.stage import Training
from autoprog.train.data import OpenedData
from autoprog.train.device import resolve_compute
from autoprog.train.engine import Job, build_trainer, run_length

__all__ = ["CostGrid", "CostRow", "cost_rows", "measure_costs"]


@dataclass(frozen=True)
class CostRow:
    """One cell. Ratios are to the full cell.

    Attributes:
        cell: What is done.
        step_seconds: Of a step on a batch that is there.
        interval: See :class:`autoprog.costs.table.CellCost`; None where the step is estimated.
        data_seconds: In which the feed makes a batch.
        wall_seconds: What a step adds to a run, with its data.
        is_estimated: Whether the step was not measured.
        step_ratio: Of the seconds of a step.
        macs_ratio: Of its multiply-accumulates.
        is_data_bound: Whether making the batch takes longer than the step.
    """

    cell: CostCell
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
    settings: RunSettings, opened: OpenedData, cells: Sequence[CostCell], limits: Limits
) -> CostGrid:
    """Measure the cells of a search that there is time for and estimate the others."""
    recipe = settings.recipe
    length = run_length(len(opened.train), recipe.batch_size, recipe.epochs)
    compute = resolve_compute(settings)
    with scratch_folder(settings) as folder:
        trainer = build_trainer(settings, folder, opened, compute, length, recipe.sched, Job())
        try:
            begin = time.perf_counter()
            table = measure_grid(trainer, cells, limits)
            seconds = time.perf_counter() - begin
        finally:
            trainer.feed.close()
    model = CostModel(settings.model.spec(), table)
    return CostGrid(
        model=settings.model.model,
        table=table,
        rows=tuple(cost_rows(model, cells, recipe.batch_size, len(opened.class_names))),
        left_out_errors=model.left_out_errors(),
        seconds=seconds,
    )


def cost_rows(
    model: CostModel, cells: Sequence[CostCell], batch_size: int, num_classes: int
) -> list[CostRow]:
    """Return a row for each cell; data must have been measured."""
    full = full_cell(model.spec, batch_size)

    def work(cell: CostCell) -> int:
        training = Training(unfrozen=cell.unfrozen)
        return cell.batch_size * image_macs(model.spec, cell.subnet, training, num_classes)

    return [_row(model, cell, full, work(cell) / work(full)) for cell in cells]


def _row(model: CostModel, cell: CostCell, full: CostCell, macs_ratio: float) -> CostRow:
    step, data, cost = model.step(cell), model.data(cell), model.table.cells.get(cell.name)
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
