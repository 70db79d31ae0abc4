"""Measured costs: what steps of each subnet take, measured by the runner's own loop and recorded for good."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from autoprog.costs.model import CostModel
from autoprog.costs.table import (
    CostKey,
    CostTable,
    StepCost,
    full_key,
    keys_to_measure,
    most_informative_first,
    overlapped_seconds,
    table_of,
)
from autoprog.errors import ConfigError
from autoprog.events import CostsMeasured
from autoprog.paired_timing import (
    InterleavedTimes,
    TimedWork,
    TimeIsUpError,
    TimingLimits,
    estimate,
    seconds_with_warmup,
    time_interleaved,
)
from autoprog.safe_files import read_bytes
from autoprog.search.step_timing import (
    Deadline,
    TimedBatches,
    TimedSteps,
    restored_after,
    seconds_with_batches,
)
from autoprog.stage import Curriculum, Training, evaluation_macs, image_macs
from autoprog.train.meter import typical_seconds
from autoprog.train.phase import Choice
from autoprog.train.ranks import ONE_PROCESS
from supernet.config import ModelSpec, SubnetConfig

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["RUN_FRACTION", "Costs", "measure_step_costs", "result_of"]

PROFILE_SECONDS = 20.0
"""What measuring may take where a run does not say."""

_MAX_BYTES = 2**24

Result = TypeVar("Result")


def result_of(work: Generator[Any, None, Result]) -> Result:
    """Return what a generator returns, for callers that do not show its progress."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


