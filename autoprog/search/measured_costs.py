"""Measured costs: the grid, in turns, by the runner's own loop, and the record that a run goes by."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from statistics import fmean, median

import torch

from autoprog.costs.model import CostModel
from autoprog.costs.table import (
    CellCost,
    CostCell,
    CostTable,
    by_worth,
    cell_name,
    cells_to_measure,
    full_cell,
    table_of,
    together_seconds,
)
from autoprog.curves import Curriculum
from autoprog.errors import ConfigError
from autoprog.events import CostsMeasured
from autoprog.openfiles import read_bytes
from autoprog.paired_timing import estimate
from autoprog.search.step_timing import (
    Arm,
    BatchArm,
    Limits,
    StepArm,
    TimeIsUpError,
    Turns,
    Watch,
    both_seconds,
    outcome,
    take_turns,
    turn_seconds,
    untouched,
)
from autoprog.stage import Training, evaluation_macs, image_macs
from autoprog.train.phase import Choice
from autoprog.train.ranks import ONE_PROCESS
from autoprog.train.step import typical_seconds
from autoprog.train.trainer import Trainer
from supernet.config import ModelSpec, SubnetConfig

__all__ = [
    "RUN_FRACTION",
    "Costs",
    "Limits",
    "cell_name",
    "complete_costs",
    "completing_costs",
    "measure_grid",
    "measuring",
]


# --------------------------------------------------------------------------------------------------
# The costs that a run goes by: recorded before they are used, never measured twice.


PROFILE_SECONDS = 20.0
"""What measuring may take where a run does not say."""

_MAX_BYTES = 2**24


class Costs:
    """The cost table of a run: a recorded input. What it holds once is never measured again."""

    def __init__(self, table: CostTable | Mapping[str, float], batch_size: int) -> None:
        self.table = table if isinstance(table, CostTable) else table_of(table, "costs")
        self.spent_seconds = 0.0
        self._batch_size = batch_size

    @classmethod
    def read(cls, path: Path, batch_size: int) -> Costs:
        """Read a ``costs.json``, of this version or one that is just seconds by cell.

        Raises:
            ConfigError: If it is missing or holds anything but costs of cells.
        """
        try:
            body = json.loads(read_bytes(path, _MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            law = "must be a readable JSON file of step seconds"
            raise ConfigError(str(path), "", law) from None
        if not isinstance(body, dict):
            raise ConfigError(str(path), "", "must be seconds above 0", body)
        table = table_of(body, str(path))
        for name in table.step_costs:
            if CostCell.parse(name) is None:
                law = "must be the name of a cell, such as 'd6 r128 b1024'"
                raise ConfigError(str(path), "", law, name)
        return cls(table.as_given(), batch_size)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the recorded seconds of a step by the name of its cell."""
        return self.table.seconds

    @property
    def has_grid(self) -> bool:
        """Tell whether a grid has been measured, even if the time did not suffice for all cells."""
        return any(cost.source == "grid" for cost in self.table.step_costs.values())

    def get(self, subnet: SubnetConfig) -> float | None:
        """Return the recorded seconds of a plain step at the run's batch size, or None."""
        found = self.table.step_costs.get(self._cell(subnet).name)
        return None if found is None else found.seconds

    def all_seconds(self, spec: ModelSpec, subnets: Iterable[SubnetConfig]) -> dict[str, float]:
        """Return what a plain step of each subnet adds to the run, by the text of the subnet.

        This is the step with what it waits for data, as far as that was measured; where a subnet is not on
        record it is estimated from those that are.
        """
        model = self.model(spec)
        return {str(subnet): model.wall(self._cell(subnet)).seconds for subnet in subnets}

    def model(self, spec: ModelSpec) -> CostModel:
        """Return what predicts seconds from these costs."""
        return CostModel(spec, self.table)

    def add(self, found: CostTable) -> None:
        """Add what has been measured; what is there stays."""
        first = self.table if self.table.conditions else found  # which says where it was measured
        cells = self.table.with_cells(found.step_costs).step_costs
        self.table = first.model_copy(update={"step_costs": cells})

    def complete(self, trainer: Trainer, choices: Sequence[Choice]) -> bool:
        """Add what is missing; see :func:`complete_costs`."""
        return complete_costs(trainer, self, choices)

    def _cell(self, subnet: SubnetConfig) -> CostCell:
        return CostCell(subnet, self._batch_size)


