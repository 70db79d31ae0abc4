"""``costs.json``: the seconds of each cell and where they are from, once measured never measured again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any, Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Count, Seconds, SomeSeconds, UnitInterval
from autoprog.errors import ConfigError
from autoprog.files import FileModel, parse
from autoprog.space import SearchSpace, by_size
from autoprog.stage import Training, Unfrozen
from supernet.config import ALL_TOKENS, ModelSpec, SubnetConfig, TokenRule

__all__ = [
    "CellCost",
    "CostCell",
    "CostTable",
    "by_worth",
    "cell_name",
    "cell_of_step",
    "cells_to_measure",
    "full_cell",
    "space_cells",
    "table_of",
    "together_seconds",
]


# --------------------------------------------------------------------------------------------------
# Cells of the cost table: all that the seconds of a step depend on in one run, and a name for it.


_NAME = re.compile(
    r"d(?P<depth>[0-9]{1,4}(?:\+[0-9]{1,4})?) r(?P<size>[0-9]{1,5})"
    r"(?: k(?P<rate>[0-9.e+-]{1,24})(?: (?P<by>\w+)@(?P<places>[0-9]{1,4}(?:,[0-9]{1,4})*))?)?"
    r" b(?P<batch>[0-9]{1,8})(?P<fourier> fourier)?(?: u(?P<level>[0-9]{1,4})/(?P<every>[0-9]{1,4}))?"
)


@dataclass(frozen=True, slots=True)
class CostCell:
    """A kind of step.

    Attributes:
        subnet: What it trains, with its tokens.
        batch_size: Images, over all processes.
        shrink_by: How images come to the subnet's size: in the loader, or cut on the device.
        unfrozen: Which blocks train; None for all.
    """

    subnet: SubnetConfig
    batch_size: int
    shrink_by: Literal["resize", "fourier"] = "resize"
    unfrozen: Unfrozen | None = None

    def __post_init__(self) -> None:
        if self.unfrozen is not None and self.unfrozen.fraction == 1:  # one value for one meaning
            object.__setattr__(self, "unfrozen", None)

    @property
    def name(self) -> str:
        """Return a text such as ``d6 r128 b1024`` or ``d12 r160 k0.5 b512 fourier u2/4``."""
        fourier = " fourier" if self.shrink_by == "fourier" else ""
        some = "" if self.unfrozen is None else f" u{self.unfrozen.level}/{self.unfrozen.every}"
        return f"{self.subnet} b{self.batch_size}{fourier}{some}"

    @classmethod
    def parse(cls, name: str) -> CostCell | None:
        """Return the cell of that name; None if it is the name of none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            subnet = SubnetConfig(
                [int(blocks) for blocks in found["depth"].split("+")],
                int(found["size"]),
                _tokens(found),
            )
            every = found["every"]
            some = None if every is None else Unfrozen(every=int(every), level=int(found["level"]))
        except ValueError:  # numbers that are none, or break a law of their type
            return None
        return cls(subnet, int(found["batch"]), "fourier" if found["fourier"] else "resize", some)

    def loaded_px(self, full_px: int) -> int:
        """Return the size in px at which the loader delivers its images."""
        return full_px if self.shrink_by == "fourier" else self.subnet.img_size


def cell_name(subnet: SubnetConfig, batch_size: int) -> str:
    """Return the name of the cell of a plain step, such as ``d6 r128 b1024``."""
    return CostCell(subnet, batch_size).name


def cell_of_step(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, batch_size: int
) -> CostCell:
    """Return the cell of a step that is no sandwich; `batch_size` is the recipe's."""
    cut = training.shrink_by == "fourier" and subnet.img_size != spec.img_size
    images = max(1, round(batch_size * training.batch_scale))
    return CostCell(subnet, images, "fourier" if cut else "resize", training.unfrozen)


def full_cell(spec: ModelSpec, batch_size: int) -> CostCell:
    """Return the cell of a plain step of the full model."""
    return CostCell(spec.full, batch_size)


def space_cells(space: SearchSpace, batch_size: int) -> tuple[CostCell, ...]:
    """Return the cell of each subnet of a space at each of its batch sizes, smallest first."""
    subnets = sorted(
        starmap(SubnetConfig, product(space.depths, space.sizes, space.keep_rates)), key=by_size
    )
    scales = sorted(space.axes.batch_scale.values)
    return tuple(
        cell_of_step(space.spec, subnet, Training(batch_scale=scale), batch_size)
        for scale in scales
        for subnet in subnets
    )


def _tokens(found: re.Match[str]) -> TokenRule:
    if found["rate"] is None:
        return ALL_TOKENS
    if found["by"] is None:
        return TokenRule(float(found["rate"]))
    places = tuple(int(place) for place in found["places"].split(","))
    return TokenRule(float(found["rate"]), found["by"], places)


# --------------------------------------------------------------------------------------------------
# Which cells to measure where there is no time for all of them.


_ALWAYS = 2


