"""The growth schedule: which network, at which size, with which augmentation, at every step of a run.

A schedule is data. It is written by hand, made by a preset or found by a search, checked without torch,
and resolved once into a :class:`StepTable`, which is all that the runner, the views and the cost model read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Index, Seed
from autoprog.decisions import FidelitySummary
from autoprog.files import FileModel, dump_yaml, parse, read_yaml
from autoprog.stage import (
    FRACTION_UNITS,
    FullModel,
    LearningRate,
    Stage,
    check_schedule,
    relative_step_cost,
)
from autoprog.steptable import StepTable, resolve_steps

__all__ = ["FoundBy", "GrowthSchedule", "Lengths", "full_epochs_of", "load_schedule"]


LengthUnit = Literal["epochs", "steps", "fraction", "budget_fraction", "compute_fraction"]


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

    Laws: the last stage has the model's full depth and image size and, unless ``end`` is free, trains all
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
    def _laws(self) -> GrowthSchedule:
        check_schedule(self)
        return self

    def resolve(self, steps_per_epoch: int, epochs: float | None = None) -> StepTable:
        """Return the step table for a run of `epochs`.

        Args:
            steps_per_epoch: Optimizer steps in one pass over the training images, at the recipe's
                batch size.
            epochs: Length of the run; stretches stages that count in epochs or steps, and is needed
                where lengths are fractions or 'rest'. None takes the sum of the lengths. For fractions of
                compute it is what the compute would last for with the full model.

        Raises:
            ConfigError: If `epochs` is needed and missing, or a stage is shorter than one step.
        """
        return resolve_steps(self, steps_per_epoch, epochs)

    def own_epochs(self, steps_per_epoch: int) -> float | None:
        """Return the sum of the lengths in epochs; None for a file in fractions or with 'rest'."""
        lengths = [stage.length for stage in self.stages if not isinstance(stage.length, str)]
        if self.length_unit in FRACTION_UNITS or len(lengths) < len(self.stages):
            return None
        return sum(lengths) / (steps_per_epoch if self.length_unit == "steps" else 1)

    def to_yaml(self) -> str:
        """Return the file's text; loading it again gives an equal schedule."""
        body = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return dump_yaml({"schema": self.schema_version, **body})


def load_schedule(path: str | Path) -> GrowthSchedule:
    """Read and check one schedule file.

    Raises:
        ConfigError: If it is missing, not YAML or breaks a law of :class:`GrowthSchedule`.
    """
    return parse(GrowthSchedule, migration.schedule(read_yaml(Path(path))), str(path))


# --------------------------------------------------------------------------------------------------
# The lengths of one run, which are told apart wherever more than one of them is shown.


_FINE_STEPS = 100_000
"""Steps in an epoch, so many that no stage is shorter than one."""


@dataclass(frozen=True)
class Lengths:
    """How long a run is, by four measures; None where one is not known or means nothing.

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


def full_epochs_of(schedule: GrowthSchedule, num_classes: int) -> float | None:
    """Return the epochs of the full model that take as many multiply-accumulates as a schedule.

    None for a schedule whose length is not its own.
    """
    if schedule.own_epochs(_FINE_STEPS) is None or schedule.length_unit == "steps":
        return None
    spec = schedule.full.spec()
    costs = (
        segment.steps * relative_step_cost(spec, segment.subnet, segment.training, num_classes)
        for segment in schedule.resolve(_FINE_STEPS).segments
    )
    return sum(costs) / _FINE_STEPS
