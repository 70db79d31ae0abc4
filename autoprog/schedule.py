"""The growth schedule: which network, at which size, with which augmentation, at every step of a run.

A schedule is data. It is written by hand, made by a preset or found by a search, checked without torch, and
resolved once into a :class:`~autoprog.steptable.StepTable`. Its stages become segments there, in which
nothing changes, and the trainer executes these in phases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Index, Seed
from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySummary
from autoprog.files import FileModel, dump_yaml, parse, read_yaml
from autoprog.stage import (
    FullModel,
    KeepCurve,
    LearningRate,
    Sandwich,
    Stage,
    Unfrozen,
    curve_ends,
    nearest_multiples,
    relative_step_cost,
    shown_depth,
)
from autoprog.steptable import Segment, StepTable, check_changes, segments_of_stage
from supernet.config import as_depth

__all__ = ["FRACTION_UNITS", "FoundBy", "GrowthSchedule", "LengthUnit", "Lengths", "load_schedule"]

LengthUnit = Literal["epochs", "steps", "fraction", "budget_fraction", "compute_fraction"]
FRACTION_UNITS = ("fraction", "budget_fraction", "compute_fraction")
"""Units of length in which the stages sum to 1: of the run, of its time budget, of its compute."""

# Steps in an epoch, so many that no stage is shorter than one.
_FINE_STEPS = 100_000


class FoundBy(FileModel):
    """Where a schedule comes from; ``fidelity`` says how far its estimates could be trusted, if known."""

    run: str
    rule: str
    seed: Seed
    costs: str = "costs.json"
    trial: Index | None = None
    fidelity: FidelitySummary | None = None


class GrowthSchedule(FileModel):
    """A whole training run as a list of stages that ends at the full model.

    Rules: the last stage has the model's full depth and image size and, unless ``end`` is free, trains all
    of it on all tokens, one network a step; capacity never falls unless ``monotone`` is false; image sizes
    are multiples of the stride; only the last length may be 'rest'.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    full: FullModel
    length_unit: LengthUnit = "epochs"
    lr: LearningRate = LearningRate()
    monotone: bool = True
    end: Literal["full", "free"] = "full"
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=1_000)
    found_by: FoundBy | None = None

    @model_validator(mode="after")
    def _follows_the_rules(self) -> GrowthSchedule:
        self._check_lengths()
        for index, stage in enumerate(self.stages):
            self._check_stage(stage, f"stages[{index}]")
        self._check_end(self.stages[-1], f"stages[{len(self.stages) - 1}]")
        if self.monotone:
            self._check_monotone()
        return self

    def _check_lengths(self) -> None:
        for index, stage in enumerate(self.stages[:-1]):
            if stage.length == "rest":
                where = f"stages[{index}].length"
                raise ConfigError("", where, "only the last stage may be 'rest'")
        if self.length_unit not in FRACTION_UNITS:
            return
        total = sum(stage.length for stage in self.stages if not isinstance(stage.length, str))
        open_end = self.stages[-1].length == "rest"
        if open_end and total >= 1:
            problem = "fractions must sum to less than 1 before 'rest'"
            raise ConfigError("", "stages", problem, round(total, 6), "leave some for 'rest'")
        if not open_end and abs(total - 1) > 1e-6:  # a third three times, as a user writes it
            hint = "or end with length: rest"
            raise ConfigError("", "stages", "fractions must sum to 1", round(total, 6), hint)

    def _check_stage(self, stage: Stage, key: str) -> None:
        full, depth, full_depth = self.full, as_depth(stage.depth), as_depth(self.full.depth)
        if len(depth) != len(full_depth):
            problem = (
                f"must have one entry for each stage of {full.model}, {len(full_depth)} in all"
            )
            raise ConfigError("", f"{key}.depth", problem, shown_depth(depth))
        if any(value > top for value, top in zip(depth, full_depth, strict=True)):
            problem = f"must lie in 1 to {shown_depth(full_depth)}"
            raise ConfigError("", f"{key}.depth", problem, shown_depth(depth))
        # What lies between the ends of a ramp is put on the grid of the stride later.
        ends = [stage.img_size] if isinstance(stage.img_size, int) else curve_ends(stage.img_size)
        for size in ends:
            if size % full.stride or size < full.stride:
                low, high = nearest_multiples(int(size), full.stride)
                problem = f"must be a multiple of the stride {full.stride}"
                value = int(size) if float(size).is_integer() else size
                hint = f"nearest are {low} and {high}"
                raise ConfigError("", f"{key}.img_size", problem, value, hint)
            if size > full.img_size:
                problem = f"must be at most {full.img_size}"
                raise ConfigError("", f"{key}.img_size", problem, int(size))
        # Where all tokens are kept, what else the rule says means nothing. A sandwich step has keep-rates of
        # its own, at the places of the stage.
        is_sandwich = isinstance(stage.step, Sandwich)
        if min(curve_ends(stage.tokens.keep_rate)) < 1 or is_sandwich:
            self._check_tokens(stage, key)
        if isinstance(stage.step, Sandwich):
            for size in stage.step.sandwich.sizes:
                if size % full.stride or size >= int(min(ends)):
                    problem = (
                        f"must be multiples of the stride {full.stride} below {int(min(ends))}"
                    )
                    raise ConfigError("", f"{key}.step.sandwich.sizes", problem, size)

    def _check_tokens(self, stage: Stage, key: str) -> None:
        full, last, blocks = self.full, stage.tokens.at_blocks[-1], sum(as_depth(stage.depth))
        if last >= blocks:
            problem = f"must be below the depth {blocks}"
            raise ConfigError("", f"{key}.tokens.at_blocks", problem, last)
        if stage.tokens.by == "class_attention" and not full.spec().class_token:
            problem = f"must be magnitude, l2_magnitude or random: {full.model} has no class token"
            raise ConfigError("", f"{key}.tokens.by", problem, stage.tokens.by)
        if full.spec().needs_grid:
            problem = f"must keep all tokens: {full.model} needs the whole grid"
            raise ConfigError("", f"{key}.tokens.keep_rate", problem)

    def _check_end(self, last: Stage, key: str) -> None:
        hint = "make the last stage the full model"
        depth, full_depth = as_depth(last.depth), as_depth(self.full.depth)
        if depth != full_depth:
            problem = f"must end at the full depth {shown_depth(full_depth)}"
            raise ConfigError("", f"{key}.depth", problem, shown_depth(depth), hint)
        size = int(curve_ends(last.img_size)[-1])
        if size != self.full.img_size:
            problem = f"must end at the full size {self.full.img_size}"
            raise ConfigError("", f"{key}.img_size", problem, size, hint)
        if self.end == "free":
            return
        hint = "add a last stage that does, or set end: free"
        rate = min(curve_ends(last.tokens.keep_rate))
        if rate < 1:
            raise ConfigError("", f"{key}.tokens.keep_rate", "must end at 1", rate, hint)
        if isinstance(last.trainable, Unfrozen) and last.trainable.fraction < 1:
            problem, level = "must train all blocks", last.trainable.level
            raise ConfigError("", f"{key}.trainable.level", problem, level, hint)
        if last.step != "plain":
            raise ConfigError("", f"{key}.step", "must be plain", "sandwich", hint)

    def _check_monotone(self) -> None:
        before: tuple[int, ...] = ()
        size_before, rate_before, hint = 0.0, 0.0, "set monotone: false to allow it"
        for index, stage in enumerate(self.stages):
            key, depth = f"stages[{index}]", as_depth(stage.depth)
            sizes, keep_rate = curve_ends(stage.img_size), stage.tokens.keep_rate
            rates = curve_ends(keep_rate)
            if before and any(now < old for now, old in zip(depth, before, strict=True)):
                problem = f"must not fall below {shown_depth(before)}"
                raise ConfigError("", f"{key}.depth", problem, shown_depth(depth), hint)
            if sizes[0] < size_before or sizes[-1] < sizes[0]:
                problem = f"must not fall below {max(size_before, sizes[0]):g}"
                raise ConfigError("", f"{key}.img_size", problem, int(min(sizes)), hint)
            is_cyclic = isinstance(keep_rate, KeepCurve) and keep_rate.curve == "cyclic"
            if is_cyclic or rates[0] < rate_before or rates[-1] < rates[0]:
                problem = "must not fall"
                raise ConfigError("", f"{key}.tokens.keep_rate", problem, min(rates), hint)
            before, size_before, rate_before = depth, sizes[-1], rates[-1]

    def resolve(self, steps_per_epoch: int, epochs: float | None = None) -> StepTable:
        """Return the step table for a run of `epochs`.

        Args:
            steps_per_epoch: Optimizer steps in one pass over the training images, at the recipe's
                batch size.
            epochs: Length of the run; scales stages that count in epochs or steps, and is needed
                where lengths are fractions or 'rest'. None takes the sum of the lengths. For fractions of
                compute it is what the compute would last for with the full model.

        Raises:
            ConfigError: If `epochs` is needed and missing, or a stage is shorter than one step.
        """
        bounds = self._stage_bounds(steps_per_epoch, epochs)
        segments: list[Segment] = []
        for index, stage in enumerate(self.stages):
            start, stop = bounds[index], bounds[index + 1]
            if stop <= start:
                where = f"stages[{index}].length"
                problem = f"must last at least one step at {steps_per_epoch} steps an epoch"
                hint = "train longer or drop the stage"
                raise ConfigError("schedule", where, problem, stage.length, hint)
            segments += segments_of_stage(self.full, stage, index, start, stop, steps_per_epoch)
        # The learning rate goes by images or by compute, so that a stage of larger batches, or of smaller
        # networks, has the part of the curve that its work is worth.
        weights: tuple[float, ...] | None
        if self.lr.clock == "compute":
            spec = self.full.spec()
            weights = tuple(relative_step_cost(spec, s.subnet, s.training) for s in segments)
        else:
            weights = tuple(segment.training.batch_scale for segment in segments)
            weights = weights if len(set(weights)) > 1 else None
        return StepTable(tuple(segments), steps_per_epoch, weights)

    def _stage_bounds(self, steps_per_epoch: int, epochs: float | None) -> list[int]:
        """Return the first step of each stage and the total: floor(k · E / K) for K equal stages.

        Lengths are counted in steps of the recipe's batch size first; a stage of larger batches then has
        fewer.
        """
        in_fractions = self.length_unit in FRACTION_UNITS
        unit = 1.0 if self.length_unit == "steps" else float(steps_per_epoch)
        lengths = [stage.length for stage in self.stages]
        fixed = sum(length for length in lengths if not isinstance(length, str))
        open_end = lengths[-1] == "rest"
        if epochs is None and (open_end or in_fractions):
            problem = "must be given for a schedule in fractions or with 'rest'"
            raise ConfigError("--epochs", "", problem)
        # Other epochs than the file's own scale all stages alike, or leave them and change the 'rest'.
        total_steps = fixed * unit if epochs is None else epochs * steps_per_epoch
        as_written = total_steps if in_fractions else unit
        scale = as_written if open_end else total_steps / fixed
        ends = list(accumulate(float(length) * scale for length in lengths[:-1]))
        spans = [
            stop - start for start, stop in zip([0.0, *ends], [*ends, total_steps], strict=True)
        ]
        check_changes(self.stages, spans, steps_per_epoch)
        positions = accumulate(
            span * self._steps_a_unit(stage, span, steps_per_epoch)
            for stage, span in zip(self.stages, spans, strict=True)
        )
        # A sum of thirds may miss a whole number by some bits, which must not cost a step.
        return [0, *(math.floor(position + 1e-6) for position in positions)]

    def _steps_a_unit(self, stage: Stage, nominal_steps: float, steps_per_epoch: int) -> float:
        """Return the optimizer steps that stand for one nominal step of a stage's length."""
        if self.length_unit == "steps":
            return 1.0
        if self.length_unit != "compute_fraction":
            return 1.0 / stage.batch_scale
        spec, steps = self.full.spec(), nominal_steps / stage.batch_scale
        # Levels are counted in epochs, so that their fractions of the stage move with its length: three
        # rounds of fixed-point iteration.
        for _ in range(3):
            whole = max(1, round(steps))
            table = list(segments_of_stage(self.full, stage, 0, 0, whole, steps_per_epoch))
            cost = sum(s.steps * relative_step_cost(spec, s.subnet, s.training) for s in table)
            steps = nominal_steps * table[-1].stop_step / cost
        return steps / nominal_steps

    def own_epochs(self, steps_per_epoch: int) -> float | None:
        """Return the sum of the lengths in epochs; None for a file in fractions or with 'rest'."""
        lengths = [stage.length for stage in self.stages if not isinstance(stage.length, str)]
        if self.length_unit in FRACTION_UNITS or len(lengths) < len(self.stages):
            return None
        return sum(lengths) / (steps_per_epoch if self.length_unit == "steps" else 1)

    def full_model_epochs(self, num_classes: int) -> float | None:
        """Return the epochs of the full model that take as many multiply-accumulates.

        None for a schedule whose length is not its own.
        """
        if self.own_epochs(_FINE_STEPS) is None or self.length_unit == "steps":
            return None
        spec = self.full.spec()
        costs = (
            segment.steps * relative_step_cost(spec, segment.subnet, segment.training, num_classes)
            for segment in self.resolve(_FINE_STEPS).segments
        )
        return sum(costs) / _FINE_STEPS

    def to_yaml(self) -> str:
        """Return the file's text; loading it again gives an equal schedule."""
        body = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return dump_yaml({"schema": self.schema_version, **body})


