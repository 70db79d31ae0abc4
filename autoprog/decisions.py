"""What the search writes down: estimates, candidates and decisions, the truth that a resume goes by."""

from __future__ import annotations

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

__all__ = ["Candidate", "Decision", "DecisionInputs", "Estimate", "FrontPoint", "Tail"]

Tail = tuple[tuple[Steps, Subnet], ...]
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


class Shown(FileModel):
    """What the subnet that trains has come to, before the supernet of a decision.

    Attributes:
        subnet: The subnet.
        held_out: Its loss on held-out images as they are, by averaged weights.
        training: Its mean loss of late on training images, augmented.
    """

    subnet: Subnet
    held_out: Measured
    training: Measured


class DecisionInputs(FileModel):
    """All that a decision is taken from: recorded before it is taken, so that it can be taken again.

    Attributes:
        index: Number of the decision.
        step: Finished steps.
        steps_per_epoch: Steps in an epoch.
        total_steps: Steps of the whole run.
        full_step: From here on only the full model trains.
        current: The subnet trained so far.
        incumbent: The tail chosen at the decision before; empty at the first.
        num_points: Decision points to come.
        steps_so_far: Steps by subnet.
        curve: (step, training loss) of the first subnet.
        candidates: The subnets that were estimated.
        losses: Held-out losses by time point, candidate and batch.
        step_seconds: Of all subnets that a tail may pass through, by their text, such as ``d6 r128``.
        seconds_left: Of a wall-clock budget; None without one.
        position: Where the run stands if its length is a time, which ``total_steps``, ``full_step``
            and tails then count too, in steps of the full model. None if these are steps.
        chance_loss: Of guessing, where carrying over is measured from it: in a run whose length is a time.
        loss_floor: What the training loss cannot fall below: the entropy of smoothed targets.
        shown: What the current subnet has come to; None before it has trained for long enough to tell.
        shown_before: The same at the decision before, of the subnet that trained then.
        is_strengthened: Whether regularisation is of full strength already.
    """

    index: Index
    step: Steps
    steps_per_epoch: SomeSteps
    total_steps: Steps
    full_step: Steps
    current: Subnet
    incumbent: Tail = ()
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
    shown: Shown | None = None
    shown_before: Shown | None = None
    is_strengthened: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> DecisionInputs:
        shape = (len(self.candidates), len(self.losses[0][0]) if self.losses[0] else 0)
        if 0 in shape or any(
            (len(point), *{len(losses) for losses in point}) != shape for point in self.losses
        ):
            law = "must hold, for each time point, as many losses of each of the candidates"
            raise ConfigError("", "losses", law)
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
        """Return where the run stands, in what tails count."""
        return self.step if self.position is None else self.position

    @property
    def epoch(self) -> float:
        """Return the epoch of the decision."""
        return self.step / self.steps_per_epoch


class Candidate(FileModel):
    """One way to go on, with everything its score was made of. Lower scores are better.

    ``tail`` is the best way on that begins with this subnet; what is predicted is predicted for it.
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
    tail: Tail = ()


class FrontPoint(FileModel):
    """A way on than which none is predicted to be both better and cheaper."""

    predicted_loss: Measured
    remaining_seconds: Measured
    tail: Tail = Field(min_length=1)


class Decision(FileModel):
    """One decision: taken at ``step`` after a supernet phase, executed from there on.

    Where only one way to go on was left, there are no candidates and ``forced`` names it. ``tail`` is what
    the run would do from here on if it never decided again, ``front`` the other ways worth a look.
    Where the length of the run is a time, ``position`` and ``length`` say where it stands and ends in
    steps of the full model, in which tails then count. From a decision that ``strengthens`` on,
    regularisation is of full strength.
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
    tail: Tail = ()
    front: tuple[FrontPoint, ...] = ()
    position: Steps | None = None
    length: Steps | None = None
    strengthens: bool = False

    @model_validator(mode="after")
    def _names_a_winner(self) -> Decision:
        if (self.forced is None) == (not self.candidates):
            raise ConfigError("", "candidates", "must be there unless the decision is forced")
        if self.candidates and not 0 <= self.winner < len(self.candidates):
            law = f"must lie in 0 to {len(self.candidates) - 1}"
            raise ConfigError("", "winner", law, self.winner)
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
