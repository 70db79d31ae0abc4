"""What a schedule does over its steps: its segments, one lane an axis, and what a step costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from autoprog.stage import Curriculum, Grow, Training, curve_value, relative_step_cost
from autoprog.steptable import Segment, StepTable, but_for_tokens
from autoprog.ui.format import depth_text, number, per_cent, trained_text
from autoprog.ui.state import RunState
from autoprog.ui.tables import Column
from supernet.config import ALL_TOKENS, ModelSpec

__all__ = ["CURRICULUM_NAMES", "Lane", "Track", "track_of_run", "track_of_table"]

CURRICULUM_NAMES = {
    "randaug": "RandAugment",
    "drop_path": "drop-path",
    "reprob": "erasing",
    "mixup": "mixup",
    "cutmix": "cutmix",
}
_PLAIN_TRAINING = {"batch": 1.0, "rate": 1.0, "trained": 1.0, "subnets": 1.0, "fourier": 0.0}
"""The lanes in which steps may differ from plain ones, and their value where they do not."""

_MAX_TOKEN_ROWS = 8  # of one stage; a cyclic keep-rate has one in every few steps


@dataclass(frozen=True)
class Lane:
    """One axis over the segments: the value of each, its text, and the value that fills the height."""

    name: str
    values: tuple[float, ...]
    texts: tuple[str, ...]
    top: float

    def changes(self, starts: Sequence[int]) -> list[tuple[int, str]]:
        """Return (start, text) where the lane begins and where its text changes."""
        return [
            (starts[index], text)
            for index, text in enumerate(self.texts)
            if index == 0 or text != self.texts[index - 1]
        ]

    def range_text(self, numbers: Sequence[int]) -> str:
        """Return the text of some segments, which is the lowest to the highest where they differ."""
        low = min(numbers, key=lambda number: self.values[number])
        high = max(numbers, key=lambda number: self.values[number])
        same = self.texts[low] == self.texts[high]
        return self.texts[low] if same else f"{self.texts[low]} to {self.texts[high]}"


@dataclass(frozen=True)
class Track:
    """Consecutive segments from step 0, and where a run stands in them.

    ``total_steps`` may lie beyond the last segment: a search has not decided the rest yet. ``strength`` is
    the recipe's regularisation, which holds where a stage names no value. Spans are (start, stop) in steps.
    """

    spec: ModelSpec
    segments: tuple[Segment, ...]
    total_steps: int
    steps_per_epoch: int
    strength: Curriculum = field(default_factory=Curriculum)
    unit: str = "epoch"
    now_step: int | None = None
    supernet_spans: tuple[tuple[int, int], ...] = ()
    decision_steps: tuple[int, ...] = ()
    growth_steps: tuple[int, ...] = ()
    num_classes: int = 1000

    @property
    def known_steps(self) -> int:
        """Return the step up to which the plan is known."""
        return self.segments[-1].stop_step

    def position(self, step: int) -> float:
        """Return a step in the unit of the axis."""
        return step if self.unit == "step" else step / self.steps_per_epoch

    def lanes(self) -> tuple[Lane, ...]:
        """Return the lanes: depth, image size, whatever else varies, and the cost of a step."""
        # A lane on which nothing happens would be a line of blocks for nothing.
        drops_tokens = any(segment.subnet.tokens != ALL_TOKENS for segment in self.segments)

        def is_shown(lane: Lane) -> bool:
            if lane.name == "keep-rate":
                return drops_tokens
            if lane.name in CURRICULUM_NAMES.values():
                return len(set(lane.texts)) > 1
            plain = _PLAIN_TRAINING.get(lane.name)
            return plain is None or any(value != plain for value in lane.values)

        return tuple(lane for lane in self.all_lanes() if is_shown(lane))

    def all_lanes(self) -> tuple[Lane, ...]:
        """Return a lane for every axis, also where nothing happens on it; the same axes for every track."""
        subnets = [segment.subnet for segment in self.segments]
        trainings = [segment.training for segment in self.segments]
        # A step may cost more than a plain full one: by the sandwich rule it trains four subnets.
        full, costs = self.spec.full, [self.step_cost(segment) for segment in self.segments]

        def training_lane(
            name: str, value: Callable[[Training], float], text: Callable[[Segment], str]
        ) -> Lane:
            values = tuple(map(value, trainings))
            return Lane(name, values, tuple(map(text, self.segments)), max(1.0, *values))

        def trained(segment: Segment) -> str:
            unfrozen, depth = segment.training.unfrozen, segment.subnet.total_depth
            return "all" if unfrozen is None else f"{len(unfrozen.blocks(depth))} of {depth}"

        return (
            Lane(
                "depth",
                tuple(subnet.total_depth for subnet in subnets),
                tuple(map(depth_text, subnets)),
                full.total_depth,
            ),
            Lane(
                "image px",
                tuple(subnet.img_size for subnet in subnets),
                tuple(str(subnet.img_size) for subnet in subnets),
                full.img_size,
            ),
            Lane(
                "keep-rate",
                tuple(subnet.tokens.keep_rate for subnet in subnets),
                tuple(number(subnet.tokens.keep_rate, 3) for subnet in subnets),
                1.0,
            ),
            training_lane(
                "batch", lambda t: t.batch_scale, lambda s: f"x{s.training.batch_scale:g}"
            ),
            training_lane(
                "rate", lambda t: t.lr_scale, lambda s: f"x{number(s.training.lr_scale, 3)}"
            ),
            training_lane("trained", lambda t: t.unfrozen.fraction if t.unfrozen else 1.0, trained),
            # The sandwich rule trains four subnets a step: smallest, largest and two in between.
            training_lane(
                "subnets",
                lambda t: 4.0 if t.sandwich else 1.0,
                lambda s: "4" if s.training.sandwich else "1",
            ),
            training_lane(
                "fourier",
                lambda t: float(t.shrink_by == "fourier"),
                lambda s: "crop" if s.training.shrink_by == "fourier" else "-",
            ),
            *(self._curriculum_lane(name) for name in CURRICULUM_NAMES),
            Lane("step cost", tuple(costs), tuple(map(per_cent, costs)), max(1.0, *costs)),
        )

    def constants(self) -> dict[str, str]:
        """Return the regularisation that stays the same for the whole run, by name."""
        lanes = {lane.name: lane for lane in map(self._curriculum_lane, CURRICULUM_NAMES)}
        return {
            name: lane.texts[-1]
            for name, lane in lanes.items()
            if lane.texts[-1] != "recipe" and len(set(lane.texts)) == 1
        }

    def unfrozen_lines(self) -> list[str]:
        """Return, for each stage in which not all blocks train, which ones do."""
        lines = [
            f"stage {one.stage + 1}: {trained_text(one.training.unfrozen, one.subnet.total_depth)}"
            for one in self.segments
            if one.training.unfrozen is not None
        ]
        return list(dict.fromkeys(lines))

    def stage_columns(self) -> list[Column]:
        """Return the table of stages: from, to, and the value of every lane.

        Where the keep-rate changes in more than a few steps, one row says between what.
        """
        groups: list[list[int]] = []
        for _, group in groupby(
            range(len(self.segments)), lambda k: but_for_tokens(self.segments[k])
        ):
            numbers = list(group)
            # patch-sampling changes its keep-rate in hundreds of segments of one stage.
            many = len(numbers) > _MAX_TOKEN_ROWS
            groups += [numbers] if many else [[number] for number in numbers]
        firsts = [self.segments[numbers[0]] for numbers in groups]
        lasts = [self.segments[numbers[-1]] for numbers in groups]
        supernet = [any(a <= s.start_step < b for a, b in self.supernet_spans) for s in firsts]
        phases = tuple("supernet" if phase else "training" for phase in supernet)
        return [
            Column("stage", tuple(str(segment.stage + 1) for segment in firsts)),
            Column(f"from {self.unit}", tuple(number(self.position(s.start_step)) for s in firsts)),
            Column(f"to {self.unit}", tuple(number(self.position(s.stop_step)) for s in lasts)),
            *(
                Column(lane.name, tuple(lane.range_text(numbers) for numbers in groups))
                for lane in self.lanes()
            ),
            *([Column("phase", phases, "left")] if any(supernet) else []),
        ]

    def step_cost(self, segment: Segment) -> float:
        """Return the multiply-accumulates of a step as a fraction of those of a plain full one."""
        return relative_step_cost(self.spec, segment.subnet, segment.training, self.num_classes)

    def mean_step_cost(self) -> float:
        """Return the mean cost of a step as a fraction of a plain full one's, by multiply-accumulates.

        A step of a larger batch counts as so many.
        """
        # By images and not by steps: half as many steps of twice the batch size are no speed-up.
        nominal = sum(s.steps * s.training.batch_scale for s in self.segments)
        return sum(s.steps * self.step_cost(s) for s in self.segments) / nominal

    def full_epochs(self) -> float:
        """Return what the known steps cost, in epochs of the full model, by multiply-accumulates."""
        return sum(s.steps * self.step_cost(s) for s in self.segments) / self.steps_per_epoch

    def seconds(self, step_seconds: Mapping[str, float]) -> float | None:
        """Return the seconds of the known steps by the costs of plain ones; None if one is missing.

        Also None where steps are not plain: their costs are not measured.
        """
        # Costs are measured of plain steps: those of a frozen or a sandwich step are not known.
        plain = all(segment.training == Training() for segment in self.segments)
        return self._seconds(step_seconds) if plain else None

    def measured_speed_up(self, step_seconds: Mapping[str, float]) -> float | None:
        """Return how much faster the steps are than full ones by measured costs; None if one is missing."""
        full, seconds = step_seconds.get(str(self.spec.full)), self._seconds(step_seconds)
        if full is None or seconds is None:
            return None
        return full * self.known_steps / seconds

    def _seconds(self, step_seconds: Mapping[str, float]) -> float | None:
        names = [str(segment.subnet) for segment in self.segments]
        if any(name not in step_seconds for name in names):
            return None
        pairs = zip(self.segments, names, strict=True)
        return sum(segment.steps * step_seconds[name] for segment, name in pairs)

    def curriculum_value(self, segment: Segment, name: str) -> float | None:
        """Return a regularisation of a segment; the recipe's where it names none, None if unknown."""
        own = getattr(segment.curriculum, name)
        curve = own if own is not None else getattr(self.strength, name)
        # A curve is shown by its value at the end of the stage, where it is strongest.
        return None if curve is None else curve_value(curve, 1.0)

    def _curriculum_lane(self, name: str) -> Lane:
        values = [self.curriculum_value(segment, name) for segment in self.segments]
        # Unknown values fill the lane: the text says that they are those of the recipe.
        top = max((value for value in values if value is not None), default=1.0) or 1.0
        return Lane(
            CURRICULUM_NAMES[name],
            tuple(top if value is None else value for value in values),
            tuple("recipe" if value is None else number(value, 3) for value in values),
            top,
        )


