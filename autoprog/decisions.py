"""What the search writes down: estimates, candidates and decisions, the truth that a resume goes by."""

from __future__ import annotations

from pydantic import Field, model_validator

from autoprog.errors import ConfigError
from autoprog.files import FileModel
from supernet.config import SubnetConfig

__all__ = ["Candidate", "Decision", "Estimate"]


class Estimate(FileModel):
    """A one-shot estimate: the held-out loss of one subnet under the supernet's averaged weights.

    ``losses`` are the means at each time point of the supernet phase, in order. ``difference`` is the mean
    over batches of (this loss - the loss of staying), with its standard error, at the last time point.
    """

    subnet: SubnetConfig
    losses: tuple[float, ...] = Field(min_length=1)
    difference: float = 0.0
    difference_se: float = 0.0

    @property
    def loss(self) -> float:
        """Return the mean over the time points (AutoProg's zeroth-order estimate)."""
        return sum(self.losses) / len(self.losses)


class Candidate(FileModel):
    """One way to go on, with everything its score was made of. Lower scores are better."""

    subnet: SubnetConfig
    label: str
    loss: float
    difference: float
    difference_se: float
    step_seconds: float
    predicted_loss: float
    remaining_seconds: float
    score: float


class Decision(FileModel):
    """One decision: taken at ``step`` after a supernet phase, executed from there on.

    Where only one way to go on was left, there are no candidates and ``forced`` names it.
    """

    index: int
    step: int
    epoch: float
    rule: str
    current: SubnetConfig
    candidates: tuple[Candidate, ...] = ()
    winner: int = 0
    forced: SubnetConfig | None = None
    alpha: float = 0.0
    reason: str

    @model_validator(mode="after")
    def _names_a_winner(self) -> Decision:
        if (self.forced is None) == (not self.candidates):
            raise ConfigError("", "candidates", "must be there unless the decision is forced")
        if self.candidates and not 0 <= self.winner < len(self.candidates):
            law = f"must lie in 0 to {len(self.candidates) - 1}"
            raise ConfigError("", "winner", law, self.winner)
        return self

    @property
    def chosen(self) -> Candidate:
        """Return the winning candidate of a decision that had any."""
        return self.candidates[self.winner]

    @property
    def subnet(self) -> SubnetConfig:
        """Return the subnet that was decided for."""
        return self.chosen.subnet if self.forced is None else self.forced