def complete_costs(
    trainer: Trainer, costs: Costs, choices: Sequence[Choice], together: bool = False
) -> bool:
    """Add the costs of plain steps that are missing, unwatched; see :func:`completing_costs`."""
    return outcome(completing_costs(trainer, costs, choices, together))


def completing_costs(
    trainer: Trainer, costs: Costs, choices: Sequence[Choice], together: bool = False
) -> Generator[CostsMeasured, None, bool]:
    """Add the costs of plain steps that are missing for `choices`; return whether any were added.

    The run's own steps are taken where there are at least two (the first one warms up), else the cells are
    measured in turns, within ``--profile-seconds`` for the whole run and 1 % of it (:func:`measuring`). One
    that the time does not suffice for stays out; :meth:`Costs.all_seconds` estimates it. Yields how far
    measuring is.

    Args:
        trainer: The trainer, between two phases.
        costs: Is added to; to be written before it is used.
        choices: What steps may train.
        together: Whether all ranks call this, at the same place; otherwise it is rank 0 alone.

    Raises:
        GaveUpError: If a stop was requested; nothing is added then.
    """
    size, spec = trainer.recipe.batch_size, trainer.stepper.model.spec
    missing = [c.subnet for c in choices if costs.get(c.subnet) is None]
    if not missing:
        return False
    cells = [CostCell(subnet, size) for subnet in dict.fromkeys(missing)]
    own = _own_costs(trainer, cells)
    if together:
        own = _shared(trainer, own)
    unknown = [cell for cell in cells if cell.name not in own.step_costs]
    left = max(0.0, _profile_seconds(trainer) - costs.spent_seconds)
    if not unknown or (costs.has_grid and not left):
        costs.add(own)
        return bool(own.step_costs)
    begin = trainer.clock()
    found = yield from measuring(
        trainer,
        unknown,
        Limits(left),
        run_steps=trainer.total_steps,
        full_seconds=own.seconds.get(CostCell(spec.full, size).name, costs.get(spec.full)),
        together=together,
    )
    costs.spent_seconds += trainer.clock() - begin
    costs.add(own)
    costs.add(found)
    return True


def _own_costs(trainer: Trainer, cells: Sequence[CostCell]) -> CostTable:
    """Return the costs of the cells that the run has trained itself since its network last changed."""
    found = {}
    for cell in cells:
        seconds = trainer.phase_seconds.get(cell.subnet, [])
        typical = typical_seconds(seconds)
        if typical is not None:
            seen = estimate(seconds[1:])
            found[cell.name] = CellCost(
                seconds=typical,
                interval=(seen.low, seen.high),
                rounds=len(seconds) - 1,
                source="own",
            )
    return CostTable(step_costs=found)


def _shared(trainer: Trainer, table: CostTable) -> CostTable:
    text = trainer.ranks.broadcast(json.dumps(table.body()))
    return table_of(json.loads(text), "costs of rank 0")


def _profile_seconds(trainer: Trainer) -> float:
    search = trainer.settings.search
    return PROFILE_SECONDS if search is None else search.profile_seconds


# --------------------------------------------------------------------------------------------------
# The measured grid: seconds of steps and of batches, in turns, by a trainer that is none the wiser.


RUN_FRACTION = 0.01
"""Measuring takes at most this fraction of the run that it is for, but for two turns of each cell."""

_TWO_TURNS_FRACTION = 0.05
_TWO_TURNS_SECONDS = 2.0
"""What two turns of each cell may take: so much of a run of the full model, or what nobody minds."""

_TURNS_FRACTION = 0.75
"""Fraction of the time for turns where there are workers; the rest is for what they hide."""

_OVERLAP_REPEATS = 3
_TELL_SECONDS = 0.2
_DATA = "batches of "
Batches = tuple[int, int]


