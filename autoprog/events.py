"""What happens in a run, as frozen values: the engine yields them, displays and files consume them."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import ConfigDict, ValidationError

from autoprog.bounds import (
    Amount,
    Count,
    Index,
    Measured,
    PassedEpochs,
    Percent,
    Seconds,
    Seed,
    SignedSeconds,
    Steps,
    UnitInterval,
    WorldSize,
)
from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.files import FileModel, Line
from autoprog.stage import Curriculum
from autoprog.subnets import Subnet

__all__ = [
    "CheckpointSaved",
    "CostsKnown",
    "CostsMeasured",
    "Decided",
    "Estimated",
    "Evaluated",
    "Event",
    "Grown",
    "Interrupted",
    "RunFinished",
    "RunStarted",
    "StageStarted",
    "StepLogged",
    "SubnetTrained",
    "SupernetStarted",
    "TrialFinished",
    "WarningRaised",
    "decode",
    "encode",
]


class _Event(FileModel):
    # Validators are built at the first event of their kind: all of them take 0.2 s.
    model_config = ConfigDict(defer_build=True)

    step: Steps


class RunStarted(_Event):
    """A run begins or, with ``step`` above 0, goes on.

    ``epochs`` is the length that the schedule was resolved for, ``hardware`` the processor or the GPU that
    each process has. ``num_classes`` is 1000 where an older log does not say. ``cost_fraction`` is the
    length of a search that goes by the time of its steps, relative to the full model over all epochs;
    ``total_steps`` are then steps of the full model.
    """

    kind: Literal["run_started"] = "run_started"
    run_id: Line
    run_kind: Line
    model: Line
    total_steps: Steps
    steps_per_epoch: Steps
    epochs: PassedEpochs
    num_images: Count
    device: Line
    amp: Line
    seed: Seed
    time_budget_seconds: Seconds | None = None
    cost_fraction: UnitInterval | None = None
    world_size: WorldSize = 1
    hardware: Line = ""
    num_classes: Count = 1000


class CostsMeasured(_Event):
    """The step seconds of some subnets of a search have been measured, before its first step.

    ``num_measured`` of ``num_subnets`` have been timed. ``left_seconds`` is what measuring takes at the most
    from here on, ``run_seconds`` what the steps and the last evaluation take if all steps are those of the
    full model; None before its first step.
    """

    kind: Literal["costs_measured"] = "costs_measured"
    num_measured: Count
    num_subnets: Count
    left_seconds: SignedSeconds
    run_seconds: Amount | None = None


class CostsKnown(_Event):
    """What a step of each subnet takes, its data included, is on record: what the run goes by.

    ``num_estimated`` of ``step_seconds`` are estimated from those that were measured. A run that goes on
    reports it again.
    """

    kind: Literal["costs_known"] = "costs_known"
    step_seconds: tuple[tuple[Subnet, Measured], ...]
    num_estimated: Count


class StageStarted(_Event):
    """Training at one subnet begins. ``stop_step`` is where the stage ends as far as is known."""

    kind: Literal["stage_started"] = "stage_started"
    stage: Index
    subnet: Subnet
    stop_step: Steps
    curriculum: Curriculum


class SupernetStarted(_Event):
    """A supernet phase begins: each step trains one of ``candidates``."""

    kind: Literal["supernet_started"] = "supernet_started"
    decision: Index
    current: Subnet
    candidates: tuple[Subnet, ...]
    stop_step: Steps


class StepLogged(_Event):
    """The state of training over the last few steps. Throughput leaves out waiting for data.

    ``lr`` is the highest of all layers.

    ``budget_fraction`` is the fraction that is used of the time of a run without a fixed number of steps.
    """

    kind: Literal["step_logged"] = "step_logged"
    epoch: PassedEpochs
    loss: Measured
    lr: Amount
    subnet: Subnet
    step_seconds: Amount
    images_per_second: Amount
    data_wait_fraction: Amount
    train_seconds: Seconds
    budget_fraction: Amount | None = None


class Evaluated(_Event):
    """Accuracy on the validation set at full size; top-1 in per cent.

    ``wall_seconds`` is everything from the first step on, this evaluation included. Balanced top-1 is the
    mean over classes, ``largest_class_fraction`` what always naming one class gets right; None in older logs.
    """

    kind: Literal["evaluated"] = "evaluated"
    epoch: PassedEpochs
    subnet: Subnet
    loss: Measured
    top1: Percent
    loss_ema: Measured
    top1_ema: Percent
    seconds: Seconds
    train_seconds: Seconds
    wall_seconds: Seconds
    balanced_top1: Percent | None = None
    balanced_top1_ema: Percent | None = None
    num_images: Count | None = None
    largest_class_fraction: UnitInterval | None = None


class Estimated(_Event):
    """The held-out losses of all candidates at one time point of a supernet phase."""

    kind: Literal["estimated"] = "estimated"
    decision: Index
    point: Index
    losses: tuple[tuple[Subnet, Measured], ...]
    seconds: Seconds


class TrialFinished(_Event):
    """A trial of a search by trials has ended: with values, or early because others did better."""

    kind: Literal["trial_finished"] = "trial_finished"
    number: Index
    pruned: bool = False
    loss: Measured | None = None
    seconds: Seconds | None = None
    stages: tuple[tuple[Amount, Subnet], ...] = ()


class SubnetTrained(_Event):
    """A subnet was trained by itself, to check the estimates of a decision.

    ``number`` counts the trainings from 0, ``total`` is all of them. ``loss`` is that of the held-out
    slice, None if it is not finite.
    """

    kind: Literal["subnet_trained"] = "subnet_trained"
    decision: Index
    number: Index
    total: Count
    subnet: Subnet
    loss: Measured | None
    seconds: Seconds


class Decided(_Event):
    """The search took a decision."""

    kind: Literal["decided"] = "decided"
    decision: Decision


class Grown(_Event):
    """The network changed: what came from where, and what it did to a probe batch.

    ``origins`` has one entry a block: "slot <- source (weights)". ``delta_loss`` and ``delta_logits``
    (norm of the change over the norm before) compare the networks just before and just after.
    With ``opens_supernet`` it grew to hold all candidates of a decision, not for a stage.
    """

    kind: Literal["grown"] = "grown"
    before: Subnet
    after: Subnet
    init: str
    placement: str
    old_blocks: str
    optimizer_state: str
    origins: tuple[str, ...]
    delta_loss: Measured
    delta_logits: Measured
    lost_seconds: Seconds
    opens_supernet: bool = False


class CheckpointSaved(_Event):
    """The whole training state is on disk."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    path: str


