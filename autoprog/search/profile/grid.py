"""The measured grid: seconds of steps and of batches, in turns, by a trainer that is none the wiser."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import log
from statistics import fmean, median

import torch

from autoprog.costs.cells import CostCell, full_cell
from autoprog.costs.choose import cells_to_measure
from autoprog.costs.table import CellCost, CostTable
from autoprog.curves import Curriculum
from autoprog.effort import image_macs
from autoprog.search.profile.arms import BatchArm, StepArm, both_seconds, some_batch
from autoprog.search.profile.turns import Arm, Limits, Turns, take_turns, turn_seconds
from autoprog.search.profile.untouched import untouched
from autoprog.stage import Training
from autoprog.train.ranks import ONE_PROCESS
from autoprog.train.trainer import Trainer

__all__ = ["RUN_SHARE", "measure_grid"]

RUN_SHARE = 0.01
"""Measuring takes at most this share of the run that it is for, but for the first two turns of a cell."""

_TURNS_WORTH = 4
"""Turns of a cell that must fit into the time for it to be taken in; a turn is two steps at least."""

_TURNS_SHARE = 0.75
"""Share of the time for turns where there are workers; the rest is for what they hide."""

_OVERLAP_REPEATS = 3
_DATA = "batches of "
Batches = tuple[int, int]


@dataclass
class _Bench:
    """What is measured with: the trainer, one arm a cell and one a kind of batch."""

    trainer: Trainer
    curriculum: Curriculum
    data_arms: dict[Batches, BatchArm] = field(default_factory=dict)
    step_arms: dict[CostCell, StepArm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts = self.trainer.stepper.micro_batches

    def data(self, cell: CostCell) -> BatchArm:
        """Return what fetches batches for a cell."""
        key = self.batches_of(cell)
        if key not in self.data_arms:
            self.data_arms[key] = BatchArm(self.trainer, *key, self.curriculum)
        return self.data_arms[key]

    def add(self, cells: Iterable[CostCell]) -> None:
        """Get ready to measure cells; those that load alike share one batch."""
        batches = {self.batches_of(cell): arm.batch for cell, arm in self.step_arms.items()}
        for cell in cells:
            key = self.batches_of(cell)
            if key not in batches:
                batches[key] = some_batch(self.data(cell))
            if cell not in self.step_arms:
                arm = StepArm(self.trainer, cell, batches[key], self.curriculum, self._parts)
                self.step_arms[cell] = arm

    def arms(self) -> dict[str, Arm]:
        """Return all arms by name."""
        data = {f"{_DATA}{key}": arm for key, arm in self.data_arms.items()}
        return {**{cell.name: arm for cell, arm in self.step_arms.items()}, **data}

    def batches_of(self, cell: CostCell) -> Batches:
        """Return the number and the size in px of the images that are loaded for a step."""
        return cell.batch_size, cell.loaded_px(self.trainer.stepper.model.spec.img_size)


def measure_grid(
    trainer: Trainer,
    cells: Sequence[CostCell],
    limits: Limits,
    *,
    run_steps: int | None = None,
    full_seconds: float | None = None,
    together: bool = False,
    curriculum: Curriculum | None = None,
) -> CostTable:
    """Return what steps of the cells, and batches for them, cost; the trainer is as before, to the bit.

    Steps are the runner's own: transfer, mixing, forward, backward, clipping, update and averages. The full
    model is always measured as well, as the reference. Where the time does not suffice for all cells, those
    that tell most about the others are measured (:func:`cells_to_measure`).

    Args:
        trainer: What would train them.
        cells: What to measure.
        limits: When to stop.
        run_steps: Steps of the run that this is for, which caps the time as well (:data:`RUN_SHARE`).
        full_seconds: What is on record for the full cell; others are put on its scale, so that a machine
            that has become slower does not count for or against them.
        together: All ranks measure, which makes averaging gradients part of a step; otherwise this process
            alone, without the others.
        curriculum: The augmentation and regularisation of the steps; None for those of the recipe.
    """
    bench = _Bench(trainer, Curriculum() if curriculum is None else curriculum)
    with untouched(trainer.stepper):
        if not together:
            trainer.stepper.ranks = ONE_PROCESS
        full = full_cell(trainer.stepper.model.spec, trainer.recipe.batch_size)
        begin, share = trainer.clock(), trainer.stepper.ranks.share

        def left(limit: float) -> float:
            return limit - (trainer.clock() - begin)

        bench.add([full])
        limit = _choose(bench, full, cells, limits.seconds, run_steps)
        for_turns = left(limit * (_TURNS_SHARE if trainer.feed.workers else 1.0))
        own = replace(limits, seconds=for_turns, fewest_rounds=int(limits.seconds > 0))
        turns = take_turns(bench.arms(), full.name, own, trainer.clock, share)
        overlap = _overlap(bench, turns, left(limit))
        table = _table(bench, turns, full, full_seconds, overlap)
        body = json.loads(share(json.dumps(table.body())))
    return CostTable.model_validate(body)


def _choose(
    bench: _Bench,
    full: CostCell,
    cells: Sequence[CostCell],
    limit_seconds: float,
    run_steps: int | None,
) -> float:
    """Add the cells that there is time for; return the time that the length of the run allows."""
    stepper = bench.trainer.stepper
    seconds = float(stepper.ranks.share(str(bench.step_arms[full](1))))
    spec = stepper.model.spec

    def work(cell: CostCell) -> int:
        macs = image_macs(spec, cell.subnet, Training(unfrozen=cell.unfrozen))
        return cell.batch_size * macs

    rough = {cell: seconds * work(cell) / work(full) for cell in (full, *cells)}
    most = limit_seconds
    if run_steps is not None:
        most = min(most, RUN_SHARE * run_steps * fmean(rough.values()))

    def price(cell: CostCell) -> float:
        return _TURNS_WORTH * turn_seconds(rough[cell])

    bench.add(cells_to_measure(cells, full, price, most))
    return most


def _overlap(bench: _Bench, turns: Turns, left_seconds: float) -> tuple[float, bool]:
    """Return how far loader workers hide what is shorter, and whether that was measured.

    Measured where step and batch take most nearly alike, so that there is most to see. Of the batches those
    that the workers were making when the first one arrived are not counted.
    """
    trainer, workers = bench.trainer, bench.trainer.feed.workers
    if workers == 0:
        return 0.0, True
    share = trainer.stepper.ranks.share
    pairs = {cell: _seconds_of(bench, turns, cell) for cell in bench.step_arms}
    alike = min(pairs, key=lambda cell: abs(log(pairs[cell][0] / pairs[cell][1])))
    cell = next(cell for cell in pairs if cell.name == share(alike.name))
    step, batch = pairs[cell]
    steps = 4 * workers + 4
    times = int(share(str(int(min(_OVERLAP_REPEATS, left_seconds // (steps * (step + batch)))))))
    if times < 1:
        return (0.0 if trainer.compute.device.type == "cpu" else 1.0), False
    arm, data = bench.step_arms[cell], bench.data(cell)
    seen = median(both_seconds(arm, data, steps) for _ in range(times))
    alone = steps * step, (steps - workers) * batch
    return min(1.0, max(0.0, (sum(alone) - seen) / min(alone))), True


def _seconds_of(bench: _Bench, turns: Turns, cell: CostCell) -> tuple[float, float]:
    """Return the seconds of a step and of its batch."""
    batch = turns.estimate(f"{_DATA}{bench.batches_of(cell)}").median
    return turns.estimate(cell.name).median, max(batch, 1e-9)


def _table(
    bench: _Bench,
    turns: Turns,
    full: CostCell,
    full_seconds: float | None,
    overlap: tuple[float, bool],
) -> CostTable:
    trainer = bench.trainer
    unit = turns.estimate(full.name).median
    scale = 1.0 if full_seconds is None else full_seconds / unit
    cells = {}
    for cell in bench.step_arms:
        found, (_, batch) = turns.estimate(cell.name), _seconds_of(bench, turns, cell)
        cells[cell.name] = CellCost(
            seconds=found.median * scale,
            interval=(found.low * scale, found.high * scale),
            data_seconds=batch * scale,
            rounds=max(1, len(turns.ratios(cell.name))),
            source="grid",
        )
    return CostTable(
        overlap=overlap[0],
        overlap_is_measured=overlap[1],
        conditions={
            "device": str(trainer.compute.device),
            "amp": trainer.compute.amp,
            "threads": torch.get_num_threads(),
            "workers": trainer.feed.workers,
            "processes": trainer.stepper.ranks.world_size,
        },
        cells=cells,
    )