@dataclass
class _Bench:
    """What is measured with: the trainer, one arm a cell and one a kind of batch."""

    trainer: Trainer
    curriculum: Curriculum
    watch: Watch
    data_arms: dict[Batches, BatchArm] = field(default_factory=dict)
    step_arms: dict[CostCell, StepArm] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts = self.trainer.stepper.micro_batches

    def data(self, cell: CostCell) -> BatchArm:
        """Return what fetches batches for a cell."""
        return self.data_arms[self.batches_of(cell)]

    def add(self, cell: CostCell) -> StepArm:
        """Get ready to measure a cell; cells that load alike share one batch, fetched when it is needed."""
        key = self.batches_of(cell)
        if key not in self.data_arms:
            self.data_arms[key] = BatchArm(self.watch, *key, self.curriculum)
        arm = StepArm(self.watch, cell, self.data_arms[key].some, self.curriculum, self._parts)
        return self.step_arms.setdefault(cell, arm)

    def arms(self) -> dict[str, Arm]:
        """Return all arms by name, the most important first, batches before the steps that they are for."""
        arms: dict[str, Arm] = {}
        for cell, arm in self.step_arms.items():
            arms[self.data_name(cell)] = self.data(cell)
            arms[cell.name] = arm
        return arms

    def batches_of(self, cell: CostCell) -> Batches:
        """Return the number and the size in px of the images that are loaded for a step."""
        return cell.batch_size, cell.loaded_px(self.trainer.stepper.model.spec.img_size)

    def data_name(self, cell: CostCell) -> str:
        """Return the name of the arm that fetches batches for a cell."""
        return f"{_DATA}{self.batches_of(cell)}"


@dataclass(frozen=True)
class _Rough:
    """Seconds by the first steps: those of the full cell and of the smallest, others between or beyond."""

    fixed_seconds: float
    seconds_per_mac: float

    @classmethod
    def through(cls, full: tuple[int, float], smallest: tuple[int, float]) -> _Rough:
        """Return the line through two cells, each as (MACs, seconds); no cell takes less than nothing."""
        (full_macs, full_seconds), (macs, seconds) = full, smallest
        if full_macs > macs:
            slope = max(0.0, (full_seconds - seconds) / (full_macs - macs))
            return cls(max(0.0, seconds - slope * macs), slope)
        return cls(0.0, full_seconds / full_macs)

    def seconds(self, macs: int) -> float:
        """Return the seconds of a step."""
        return self.fixed_seconds + self.seconds_per_mac * macs


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
    """Return what steps of the cells, and batches for them, cost, unwatched; see :func:`measuring`."""
    return outcome(
        measuring(
            trainer,
            cells,
            limits,
            run_steps=run_steps,
            full_seconds=full_seconds,
            together=together,
            curriculum=curriculum,
        )
    )


def measuring(
    trainer: Trainer,
    cells: Sequence[CostCell],
    limits: Limits,
    *,
    run_steps: int | None = None,
    full_seconds: float | None = None,
    together: bool = False,
    curriculum: Curriculum | None = None,
) -> Generator[CostsMeasured, None, CostTable]:
    """Return what steps of the cells, and batches for them, cost; the trainer is as before, to the bit.

    Steps are the runner's own: transfer, mixing, forward, backward, clipping, update and averages. One step
    of the full model and one of the smallest cell are always taken; everything else, batches and steps that
    warm up included, keeps to the time. Where it does not suffice for all cells, those that tell most about
    the others are measured (:func:`cells_to_measure`). Yields how far it is.

    Args:
        trainer: What would train them.
        cells: What to measure.
        limits: When to stop.
        run_steps: Steps of the run that this is for, which caps the time as well (:data:`RUN_FRACTION`).
        full_seconds: What is on record for the full cell; others are put on its scale, so that a machine
            that has become slower does not count for or against them.
        together: All ranks measure, which makes averaging gradients part of a step; otherwise this process
            alone, without the others.
        curriculum: The augmentation and regularisation of the steps; None for those of the recipe.

    Raises:
        GaveUpError: If a stop was requested; on all ranks that measure.
    """
    with untouched(trainer.stepper):
        if not together:
            trainer.stepper.ranks = ONE_PROCESS
        watch = Watch(trainer)
        bench = _Bench(trainer, Curriculum() if curriculum is None else curriculum, watch)
        broadcast = trainer.stepper.ranks.broadcast
        full = full_cell(trainer.stepper.model.spec, trainer.recipe.batch_size)
        ordered = by_worth(cells, full)
        yield _told(bench, 0, len(ordered), limits.seconds)
        watch.between_blocks()
        first = _first_steps(bench, ordered[:2], limits.seconds)
        rough = _rough(bench, ordered, first)
        seconds = {cell: rough.seconds(_work(bench, cell)) for cell in ordered}
        watch.limit_seconds = _limit(bench, seconds, limits.seconds, run_steps)
        run_seconds = None
        if run_steps is not None:
            run_seconds = _run_seconds(bench, full, first[full.name], run_steps)
        worth_it = cells_to_measure(cells, full, lambda c: _price(seconds[c]), watch.left_seconds)
        names = json.loads(broadcast(json.dumps([cell.name for cell in worth_it])))
        chosen = [cell for cell in ordered if cell.name in names]
        for cell in chosen:
            bench.add(cell)
        yield _told(bench, len(first), len(ordered), watch.left_seconds, run_seconds)
        turns_fraction = _TURNS_FRACTION if trainer.data.workers else 1.0
        own = replace(limits, seconds=turns_fraction * max(0.0, watch.left_seconds))
        price = _price_of(bench, {cell.name: (cell, seconds[cell]) for cell in chosen})
        arms = bench.arms()
        turns = Turns(full.name, dict(first))
        told_seconds = watch.spent_seconds
        steps = take_turns(arms, full.name, own, trainer.clock, broadcast, first=first, price=price)
        for turns in steps:
            watch.between_blocks()
            if watch.spent_seconds - told_seconds >= _TELL_SECONDS:
                told_seconds = watch.spent_seconds
                num_measured = sum(cell.name in turns.first for cell in chosen)
                left = max(0.0, watch.left_seconds)
                yield _told(bench, num_measured, len(ordered), left, run_seconds)
        overlap = _overlap(bench, turns, watch.left_seconds)
        table = _table(bench, turns, full, full_seconds, overlap)
        body = json.loads(broadcast(json.dumps(table.body())))
    return CostTable.model_validate(body)