class WarningRaised(_Event):
    """Something the user should know."""

    kind: Literal["warning_raised"] = "warning_raised"
    message: str


class Interrupted(_Event):
    """A signal stopped the run after a checkpoint."""

    kind: Literal["interrupted"] = "interrupted"
    signal: str


class RunFinished(_Event):
    """The run is complete; ``result`` is what ``result.json`` holds."""

    kind: Literal["run_finished"] = "run_finished"
    # No Result: `runs`, where that is, reads the log and imports this module.
    result: dict[str, Any]


Event = (
    RunStarted
    | CostsMeasured
    | CostsKnown
    | StageStarted
    | SupernetStarted
    | StepLogged
    | Evaluated
    | Estimated
    | TrialFinished
    | SubnetTrained
    | Decided
    | Grown
    | CheckpointSaved
    | WarningRaised
    | Interrupted
    | RunFinished
)

_KINDS: dict[object, type[Event]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(Event)
}


def encode(event: Event) -> dict[str, Any]:
    """Return the JSON form of an event."""
    return event.model_dump(mode="json", by_alias=True)


def decode(row: dict[str, Any]) -> Event:
    """Return the event of a JSON form; ``decode(encode(event)) == event``.

    Raises:
        ConfigError: If it is no event that this version of autoprog knows.
    """
    # Not a discriminated union of pydantic: that would build the validators of all kinds at once.
    name = row.get("kind")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    try:
        if kind is not None:
            return kind.model_validate(row)
    except ValidationError:
        pass
    problem = "must be an event of this version of autoprog"
    raise ConfigError("events.jsonl", "", problem, name)
