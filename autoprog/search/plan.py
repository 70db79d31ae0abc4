"""When the search decides and between what: pure arithmetic over a space and the length of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

from autoprog.errors import ConfigError
from autoprog.settings import Rule
from autoprog.space import Decisions, SearchSpace
from supernet.config import SubnetConfig
from supernet.cost import relative_cost

Value = TypeVar("Value")

__all__ = ["DecisionPoint", "SearchPlan", "make_plan", "point_candidates"]


@dataclass(frozen=True)
class DecisionPoint:
    """A decision: the supernet trains from ``start_step`` to ``stop_step``, where the decision is taken.

    ``piece`` is which of the K equal pieces of the run it starts. ``estimate_steps`` are the steps at which
    candidates are estimated, the last of them ``stop_step``. Without a step in between the decision is a
    glance: candidates are estimated as they are grown.
    """

    index: int
    piece: int
    start_step: int
    stop_step: int
    estimate_steps: tuple[int, ...]

    @property
    def is_glance(self) -> bool:
        """Tell whether no supernet is trained."""
        return self.start_step == self.stop_step


@dataclass(frozen=True)
class SearchPlan:
    """All decision points, and the step from which only the full model trains."""

    points: tuple[DecisionPoint, ...]
    full_step: int
    total_steps: int
    piece_starts: tuple[int, ...]

    @property
    def supernet_steps(self) -> int:
        """Return the length of a supernet phase."""
        first = self.supernet_points[0]
        return first.stop_step - first.start_step

    @property
    def supernet_points(self) -> tuple[DecisionPoint, ...]:
        """Return the decisions that a supernet is trained for."""
        return tuple(point for point in self.points if not point.is_glance)

    def piece_at(self, step: int) -> int:
        """Return which piece `step` lies in."""
        return sum(start <= step for start in self.piece_starts) - 1


def make_plan(
    rule: Rule, space: SearchSpace, steps_per_epoch: int, total_steps: int, by_time: bool = False
) -> SearchPlan:
    """Return when to decide.

    ``autoprog`` decides at the start of every piece but the last, which is full (CVPR 2022). ``rollout``
    decides at ``num_points`` points, evenly spread up to ``min_full_fraction`` before the end, from where on
    the model is full; at fewer points in runs so short that a supernet phase would train each of its
    subnets for less than ``good_visits`` steps. ``pareto`` and ``budget`` decide at the first of them, for
    good. Up to there the smallest subnet trains, since losses near the start of warm-up tell nothing.

    With ``by_time`` steps are those of the full model that take as long as what is trained; before any is
    measured, a subnet counts by its multiply-accumulates. Much of the time then goes to the smallest subnet
    before a supernet can be afforded, so a glance comes before: does anything of it carry over?

    Raises:
        ConfigError: If the supernet phases do not fit between the decisions, or none is left.
    """
    decisions = space.decisions
    pieces = _piece_starts(decisions.num_stages, steps_per_epoch, total_steps)
    latest = _whole_epoch(
        total_steps * (1 - decisions.min_full_fraction), steps_per_epoch, total_steps
    )
    if rule == "autoprog":
        full_step = min(pieces[-1], latest)
        points = _published_points(decisions, pieces, full_step, steps_per_epoch)
    else:
        full_step = latest
        visit = _visit_steps(space, by_time)
        points = _even_points(rule, space, pieces, full_step, total_steps, visit)
        points = _with_glance(points, full_step) if by_time else points
    return SearchPlan(tuple(points), full_step, total_steps, pieces)


def _published_points(
    decisions: Decisions, pieces: Sequence[int], full_step: int, steps_per_epoch: int
) -> list[DecisionPoint]:
    """Return a decision at the start of each piece but the last, as far as there is time for it."""
    supernet_steps = max(1, round(decisions.supernet_epochs * steps_per_epoch))
    points: list[DecisionPoint] = []
    for piece, start in enumerate(pieces[:-1]):
        stop = start + supernet_steps
        if stop > pieces[piece + 1]:
            _refuse(decisions, pieces[piece + 1] - start, steps_per_epoch)
        if stop > full_step:
            break
        steps = _quarters(start, stop, steps_per_epoch)
        points.append(DecisionPoint(len(points), piece, start, stop, steps))
    if not points:
        _refuse_fraction(decisions, supernet_steps)
    return points


def _visit_steps(space: SearchSpace, by_time: bool) -> float:
    """Return the length of a supernet phase that gives each subnet one step."""
    subnets = space.above(space.smallest)
    return sum(relative_cost(space.spec, subnet) if by_time else 1.0 for subnet in subnets)


def _even_points(
    rule: Rule,
    space: SearchSpace,
    pieces: Sequence[int],
    full_step: int,
    total_steps: int,
    visit: float,
) -> list[DecisionPoint]:
    """Return evenly spread decisions whose supernet phases train each subnet a few times.

    ``visit`` is the length of a phase that trains each once. A phase ends before the next begins, whatever
    its fraction of the steps.
    """
    decisions = space.decisions
    in_supernets = decisions.supernet_fraction * total_steps
    least, good = (math.ceil(v * visit) for v in (decisions.min_visits, decisions.good_visits))
    good = max(good, least)
    most = min(int(in_supernets / good), full_step // good - 1)
    count = max(1, min(decisions.num_points, most))
    apart = full_step // (count + 1)
    if rule == "rollout":
        supernet_steps = max(least, min(round(in_supernets / count), apart))
    else:
        supernet_steps = max(least, min(round(in_supernets / _SHARE_OF_ONE), full_step - apart))
    if apart + supernet_steps > full_step:
        _refuse_fraction(decisions, supernet_steps)
    starts = [number * full_step // (count + 1) for number in range(1, count + 1)]
    if rule != "rollout":
        starts = starts[:1]
    return [
        DecisionPoint(
            index=index,
            piece=sum(begin <= start for begin in pieces) - 1,
            start_step=start,
            stop_step=start + supernet_steps,
            estimate_steps=(start + supernet_steps,),
        )
        for index, start in enumerate(starts)
    ]


def _with_glance(points: Sequence[DecisionPoint], full_step: int) -> list[DecisionPoint]:
    """Return the points after a glance at an eighth of the time before the full model."""
    step = min(full_step // _GLANCE_AT, points[0].start_step - 1)
    if step < 1:
        return list(points)
    glance = DecisionPoint(0, 0, step, step, estimate_steps=(step,))
    return [glance, *(replace(point, index=point.index + 1) for point in points)]


_GLANCE_AT = 8
_SHARE_OF_ONE = 3
"""What one decision for the whole run takes of the steps that supernets may take: one so many-th."""


def point_candidates(
    rule: Rule, space: SearchSpace, current: SubnetConfig, first: bool
) -> tuple[SubnetConfig, ...]:
    """Return the subnets that a decision chooses between, smallest first.

    ``autoprog``: at the first decision the first,
    middle and last value of each axis; later this size or the next, and up to three depths *above* the
    current one, so that depth grows until it is full (as released). Other rules: everything from staying to
    the full model.
    """
    if rule != "autoprog":
        return space.above(current)
    if first:
        depths, sizes = _first_middle_last(space.depths), _first_middle_last(space.sizes)
    else:
        deeper = [depth for depth in space.depths if _exceeds(depth, current.depth)]
        depths = deeper[:3] or [current.depth]
        sizes = [size for size in space.sizes if size >= current.img_size][:2]
    grid = {SubnetConfig(depth, size) for depth in depths for size in sizes}
    return tuple(sorted(grid, key=lambda point: (point.total_depth, point.img_size)))


def _piece_starts(count: int, steps_per_epoch: int, total_steps: int) -> tuple[int, ...]:
    return tuple(
        _whole_epoch(k * total_steps / count, steps_per_epoch, total_steps) for k in range(count)
    )


def _whole_epoch(step: float, steps_per_epoch: int, total_steps: int) -> int:
    """Round down to a whole epoch, or to a step where the run is shorter than 8 epochs."""
    if total_steps >= 8 * steps_per_epoch:
        return math.floor(step / steps_per_epoch + 1e-9) * steps_per_epoch
    return math.floor(step + 1e-9)


def _quarters(start: int, stop: int, steps_per_epoch: int) -> tuple[int, ...]:
    """Return when AutoProg estimates: from quarter to quarter of the last epoch of the supernet."""
    begin = max(start, stop - steps_per_epoch)
    return tuple(sorted({begin + round(q * (stop - begin) / 4) for q in range(5)}))


def _refuse(decisions: Decisions, there: int, steps_per_epoch: int) -> NoReturn:
    raise ConfigError(
        "--space",
        "decisions.supernet_epochs",
        f"must fit between two decisions, which are {there / steps_per_epoch:.3g} epochs apart",
        decisions.supernet_epochs,
        "train longer, lower it, or decide less often (num_stages)",
    )


def _refuse_fraction(decisions: Decisions, supernet_steps: int) -> NoReturn:
    """Refuse a fraction of the full model that leaves no time for the first decision."""
    problem = f"must leave {supernet_steps} steps for a supernet phase before the full model"
    hint = "lower it, train longer, or make the space smaller"
    raise ConfigError(
        "--space", "decisions.min_full_fraction", problem, decisions.min_full_fraction, hint
    )


def _first_middle_last(values: Sequence[Value]) -> list[Value]:
    return list(dict.fromkeys([values[0], values[len(values) // 2], values[-1]]))


def _exceeds(depth: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return depth != other and all(a >= b for a, b in zip(depth, other, strict=True))
