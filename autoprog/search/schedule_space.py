"""Whole schedules as the parameters of trials: every axis of a space, and the choices beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprog.schedule import FoundBy, GrowthSchedule
from autoprog.search.controller import (
    BaseDistribution,
    CategoricalDistribution,
    IntDistribution,
)
from autoprog.search.encoding import AxisRange, Encoding
from autoprog.settings import RunSettings
from autoprog.space import SearchSpace
from autoprog.stage import Curriculum, FullModel, Grow, LearningRate, Stage, curve_value
from supernet.config import SubnetConfig

__all__ = ["ScheduleSpace", "schedule_space"]

_NUM_DATES = 20
"""Dates that a growth may have, from the start to where the model is full at the latest."""

_RISING = ("depth", "img_size", "keep_rate", "randaug", "drop_path", "batch_scale")


def schedule_space(settings: RunSettings) -> ScheduleSpace:
    """Return the schedules that a search may try."""
    assert settings.search is not None, "a search has search settings"
    space, recipe = settings.search.space, settings.recipe
    return ScheduleSpace(space, recipe.strength, recipe.learning_rate)


@dataclass(frozen=True)
class ScheduleSpace:
    """The schedules of a space.

    Attributes:
        space: What may grow, and the choices beside it.
        strength: The recipe's regularisation, of which stages have a fraction.
        lr: The recipe's learning rate; a trial may choose another shape.
    """

    space: SearchSpace
    strength: Curriculum
    lr: LearningRate

    @property
    def encoding(self) -> Encoding:
        """Return the vectors of the axes that rise over a run."""
        counts = self._counts()
        axes = tuple(AxisRange(name, 0, counts[name] - 1) for name in _RISING)
        return Encoding(axes, 0.0, 1.0 - self.space.decisions.min_full_fraction, _NUM_DATES)

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
        """Return the trials to begin with: the baseline and the published ways to grow."""
        encoding, counts = self.encoding, self._counts()
        end = encoding.full_fraction

        def arrivals(**own: list[float]) -> dict[str, int]:
            at_once = {name: [0.0] * (counts[name] - 1) for name in _RISING}
            return encoding.encode({**at_once, **own})

        def even(name: str) -> list[float]:
            return [end * (k + 1) / (counts[name] - 1) for k in range(counts[name] - 1)]

        def late(name: str, fraction: float = end) -> list[float]:
            return [fraction] * (counts[name] - 1)

        vectors = (
            arrivals(),  # the full model at once
            # AutoProg's even ramp of all axes; sizes alone in an even ramp, at full depth.
            arrivals(**{name: even(name) for name in _RISING}),
            arrivals(img_size=even("img_size")),
            # Half of the run at the smallest size; depth in one late jump; everything as late as may be.
            arrivals(img_size=late("img_size", 0.5)),
            arrivals(depth=late("depth", 0.7)),
            arrivals(**{name: late(name) for name in ("depth", "img_size", "keep_rate")}),
        )
        # In a small space several are the same; each is tried once, in this order.
        distinct = {tuple(sorted(vector.items())): vector for vector in vectors}
        return tuple(dict(vector) for vector in distinct.values())

    def schedule_of(
        self, params: Mapping[str, Any], found_by: FoundBy | None = None
    ) -> GrowthSchedule:
        """Return the schedule of a trial's parameters, with lengths in fractions of the run."""
        space, axes, strength = self.space, self.space.axes, self.strength
        choices = {name: params.get(name, values[0]) for name, values in self._choices().items()}
        timeline = self.encoding.decode(params)
        ends = [fraction for fraction, _ in timeline[1:]] + [1.0]
        stages = []
        for (start, numbers), end in zip(timeline, ends, strict=True):
            depth, size, rate, randaug, drop_path, batch = numbers
            stage = Stage.of(
                SubnetConfig(space.depths[depth], space.sizes[size], space.keep_rates[rate]),
                length=end - start,
                grow=self.grow(_INIT_OF.get(choices["grow"], choices["grow"]), choices["map"]),
                curriculum=Curriculum(
                    randaug=_scaled(strength.randaug, axes.randaug.values[randaug]),
                    drop_path=_scaled(strength.drop_path, axes.drop_path.values[drop_path]),
                ),
                batch_scale=axes.batch_scale.values[batch],
            )
            stages.append(stage)
        return GrowthSchedule(
            full=FullModel.of(self.space.spec),
            length_unit="fraction",
            lr=LearningRate(shape=choices["lr"], clock=self.lr.clock),
            stages=tuple(stages),
            found_by=found_by,
        )

    def stages_of(self, params: Mapping[str, Any]) -> tuple[tuple[float, SubnetConfig], ...]:
        """Return from which fraction of a trial on it trains which subnet."""
        schedule, fraction, stages = self.schedule_of(params), 0.0, []
        table = schedule.resolve(1000, 1.0)  # steps enough for 20 dates to differ
        for stage in schedule.stages:
            stages.append((fraction, table.at(min(999, round(1000 * fraction))).subnet))
            fraction += float(stage.length)
        return tuple(stages)

    def grow(self, init: str, placement: str = "interpolate") -> Grow:
        """Return the growth rule of a trial; what it does not choose is the space's own."""
        own = self.space.decisions.grow
        return Grow.model_validate(
            {
                "init": init,
                "placement": placement,
                "old_blocks": own.old_blocks if init == "ema" else "keep",
                "optimizer_state": own.optimizer_state,
            }
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
        # The names and values that studies hold since the first release: a sampler draws by them, in
        # their order, so that other words would be other draws, and would not join older studies.
        axes = self.space.axes
        inits = tuple(_STORED_INIT.get(init, init) for init in axes.init)
        return {"map": axes.placement, "grow": inits, "lr": axes.lr or (self.lr.shape,)}


_STORED_INIT = {"ema": "mogrow"}
_INIT_OF = {stored: init for init, stored in _STORED_INIT.items()}


def _scaled(strength: object, scale: float) -> float | None:
    """Return a fraction of the recipe's value; None, which keeps it, for all of it."""
    if strength is None or scale == 1:
        return None
    assert isinstance(strength, int | float)
    return round(curve_value(strength, 1.0) * scale, 6)
