"""Whole schedules as the parameters of trials: every axis of a space, and the choices beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprog.curves import Curriculum, curve_value
from autoprog.encoding import AxisRange, Encoding
from autoprog.schedule import FoundBy, GrowthSchedule
from autoprog.search.controller import BaseDistribution, CategoricalDistribution, IntDistribution
from autoprog.space import SearchSpace
from autoprog.stage import FullModel, Grow, LearningRate, Stage, Tokens, depth_value

__all__ = ["CELLS", "ScheduleSpace"]

CELLS = 20
"""Dates that a growth may have, from the start to where the model is full at the latest."""

_RISING = ("depth", "img_size", "keep_rate", "randaug", "drop_path", "batch_scale")


@dataclass(frozen=True)
class ScheduleSpace:
    """The schedules of a space. ``strength`` is the recipe's regularisation, ``lr`` the rate's shape."""

    space: SearchSpace
    strength: Curriculum
    lr: LearningRate

    @property
    def encoding(self) -> Encoding:
        """Return the vectors of the axes that rise over a run."""
        counts = self._counts()
        axes = tuple(AxisRange(name, 0, counts[name] - 1) for name in _RISING)
        return Encoding(axes, 0.0, 1.0 - self.space.decisions.min_full_share, CELLS)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return what a trial is asked for: increments of dates, and choices where there are several."""
        rising = {key: IntDistribution(*ends) for key, ends in self.encoding.bounds().items()}
        choices = {
            name: CategoricalDistribution(values)
            for name, values in self._choices().items()
            if len(values) > 1
        }
        return {**rising, **choices}

    def first(self) -> tuple[dict[str, Any], ...]:
        """Return the trials to begin with: the baseline and the published ways to grow.

        The full model at once; AutoProg's even ramp of all axes; sizes in an even ramp at full depth; half of
        the run at the smallest size; depth in one late jump; everything as late as may be.
        """
        encoding, counts = self.encoding, self._counts()
        end = encoding.full_share

        def arrivals(**own: list[float]) -> dict[str, int]:
            at_once = {name: [0.0] * (counts[name] - 1) for name in _RISING}
            return encoding.encode({**at_once, **own})

        def even(name: str) -> list[float]:
            return [end * (k + 1) / (counts[name] - 1) for k in range(counts[name] - 1)]

        def late(name: str, share: float = end) -> list[float]:
            return [share] * (counts[name] - 1)

        ways = (
            arrivals(),
            arrivals(**{name: even(name) for name in _RISING}),
            arrivals(img_size=even("img_size")),
            arrivals(img_size=late("img_size", 0.5)),
            arrivals(depth=late("depth", 0.7)),
            arrivals(**{name: late(name) for name in ("depth", "img_size", "keep_rate")}),
        )
        return tuple(
            dict(way) for way in {tuple(sorted(way.items())): way for way in ways}.values()
        )

    def schedule_of(
        self, params: Mapping[str, Any], found_by: FoundBy | None = None
    ) -> GrowthSchedule:
        """Return the schedule of a trial's parameters, with lengths in shares of the run."""
        choices = {name: params.get(name, values[0]) for name, values in self._choices().items()}
        timeline = self.encoding.decode(params)
        ends = [share for share, _ in timeline[1:]] + [1.0]
        stages = tuple(
            self._stage(numbers, stop - start, choices)
            for (start, numbers), stop in zip(timeline, ends, strict=True)
        )
        return GrowthSchedule(
            full=FullModel.of(self.space.spec),
            length_unit="share",
            lr=LearningRate(shape=choices["lr"], clock=self.lr.clock),
            stages=stages,
            found_by=found_by,
        )

    def grow(self, op: str, source_map: str = "interpolate") -> Grow:
        """Return the growth of a trial that adds blocks by `op`; the space's own says the rest."""
        own = self.space.decisions.grow
        source = own.source if op == "mogrow" else "online"
        return Grow.model_validate(
            {"op": op, "map": source_map, "source": source, "state": own.state}
        )

    def _stage(self, numbers: tuple[int, ...], length: float, choices: Mapping[str, Any]) -> Stage:
        space, axes = self.space, self.space.axes
        depth, size, rate, randaug, drop_path, batch = numbers
        return Stage(
            length=length,
            depth=depth_value(space.depths[depth]),
            img_size=space.sizes[size],
            tokens=Tokens.of(space.keep_rates[rate]),
            grow=self.grow(choices["grow"], choices["map"]),
            curriculum=Curriculum(
                randaug=_scaled(self.strength.randaug, axes.randaug.values[randaug]),
                drop_path=_scaled(self.strength.drop_path, axes.drop_path.values[drop_path]),
            ),
            batch_scale=axes.batch_scale.values[batch],
        )

    def _counts(self) -> dict[str, int]:
        space, axes = self.space, self.space.axes
        values = (
            space.depths,
            space.sizes,
            space.keep_rates,
            axes.randaug.values,
            axes.drop_path.values,
            axes.batch_scale.values,
        )
        return {name: len(own) for name, own in zip(_RISING, values, strict=True)}

    def _choices(self) -> dict[str, tuple[str, ...]]:
        axes = self.space.axes
        return {"map": axes.map, "grow": axes.grow, "lr": axes.lr or (self.lr.shape,)}


def _scaled(strength: object, scale: float) -> float | None:
    """Return a share of the recipe's value; None, which keeps it, for all of it."""
    if strength is None or scale == 1:
        return None
    assert isinstance(strength, int | float)
    return round(curve_value(strength, 1.0) * scale, 6)
