"""What the search writes down: estimates, candidates and decisions, the truth that a resume goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import (
    Amount,
    Compared,
    Correlation,
    CorrelationGain,
    Count,
    Epochs,
    Few,
    FewOrNone,
    Index,
    Measured,
    PassedEpochs,
    Seconds,
    Seed,
    SignedSeconds,
    SomeSteps,
    Steps,
)
from autoprog.errors import ConfigError
from autoprog.files import FileModel, append_row, json_text, parse, read_object, read_rows
from autoprog.openfiles import write_atomically
from autoprog.options import Option
from autoprog.subnets import Subnet
from supernet.config import SubnetConfig

__all__ = [
    "Agreement",
    "Candidate",
    "Continuation",
    "Decision",
    "DecisionInputs",
    "Estimate",
    "Fidelity",
    "FidelitySettings",
    "FidelitySummary",
    "FrontPoint",
    "Importance",
    "Judged",
    "RealTraining",
    "append_training",
    "read_fidelity",
    "read_trainings",
    "write_fidelity",
]


# --------------------------------------------------------------------------------------------------
# Which parameters of a study its values depend on.


@dataclass(frozen=True)
class Importance:
    """How much of a metric hangs on each parameter of a study, by the trials that were told.

    ``fractions`` sum to 1, the largest first; they are empty where ``problem`` says why none are known.
    """

    study: str
    metric: str
    num_trials: int
    fractions: Mapping[str, float]
    problem: str = ""


# --------------------------------------------------------------------------------------------------
# How far estimates can be trusted: what ``fidelity.jsonl`` and ``fidelity.json`` hold.


Start = Literal["start", "scratch"]

_TRAININGS, _REPORT = "fidelity.jsonl", "fidelity.json"


_MAX_TRAININGS = 10_000


class FidelitySettings(FileModel):
    """How the estimates of a decision are checked against real trainings.

    Attributes:
        candidates: The most subnets that are trained.
        at: Number of the decision, of those that train a supernet.
        epochs: Length of each training; None is that of the supernet phase.
        seeds: Trainings of each subnet.
        begin: From the network that the supernet was grown from, or from new weights.
    """

    candidates: Annotated[
        Compared,
        Option(
            "check the estimates of one decision: really train N subnets, at extra cost",
            flag="fidelity",
            metavar="N",
        ),
    ]
    at: Annotated[
        Index, Option("number of that decision", flag="fidelity-at", needs="fidelity", metavar="K")
    ] = 0
    epochs: Annotated[
        Epochs | None,
        Option(
            "length of each training",
            flag="fidelity-epochs",
            needs="fidelity",
            metavar="E",
            default="that of the supernet phase",
        ),
    ] = None
    seeds: Annotated[
        Few,
        Option("trainings of each subnet", flag="fidelity-seeds", needs="fidelity", metavar="S"),
    ] = 2
    begin: Annotated[
        Start,
        Option(
            "begin with the network before the supernet phase, or with new weights",
            flag="fidelity-from",
            needs="fidelity",
        ),
    ] = "start"


class RealTraining(FileModel):
    """One subnet trained on its own: a line of ``fidelity.jsonl``.

    ``seed`` counts the trainings of a subnet from 0. ``loss`` is that of the held-out slice, at the
    subnet's own size; None if it is not finite.
    """

    subnet: Subnet
    seed: Seed
    loss: Measured | None
    seconds: Seconds


class Judged(FileModel):
    """A subnet with its estimate and the losses of its real trainings, one a seed.

    ``relative_cost`` are its multiply-accumulates as a fraction of those of the full model.
    """

    subnet: Subnet
    relative_cost: Amount
    estimate: Measured
    losses: tuple[Measured | None, ...]

    @property
    def loss(self) -> float | None:
        """Return the mean over seeds; None if one of them is not finite."""
        known = [loss for loss in self.losses if loss is not None]
        return sum(known) / len(known) if len(known) == len(self.losses) else None


class Agreement(FileModel):
    """How the order of subnets by estimate agrees with that by real training, over some of their pairs.

    All are Kendall's tau-b in -1..1, or None where too few pairs are in any order.

    Attributes:
        pairs: Pairs that are compared.
        tau: Of the estimates.
        low: Lower end of the bootstrap 95 % interval of ``tau``, over subnets.
        high: Upper end.
        null_tau: Of the predictor that needs no supernet: more multiply-accumulates, lower loss.
        gain_low: Lower end of the bootstrap 95 % interval of ``tau`` - ``null_tau``, on the same draws.
        gain_high: Upper end.
        seeds_tau: Of one real training against another; what can be expected at best.
    """

    pairs: Count
    tau: Correlation | None
    low: Correlation | None
    high: Correlation | None
    null_tau: Correlation | None
    gain_low: CorrelationGain | None
    gain_high: CorrelationGain | None
    seeds_tau: Correlation | None


class Fidelity(FileModel):
    """``fidelity.json``: estimates against real trainings at one decision.

    ``epochs`` is the length of each training, ``seconds`` what all of them took. ``overall`` compares all
    pairs of subnets, ``equal_cost`` those whose costs differ by no more than ``cost_ratio``, and
    ``beyond_seed_noise`` those whose real losses differ by more than their seeds do; None with one seed.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    decision: Index
    step: Steps
    begin: Start
    epochs: PassedEpochs
    seeds: Count
    subnets: tuple[Judged, ...]
    overall: Agreement
    equal_cost: Agreement
    beyond_seed_noise: Agreement | None = None
    cost_ratio: Amount
    seconds: Seconds

    @property
    def summary(self) -> FidelitySummary:
        """Return what a schedule says of it."""
        whole = self.overall
        return FidelitySummary(
            tau=whole.tau,
            low=whole.low,
            high=whole.high,
            n=len(self.subnets),
            null_tau=whole.null_tau,
        )


