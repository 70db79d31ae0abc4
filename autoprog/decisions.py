"""What a search writes down: its decisions and what they were taken from, by which a resume goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, model_validator

from autoprog.bounds import (
    Amount,
    FewOrNone,
    Index,
    Measured,
    PassedEpochs,
    SignedSeconds,
    SomeSteps,
    Steps,
)
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from autoprog.subnets import Subnet
from supernet.config import SubnetConfig

__all__ = [
    "Candidate",
    "Continuation",
    "Decision",
    "DecisionInputs",
    "Estimate",
    "FrontPoint",
    "Importance",
    "ReachedLosses",
]

Continuation = tuple[tuple[Steps, Subnet], ...]
"""The rest of a run: from which step on which subnet trains; the last is the full model."""


class ReachedLosses(FileModel):
    """The losses that the current subnet has reached before the supernet of a decision.

    Attributes:
        subnet: The subnet.
        held_out_loss: On held-out images without augmentation, by averaged weights.
        training_loss: The mean over the last few logged steps, on augmented images.
    """

    subnet: Subnet
    held_out_loss: Measured
    training_loss: Measured


class DecisionInputs(FileModel):
    """All that a decision is taken from, recorded before it is taken: a replay takes it again from here.

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
    step_seconds: dict[str, Amount]  # by text: JSON has no other keys
    seconds_left: SignedSeconds | None = None
    position: Steps | None = None
    chance_loss: Measured | None = None
    loss_floor: Measured = 0.0
    current_losses: ReachedLosses | None = None
    previous_losses: ReachedLosses | None = None
    full_regularisation: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> DecisionInputs:
        # A recorded file may come from anywhere, and the estimates index by position.
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


class Candidate(FileModel):
    """One subnet to go on with, and everything its score was made of. Lower scores are better.

    ``continuation`` is the best one that begins with this subnet; what is predicted is predicted for it.
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
    """A continuation than which none is predicted to be both better and cheaper."""

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
        if self.length == 0:  # views divide by it
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


@dataclass(frozen=True)
class Importance:
    """How much of a metric hangs on each parameter of a study, by its finished trials.

    ``fractions`` sum to 1, the largest first; they are empty where ``problem`` says why none are known.
    """

    study: str
    metric: str
    num_trials: int
    fractions: Mapping[str, float]
    problem: str = ""
