"""The growth schedule: which network, at which size, with which augmentation, at every step of a run.

A schedule is data. It is written by hand, made by a preset or found by a search, checked without torch,
and resolved once into a :class:`StepTable`, which is all that the runner, the views and the cost model read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from autoprog.bounds import Index, Seed
from autoprog.fidelity import FidelitySummary
from autoprog.files import FileModel, dump_yaml, parse, read_yaml
from autoprog.laws import SHARES, check_schedule
from autoprog.stage import FullModel, LearningRate, Stage
from autoprog.steptable import StepTable, resolve_steps

__all__ = ["FoundBy", "GrowthSchedule", "load_schedule"]

SCHEMA = 1
LengthUnit = Literal["epochs", "steps", "share", "time_share", "compute_share"]


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

    schema_version: Literal[1] = Field(default=1, alias="schema")
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
                where lengths are shares or 'rest'. None takes the sum of the lengths. For shares of
                compute it is what the compute would last for with the full model.

        Raises:
            ConfigError: If `epochs` is needed and missing, or a stage is shorter than one step.
        """
        return resolve_steps(self, steps_per_epoch, epochs)

    def own_epochs(self, steps_per_epoch: int) -> float | None:
        """Return the sum of the lengths in epochs; None for a file in shares or with 'rest'."""
        lengths = [stage.length for stage in self.stages if not isinstance(stage.length, str)]
        if self.length_unit in SHARES or len(lengths) < len(self.stages):
            return None
        return sum(lengths) / (steps_per_epoch if self.length_unit == "steps" else 1)

    def to_yaml(self) -> str:
        """Return the file's text; loading it again gives an equal schedule."""
        body = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return dump_yaml({"schema": SCHEMA, **body})


def load_schedule(path: str | Path) -> GrowthSchedule:
    """Read and check one schedule file.

    Raises:
        ConfigError: If it is missing, not YAML or breaks a law of :class:`GrowthSchedule`.
    """
    return parse(GrowthSchedule, read_yaml(Path(path)), str(path))