class FidelitySummary(FileModel):
    """Kendall's tau of the estimates on ``n`` subnets with its 95 % interval, and that of cost alone."""

    tau: Correlation | None
    low: Correlation | None
    high: Correlation | None
    n: Count
    null_tau: Correlation | None


def append_training(run: Path, training: RealTraining) -> None:
    """Append a finished training to the run folder and wait until it is on disk."""
    append_row(run / _TRAININGS, training.model_dump(mode="json"))


def read_trainings(run: Path) -> list[RealTraining]:
    """Return the finished trainings; a half-written last line is left out.

    Raises:
        ConfigError: If a line is not one of them.
    """
    path = run / _TRAININGS
    return [parse(RealTraining, row, str(path)) for row in read_rows(path, _MAX_TRAININGS)]


def write_fidelity(run: Path, fidelity: Fidelity) -> None:
    """Write the report into the run folder."""
    body = fidelity.model_dump(mode="json", by_alias=True)
    write_atomically(run / _REPORT, json_text(body))


def read_fidelity(run: Path) -> Fidelity | None:
    """Return the report of a run, if there is one.

    Raises:
        ConfigError: If it is not one of this version of autoprog.
    """
    path = run / _REPORT
    if not path.exists():
        return None
    return parse(Fidelity, migration.fidelity(read_object(path)), str(path))


Continuation = tuple[tuple[Steps, Subnet], ...]
"""A way on to the end of a run: from which step on which subnet trains; the last is the full model."""


class Estimate(FileModel):
    """A one-shot estimate: the held-out loss of one subnet under the supernet's averaged weights.

    ``losses`` are the means at each time point of the supernet phase, in order. ``difference`` is the mean
    over batches of (this loss - the loss of staying), with its standard error, at the last time point.
    """

    subnet: Subnet
    losses: tuple[Measured, ...] = Field(min_length=1)
    difference: Measured = 0.0
    difference_se: Measured = 0.0

    @property
    def loss(self) -> float:
        """Return the mean over the time points (AutoProg's zeroth-order estimate)."""
        return sum(self.losses) / len(self.losses)


class ReachedLosses(FileModel):
    """What the subnet that trains has come to, before the supernet of a decision.

    Attributes:
        subnet: The subnet.
        held_out_loss: Its loss on held-out images as they are, by averaged weights.
        training_loss: Its mean loss of late on training images, augmented.
    """

    subnet: Subnet
    held_out_loss: Measured
    training_loss: Measured


