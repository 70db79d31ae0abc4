"""A run folder as the ranks see it that do not write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoprog.costs.table import CostTable
from autoprog.decisions import Decision, DecisionInputs
from autoprog.events import Event
from autoprog.runs import Result, RunFolder
from autoprog.schedule import GrowthSchedule
from autoprog.settings import RunManifest

__all__ = ["FollowedFolder"]


class FollowedFolder(RunFolder):
    """A run folder that another process writes: what would be written is dropped."""

    def __init__(self, path: Path, manifest: RunManifest) -> None:
        self.path, self.manifest, self.attempt = path, manifest, 0

    def append(self, event: Event) -> None:
        """Do nothing."""

    def record_decision(self, decision: Decision) -> None:
        """Do nothing."""

    def record_inputs(self, inputs: DecisionInputs) -> None:
        """Do nothing."""

    def write_costs(self, costs: CostTable | Mapping[str, float]) -> None:
        """Do nothing."""

    def write_schedule(
        self, schedule: GrowthSchedule, name: str = "schedule.yaml", comment: str = ""
    ) -> None:
        """Do nothing."""

    def write_result(self, result: Result) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