def track_of_table(
    spec: ModelSpec, table: StepTable, strength: Curriculum = Curriculum(), unit: str = "epoch"
) -> Track:
    """Return the track of a plan that nobody has begun to carry out."""
    return Track(spec, table.segments, table.total_steps, table.steps_per_epoch, strength, unit)


def track_of_run(state: RunState, strength: Curriculum = Curriculum()) -> Track | None:
    """Return what a run did so far and, where its plan is known, what it will do; None before its start."""
    if state.spec is None or not state.total_steps:
        return None
    table = state.table
    done = [
        Segment(one.start_step, one.stop_step, one.stage, one.subnet, one.curriculum, Grow())
        for one in state.segments
    ]
    if done and done[0].start_step > 0:
        done = []  # the log begins in the middle, so the plan alone is whole
    if table is None or table.total_steps != state.total_steps:
        segments = tuple(done)
    # Without a search the plan is what is carried out, and is exact from the start.
    elif not done or not any(one.supernet for one in state.segments):
        segments = table.segments
    else:
        # What was done stands as it was, supernets included; the plan goes on from its end.
        end = min(done[-1].stop_step, state.total_steps)
        rest = [
            replace(segment, start_step=max(segment.start_step, end))
            for segment in table.segments
            if segment.stop_step > end
        ]
        segments = (*done, *rest)
    if not segments:
        return None
    return Track(
        spec=state.spec,
        segments=segments,
        total_steps=state.total_steps,
        steps_per_epoch=max(1, state.steps_per_epoch),
        strength=strength,
        now_step=None if state.phase == "complete" else state.step,
        supernet_spans=tuple((s.start_step, s.stop_step) for s in state.segments if s.supernet),
        decision_steps=tuple(decision.step for decision in state.decisions),
        growth_steps=tuple(growth.step for growth in state.growths),
        num_classes=state.num_classes,
    )