def load_schedule(path: str | Path) -> GrowthSchedule:
    """Read and check one schedule file.

    Raises:
        ConfigError: If it is missing, not YAML or against a rule of :class:`GrowthSchedule`.
    """
    return parse(GrowthSchedule, migration.schedule(read_yaml(Path(path))), str(path))


@dataclass(frozen=True)
class Lengths:
    """How long a run is, by four measures that differ in a search; None where one is unknown.

    Attributes:
        named_epochs: ``--epochs``: of a search by time, those of the full model that it is compared with.
        cost_fraction: The fraction of the time of those epochs that a search by time takes.
        steps: Optimizer steps that were taken.
        trained_epochs: The same in epochs, steps of supernets among them.
        schedule_epochs: What the schedule lasts when it is trained along.
        full_epochs: Epochs of the full model that take as many multiply-accumulates as the schedule.
    """

    named_epochs: float | None = None
    cost_fraction: float | None = None
    steps: int | None = None
    trained_epochs: float | None = None
    schedule_epochs: float | None = None
    full_epochs: float | None = None

    def sentence(self) -> str:
        """Return what each of them is, in one sentence without a full stop."""
        parts = []
        if self.trained_epochs is not None:
            supernets = "" if self.named_epochs is None else ", those of supernets included"
            parts.append(
                f"{self.trained_epochs:.4g} epochs trained in {self.steps:,} steps{supernets}"
            )
        if self.cost_fraction is not None:
            parts.append(
                f"{self.cost_fraction:g} of the time of the full model's --epochs {self.named_epochs:.4g}"
            )
        elif self.named_epochs is not None:
            parts.append(f"--epochs {self.named_epochs:.4g}")
        if self.schedule_epochs is not None:
            supernets = "" if self.named_epochs is None else ", with no steps of supernets"
            parts.append(f"the schedule has {self.schedule_epochs:.4g} epochs{supernets}")
        if self.full_epochs is not None:
            parts.append(
                f"its multiply-accumulates are those of {self.full_epochs:.4g} full-model epochs"
            )
        return "; ".join(parts)