class DecisionInputs(FileModel):
    """All that a decision is taken from: recorded before it is taken, so that it can be taken again.

    Attributes:
        index: Number of the decision.
        step: Finished steps.
        steps_per_epoch: Steps in an epoch.
        total_steps: Steps of the whole run.
        full_step: From here on only the full model trains.
        current: The subnet trained so far.
        incumbent: The continuation chosen at the decision before; empty at the first.
        num_points: Decision points to come.
        steps_so_far: Steps by subnet.
        curve: (step, training loss) of the first subnet.
        candidates: The subnets that were estimated.
        losses: Held-out losses by time point, candidate and batch.
        step_seconds: Of all subnets that a continuation may pass through, by their text, such as ``d6 r128``.
        seconds_left: Of a wall-clock budget; None without one.
        position: Where the run stands if its length is a time, which ``total_steps``, ``full_step``
            and continuations then count too, in steps of the full model. None if these are steps.
        chance_loss: Of guessing, where carrying over is measured from it: in a run whose length is a time.
        loss_floor: What the training loss cannot fall below: the entropy of smoothed targets.
        current_losses: What the current subnet has reached; None until it has trained for long enough.
        previous_losses: The same at the decision before, of the subnet that trained then.
        full_regularisation: Whether regularisation is of full strength already.
    """

    index: Index
    step: Steps
    steps_per_epoch: SomeSteps
    total_steps: Steps
    full_step: Steps
    current: Subnet
    incumbent: Continuation = ()
    num_points: FewOrNone = 0
    steps_so_far: tuple[tuple[Subnet, Steps], ...] = ()
    curve: tuple[tuple[Amount, Measured], ...] = ()
    candidates: tuple[Subnet, ...] = Field(min_length=1)
    losses: tuple[tuple[tuple[Measured, ...], ...], ...] = Field(min_length=1)
    step_seconds: dict[str, Amount]
    seconds_left: SignedSeconds | None = None
    position: Steps | None = None
    chance_loss: Measured | None = None
    loss_floor: Measured = 0.0
    current_losses: ReachedLosses | None = None
    previous_losses: ReachedLosses | None = None
    full_regularisation: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> DecisionInputs:
        shape = (len(self.candidates), len(self.losses[0][0]) if self.losses[0] else 0)
        if 0 in shape or any(
            (len(point), *{len(losses) for losses in point}) != shape for point in self.losses
        ):
            problem = "must hold, for each time point, as many losses of each of the candidates"
            raise ConfigError("", "losses", problem)
        known = self.step_seconds.keys()
        subnets = (self.current, *self.candidates, *(subnet for _, subnet in self.incumbent))
        unknown = [str(one) for one in subnets if str(one) not in known]
        if unknown:
            raise ConfigError(
                "", "step_seconds", "must hold all subnets, but lacks one", unknown[0]
            )
        if len(set(self.candidates)) < len(self.candidates):
            raise ConfigError("", "candidates", "must differ")
        return self

    @property
    def at(self) -> int:
        """Return where the run stands, in what continuations count."""
        return self.step if self.position is None else self.position

    @property
    def epoch(self) -> float:
        """Return the epoch of the decision."""
        return self.step / self.steps_per_epoch


class Candidate(FileModel):
    """One way to go on, with everything its score was made of. Lower scores are better.

    ``continuation`` is the best way on that begins with this subnet; what is predicted is predicted for it.
    """

    subnet: Subnet
    label: str
    loss: Measured
    difference: Measured
    difference_se: Measured
    step_seconds: Amount
    predicted_loss: Measured
    remaining_seconds: Measured
    score: Measured
    continuation: Continuation = ()


class FrontPoint(FileModel):
    """A way on than which none is predicted to be both better and cheaper."""

    predicted_loss: Measured
    remaining_seconds: Measured
    continuation: Continuation = Field(min_length=1)


class Decision(FileModel):
    """One decision: taken at ``step`` after a supernet phase, executed from there on.

    Where only one subnet was left to choose, there are no candidates and ``forced`` names it.
    ``continuation`` is what the run would do from here on if it never decided again, ``front`` the Pareto
    front of the others. Where the length of the run is a time, ``position`` and ``length`` say where it
    stands and ends in steps of the full model, in which continuations then count. From a decision with
    ``full_regularisation`` on, regularisation is of full strength.
    """

    index: Index
    step: Steps
    epoch: PassedEpochs
    rule: str
    current: Subnet
    candidates: tuple[Candidate, ...] = ()
    winner: Index = 0
    forced: Subnet | None = None
    alpha: Measured = 0.0
    reason: str
    continuation: Continuation = ()
    front: tuple[FrontPoint, ...] = ()
    position: Steps | None = None
    length: Steps | None = None
    full_regularisation: bool = False

    @model_validator(mode="after")
    def _names_a_winner(self) -> Decision:
        if (self.forced is None) == (not self.candidates):
            raise ConfigError("", "candidates", "must be there unless the decision is forced")
        if self.candidates and not 0 <= self.winner < len(self.candidates):
            problem = f"must lie in 0 to {len(self.candidates) - 1}"
            raise ConfigError("", "winner", problem, self.winner)
        if self.length == 0:
            raise ConfigError("", "length", "must be above 0", self.length)
        return self

    @property
    def chosen(self) -> Candidate:
        """Return the winning candidate of a decision that had any."""
        return self.candidates[self.winner]

    @property
    def subnet(self) -> SubnetConfig:
        """Return the subnet that was decided for."""
        return self.chosen.subnet if self.forced is None else self.forced
