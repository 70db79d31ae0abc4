"""The lengths of one run, which are told apart wherever more than one of them is shown."""

from __future__ import annotations

from dataclasses import dataclass

from autoprog.effort import relative_step_cost
from autoprog.schedule import GrowthSchedule

__all__ = ["Lengths", "full_epochs_of"]


_FINE_STEPS = 100_000
"""Steps in an epoch, so many that no stage is shorter than one."""


@dataclass(frozen=True)
class Lengths:
    """How long a run is, by four measures; None where one is not known or means nothing.

    Attributes:
        named_epochs: ``--epochs``: of a search by time, those of the full model that it is compared with.
        time_share: The share of the time of those epochs that a search by time takes.
        steps: Optimizer steps that were taken.
        trained_epochs: The same in epochs, steps of supernets among them.
        schedule_epochs: What the schedule lasts when it is trained along.
        full_epochs: Epochs of the full model that take as many multiply-accumulates as the schedule.
    """

    named_epochs: float | None = None
    time_share: float | None = None
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
        if self.time_share is not None:
            parts.append(
                f"{self.time_share:g} of the time of the full model's --epochs {self.named_epochs:.4g}"
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
