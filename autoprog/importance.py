"""Which parameters of a study its values depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Importance"]


@dataclass(frozen=True)
class Importance:
    """How much of a metric hangs on each parameter of a study, by the trials that were told.

    ``shares`` sum to 1, the largest first; they are empty where ``problem`` says why none are known.
    """

    study: str
    metric: str
    num_trials: int
    shares: Mapping[str, float]
    problem: str = ""
