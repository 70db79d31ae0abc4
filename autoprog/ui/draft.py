"""A copy of a schedule in which the ends of stages are moved; the schedule itself stays as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoprog.errors import ConfigError
from autoprog.files import parse, write_atomically
from autoprog.laws import SHARES
from autoprog.schedule import GrowthSchedule
from autoprog.ui.subject import NOMINAL_STEPS_PER_EPOCH, Subject
from autoprog.ui.track import Track, full_epochs, step_seconds_sum, track_of_table
from autoprog.ui.units import duration, number

__all__ = ["Draft", "draft_of", "save_draft"]

SHARE_STEP = 0.01


@dataclass(frozen=True)
class Draft:
    """A schedule being edited.

    Attributes:
        original: As it was.
        schedule: As it is now; no law is broken at any time.
        epochs: Length of the run, where the schedule does not tell it.
        steps_per_epoch: Of the data, or nominal.
        boundary: The stage whose end is moved.
        step_seconds: Measured step times by subnet; empty where none are known.
        problem: Why the last move was refused.
    """

    original: GrowthSchedule
    schedule: GrowthSchedule
    epochs: float | None
    steps_per_epoch: int
    boundary: int
    step_seconds: Mapping[str, float]
    problem: str = ""

    @property
    def move_text(self) -> str:
        """Return by how much a boundary moves, in the unit of the file."""
        unit = self.schedule.length_unit
        return f"{SHARE_STEP:g} of the run" if unit in SHARES else "1 epoch"

    def next_boundary(self, by: int) -> Draft:
        """Return the draft with another boundary chosen."""
        count = len(self.schedule.stages) - 1
        return replace(self, boundary=(self.boundary + by) % count, problem="")

    def moved(self, by: int) -> Draft:
        """Return the draft with the boundary one unit later or earlier; the same where a law forbids it."""
        try:
            schedule = _moved(self.schedule, self.boundary, by * self._unit)
            schedule.resolve(self.steps_per_epoch, self.epochs)
        except ConfigError as error:
            return replace(self, problem=": ".join(filter(None, (error.key, error.law))))
        return replace(self, schedule=schedule, problem="")

    def track(self, of: GrowthSchedule | None = None) -> Track:
        """Return the draft, or another version of it, as a timeline shows it."""
        schedule = self.schedule if of is None else of
        table = schedule.resolve(self.steps_per_epoch, self.epochs)
        return track_of_table(schedule.full.spec(), table)

    def cost_text(self) -> str:
        """Return what the draft costs beside the original, by measured step times where there are any."""
        now, before = self.track(), self.track(self.original)
        macs = f"multiply-accumulates {full_epochs(now) / full_epochs(before):.3f}× the original"
        seconds = step_seconds_sum(now, self.step_seconds)
        old_seconds = step_seconds_sum(before, self.step_seconds)
        if seconds is None or old_seconds is None:
            return f"{macs} (no step times are known for all stages)"
        time = f"steps take {duration(seconds)}, not {duration(old_seconds)}"
        return f"{time}: {seconds / old_seconds:.3f}× · {macs}"

    def boundary_text(self) -> str:
        """Return which end is moved, and where it is."""
        stage = self.schedule.stages[self.boundary]
        track = self.track()
        stop = max(s.stop_step for s in track.segments if s.stage == self.boundary)
        size = stage.length if isinstance(stage.length, str) else number(stage.length, 6)
        return (
            f"end of stage {self.boundary + 1} of {len(self.schedule.stages)}: epoch"
            f" {number(track.position(stop))}, length {size} {self.schedule.length_unit}"
        )

    @property
    def _unit(self) -> float:
        unit = self.schedule.length_unit
        if unit in SHARES:
            return SHARE_STEP
        return float(self.steps_per_epoch) if unit == "steps" else 1.0


def draft_of(subject: Subject) -> Draft:
    """Return a draft of the schedule of a run or a plan.

    Raises:
        ConfigError: If it has none, or one without a boundary to move.
    """
    schedule = subject.schedule
    if schedule is None:
        raise ConfigError("edit", "", "needs a schedule, and this run has none yet")
    if len(schedule.stages) < 2:
        raise ConfigError(
            "edit", "", "needs a schedule of two stages or more: there is no boundary"
        )
    costs: Mapping[str, float] = {} if subject.run is None else subject.run.step_seconds
    measured = {str(subnet): seconds for subnet, seconds in subject.state.step_seconds.items()}
    plain = schedule.model_copy(update={"found_by": None})  # nobody searched for what was edited
    steps_per_epoch = subject.state.steps_per_epoch or NOMINAL_STEPS_PER_EPOCH
    step_seconds = {**measured, **costs} if subject.state.total_steps else {}
    return Draft(plain, plain, subject.epochs, steps_per_epoch, 0, step_seconds)


def save_draft(draft: Draft, path: Path, overwrite: bool = False) -> None:
    """Write the schedule to a file of its own.

    Raises:
        ConfigError: If the path lies in a run folder, is there already, or cannot be written.
    """
    place = path.expanduser().resolve()
    if any((parent / "run.yaml").exists() for parent in place.parents):
        law = "must lie outside of run folders, which stay as they are"
        raise ConfigError(str(path), "", law)
    if place.is_dir() or (place.exists() and not overwrite):
        raise ConfigError(str(path), "", "must be a new file: there is one of this name")
    try:
        write_atomically(place, draft.schedule.to_yaml())
    except OSError as error:
        raise ConfigError(str(path), "", f"must be a place to write to: {error.strerror}") from None


def _moved(schedule: GrowthSchedule, boundary: int, by: float) -> GrowthSchedule:
    """Return the schedule with one end moved; what one stage gets the next one loses.

    Raises:
        ConfigError: If a law is broken.
    """
    body = schedule.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    stages = body["stages"]
    for index, change in ((boundary, by), (boundary + 1, -by)):
        if not isinstance(stages[index]["length"], str):
            stages[index]["length"] = round(stages[index]["length"] + change, 9)
    return parse(GrowthSchedule, body, "edit")