def _told(
    bench: _Bench,
    num_measured: int,
    num_subnets: int,
    left_seconds: float,
    run_seconds: float | None = None,
) -> CostsMeasured:
    return CostsMeasured(
        step=bench.trainer.step,
        num_measured=num_measured,
        num_subnets=num_subnets,
        left_seconds=left_seconds,
        run_seconds=run_seconds,
    )


def _first_steps(bench: _Bench, cells: Sequence[CostCell], max_seconds: float) -> dict[str, float]:
    """Return the seconds of a step of each cell: of the second one where there is time for it."""
    broadcast = bench.trainer.stepper.ranks.broadcast
    seconds = {cell.name: bench.add(cell).once() for cell in cells}
    if broadcast(
        "again" if bench.watch.spent_seconds + sum(seconds.values()) <= max_seconds else ""
    ):
        again = {cell.name: bench.step_arms[cell].once() for cell in cells}
        seconds = {name: min(one, again[name]) for name, one in seconds.items()}
    found: dict[str, float] = json.loads(broadcast(json.dumps(seconds)))
    return found


def _rough(bench: _Bench, ordered: Sequence[CostCell], first: dict[str, float]) -> _Rough:
    """Return what the first steps of the full cell and of the smallest, if there is another, tell."""
    full, *others = ((_work(bench, cell), first[cell.name]) for cell in ordered[:2])
    return _Rough.through(full, others[0] if others else full)


def _work(bench: _Bench, cell: CostCell) -> int:
    """Return the multiply-accumulates of a step."""
    spec, training = bench.trainer.stepper.model.spec, Training(unfrozen=cell.unfrozen)
    return cell.batch_size * image_macs(spec, cell.subnet, training)


def _price(seconds: float) -> float:
    """Return what two turns of a cell take, from the seconds of a step."""
    return 2 * seconds + turn_seconds(seconds)


def _limit(
    bench: _Bench, seconds: dict[CostCell, float], max_seconds: float, run_steps: int | None
) -> float:
    """Return what measuring may take: a fraction of the run, or two turns of each cell in a short one."""
    if run_steps is None:
        return max_seconds
    run_seconds = run_steps * fmean(seconds.values())
    num_kinds = len({bench.batches_of(cell) for cell in seconds})
    two_turns = bench.watch.spent_seconds + sum(map(_price, seconds.values()))
    two_turns += 4 * num_kinds * _slowest_batch(bench)
    all_full_seconds = run_steps * max(seconds.values())
    short = min(two_turns, max(_TWO_TURNS_FRACTION * all_full_seconds, _TWO_TURNS_SECONDS))
    limit = min(max_seconds, max(RUN_FRACTION * run_seconds, short))
    return float(bench.trainer.stepper.ranks.broadcast(repr(limit)))