class Costs:
    """The cost table of a run: a recorded input. What it holds once is never measured again."""

    def __init__(self, table: CostTable | Mapping[str, float], batch_size: int) -> None:
        self.table = table if isinstance(table, CostTable) else table_of(table, "costs")
        self.spent_seconds = 0.0
        self._batch_size = batch_size

    @classmethod
    def read(cls, path: Path, batch_size: int) -> Costs:
        """Read a ``costs.json``, of this version or one that is just seconds by name.

        Raises:
            ConfigError: If it is missing or holds anything but costs of steps.
        """
        try:
            body = json.loads(read_bytes(path, _MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            problem = "must be a readable JSON file of step seconds"
            raise ConfigError(str(path), "", problem) from None
        if not isinstance(body, dict):
            raise ConfigError(str(path), "", "must be seconds above 0", body)
        table = table_of(body, str(path))
        for name in table.step_costs:
            if CostKey.parse(name) is None:
                problem = "must be the name of a step, such as 'd6 r128 b1024'"
                raise ConfigError(str(path), "", problem, name)
        return cls(table.as_given(), batch_size)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the recorded seconds of a step by the name of its key."""
        return self.table.seconds

    @property
    def has_grid(self) -> bool:
        """Return whether a grid has been measured, even if the time did not suffice for all of it."""
        return any(cost.source == "grid" for cost in self.table.step_costs.values())

    def get(self, subnet: SubnetConfig) -> float | None:
        """Return the recorded seconds of a plain step at the run's batch size, or None."""
        measured = self.table.step_costs.get(CostKey(subnet, self._batch_size).name)
        return None if measured is None else measured.seconds

    def all_seconds(self, spec: ModelSpec, subnets: Iterable[SubnetConfig]) -> dict[str, float]:
        """Return what a plain step of each subnet adds to the run, by the text of the subnet.

        This is the step with its wait for data, as far as that was measured; where a subnet is not on record
        it is estimated from those that are.
        """
        model = CostModel(spec, self.table)
        keys = {str(subnet): CostKey(subnet, self._batch_size) for subnet in subnets}
        return {text: model.wall(key).seconds for text, key in keys.items()}

    def complete(
        self, trainer: Trainer, choices: Sequence[Choice], together: bool = False
    ) -> Generator[CostsMeasured, None, bool]:
        """Add the costs of plain steps that are missing for `choices`; return whether any were added.

        The run's own steps are taken where there are at least two (the first one warms up); the others are
        measured by :func:`measure_step_costs`, within ``--profile-seconds`` for the whole run. What the time
        does not suffice for stays out; :meth:`all_seconds` estimates it. Yields how far measuring is.

        Args:
            trainer: The trainer, between two phases.
            choices: What steps may train.
            together: Whether all ranks call this, at the same place; otherwise it is rank 0 alone.

        Raises:
            GaveUpError: If a stop was requested; nothing is added then.
        """
        size, spec = self._batch_size, trainer.stepper.model.spec
        missing = [choice.subnet for choice in choices if self.get(choice.subnet) is None]
        if not missing:
            return False
        keys = [CostKey(subnet, size) for subnet in dict.fromkeys(missing)]
        # What the run has trained itself since its network last changed takes no time to measure.
        own_costs = {}
        for key in keys:
            seconds = trainer.phase_seconds.get(key.subnet, [])
            typical = typical_seconds(seconds)
            if typical is not None:
                seen = estimate(seconds[1:])
                own_costs[key.name] = StepCost(
                    seconds=typical,
                    interval=(seen.low, seen.high),
                    rounds=len(seconds) - 1,
                    source="own",
                )
        own = CostTable(step_costs=own_costs)
        if together:  # all ranks must measure the same rest
            text = trainer.ranks.broadcast(json.dumps(own.body()))
            own = table_of(json.loads(text), "costs of rank 0")
        unknown = [key for key in keys if key.name not in own.step_costs]
        search = trainer.settings.search
        limit_seconds = PROFILE_SECONDS if search is None else search.profile_seconds
        left = max(0.0, limit_seconds - self.spent_seconds)
        if not unknown or (self.has_grid and not left):
            self._add(own)
            return bool(own.step_costs)
        begin = trainer.clock()
        measured = yield from measure_step_costs(
            trainer,
            unknown,
            TimingLimits(left),
            run_steps=trainer.total_steps,
            full_seconds=own.seconds.get(CostKey(spec.full, size).name, self.get(spec.full)),
            together=together,
        )
        self.spent_seconds += trainer.clock() - begin
        self._add(own)
        self._add(measured)
        return True

    def _add(self, measured: CostTable) -> None:
        """Add what has been measured; what is there stays."""
        # A table with conditions says where it was measured.
        first = self.table if self.table.conditions else measured
        costs = self.table.with_costs(measured.step_costs).step_costs
        self.table = first.model_copy(update={"step_costs": costs})


RUN_FRACTION = 0.01
"""Measuring takes at most this fraction of the run that it is for, but for two times of each key."""

# What timing each key twice may take: so much of a run of the full model, or what nobody minds.
_TWICE_FRACTION = 0.05
_TWICE_SECONDS = 2.0

# Fraction of the time for steps and batches where there are workers; the rest is for what they hide.
_APART_FRACTION = 0.75

_OVERLAP_REPEATS = 3
_PROGRESS_SECONDS = 0.2  # more often than that nobody could read


def measure_step_costs(
    trainer: Trainer,
    keys: Sequence[CostKey],
    limits: TimingLimits,
    *,
    run_steps: int | None = None,
    full_seconds: float | None = None,
    together: bool = False,
    curriculum: Curriculum | None = None,
) -> Generator[CostsMeasured, None, CostTable]:
    """Return what steps, and batches for them, cost; the trainer is as before, to the bit.

    Steps are the runner's own: transfer, mixing, forward, backward, clipping, update and averages. One step
    of the full model and one of the smallest key are always taken; everything else, batches and steps that
    warm up included, keeps to the time. Where it does not suffice for all keys, the most informative are
    measured (:func:`keys_to_measure`). Yields how far it is.

    Args:
        trainer: What would train them.
        keys: What to measure.
        limits: When to stop.
        run_steps: Steps of the run that this is for, which limits the time as well (:data:`RUN_FRACTION`).
        full_seconds: What is on record for the full model; others are put on its scale, so that a machine
            that has become slower does not count for or against them.
        together: All ranks measure, which makes averaging gradients part of a step; otherwise this process
            alone, without the others.
        curriculum: The augmentation and regularisation of the steps; None for those of the recipe.

    Raises:
        GaveUpError: If a stop was requested; on all ranks that measure.
    """
    with restored_after(trainer.stepper):
        if not together:
            trainer.stepper.ranks = ONE_PROCESS
        grid = _Grid(trainer, keys, Curriculum() if curriculum is None else curriculum)
        table = yield from grid.measure(limits, run_steps, full_seconds)
        body = json.loads(trainer.stepper.ranks.broadcast(json.dumps(table.body())))
    return CostTable.model_validate(body)


class _Grid:
    """The measurement of a grid of keys: what is timed, for how long, and what it comes to."""

    def __init__(self, trainer: Trainer, keys: Sequence[CostKey], curriculum: Curriculum) -> None:
        self.trainer, self.curriculum = trainer, curriculum
        self.spec, self.broadcast = trainer.stepper.model.spec, trainer.stepper.ranks.broadcast
        self.deadline = Deadline(trainer)
        self.full = full_key(self.spec, trainer.recipe.batch_size)
        self.keys, self.ordered = keys, most_informative_first(keys, self.full)
        self._micro_batches = trainer.stepper.micro_batches
        self._batches: dict[tuple[int, int], TimedBatches] = {}
        self._steps: dict[CostKey, TimedSteps] = {}

    def measure(
        self, limits: TimingLimits, run_steps: int | None, full_seconds: float | None
    ) -> Generator[CostsMeasured, None, CostTable]:
        """Time what there is time for; see :func:`measure_step_costs`."""
        deadline = self.deadline
        yield self._progress(0, limits.seconds)
        deadline.check_block()
        first = self._first_steps(limits.seconds)
        # About the seconds of every key: on the line over MACs through the two first steps.
        full_macs, first_full = self._work(self.full), first[self.full.name]
        smallest = self.ordered[:2][-1]  # the full model itself where it is the only key
        macs, first_smallest = self._work(smallest), first[smallest.name]
        fixed, per_mac = 0.0, first_full / full_macs
        if full_macs > macs:
            per_mac = max(0.0, (first_full - first_smallest) / (full_macs - macs))
            fixed = max(0.0, first_smallest - per_mac * macs)
        seconds = {key: fixed + per_mac * self._work(key) for key in self.ordered}
        deadline.limit_seconds = self._limit(seconds, limits.seconds, run_steps)
        run_seconds = None
        if run_steps is not None:  # of the full model, with its data and an evaluation; it is shown
            data, full = self.trainer.data, self.full
            batch = self._data(full).first_seconds or 0.0
            overlap = self._assumed_overlap() if data.workers else 0.0
            images, classes = data.num_validation_images, data.num_classes
            evaluated = evaluation_macs(self.spec, self.spec.full, images, classes) / full_macs
            run_seconds = run_steps * overlapped_seconds(first_full, batch, overlap)
            run_seconds += evaluated * first_full
        worth_it = keys_to_measure(
            self.keys, self.full, lambda key: _twice(seconds[key]), deadline.left_seconds
        )
        names = json.loads(self.broadcast(json.dumps([key.name for key in worth_it])))
        chosen = [key for key in self.ordered if key.name in names]
        for key in chosen:
            self._add(key)
        yield self._progress(len(first), deadline.left_seconds, run_seconds)
        apart_fraction = _APART_FRACTION if self.trainer.data.workers else 1.0
        own = replace(limits, seconds=apart_fraction * max(0.0, deadline.left_seconds))

        def expected_seconds(name: str) -> float:
            """Return about the seconds of half a first time, a batch for it included."""
            slowest = self._slowest_batch()
            key = next((key for key in chosen if key.name == name), None)
            if key is None:
                return slowest
            return seconds[key] if self._data(key).has_batch else seconds[key] + slowest / 2

        timed: dict[str, TimedWork] = {}
        for key, steps in self._steps.items():  # batches before the steps that they are for
            timed[self._data_name(key)] = self._data(key)
            timed[key.name] = steps
        times = InterleavedTimes(self.full.name, dict(first))
        shown_seconds = deadline.spent_seconds
        for times in time_interleaved(
            timed,
            self.full.name,
            own,
            self.trainer.clock,
            self.broadcast,
            first=first,
            expected_seconds=expected_seconds,
        ):
            deadline.check_block()
            if deadline.spent_seconds - shown_seconds >= _PROGRESS_SECONDS:
                shown_seconds = deadline.spent_seconds
                num_measured = sum(key.name in times.first for key in chosen)
                yield self._progress(num_measured, max(0.0, deadline.left_seconds), run_seconds)
        overlap, is_measured = self._overlap(times)
        return self._table(times, full_seconds, overlap, is_measured)

    def _progress(
        self, num_measured: int, left_seconds: float, run_seconds: float | None = None
    ) -> CostsMeasured:
        return CostsMeasured(
            step=self.trainer.step,
            num_measured=num_measured,
            num_subnets=len(self.ordered),
            left_seconds=left_seconds,
            run_seconds=run_seconds,
        )

    def _add(self, key: CostKey) -> TimedSteps:
        """Get ready to measure a key; keys that load alike share one batch, fetched when it is needed."""
        images = self._batches_of(key)
        if images not in self._batches:
            self._batches[images] = TimedBatches(self.deadline, *images, self.curriculum)
        batch = self._batches[images].some
        steps = TimedSteps(self.deadline, key, batch, self.curriculum, self._micro_batches)
        return self._steps.setdefault(key, steps)

    def _batches_of(self, key: CostKey) -> tuple[int, int]:
        """Return the number and the size in px of the images that are loaded for a step."""
        return key.batch_size, key.loaded_px(self.spec.img_size)

    def _data(self, key: CostKey) -> TimedBatches:
        return self._batches[self._batches_of(key)]

    def _data_name(self, key: CostKey) -> str:
        return f"batches of {self._batches_of(key)}"

    def _work(self, key: CostKey) -> int:
        """Return the multiply-accumulates of a step."""
        training = Training(unfrozen=key.unfrozen)
        return key.batch_size * image_macs(self.spec, key.subnet, training)

    def _first_steps(self, max_seconds: float) -> dict[str, float]:
        """Return the seconds of a step of the full model and of the smallest key.

        It is the second one where there is time for it, since in the first caches fill.
        """
        keys = self.ordered[:2]
        seconds = {key.name: self._add(key).once() for key in keys}
        has_time = self.deadline.spent_seconds + sum(seconds.values()) <= max_seconds
        if self.broadcast("again" if has_time else ""):
            again = {key.name: self._steps[key].once() for key in keys}
            seconds = {name: min(one, again[name]) for name, one in seconds.items()}
        seconds_of_rank_0: dict[str, float] = json.loads(self.broadcast(json.dumps(seconds)))
        return seconds_of_rank_0

    def _limit(
        self, seconds: Mapping[CostKey, float], max_seconds: float, run_steps: int | None
    ) -> float:
        """Return what measuring may take: a fraction of the run, or two times of each key in a short one."""
        if run_steps is None:
            return max_seconds
        run_seconds = run_steps * fmean(seconds.values())
        num_kinds = len({self._batches_of(key) for key in seconds})
        twice = self.deadline.spent_seconds + sum(map(_twice, seconds.values()))
        twice += 4 * num_kinds * self._slowest_batch()
        all_full_seconds = run_steps * max(seconds.values())
        short = min(twice, max(_TWICE_FRACTION * all_full_seconds, _TWICE_SECONDS))
        return float(self.broadcast(repr(min(max_seconds, max(RUN_FRACTION * run_seconds, short)))))

    def _slowest_batch(self) -> float:
        """Return about the seconds of half a first time of batches, by those that have been fetched."""
        workers, known = self.trainer.data.workers, self._batches.values()
        return max(
            data.expected_seconds(workers) for data in known if data.first_seconds is not None
        )

    def _assumed_overlap(self) -> float:
        """Return how far loader workers hide what is shorter where that is not measured."""
        # On a CPU they take the cores that the step computes on; beside another device they do not.
        return 0.0 if self.trainer.compute.device.type == "cpu" else 1.0

    def _overlap(self, times: InterleavedTimes) -> tuple[float, bool]:
        """Return how far loader workers hide what is shorter, and whether that was measured."""
        workers = self.trainer.data.workers
        if workers == 0:
            return 0.0, True
        pairs = {
            key: (step, max(batch, 1e-9))
            for key in self._steps
            if key.name in times.first
            for step, batch in [self._seconds_of(key, times)]
            if batch is not None
        }
        # Where step and batch take most nearly alike there is most to see.
        alike = min(pairs, key=lambda key: abs(log(pairs[key][0] / pairs[key][1])))
        name = self.broadcast(alike.name)
        key = next(key for key in pairs if key.name == name)
        step, batch = pairs[key]
        steps = 4 * workers + 4
        fitting = min(_OVERLAP_REPEATS, self.deadline.left_seconds // (steps * (step + batch)))
        repeats = int(self.broadcast(str(int(fitting))))
        if repeats < 1:
            return self._assumed_overlap(), False
        timed, data = self._steps[key], self._data(key)
        try:
            seen = median(seconds_with_batches(timed, data, steps) for _ in range(repeats))
        except TimeIsUpError:
            return self._assumed_overlap(), False
        # The batches that the workers were making when the first one arrived are not counted.
        alone = steps * step, (steps - workers) * batch
        return min(1.0, max(0.0, (sum(alone) - seen) / min(alone))), True

    def _seconds_of(self, key: CostKey, times: InterleavedTimes) -> tuple[float, float | None]:
        """Return the seconds of a step and of its batch: rough, or None, where there was no time for it."""
        name = self._data_name(key)
        timed = name in times.first
        batch = times.estimate(name).median if timed else self._data(key).first_seconds
        return times.estimate(key.name).median, batch

    def _table(
        self,
        times: InterleavedTimes,
        full_seconds: float | None,
        overlap: float,
        overlap_is_measured: bool,
    ) -> CostTable:
        trainer = self.trainer
        unit = times.estimate(self.full.name).median
        scale = 1.0 if full_seconds is None else full_seconds / unit
        costs = {}
        for key in self._steps:
            if key.name not in times.first:
                continue
            estimate, (_, batch) = times.estimate(key.name), self._seconds_of(key, times)
            costs[key.name] = StepCost(
                seconds=estimate.median * scale,
                interval=(estimate.low * scale, estimate.high * scale),
                data_seconds=None if batch is None else max(batch, 1e-9) * scale,
                rounds=max(1, len(times.ratios(key.name))),
                source="grid",
            )
        return CostTable(
            overlap=overlap,
            overlap_is_measured=overlap_is_measured,
            conditions={
                "device": str(trainer.compute.device),
                "amp": trainer.compute.amp,
                "threads": torch.get_num_threads(),
                "workers": trainer.data.workers,
                "processes": trainer.stepper.ranks.world_size,
            },
            step_costs=costs,
        )


def _twice(seconds: float) -> float:
    """Return what timing a key twice takes, from the seconds of a step."""
    return 2 * seconds + seconds_with_warmup(seconds)
