"""Values that may change within a stage, and the regularisation that is made of them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from autoprog.errors import ConfigError
from autoprog.files import FileModel

__all__ = ["Curriculum", "Curve", "Ramp", "curve_ends", "curve_value"]


class Ramp(FileModel):
    """A value that climbs in plateaus over its stage; the last plateau is exactly ``to``.

    ``every_epochs`` is the length of a plateau in epochs of the run that carries the schedule out.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    ramp: Literal["linear", "exponential"]
    start: float = Field(alias="from", ge=0)
    to: float = Field(ge=0)
    every_epochs: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _exponential_needs_positive_ends(self) -> Ramp:
        if self.ramp == "exponential" and min(self.start, self.to) <= 0:
            raise ConfigError("", "from", "must be above 0 for an exponential ramp", self.start)
        return self

    def at(self, share: float) -> float:
        """Return the value at `share` (0 to 1) of the way from the first plateau to the last."""
        if share == 1.0:
            return self.to  # the sums below can miss it by one rounding
        if self.ramp == "linear":
            return self.start + (self.to - self.start) * share
        return self.start * (self.to / self.start) ** share


Curve = float | Ramp


def curve_value(curve: Curve, share: float) -> float:
    """Return a curve's value at `share` of its stage."""
    return curve.at(share) if isinstance(curve, Ramp) else float(curve)


def curve_ends(curve: float | Ramp | None) -> list[float]:
    """Return the first and last value of a curve; none for a curve that is not given."""
    if curve is None:
        return []
    return [curve.start, curve.to] if isinstance(curve, Ramp) else [float(curve)]


class Curriculum(FileModel):
    """Regularisation that may ramp with capacity; a key left out keeps the recipe's value.

    ``randaug`` is RandAugment's magnitude (0 to 10, 0 turns it off); the others carry timm's names.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    randaug: Curve | None = None
    drop_path: Curve | None = None
    reprob: Curve | None = None
    mixup: Curve | None = None
    cutmix: Curve | None = None

    @model_validator(mode="after")
    def _within_bounds(self) -> Curriculum:
        for name, curve in self:
            for value in curve_ends(curve):
                high = _CURRICULUM_MAXIMUM.get(name, math.inf)
                if not 0 <= value <= high:
                    raise ConfigError("", name, f"must lie in [0, {high:g}]", value)
        return self

    def at(self, share: float) -> Curriculum:
        """Return the constant curriculum at `share` of the stage."""
        return Curriculum(
            **{name: curve_value(curve, share) for name, curve in self if curve is not None}
        )


_CURRICULUM_MAXIMUM = {"randaug": 10.0, "drop_path": 0.99, "reprob": 1.0}