def _slowest_batch(bench: _Bench) -> float:
    """Return about the seconds of the half of a first turn of batches, by those that have been fetched."""
    workers = bench.trainer.data.workers
    known = [
        arm.price(workers) for arm in bench.data_arms.values() if arm.first_seconds is not None
    ]
    return max(known)


def _price_of(bench: _Bench, cells: dict[str, tuple[CostCell, float]]) -> Callable[[str], float]:
    """Return what tells about the seconds of half a first turn of an arm, a batch for it included."""

    def price(name: str) -> float:
        slowest = _slowest_batch(bench)
        if name not in cells:
            return slowest
        cell, seconds = cells[name]
        return seconds if bench.data(cell).has_batch else seconds + slowest / 2

    return price


def _run_seconds(bench: _Bench, full: CostCell, seconds: float, run_steps: int) -> float:
    """Return what so many steps of the full model, with their data, and an evaluation take, about."""
    trainer, spec = bench.trainer, bench.trainer.stepper.model.spec
    batch = bench.data(full).first_seconds or 0.0
    overlap = _usual_overlap(trainer) if trainer.data.workers else 0.0
    images, classes = trainer.data.num_validation_images, trainer.data.num_classes
    evaluated = evaluation_macs(spec, spec.full, images, classes) / _work(bench, full)
    return run_steps * together_seconds(seconds, batch, overlap) + evaluated * seconds


def _usual_overlap(trainer: Trainer) -> float:
    """Return how far loader workers hide what is shorter where that is not measured."""
    return 0.0 if trainer.compute.device.type == "cpu" else 1.0


def _overlap(bench: _Bench, turns: Turns, left_seconds: float) -> tuple[float, bool]:
    """Return how far loader workers hide what is shorter, and whether that was measured.

    Measured where step and batch take most nearly alike, so that there is most to see. Of the batches those
    that the workers were making when the first one arrived are not counted.
    """
    trainer, workers = bench.trainer, bench.trainer.data.workers
    if workers == 0:
        return 0.0, True
    broadcast = trainer.stepper.ranks.broadcast
    pairs = {
        cell: (step, max(batch, 1e-9))
        for cell in bench.step_arms
        if cell.name in turns.first
        for step, batch in [_seconds_of(bench, turns, cell)]
        if batch is not None
    }
    alike = min(pairs, key=lambda cell: abs(log(pairs[cell][0] / pairs[cell][1])))
    cell = next(cell for cell in pairs if cell.name == broadcast(alike.name))
    step, batch = pairs[cell]
    steps = 4 * workers + 4
    times = int(
        broadcast(str(int(min(_OVERLAP_REPEATS, left_seconds // (steps * (step + batch))))))
    )
    if times < 1:
        return _usual_overlap(trainer), False
    arm, data = bench.step_arms[cell], bench.data(cell)
    try:
        seen = median(both_seconds(arm, data, steps) for _ in range(times))
    except TimeIsUpError:
        return _usual_overlap(trainer), False
    alone = steps * step, (steps - workers) * batch
    return min(1.0, max(0.0, (sum(alone) - seen) / min(alone))), True


def _seconds_of(bench: _Bench, turns: Turns, cell: CostCell) -> tuple[float, float | None]:
    """Return the seconds of a step and of its batch, which is a guess or unknown where there was no time."""
    name = bench.data_name(cell)
    known = name in turns.first
    batch = turns.estimate(name).median if known else bench.data(cell).first_seconds
    return turns.estimate(cell.name).median, batch


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
        if cell.name not in turns.first:
            continue
        found, (_, batch) = turns.estimate(cell.name), _seconds_of(bench, turns, cell)
        cells[cell.name] = CellCost(
            seconds=found.median * scale,
            interval=(found.low * scale, found.high * scale),
            data_seconds=None if batch is None else max(batch, 1e-9) * scale,
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
            "workers": trainer.data.workers,
            "processes": trainer.stepper.ranks.world_size,
        },
        step_costs=cells,
    )
