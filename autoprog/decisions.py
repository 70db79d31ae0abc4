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
    """One decision: taken at ``step`` after a supernet phase, executed from there on."""

    index: int
    step: int
    epoch: float
    rule: str
    current: SubnetConfig
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    winner: int
    alpha: float
    reason: str

    @model_validator(mode="after")
    def _winner_is_a_candidate(self) -> Decision:
        if not 0 <= self.winner < len(self.candidates):
            law = f"must be the index of one of {len(self.candidates)} candidates"
            raise ConfigError("", "winner", law, self.winner)
        return self

    @property
    def chosen(self) -> Candidate:
        """Return the winning candidate."""
        return self.candidates[self.winner]