def cells_to_measure(
    cells: Sequence[CostCell],
    full: CostCell,
    seconds_of: Callable[[CostCell], float],
    budget_seconds: float,
) -> list[CostCell]:
    """Return the full cell and those that tell most about the others, as far as a budget reaches.

    The full cell and the smallest are always among them: with one alone nothing can be said about others.

    Args:
        cells: All that are of interest; `full` is added where it is missing.
        full: The reference.
        seconds_of: What it takes to measure a cell.
        budget_seconds: For all of them.
    """
    ordered = by_worth(cells, full)
    chosen, left = ordered[:_ALWAYS], budget_seconds
    left -= sum(map(seconds_of, chosen))
    for cell in ordered[_ALWAYS:]:
        left -= seconds_of(cell)
        if left < 0:
            break
        chosen.append(cell)
    return chosen


def by_worth(cells: Sequence[CostCell], full: CostCell) -> list[CostCell]:
    """Return cells in the order of their worth: full, corners, those that differ in one axis, the rest.

    Corners have the least or the greatest value on every axis, the smallest corner first. Those that differ
    from the full cell in one axis are its lines; within lines and rest the order is that of `cells`.
    """
    every = list(dict.fromkeys((full, *cells)))
    ends = [{min(values), max(values)} for values in zip(*map(_place, every), strict=True)]

    def worth(cell: CostCell) -> tuple[int, tuple[float, ...]]:
        place = _place(cell)
        if cell == full:
            return 0, ()
        if all(value in end for value, end in zip(place, ends, strict=True)):
            return 1, place
        changed = sum(a != b for a, b in zip(place, _place(full), strict=True))
        return (2, ()) if changed == 1 else (3, ())

    return sorted(every, key=worth)


def _place(cell: CostCell) -> tuple[float, ...]:
    """Return where a cell lies on each axis."""
    fraction = 1.0 if cell.unfrozen is None else cell.unfrozen.fraction
    subnet = cell.subnet
    return (
        subnet.total_depth,
        subnet.img_size,
        subnet.tokens.keep_rate,
        cell.batch_size,
        float(cell.shrink_by == "fourier"),
        fraction,
    )


class CellCost(FileModel):
    """What a step of one cell costs.

    Attributes:
        seconds: Of a step on a batch that is there.
        interval: Holds the true median of ``seconds``, relative to the full cell, in 95 % of cases from 6
            rounds on; below that it is the range of what was seen.
        data_seconds: In which the loader makes a batch, with nothing else to do; None if unknown.
        rounds: How often it was measured.
        source: ``grid``: in turns with other cells; ``own``: the run's own steps; ``file``: given.
    """

    seconds: SomeSeconds
    interval: tuple[Seconds, Seconds] | None = None
    data_seconds: Seconds | None = None
    rounds: Count = 0
    source: Literal["grid", "own", "file"] = "file"

    @model_validator(mode="after")
    def _interval_holds_the_seconds(self) -> CellCost:
        low, high = self.interval or (self.seconds, self.seconds)
        if not low <= self.seconds <= high:
            law = f"must hold seconds, {self.seconds:g}"
            raise ConfigError("", "interval", law, [low, high])
        return self


class CostTable(FileModel):
    """All costs of a run.

    Attributes:
        overlap: Fraction of the shorter of step and data that the longer one hides: 0 without loader workers.
        overlap_is_measured: Whether it was, or is what such a machine should do.
        conditions: Where it was measured: device, precision, threads, workers, processes.
        step_costs: By the name of the cell.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    overlap: UnitInterval = 0.0
    overlap_is_measured: bool = False
    conditions: dict[str, str | Count] = Field(default_factory=dict)
    step_costs: dict[str, CellCost] = Field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of a step by the name of its cell."""
        return {name: cost.seconds for name, cost in self.step_costs.items()}

    def of_batch(self, batch_size: int) -> dict[str, float]:
        """Return the seconds of plain steps of one batch size by subnet, such as ``d6 r128``."""
        suffix = f" b{batch_size}"
        cells = self.seconds.items()
        return {name.removesuffix(suffix): s for name, s in cells if name.endswith(suffix)}

    def with_cells(self, more: Mapping[str, CellCost]) -> CostTable:
        """Return the table with cells added; those that are there stay as they are."""
        new = {name: cost for name, cost in more.items() if name not in self.step_costs}
        return self.model_copy(update={"step_costs": {**self.step_costs, **new}})

    def as_given(self) -> CostTable:
        """Return the table as one that another run was given."""
        cells = {n: c.model_copy(update={"source": "file"}) for n, c in self.step_costs.items()}
        return self.model_copy(update={"step_costs": cells})

    def body(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def table_of(body: Mapping[str, Any], where: str) -> CostTable:
    """Return the table that a file holds; one without ``schema`` is just seconds by name.

    Raises:
        ConfigError: If anything in it is no such thing.
    """
    if "schema" in body:
        return parse(CostTable, migration.costs(body), where)
    for name, seconds in body.items():
        if not _is_duration(seconds):
            raise ConfigError(where, str(name), "must be seconds above 0", seconds)
    return CostTable(step_costs={name: CellCost(seconds=s) for name, s in body.items()})


def together_seconds(step_seconds: float, data_seconds: float, overlap: float) -> float:
    """Return the seconds a step takes together with its data.

    Loader workers make the next batches while the device computes, as far as there are cores for both:
    ``overlap`` 1 is the longer of the two, 0 their sum.
    """
    longer, shorter = max(step_seconds, data_seconds), min(step_seconds, data_seconds)
    return longer + (1 - overlap) * shorter


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf
